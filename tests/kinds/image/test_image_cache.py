"""The cache of decoded sets tells one set from another by where it lies and what the system says of its files."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import distgan.kinds.image.arrays
from distgan.config import DataConfig
from distgan.kinds import open_samples
from distgan.kinds.base import SampleSet

LONG_AGO = (315532800, 315532800)


def plain(file: Path, value: int) -> None:
    """An image whose bytes differ from another's in the pixels alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(file)
    os.utime(file, LONG_AGO)


def opened(path: Path, **settings: object) -> SampleSet:
    return open_samples(DataConfig(name=str(path), **settings))


def test_the_cache_tells_shapes_apart_and_gives_them_back(tmp_path: Path) -> None:
    plain(tmp_path / "x" / "0.png", 10)
    shapes = {16: (3, 16, 16), "12x16": (3, 12, 16), "16x12": (3, 16, 12)}
    for _ in range(2):
        for resolution, shape in shapes.items():
            found = opened(tmp_path / "x", resolution=resolution, channels=3)
            assert found.spec.shape == found.samples.shape[1:] == shape
    assert opened(tmp_path / "x", resolution=16, channels=4).samples.shape[1:] == (4, 16, 16)


def test_sets_of_one_name_with_files_of_equal_names_sizes_and_times(tmp_path: Path) -> None:
    for k in range(2):
        for i in range(3):
            plain(tmp_path / str(k) / "images" / f"{i}.bmp", 10 + k)
    assert [opened(tmp_path / str(k) / "images").samples.max() for k in (0, 1)] == [10, 11]
    # The second takes the first one's place: nothing but inode and ctime differ.
    shutil.rmtree(tmp_path / "0")
    (tmp_path / "1").rename(tmp_path / "0")
    os.utime(tmp_path / "0" / "images", LONG_AGO)
    assert opened(tmp_path / "0" / "images").samples.max() == 11


@pytest.mark.parametrize("way", ["written in place", "another file in its place", "copied with its times"])
def test_a_file_with_other_pixels_of_the_same_size_and_time_is_seen(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "images"
    for i in range(3):
        plain(folder / f"{i}.bmp", 10)
    plain(tmp_path / "other.bmp", 200)
    assert opened(folder).samples.max() == 10
    target = folder / "1.bmp"
    if way == "written in place":
        target.write_bytes((tmp_path / "other.bmp").read_bytes())
        os.utime(target, LONG_AGO)
    elif way == "another file in its place":
        os.replace(tmp_path / "other.bmp", target)
    else:
        shutil.copy2(tmp_path / "other.bmp", target)
    assert target.stat().st_mtime == LONG_AGO[1]
    assert opened(folder).samples.max(axis=(1, 2, 3)).tolist() == [10, 200, 10]


def test_links_are_followed_to_what_they_lead_to_now(tmp_path: Path) -> None:
    for k, value in enumerate((10, 20)):
        plain(tmp_path / f"v{k}" / "0.bmp", value)
        np.save(tmp_path / f"v{k}.npy", np.full((4, 16, 16, 3), value, np.uint8))
    link = tmp_path / "current"
    for k, value in enumerate((10, 20, 10)):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / f"v{k % 2}")
        assert opened(link).samples.max() == value


def test_a_set_that_was_moved_or_copied_is_the_same_set(pictures: Callable[..., Path], tmp_path: Path) -> None:
    folder = pictures("a/1.png", "b/1.png", "b/2.png")
    before = opened(folder)
    copy = tmp_path / "else" / "where"
    shutil.copytree(folder, copy)
    assert opened(copy).fingerprint == before.fingerprint
    moved = folder.rename(tmp_path / "moved")
    after = opened(moved)
    assert (after.fingerprint, after.spec.name, after.classes) == (before.fingerprint, "moved", before.classes)


def test_archives_of_one_name_with_members_of_equal_names_and_times(tmp_path: Path) -> None:
    for k, value in enumerate((10, 20)):
        plain(tmp_path / f"{k}.bmp", value)
        (tmp_path / str(k)).mkdir()
        with zipfile.ZipFile(tmp_path / str(k) / "set.zip", "w") as out:
            out.writestr(zipfile.ZipInfo("x.bmp"), (tmp_path / f"{k}.bmp").read_bytes())
        os.utime(tmp_path / str(k) / "set.zip", LONG_AGO)
    assert [opened(tmp_path / str(k) / "set.zip").samples.max() for k in (0, 1)] == [10, 20]
    shutil.copy2(tmp_path / "1" / "set.zip", tmp_path / "0" / "set.zip")
    assert opened(tmp_path / "0" / "set.zip").samples.max() == 20


@pytest.mark.parametrize("layout", ["kept in place", "converted"])
def test_a_large_array_with_other_pixels_of_the_same_size_and_time_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr(distgan.kinds.image.arrays, "IN_MEMORY", 0)
    shape = (4, 3, 16, 16) if layout == "kept in place" else (4, 16, 16, 3)
    for folder, value in (("a", 10), ("b", 20)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "x.npy", np.full(shape, value, np.uint8))
        os.utime(tmp_path / folder / "x.npy", LONG_AGO)
    marks = [opened(tmp_path / folder / "x.npy").fingerprint for folder in "ab"]
    assert marks[0] != marks[1]
    os.replace(tmp_path / "b" / "x.npy", tmp_path / "a" / "x.npy")
    again = opened(tmp_path / "a" / "x.npy")
    assert (again.fingerprint, int(again.samples.max())) == (marks[1], 20)
