"""Images with opacity: what is stored, what is seen of it, and what comes out again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import distgan.kinds.image.arrays
from distgan.config import ConfigError, DataConfig
from distgan.kinds import describe, open_samples
from distgan.kinds.image import KIND
from distgan.kinds.image.grid import make_grid
from distgan.kinds.image.image_set import image_spec
from distgan.kinds.image.opacity import over, premultiplied, straight
from distgan.kinds.image.pixels import Target, convert, decode


def png_of(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def disc(side: int, colour: tuple[int, int, int], hidden: tuple[int, int, int]) -> np.ndarray:
    """A disc of a colour on wholly transparent pixels of another one, uint8 (side, side, 4)."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = (x**2 + y**2 < (side / 3) ** 2)[..., None]
    return np.where(inside, [*colour, 255], [*hidden, 0]).astype(np.uint8)


def test_multiplied_colours_come_back_and_give_the_same_again() -> None:
    opacity, colour = np.mgrid[:256, :256].astype(np.uint8)
    files = np.stack([colour, colour[::-1], 255 - colour, opacity])[None]
    stored = premultiplied(files)
    assert np.array_equal(stored[:, :3], np.rint(files[:, :3] * (files[:, 3:] / 255.0)))
    assert np.array_equal(premultiplied(straight(stored)), stored)
    shown = files[0, 3] == 255
    assert np.array_equal(straight(stored)[0][:, shown], files[0][:, shown])
    assert not straight(stored)[0, :3, files[0, 3] == 0].any()
    for level in (0, 77, 255):
        exact = files[:, :3] * (files[:, 3:] / 255.0) + level * (1 - files[:, 3:] / 255.0)
        assert np.abs(over(stored, level) - exact).max() <= 1


def test_colours_that_nobody_sees_change_nothing() -> None:
    for side, resolution in ((16, 16), (64, 16), (16, 24)):
        plain, loud = disc(side, (200, 90, 30), (0, 0, 0)), disc(side, (200, 90, 30), (0, 255, 0))
        target = Target(4, resolution)
        stored = decode(png_of(plain), target)
        assert np.array_equal(stored, decode(png_of(loud), target))
        assert np.array_equal(stored, convert(loud.transpose(2, 0, 1)[None], target)[0])
        assert (stored[:3, 0, 0] == 0).all()


@pytest.mark.parametrize("hidden", [(0, 0, 0), (0, 255, 0)])
def test_edges_have_no_fringe_after_resizing(hidden: tuple[int, int, int]) -> None:
    white = disc(96, (255, 255, 255), hidden)
    for stored in (decode(png_of(white), Target(4, 24)), convert(white.transpose(2, 0, 1)[None], Target(4, 24))[0]):
        assert len(np.unique(stored[3])) > 5  # soft edges
        assert (stored[:3] == stored[3]).all()  # wherever anything is to be seen, it is white
        assert (straight(stored[None])[0, :3, stored[3] > 0] == 255).all()
        assert (over(stored[None], 255) == 255).all()


def test_a_border_around_images_with_opacity_is_transparent() -> None:
    wide = np.full((4, 10, 4), 255, np.uint8)
    target = Target(4, 10, "pad", "#ff0000")
    for stored in (decode(png_of(wide), target), convert(wide.transpose(2, 0, 1)[None], target)[0]):
        assert (stored[:, 3:7] == 255).all()
        assert not stored[:, :3].any()
        assert not stored[:, 7:].any()


def test_opaque_images_beside_the_others() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    colour = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    for pixels in (grey, colour):
        shown = np.concatenate([np.broadcast_to(pixels.reshape(8, 8, -1), (8, 8, 3)), np.full((8, 8, 1), 255)], -1)
        assert np.array_equal(decode(png_of(pixels), Target(4, 8)), shown.transpose(2, 0, 1))
        array = pixels.reshape(1, 8, 8, -1).transpose(0, 3, 1, 2)
        assert np.array_equal(convert(array, Target(4, 8))[0], shown.transpose(2, 0, 1))


def test_generated_colours_are_never_more_than_their_opacity() -> None:
    x = torch.rand(5, 4, 6, 8, generator=torch.Generator().manual_seed(0)) * 2.2 - 1.1
    stored = KIND.decode(x)
    assert stored.dtype == torch.uint8
    assert bool((stored[:, :3] <= stored[:, 3:]).all())
    assert bool((stored[:, :3] < stored[:, 3:]).any())
    assert torch.equal(KIND.decode(KIND.encode(stored)), stored)
    assert torch.equal(KIND.decode(x[:, :3]), ((x[:, :3] * 127.5 + 128).clamp(0, 255)).to(torch.uint8))


STORED = premultiplied(np.random.default_rng(0).integers(0, 256, (7, 4, 12, 16), dtype=np.uint8))


