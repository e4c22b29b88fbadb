"""Folders and archives: classes, sizes, bad files, and the cache that two processes share."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from deep_files import png16
from PIL import Image

import distgan.kinds.image.folder
from distgan.config import ConfigError, DataConfig
from distgan.kinds import describe, open_samples

Pictures = Callable[..., Path]


def packed(folder: Path, prefix: str = "") -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(folder.rglob("*"), reverse=True):
            out.write(file, prefix + file.relative_to(folder).as_posix())
        out.writestr("__MACOSX/._1.png", b"junk")
    return archive


def test_a_flat_folder(pictures: Pictures) -> None:
    folder = pictures("b.png", "a.png", "c.PNG")
    result = open_samples(DataConfig(name=str(folder)))
    assert result.samples.shape == (3, 3, 16, 16)
    assert result.samples.dtype == np.uint8
    assert (result.labels, result.classes, result.spec.name, result.skipped) == (None, (), "cats", ())
    first = np.asarray(Image.open(folder / "a.png"))[:, 2:18].transpose(2, 0, 1)
    assert np.array_equal(result.samples[0], first)
    spec = describe(DataConfig(name=str(folder)))
    assert (spec.n, spec.shape[0], spec.shape[1], spec.n_classes, spec.name) == (3, 3, 16, 0, "cats")


def test_sub_folders_are_classes_and_any_limit_shows_them_all(pictures: Pictures) -> None:
    folder = pictures(
        "dog/1.png", "dog/2.png", "dog/3.png", "ant/x.png", "cat/deep/1.png", ".hidden/1.png", "__MACOSX/1.png"
    )
    result = open_samples(DataConfig(name=str(folder)))
    assert result.classes == ("ant", "cat", "dog") == describe(DataConfig(name=str(folder))).classes
    assert result.labels is not None
    assert result.labels.tolist() == [0, 1, 2, 2, 2]
    assert result.labels.dtype == np.int64
    limited = open_samples(DataConfig(name=str(folder), limit=3))
    assert limited.labels is not None
    assert limited.labels.tolist() == [0, 1, 2]
    plain = open_samples(DataConfig(name=str(folder), labels=False))
    assert (plain.labels, plain.classes, len(plain)) == (None, (), 5)


def test_images_beside_sub_folders_or_a_single_one_make_no_classes(pictures: Pictures) -> None:
    assert open_samples(DataConfig(name=str(pictures("a/1.png", "b/1.png", "top.png", folder="mixed")))).labels is None
    assert open_samples(DataConfig(name=str(pictures("a/1.png", "a/2.png", folder="one")))).labels is None
    nested = open_samples(DataConfig(name=str(pictures("all/a/1.png", "all/b/2.png", folder="nested"))))
    assert nested.classes == ("a", "b")


def test_train_and_test_folders_are_parts_and_not_classes(pictures: Pictures) -> None:
    folder = str(pictures("train/a/1.png", "train/b/1.png", "train/b/2.png", "test/a/1.png", "test/b/1.png"))
    sizes = {split: len(open_samples(DataConfig(name=folder, split=split))) for split in ("train", "test", "all")}
    assert sizes == {"train": 3, "test": 2, "all": 5}
    assert open_samples(DataConfig(name=folder, split="all")).classes == ("a", "b")
    with pytest.raises(ConfigError, match=r"data\.split = 'extra'.*test, train"):
        describe(DataConfig(name=folder, split="extra"))
    with pytest.raises(ConfigError, match=r"data\.split = 'test'"):
        describe(DataConfig(name=str(pictures("1.png", folder="flat")), split="test"))


def test_an_archive_equals_its_folder(pictures: Pictures) -> None:
    folder = pictures("a/1.png", "b/1.png", "b/2.png")
    expected = open_samples(DataConfig(name=str(folder)))
    for prefix in ("", "dataset/"):
        found = open_samples(DataConfig(name=str(packed(folder, prefix))))
        assert np.array_equal(found.samples, expected.samples)
        assert np.array_equal(found.labels, expected.labels)
        assert (found.classes, found.fingerprint, found.spec.name) == (expected.classes, expected.fingerprint, "cats")


@pytest.mark.parametrize(
    ("sides", "expected"),
    [((20, 16), 16), ((9, 9), 16), ((33, 200), 32), ((63, 64), 32), ((64, 65), 64), ((300, 500), 64)],
)
def test_derived_resolution(pictures: Pictures, sides: tuple[int, int], expected: int) -> None:
    config = DataConfig(name=str(pictures("1.png", "2.png", size=sides)))
    assert describe(config).shape[1] == open_samples(config).spec.shape[1] == expected


def test_derived_channels(tmp_path: Path, pictures: Pictures) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    folder = tmp_path / "grey"
    folder.mkdir()
    Image.fromarray(grey).save(folder / "1.png")
    Image.fromarray(grey).convert("RGB").save(folder / "2.png")
    Image.fromarray(grey).convert("LA").save(folder / "3.png")
    config = DataConfig(name=str(folder))
    assert describe(config).shape[0] == 1
    images = open_samples(config).samples
    assert np.array_equal(images, np.stack([grey[None]] * 3))
    assert describe(DataConfig(name=str(folder), channels=3)).shape[0] == 3
    pictures("4.png", folder="grey", size=(16, 16))
    assert describe(config).shape[0] == open_samples(config).spec.shape[0] == 3


def test_unreadable_files_are_named_and_counted(pictures: Pictures) -> None:
    folder = pictures(*(f"{k}/{i}.png" for i in range(15) for k in "ab"))
    (folder / "a" / "3.png").write_bytes((folder / "a" / "4.png").read_bytes()[:300])
    (folder / "b" / "7.jpg").write_text("no image")
    (folder / "notes.txt").write_text("ignored")
    result = open_samples(DataConfig(name=str(folder), max_bad_share=0.1))
    assert len(result) == 29
    assert result.labels is not None
    assert np.bincount(result.labels).tolist() == [14, 15]
    assert sorted(name.split(" (")[0] for name in result.skipped) == ["a/3.png", "b/7.jpg"]
    with pytest.raises(ConfigError, match=r"data\.max_bad_share = 0\.01.*2 of 31 files.*b/7\.jpg"):
        open_samples(DataConfig(name=str(folder), max_bad_share=0.01))  # though the cache has it
    with pytest.raises(ConfigError, match=r"max_bad_share.*(3\.png|7\.jpg)"):
        open_samples(DataConfig(name=str(folder), max_bad_share=0.01, resolution=32))


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="it is empty"):
        describe(DataConfig(name=str(tmp_path / "empty")))
    (tmp_path / "empty" / "table.csv").touch()
    with pytest.raises(ConfigError, match=r"only 1 \.csv"):
        describe(DataConfig(name=str(tmp_path / "empty")))
    (tmp_path / "empty" / "1.png").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"none of 1 files could be read: 1\.png"):
        describe(DataConfig(name=str(tmp_path / "empty")))
    (tmp_path / "bad.zip").write_bytes(b"PK junk")
    with pytest.raises(ConfigError, match=r"not a readable \.zip"):
        describe(DataConfig(name=str(tmp_path / "bad.zip")))


def test_paths_that_cannot_be_used(tmp_path: Path, pictures: Pictures) -> None:
    folder = pictures("1.png")
    with pytest.raises(ConfigError, match=r"single image.*/cats"):
        describe(DataConfig(name=str(folder / "1.png")))
    with pytest.raises(ConfigError, match=r"did you mean .*/cats\?"):
        describe(DataConfig(name=str(tmp_path / "cast")))
    (tmp_path / "x.tar.gz").touch()
    with pytest.raises(ConfigError, match=r"unpack it .*\.zip"):
        describe(DataConfig(name=str(tmp_path / "x.tar.gz")))
    with pytest.raises(ConfigError, match=r"did you mean cifar10\?.*stacked-mnist.*path of a folder"):
        describe(DataConfig(name="cifra10"))


def test_the_second_open_does_not_decode(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures("1.png", "2.png")
    config = DataConfig(name=str(folder))
    seen: list[tuple[str, int, int]] = []
    before = open_samples(config, progress=lambda *step: seen.append(step))
    assert seen == [("decoding cats", 2, 2)]

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(distgan.kinds.image.folder, "decode", refuse)
        again = open_samples(config)
    assert isinstance(again.samples, np.memmap)
    assert not again.samples.flags.writeable
    assert again.fingerprint == before.fingerprint
    assert np.array_equal(again.samples, before.samples)

    pictures("2.png", seed=9)
    changed = open_samples(config)
    assert changed.fingerprint != before.fingerprint
    assert np.array_equal(changed.samples[0], before.samples[0])
    assert open_samples(DataConfig(name=str(folder), resolution=8)).spec.shape[1] == 8
    assert (
        open_samples(DataConfig(name=str(folder), resolution=8, fit="pad")).fingerprint
        != open_samples(DataConfig(name=str(folder), resolution=8)).fingerprint
    )


def test_an_interrupted_build_leaves_nothing_and_a_damaged_entry_is_rebuilt(
    pictures: Pictures, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(name=str(pictures("1.png", "2.png")))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(distgan.kinds.image.folder, "decode", stop)
        with pytest.raises(KeyboardInterrupt):
            open_samples(config)
    assert [entry.name for entry in own_folders.iterdir() if entry.is_dir()] == []
    expected = open_samples(config).samples.copy()
    (entry,) = (entry for entry in own_folders.iterdir() if entry.is_dir())
    (own_folders / f".{entry.name}.{os.uname().nodename}.dead").mkdir()
    file = entry / "images.npy"
    file.write_bytes(file.read_bytes()[:-5])
    assert np.array_equal(open_samples(config).samples, expected)
    assert [found for found in own_folders.iterdir() if found.is_dir()] == [entry]


def test_a_cache_that_cannot_be_written(pictures: Pictures, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"data\.cache = .*/file/x.*DISTGAN_CACHE"):
        open_samples(DataConfig(name=str(pictures("1.png")), cache=str(tmp_path / "file" / "x")))


def test_two_processes_at_once_build_once(pictures: Pictures, own_folders: Path) -> None:
    folder = pictures(*(f"{i}.png" for i in range(40)))
    script = (
        "import sys; from distgan.config import DataConfig; from distgan.kinds import open_samples\n"
        "built = []\n"
        "images = open_samples(DataConfig(name=sys.argv[1]), progress=lambda *step: built.append(step))\n"
        "print(images.fingerprint, len(images), bool(built))"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    lines = [run.communicate(timeout=120)[0].split() for run in runs]
    assert lines[0][:2] == lines[1][:2]
    assert sorted(line[2] for line in lines) == ["False", "True"]
    assert len([entry for entry in own_folders.iterdir() if entry.is_dir()]) == 1


def test_links_that_lead_in_circles(pictures: Pictures) -> None:
    folder = pictures("a/1.png", "b/1.png")
    (folder / "a" / "again").symlink_to(folder)
    assert len(open_samples(DataConfig(name=str(folder)))) == 2


def test_one_scale_for_a_whole_folder_of_deep_images(tmp_path: Path) -> None:
    folder, ramp = tmp_path / "scans", np.linspace(0, 1, 64).reshape(8, 8)
    (folder / "a").mkdir(parents=True)
    for number, top in enumerate((400, 4095, 1000)):  # the brightest one decides for all
        Image.fromarray((ramp * top).astype(np.uint16)).save(folder / f"{number}.png")
    Image.fromarray((ramp * 255).astype(np.uint8)).save(folder / "3.png")
    result = open_samples(DataConfig(name=str(folder), resolution=8))
    assert result.samples.max((1, 2, 3)).tolist() == [25, 255, 62, 255]
    assert result.remarks == ("numbers up to 4,095 are read as 12 bits",)
    again = open_samples(DataConfig(name=str(folder), resolution=8))
    assert (again.remarks, again.fingerprint) == (result.remarks, result.fingerprint)


def test_floats_are_scaled_by_the_range_of_all(tmp_path: Path) -> None:
    for number, top in enumerate((0.2, 1.0, 0.5)):
        Image.fromarray(np.full((8, 8), top, np.float32)).save(tmp_path / f"{number}.tif")
    assert open_samples(DataConfig(name=str(tmp_path), resolution=8)).samples[:, 0, 0, 0].tolist() == [51, 255, 128]
    Image.fromarray(np.full((8, 8), -7, np.float32)).save(tmp_path / "4.tif")
    with pytest.raises(ConfigError, match="the images hold floats from -7 to 1"):
        open_samples(DataConfig(name=str(tmp_path)))


def test_deep_numbers_and_floats_have_no_common_scale(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 60000, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(ConfigError, match=r"a\.png holds whole numbers, b\.tif floats"):
        open_samples(DataConfig(name=str(tmp_path)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_sixteen_bits_a_channel(tmp_path: Path, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (8, 8, len(mode)), dtype=np.uint16)
    values[..., -1] = 4095 if mode[-1] == "A" else values[..., -1]
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png16(values))
    result = open_samples(DataConfig(name=str(tmp_path), resolution=8))
    expected = np.rint(values[..., :3] / 4095 * 255) if mode != "LA" else np.rint(values[..., :1] / 4095 * 255)
    assert result.samples.shape[1] == expected.shape[2]
    assert np.array_equal(result.samples[0], expected.transpose(2, 0, 1))
    brightest = values[..., : len(mode) - (mode[-1] == "A")].max()
    assert result.remarks == (f"numbers up to {brightest:,} are read as 12 bits",)


def test_files_of_several_frames_are_told(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 200)]
    for name in ("a.tif", "b.gif", "c.png"):
        frames[0].save(
            tmp_path / name, save_all=name != "c.png", **({"append_images": frames[1:]} if name != "c.png" else {})
        )
    result = open_samples(DataConfig(name=str(tmp_path), resolution=8))
    assert (result.samples == 10).all()
    assert result.remarks == ("2 files of several pages or frames: the first is taken",)
