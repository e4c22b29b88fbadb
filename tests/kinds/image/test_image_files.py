"""Which files of a folder or archive are used: content decides, and what is passed over is said."""

from __future__ import annotations

import io
import os
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import distgan.kinds.image.files
from distgan.config import ConfigError, DataConfig
from distgan.kinds import describe, open_samples
from distgan.kinds.base import SampleSet
from distgan.kinds.image.files import FolderReader

Pictures = Callable[..., Path]


def picture(kind: str = "png", seed: int = 0, **options: object) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def opened(path: Path, **settings: object) -> SampleSet:
    return open_samples(DataConfig(name=str(path), **settings))


def both(folder: Path) -> list[SampleSet]:
    """A folder's files, and the same in an archive."""
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(folder.rglob("*")):
            out.write(file, file.relative_to(folder).as_posix())
    return [opened(folder), opened(archive)]


def test_content_decides_where_the_ending_says_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "scraped"
    folder.mkdir()
    kinds = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "ppm")
    for i, kind in enumerate(kinds):
        (folder / f"{i}").write_bytes(picture(kind, i))
        (folder / f"{i}.{kind}_large").write_bytes(picture(kind, i))
        (folder / f"{i}.php?size=2").write_bytes(picture(kind, i))
    (folder / "0.png").write_bytes(picture())
    for result in both(folder):
        assert len(result) == 3 * len(kinds) + 1
        assert result.skipped == ()
        assert len(result.remarks) == 1
        assert result.remarks[0].startswith("21 of 22 images are known by their content alone (7 ")
        assert "7 without suffix" in result.remarks[0]


def test_what_holds_no_image_is_counted_and_named_once(pictures: Pictures) -> None:
    folder = pictures("a/1.png", "b/1.png", "b/2.png")
    for i in range(10):
        (folder / "a" / f"{i}.txt").write_text("a cat")
    for name in ("list.csv", "b/readme", "b/empty", "P1.text"):
        (folder / name).write_text("" if name == "b/empty" else "P3 is no picture\n")
    (folder / "figure.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "paper.pdf").write_bytes(b"%PDF-1.4\n")
    (folder / "photo.nef").write_bytes(picture("tiff"))
    for junk in ("Thumbs.db", "desktop.ini", ".DS_Store", "@eaDir/1.png", "__MACOSX/._1.png", "$RECYCLE.BIN/1.png"):
        (folder / junk).parent.mkdir(exist_ok=True)
        (folder / junk).write_bytes(picture())
    for result in both(folder):
        assert (len(result), result.classes) == (3, ("a", "b"))
        (remark,) = result.remarks
        assert remark.startswith("passed over: 17 files that hold no image (10 .txt, 2 without suffix, ")
        assert "1 .csv" in remark
        assert ".DS_Store" not in remark
    assert "cats: passed over" in result.notes[0]


def test_a_program_is_never_run_for_a_picture(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    """EPS under an image's name would start Ghostscript."""
    folder = pictures("1.png", "2.png")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    for name in ("3.png", "4"):
        (folder / name).write_bytes(eps)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program is started")

    monkeypatch.setattr("subprocess.check_call", refuse)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", refuse)
    result = opened(folder, max_bad_share=0.5)
    assert len(result) == 2
    assert [name.split(" (")[0] for name in result.skipped] == ["3.png"]


def test_the_cache_does_not_remember_what_lay_beside(pictures: Pictures) -> None:
    folder = pictures("1.png", "2.png")
    assert opened(folder).remarks == ()
    (folder / "notes.txt").write_text("later")
    assert opened(folder).remarks == ("passed over: 1 file that holds no image (1 .txt: notes.txt)",)


def test_pipes_sockets_devices_links_and_folders_with_an_images_name(pictures: Pictures) -> None:
    folder = pictures("x.png/1.png", "y.jpg/2.png", "y.jpg/3.png")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    (folder / "null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        try:
            server.bind("socket.jpg")
        finally:
            os.chdir(here)
        (folder / "x.png" / "gone").symlink_to(folder / "nowhere")
        (folder / "x.png" / "loop").symlink_to(folder / "x.png" / "loop")
        (folder / "x.png" / "up").symlink_to(folder)
        before = time.monotonic()
        result = opened(folder)
        assert time.monotonic() - before < 20
    assert (len(result), result.classes, result.skipped) == (3, ("x.png", "y.jpg"), ())
    links, passed = result.remarks
    assert links == "folders that are links to what is read already, and left out: x.png/up"
    assert "4 pipes, sockets or devices" in passed
    assert "2 broken links" in passed
    (folder / "x.png" / "gone.png").symlink_to(folder / "nowhere")
    assert opened(folder, max_bad_share=0.5).skipped[0].startswith("x.png/gone.png (")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(pictures: Pictures) -> None:
    folder = pictures("a/1.png", "b/1.png", "c/1.png")
    (folder / "a" / "secret").write_bytes(picture())
    (folder / "a" / "secret").chmod(0)
    (folder / "c").chmod(0)
    try:
        result = opened(folder)
    finally:
        (folder / "c").chmod(0o700)
    assert result.classes == ("a", "b")
    assert "folders that this user may not read, and left out:" in result.remarks[0]
    assert "that this user may not read: a/secret" in result.remarks[1]


def test_files_with_an_images_ending_are_not_opened_while_listing(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(*(f"{i}.png" for i in range(20)))

    def refuse(*_: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(distgan.kinds.image.files, "looks_like_image", refuse)
    assert len(FolderReader(folder).find().entries) == 20
    (folder / "notes").write_text("x")
    with pytest.raises(AssertionError, match="opened"):
        FolderReader(folder).find()


def test_an_empty_file_is_called_empty(pictures: Pictures) -> None:
    folder = pictures("1.png", "2.png")
    (folder / "3.png").touch()
    assert opened(folder, max_bad_share=0.5).skipped == ("3.png (empty)",)


def test_nothing_but_an_archive(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.zip").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"only 1 \.zip.*For what is in train\.zip give that file"):
        describe(DataConfig(name=str(tmp_path / "set")))
    (tmp_path / "bare" / "a" / "b").mkdir(parents=True)
    with pytest.raises(ConfigError, match="only folders"):
        describe(DataConfig(name=str(tmp_path / "bare")))