def test_a_folder_of_pngs_is_read_as_what_was_saved(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    KIND.save(iter([STORED[:3], STORED[3:]]), 7, tmp_path / "out")
    assert {Image.open(file).mode for file in (tmp_path / "out").iterdir()} == {"RGBA"}
    found = open_samples(DataConfig(name=str(tmp_path / "out"), channels=4, resolution="12x16"))
    assert np.array_equal(found.samples, STORED)


@pytest.mark.parametrize("name", ["out.npy", "out.npz"])
def test_arrays_are_read_as_what_was_saved(tmp_path: Path, name: str) -> None:
    KIND.save(iter([STORED]), 7, tmp_path / name)
    loaded = np.load(tmp_path / name)
    loaded = loaded if name.endswith(".npy") else loaded["images"]
    assert loaded.shape == (7, 12, 16, 4)
    assert np.array_equal(loaded.transpose(0, 3, 1, 2), straight(STORED))
    found = open_samples(DataConfig(name=str(tmp_path / name), channels=4, resolution="12x16"))
    assert np.array_equal(found.samples, STORED)


def test_a_large_array_is_not_taken_as_it_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distgan.kinds.image.arrays, "IN_MEMORY", 0)
    loud = straight(STORED)
    loud[:, 1][loud[:, 3] == 0] = 255
    np.save(tmp_path / "x.npy", loud)
    config = DataConfig(name=str(tmp_path / "x.npy"), channels=4, resolution="12x16")
    for _ in range(2):  # made, and from the cache
        found = open_samples(config)
        assert np.array_equal(found.samples, STORED)
        assert found.spec.shape == describe(config).shape == (4, 12, 16)


def test_a_grid_file_is_transparent_and_a_preview_lies_over_white_and_black(tmp_path: Path) -> None:
    KIND.save(iter([STORED]), 7, tmp_path / "grid.png", columns=4)
    file = np.asarray(Image.open(tmp_path / "grid.png"))
    assert file.shape == (2 * 56 + 8, 4 * 72 + 8, 4)  # 4 times as large, with gaps of 2
    assert not file[:8].any()
    assert np.array_equal(file[8:56:4, 8:72:4], straight(STORED)[0].transpose(1, 2, 0))
    picture = KIND.preview(STORED, 4)
    assert picture.shape == (*file.shape[:2], 3)
    for i, level in enumerate([255, 0, 255, 0, 0, 255, 0]):
        top, left = 8 + i // 4 * 56, 8 + i % 4 * 72
        assert np.array_equal(
            picture[top : top + 48 : 4, left : left + 64 : 4], over(STORED, level)[i].transpose(1, 2, 0)
        )
    assert np.array_equal(KIND.preview(STORED[:, :3], 4)[::4, ::4], make_grid(STORED[:, :3], 4))


def test_stored_images_are_converted_from_and_to_others() -> None:
    colour = KIND.convert(STORED, image_spec("x", 3, (12, 16)))
    assert np.abs(colour.astype(int) - over(STORED, 255)).max() <= 1
    grey = KIND.convert(STORED, image_spec("x", 1, (6, 8)))
    assert grey.shape == (7, 1, 6, 8)
    again = KIND.convert(colour, image_spec("x", 4, (12, 16)))
    assert np.array_equal(again, np.concatenate([colour, np.full((7, 1, 12, 16), 255, np.uint8)], 1))
    assert np.array_equal(KIND.convert(STORED, image_spec("x", 4, (12, 16))), STORED)


def test_a_person_is_told_of_transparency(tmp_path: Path) -> None:
    def notes(channels: int | None, *transparent: bool) -> str:
        folder = tmp_path / f"{channels}-{transparent}"
        folder.mkdir()
        for i, clear in enumerate(transparent):
            pixels = disc(16, (200, 90, 30), (0, 0, 0))
            pixels[..., 3] = pixels[..., 3] if clear else np.where(np.eye(16), 130, 255)
            (folder / f"{i}.png").write_bytes(png_of(pixels))
        array = np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))])
        np.save(f"{folder}.npy", array)
        said = [
            " ".join(open_samples(DataConfig(name=str(name), channels=channels, resolution=16)).remarks)
            for name in (folder, f"{folder}.npy")
        ]
        assert said[0] == said[1]
        return said[0]

    laid = "2 of 3 images have transparent parts, which are laid over #ffffff"
    assert laid in notes(None, True, False, True)
    assert "--data.channels 4 generates" in notes(3, True, True)
    assert notes(None, True, False) == notes(None, False) == notes(4, False, True) == ""
    assert "no image has transparent parts" in notes(4, False, False)


@pytest.mark.parametrize("name", ["mnist10k", "stacked-mnist", "celeba", "cifar10"])
def test_known_sets_have_no_opacity(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.channels = 4: {name} .*allowed"):
        describe(DataConfig(name=name, channels=4, download=False))
