"""Every mode, size and orientation of an image file, against pixels worked out by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Transpose

from distgan.kinds.image.depth import Range, Scale
from distgan.kinds.image.pixels import FRAMES, DeepPixelsError, Target, convert, decode, deep_range


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


def test_grey_and_colour_of_the_right_size_keep_their_pixels() -> None:
    assert np.array_equal(decode(encoded(Image.fromarray(GREY)), Target(1, 8)), GREY[None])
    assert np.array_equal(decode(encoded(Image.fromarray(GREY)), Target(3, 8)), np.stack([GREY] * 3))
    assert np.array_equal(decode(encoded(Image.fromarray(COLOUR)), Target(3, 8)), COLOUR.transpose(2, 0, 1))
    luma = np.rint(COLOUR @ np.array([0.299, 0.587, 0.114]))
    assert np.abs(decode(encoded(Image.fromarray(COLOUR)), Target(1, 8))[0] - luma).max() <= 1


@pytest.mark.parametrize("alpha", [0, 255, 51])
@pytest.mark.parametrize("background", ["#ffffff", "#000000", "#ff8000"])
def test_transparency_lies_over_the_background(alpha: int, background: str) -> None:
    layer = np.concatenate([COLOUR, np.full((8, 8, 1), alpha, np.uint8)], axis=-1)
    behind = np.array(list(bytes.fromhex(background[1:])))
    expected = (COLOUR * (alpha / 255) + behind * (1 - alpha / 255)).transpose(2, 0, 1)
    assert np.abs(decode(encoded(Image.fromarray(layer)), Target(3, 8, background=background)) - expected).max() <= 1
    array = np.ascontiguousarray(layer.transpose(2, 0, 1))[None]
    assert np.abs(convert(array, Target(3, 8, background=background))[0] - expected).max() <= 1


def test_grey_with_alpha() -> None:
    layer = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(np.full((8, 8), 102, np.uint8))])
    assert np.abs(decode(encoded(layer), Target(1, 8))[0] - (GREY * 0.4 + 255 * 0.6)).max() <= 1


def test_palette_with_and_without_a_transparent_entry() -> None:
    palette = Image.fromarray((np.arange(64) % 3).astype(np.uint8).reshape(8, 8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    colours = np.eye(3, dtype=np.uint8) * 255
    index = np.arange(64).reshape(8, 8) % 3
    assert np.array_equal(decode(encoded(palette), Target(3, 8)), colours[index].transpose(2, 0, 1))
    colours[1] = (0x12, 0x34, 0x56)
    shown = decode(encoded(palette, transparency=1), Target(3, 8, background="#123456"))
    assert np.array_equal(shown, colours[index].transpose(2, 0, 1))


def test_a_transparent_colour_of_an_rgb_file() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = (10, 20, 30)
    shown = decode(encoded(Image.fromarray(pixels), transparency=(10, 20, 30)), Target(3, 8))
    assert (shown[:, :4] == 255).all()
    assert (shown[:, 4:] == 0).all()


def test_one_bit() -> None:
    bit = GREY > 100
    assert np.array_equal(decode(encoded(Image.fromarray(bit)), Target(1, 8))[0], bit * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_images_are_decoded_by_the_scale_of_their_set(kind: str) -> None:
    wide = (GREY.astype(np.uint16) * 16)[::-1]
    data = encoded(Image.fromarray(wide), kind)
    with pytest.raises(DeepPixelsError):
        decode(data, Target(1, 8))
    assert deep_range(data) == Range(0, 252 * 16, whole=True)
    assert deep_range(encoded(Image.fromarray(GREY), kind)) is None
    scale = Scale(0, 255 / 4095)
    assert np.abs(decode(data, Target(1, 8), scale)[0] - GREY[::-1].astype(float)).max() <= 1
    assert np.array_equal(decode(data, Target(3, 8), scale)[2], decode(data, Target(1, 8), scale)[0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG", "WEBP", "deep TIFF", "deep PNG"])
def test_every_orientation_in_every_format(kind: str, orientation: int) -> None:
    seen = np.zeros((16, 16), np.uint8)
    seen[:8, :8], seen[:8, 8:] = 250, 120  # each quarter differs, so that no two orientations look alike
    seen[8:, :8] = 60
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's number of the transposition that undoes it
    picture = Image.fromarray(seen)
    stored = picture if orientation == 1 else picture.transpose(Transpose(back[orientation]))
    deep, kind = kind.startswith("deep"), kind.rpartition(" ")[2]
    if deep:
        stored = Image.fromarray(np.asarray(stored).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif.tobytes()}
    data = encoded(stored, kind, **options)
    shown = decode(data, Target(1, 16), Scale(0, 255 / 65535))[0]
    assert np.abs(shown.astype(int) - seen).max() <= (9 if kind in ("JPEG", "WEBP") else 0)


def test_several_frames_are_noticed() -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for kind in ("TIFF", "GIF", "PNG", "WEBP"):
        told: list[str] = []
        data = encoded(
            pages[0], kind, save_all=True, append_images=pages[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        assert np.array_equal(decode(data, Target(1, 8), notice=told.append)[0], GREY)
        assert told == [FRAMES]
        decode(encoded(pages[0], kind), Target(1, 8), notice=told.append)
        assert told == [FRAMES]


def test_cmyk() -> None:
    sheet = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for kind in ("TIFF", "JPEG"):
        red, green, blue = decode(encoded(sheet, kind), Target(3, 8)).reshape(3, -1).mean(1)
        assert red > 250
        assert green < 5
        assert blue < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    turned = {
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: np.rot90(GREY, -1),
        7: GREY[::-1, ::-1].T,
    }
    turned[8] = np.rot90(GREY)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode(encoded(Image.fromarray(GREY), exif=exif), Target(1, 8))[0], turned[orientation])


def test_damaged_exif_is_no_reason_to_lose_the_image() -> None:
    assert np.array_equal(decode(encoded(Image.fromarray(GREY), exif=b"Exif\0\0II*\0\xff\xff"), Target(1, 8))[0], GREY)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("L", (8, 8), level) for level in (40, 200)]
    assert (decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), Target(1, 8)) == 40).all()


def test_crop_takes_the_centre_and_pad_shows_all() -> None:
    wide = np.zeros((4, 10), np.uint8)
    wide[:, 3:7] = 77
    wide[:, 0] = 200
    assert (decode(encoded(Image.fromarray(wide)), Target(1, 4)) == 77).all()
    padded = decode(encoded(Image.fromarray(wide)), Target(3, 10, "pad", "#0a141e"))
    assert padded[:, 0, 0].tolist() == [10, 20, 30]
    assert np.array_equal(padded[1, 3:7], wide)
    assert (padded[2, 7:] == 30).all()
    tall = np.ascontiguousarray(wide.T)
    assert (decode(encoded(Image.fromarray(tall)), Target(1, 4)) == 77).all()
    assert np.array_equal(convert(wide[None, None], Target(3, 10, "pad", "#0a141e"))[0], padded)


def test_shrinking_averages_and_does_not_pick() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    small = decode(encoded(Image.fromarray(stripes)), Target(1, 8))
    assert np.abs(small[0, 1:-1, 1:-1].astype(int) - 127).max() <= 2


def test_large_jpegs_shrink_to_the_right_picture() -> None:
    ramp = np.tile(np.linspace(0, 255, 1024).astype(np.uint8), (1024, 1))
    small = decode(encoded(Image.fromarray(ramp), "JPEG", quality=95), Target(1, 16))[0]
    expected = ramp.reshape(16, 64, 16, 64).mean((1, 3))
    assert np.abs(small - expected)[:, 1:-1].max() <= 2


def test_growing_and_zero_padding() -> None:
    assert decode(encoded(Image.fromarray(np.full((4, 4), 9, np.uint8))), Target(1, 16)).tolist() == [[[9] * 16] * 16]
    padded = convert(np.full((1, 1, 28, 28), 9, np.uint8), Target(3, 32, zero_pad=True))
    assert padded.shape == (1, 3, 32, 32)
    assert (padded[:, :, 2:30, 2:30] == 9).all()
    assert padded.sum() == 9 * 3 * 28 * 28


def test_arrays_and_files_come_out_alike() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, 40, 24), dtype=np.uint8)
    file = encoded(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))
    for channels in (1, 3):
        for fit in ("crop", "pad"):
            target = Target(channels, 16, fit, "#204060")
            difference = decode(file, target).astype(int) - convert(pixels[None], target)[0]
            assert np.abs(difference).max() <= (1 if channels == 1 else 0), (channels, fit)


def test_truncated_files_and_bombs_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "GIF"):
        whole = encoded(Image.fromarray(noise), kind)
        with pytest.raises((OSError, EOFError), match=r"\w"):
            decode(whole[: len(whole) // 2], Target(3, 8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ValueError, match="64 x 64"), pytest.warns(Image.DecompressionBombWarning):
        decode(encoded(Image.fromarray(noise)), Target(3, 8))


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (20, 60)])
def test_crop_and_pad_to_other_shapes(size: tuple[int, int]) -> None:
    height, width = size
    inner = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    beside = np.pad(inner, ((0, 0), (7, 8)), constant_values=200)
    above = np.pad(inner, ((5, 5), (0, 0)), constant_values=200)
    for picture in (beside, above, inner):
        for found in (
            decode(encoded(Image.fromarray(picture)), Target(1, size)),
            convert(picture[None, None], Target(1, size))[0],
        ):
            assert np.array_equal(found[0], inner)
    # as tall, and half as wide: a border on both sides
    padded = decode(encoded(Image.fromarray(inner[:, : width // 2])), Target(1, size, "pad", "#404040"))[0]
    assert np.array_equal(padded[:, width // 4 : width // 4 + width // 2], inner[:, : width // 2])
    assert (padded[:, : width // 4] == 64).all()
    assert (padded[:, width // 4 + width // 2 :] == 64).all()


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_of_other_shapes_shrink_to_the_right_picture(orientation: int) -> None:
    ramp = np.tile(np.linspace(0, 255, 1024).astype(np.uint8), (768, 1))
    stored = ramp if orientation == 1 else np.rot90(ramp)  # 6: shown turned right
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "JPEG", quality=95, exif=exif)
    small = decode(data, Target(1, (12, 16)))[0]
    assert np.abs(small - ramp.reshape(12, 64, 16, 64).mean((1, 3)))[:, 1:-1].max() <= 2
