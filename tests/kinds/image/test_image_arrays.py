"""Images in .npy and .npz files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import distgan.kinds.image.arrays
from distgan.config import ConfigError, DataConfig
from distgan.kinds import SampleSet, describe, open_samples

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (6, 3, 12, 12), dtype=np.uint8)


def saved(folder: Path, array: np.ndarray, **more: object) -> SampleSet:
    np.save(folder / "faces.npy", array)
    config = DataConfig(name=str(folder / "faces.npy"), **more)
    result, spec = open_samples(config), describe(config)
    assert (spec.n, spec.shape[0], spec.shape[1], spec.classes) == (
        len(result),
        result.spec.shape[0],
        result.spec.shape[1],
        result.classes,
    )
    assert result.samples.dtype == np.uint8
    assert result.samples.flags.c_contiguous
    return result


@pytest.mark.parametrize("channels", [1, 3])
def test_layouts(tmp_path: Path, channels: int) -> None:
    expected = PIXELS[:, :channels]
    assert np.array_equal(saved(tmp_path, expected).samples, expected)
    assert np.array_equal(saved(tmp_path, expected.transpose(0, 2, 3, 1)).samples, expected)
    assert saved(tmp_path, expected).spec.name == "faces"
    if channels == 1:
        assert np.array_equal(saved(tmp_path, expected[:, 0]).samples, expected)


def test_tiny_images_take_the_layout_that_is_square(tmp_path: Path) -> None:
    assert saved(tmp_path, RANDOM.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)).samples.shape == (5, 3, 4, 4)
    assert saved(tmp_path, RANDOM.integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)).samples.shape == (5, 3, 4, 4)


def test_rgba_lies_over_the_background(tmp_path: Path) -> None:
    layer = np.concatenate([PIXELS, np.zeros((6, 1, 12, 12), np.uint8)], axis=1)
    shown = saved(tmp_path, layer, background="#010203").samples
    assert np.array_equal(shown[2, :, 5, 5], [1, 2, 3])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_by_their_range(tmp_path: Path, kind: type) -> None:
    tolerance = 0.6 if kind is np.float16 else 0
    for values in (PIXELS / 255, PIXELS / 127.5 - 1):
        assert np.abs(saved(tmp_path, values.astype(kind)).samples.astype(float) - PIXELS).max() <= tolerance + 0.5
    assert np.array_equal(saved(tmp_path, PIXELS / 255).samples, PIXELS)
    assert np.array_equal(saved(tmp_path, (PIXELS / 127.5 - 1).astype(np.float32)).samples, PIXELS)


def test_resolution_channels_limit_and_fit(tmp_path: Path) -> None:
    assert saved(tmp_path, PIXELS, resolution=8, channels=1, limit=4).samples.shape == (4, 1, 8, 8)
    wide = np.zeros((3, 1, 4, 10), np.uint8)
    wide[..., 3:7] = 50
    assert (saved(tmp_path, wide).samples == np.full((3, 1, 4, 4), 50)).all()
    assert saved(tmp_path, wide, fit="pad").samples.shape == (3, 1, 10, 10)


def test_opacity_has_a_range_of_its_own(tmp_path: Path) -> None:
    ramp = np.linspace(0, 4095, 256).astype(np.uint16).reshape(4, 8, 8, 1).repeat(3, -1)
    expected = np.rint(ramp / 4095 * 255).transpose(0, 3, 1, 2)
    for opaque in (1, 255, 4095, 65535):
        shown = saved(tmp_path, np.concatenate([ramp, np.full((4, 8, 8, 1), opaque, np.uint16)], -1)).samples
        assert np.array_equal(shown, expected)
    signed = np.concatenate([ramp / 2047.5 - 1, np.ones((4, 8, 8, 1))], -1)
    assert np.abs(saved(tmp_path, signed).samples - expected).max() <= 1


def test_dark_floats_are_told(tmp_path: Path) -> None:
    assert any("images are dark" in note for note in saved(tmp_path, PIXELS / 255 / 255).notes)
    assert not saved(tmp_path, PIXELS / 255).notes


def test_many_images_are_converted_in_parts_and_in_order(tmp_path: Path) -> None:
    levels = np.arange(2100) % 251
    np.save(tmp_path / "many.npy", np.tile(levels.astype(np.uint8)[:, None, None], (1, 8, 8)))
    steps: list[tuple[str, int, int]] = []
    result = open_samples(
        DataConfig(name=str(tmp_path / "many.npy"), resolution=4), progress=lambda *step: steps.append(step)
    )
    assert np.array_equal(result.samples[:, 0, 2, 2], levels)
    assert steps == [("reading many", done, 2100) for done in (1024, 2048, 2100)]


def test_npz_with_labels(tmp_path: Path) -> None:
    file = tmp_path / "set.npz"
    for keys in (("images", "labels"), ("x", "y"), ("data", "targets"), ("arr_0", "arr_1")):
        np.savez_compressed(file, **dict(zip(keys, (PIXELS, np.array([0, 2, 1, 1, 0, 2])), strict=True)))
        result = open_samples(DataConfig(name=str(file)))
        assert np.array_equal(result.samples, PIXELS)
        assert result.labels is not None
        assert result.labels.dtype == np.int64
        assert result.labels.tolist() == [0, 2, 1, 1, 0, 2]
        assert result.classes == ("0", "1", "2") == describe(DataConfig(name=str(file))).classes
    assert open_samples(DataConfig(name=str(file), labels=False)).labels is None
    np.savez(file, images=PIXELS, labels=np.array(["cat", "ant"] * 3))
    named = open_samples(DataConfig(name=str(file)))
    assert named.classes == ("ant", "cat")
    assert named.labels is not None
    assert named.labels.tolist() == [1, 0] * 3
    np.savez(file, only=PIXELS)
    assert len(open_samples(DataConfig(name=str(file)))) == 6


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\).*\(N, H, W\)"),
        (np.zeros((0, 8, 8), np.uint8), "shape"),
        (np.zeros((32, 32, 3), np.uint8), "looks like one image"),
        (np.zeros((4, 5, 8, 8), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((4, 8, 8), np.complex64), "type complex64.*best uint8"),
        (np.full((4, 8, 8), -1, np.int64), "whole numbers from -1 to -1 have no known meaning"),
        (np.full((4, 8, 8), 1 << 20), "whole numbers from 1,048,576 to"),
        (np.linspace(-2.1, 2.6, 256).reshape(4, 8, 8), r"floats from -2.1 to 2.6; allowed.*standardisation"),
        (np.linspace(-0.2, 1.2, 256).reshape(4, 8, 8), r"floats from -0.2 to 1.2, .* neither .*clip\(0, 1\)"),
        (np.linspace(-0.5, 0.5, 256).reshape(4, 8, 8), r"floats from -0.5 to 0.5, .* neither .*values \+ 0.5"),
        (np.full((4, 8, 8), np.inf), "NaN or infinity"),
        (np.where(np.arange(600)[:, None, None] == 3, np.nan, np.zeros((600, 8, 8))), "NaN or infinity"),
        (np.array([np.zeros((8, 8)), np.zeros((9, 9))], dtype=object), "different sizes"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(ConfigError, match=rf"bad\.npy.*{message}"):
        describe(DataConfig(name=str(tmp_path / "bad.npy")))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    for name, content in (("empty.npy", b""), ("junk.npy", b"junk"), ("junk.npz", b"PK\3\4junk")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=rf"{name}: not a readable array file"):
            describe(DataConfig(name=str(tmp_path / name)))
    np.savez(tmp_path / "two.npz", left=PIXELS, right=PIXELS)
    with pytest.raises(ConfigError, match=r"left, right; allowed names.*images"):
        describe(DataConfig(name=str(tmp_path / "two.npz")))
    np.savez(tmp_path / "labels.npz", images=PIXELS, labels=np.zeros(5, int))
    with pytest.raises(ConfigError, match=r"array labels\) are of shape \(5,\) for 6 images.*data\.labels=false"):
        describe(DataConfig(name=str(tmp_path / "labels.npz")))
    np.savez(tmp_path / "labels.npz", images=PIXELS, labels=3)
    with pytest.raises(ConfigError, match=r"array labels\) are of shape \(\) for 6 images"):
        describe(DataConfig(name=str(tmp_path / "labels.npz")))
    with pytest.raises(ConfigError, match=r"data\.split = 'test'"):
        describe(DataConfig(name=str(tmp_path / "labels.npz"), split="test"))


def test_large_arrays_are_mapped_from_where_they_are(
    tmp_path: Path, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = saved(tmp_path, PIXELS, limit=5)
    monkeypatch.setattr(distgan.kinds.image.arrays, "IN_MEMORY", 100)
    large = saved(tmp_path, PIXELS, limit=5)
    assert isinstance(large.samples, np.memmap)
    assert np.array_equal(large.samples, small.samples)
    assert large.fingerprint == small.fingerprint
    assert not list(own_folders.rglob("images.npy"))
    smaller = saved(tmp_path, PIXELS, resolution=8)
    assert isinstance(smaller.samples, np.memmap)
    monkeypatch.undo()
    assert smaller.fingerprint == saved(tmp_path, PIXELS, resolution=8, cache=str(own_folders)).fingerprint


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (PIXELS.astype(np.int64), "numbers up to 25. are read as 8 bits"),
        (PIXELS.astype(">u2"), "numbers up to 25. are read as 8 bits"),
        (np.asfortranarray(PIXELS.astype(np.int32) * 16), "numbers up to 4,0.. are read as 12 bits"),
        (PIXELS.astype(np.uint16) * 257, "numbers up to 65,.* are read as 16 bits"),
        (PIXELS.astype(np.float32), r"floats from 0 to 25. are read as \[0, 255\]"),
        (
            PIXELS.astype(np.float64) / 255 * 1.01 - 0.005,
            r"floats from -0.005 to 1.005 are read as \[0, 1\]; what lies",
        ),
    ],
)
def test_one_scale_for_the_whole_array_and_it_is_said(tmp_path: Path, stored: np.ndarray, said: str) -> None:
    result = saved(tmp_path, stored)
    assert np.abs(result.samples.astype(int) - PIXELS).max() <= 2
    assert len(result.remarks) == 1
    assert re.match(said, result.remarks[0])
    assert result.notes == (f"faces: {result.remarks[0]}",)


def test_a_dark_image_stays_dark_beside_bright_ones(tmp_path: Path) -> None:
    stored = np.zeros((400, 8, 8), np.float32)
    stored[0], stored[399] = 0.1, 1.0
    shown = saved(tmp_path, stored).samples
    assert (shown[0, 0, 0, 0], shown[399, 0, 0, 0]) == (26, 255)
    masks = (RANDOM.integers(0, 2, (6, 8, 8))).astype(np.uint8)
    assert saved(tmp_path, masks).remarks == ("numbers 0 and 1 are read as black and white",)
    assert np.array_equal(saved(tmp_path, masks).samples[:, 0], masks * 255)
    assert np.array_equal(saved(tmp_path, masks.astype(bool)).samples[:, 0], masks * 255)
    assert "no number is above 16 of 255" in saved(tmp_path, np.full((4, 8, 8), 16, np.uint8)).remarks[0]


@pytest.mark.parametrize("key", ["label", "Labels", "Y", "target", "class", "train_label"])
def test_labels_by_any_usual_name(tmp_path: Path, key: str) -> None:
    np.savez(tmp_path / "set.npz", Images=PIXELS, **{key: np.array([5, 9, 5, 9, 9, 9])})
    result = open_samples(DataConfig(name=str(tmp_path / "set.npz")))
    assert result.classes == ("5", "9")
    assert result.labels is not None
    assert result.labels.tolist() == [0, 1, 0, 1, 1, 1]
    assert open_samples(DataConfig(name=str(tmp_path / "set.npz"), limit=1)).classes == ("5",)
    assert open_samples(DataConfig(name=str(tmp_path / "set.npz"), labels=False)).classes == ()


def test_arrays_that_are_not_used_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x_train=PIXELS, digit=np.arange(6), x_test=PIXELS)
    assert "x_train and the labels (none" in open_samples(DataConfig(name=str(tmp_path / "set.npz"))).remarks[0]


def test_labels_that_are_objects_are_blamed_and_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=PIXELS, label=np.array(["cat", "dog"] * 3, dtype=object))
    with pytest.raises(
        ConfigError, match=r"array label holds Python objects.*label\.astype\(str\).*data\.labels=false"
    ):
        open_samples(DataConfig(name=str(tmp_path / "set.npz")))
    assert len(open_samples(DataConfig(name=str(tmp_path / "set.npz"), labels=False))) == 6
