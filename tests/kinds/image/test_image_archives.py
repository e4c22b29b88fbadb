"""Archives as they are found: backslashes, other code pages, doubled names, passwords, damage."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgan.config import ConfigError, DataConfig
from distgan.kinds import describe, open_samples
from distgan.kinds.base import SampleSet


def picture(value: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(out, "png")
    return out.getvalue()


def member(name: str) -> zipfile.ZipInfo:
    """A member whose name is written as it is."""
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


def packed(file: Path, *names: str) -> Path:
    """An archive in which the i-th member's pixels are i."""
    with zipfile.ZipFile(file, "w") as out:
        for i, name in enumerate(names):
            out.writestr(member(name), b"" if name.endswith(("/", "\\")) else picture(i))
    return file


def opened(path: Path, **settings: object) -> SampleSet:
    return open_samples(DataConfig(name=str(path), **settings))


@pytest.mark.parametrize(
    "names",
    [
        ("pets\\", "pets\\cat\\", "pets\\cat\\1.png", "pets\\cat\\2.png", "pets\\dog\\1.png"),
        ("C:\\pets\\cat\\1.png", "C:\\pets\\cat\\2.png", "C:/pets/dog/1.png"),
        ("/home/pets/cat/1.png", "/home/pets/cat/2.png", "/home/pets/dog/1.png"),
        ("../pets/cat/1.png", "../pets/cat/2.png", "../pets/dog/1.png"),
        ("./cat/1.png", ".\\cat\\2.png", "./dog//1.png"),
    ],
)
def test_classes_however_the_paths_are_written(tmp_path: Path, names: tuple[str, ...]) -> None:
    result = opened(packed(tmp_path / "a.zip", *names))
    assert result.classes == ("cat", "dog")
    assert result.labels is not None
    assert result.labels.tolist() == [0, 1, 0]
    assert result.remarks == ()


def test_names_in_utf8_that_do_not_say_so(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    packed(file, "Kxxtzchen/1.png", "Hund/1.png")
    file.write_bytes(file.read_bytes().replace(b"Kxxtzchen", "K\u00e4tzchen".encode()))
    assert opened(file).classes == ("Hund", "K\u00e4tzchen")
    cp437 = tmp_path / "b.zip"
    packed(cp437, "Kxtzchen/1.png", "Hund/1.png")
    cp437.write_bytes(cp437.read_bytes().replace(b"Kxtzchen", "K\u00e4tzchen".encode("cp437")))
    assert opened(cp437).classes == ("Hund", "K\u00e4tzchen")
    extra = tmp_path / "d.zip"
    with zipfile.ZipFile(extra, "w") as out:
        for i, (kind, stored) in enumerate((("\u732b", b"\x94L"), ("\u72ac", b"\x8c\xa2"))):
            info = member("xx/1.png")
            unicode_path = b"\1" + struct.pack("<I", zlib.crc32(stored + b"/1.png")) + f"{kind}/1.png".encode()
            info.extra = struct.pack("<HH", 0x7075, len(unicode_path)) + unicode_path
            info.filename = f"{'xy'[i]}{'xy'[i]}/1.png"
            out.writestr(info, picture(i))
    data = extra.read_bytes().replace(b"xx/1.png", b"\x94L/1.png").replace(b"yy/1.png", b"\x8c\xa2/1.png")
    extra.write_bytes(data)
    assert opened(extra).classes == ("\u72ac", "\u732b")
    flagged = packed(tmp_path / "c.zip", "\u732b/1.png", "\u72ac/1.png")
    assert opened(flagged).classes == ("\u72ac", "\u732b")


def test_members_of_one_name_are_all_used_each_with_its_own_pixels(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        file = packed(tmp_path / "a.zip", "x.png", "x.png", "y.png", "x.png")
    result = opened(file)
    assert sorted(result.samples[:, 0, 0, 0].tolist()) == [0, 1, 2, 3]
    assert "in the archive 2 times a file has the name of one before" in result.remarks[0]


def test_an_encrypted_archive_is_refused_in_words(tmp_path: Path) -> None:
    file = packed(tmp_path / "a.zip", "x.png", "y.png")
    data = bytearray(file.read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 8 : at + 10] = struct.pack("<H", 1)  # the first member's flags in the directory
    file.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match=r"1 of 2 files.*encrypted \(x\.png\); unpack it"):
        describe(DataConfig(name=str(file)))


def test_a_damaged_member_is_unreadable_and_the_others_are_read(tmp_path: Path) -> None:
    file = packed(tmp_path / "a.zip", "x.png", "y.png", "z")
    data = bytearray(file.read_bytes())
    at = data.index(b"IDAT")
    data[at + 6] ^= 255
    file.write_bytes(bytes(data))
    result = opened(file, max_bad_share=0.5)
    assert len(result) == 2
    assert result.skipped[0].startswith("x.png (Bad CRC-32")
    # What unknown methods and a false size make of it.
    for offset, value in ((10, 9), (24, 0x7FFFFFFF)):
        data = bytearray(packed(tmp_path / "b.zip", "x.png", "y.png").read_bytes())
        at = data.index(b"PK\1\2") + offset
        data[at : at + (2 if offset == 10 else 4)] = struct.pack("<H" if offset == 10 else "<I", value)
        (tmp_path / "b.zip").write_bytes(bytes(data))
        assert [name.split(" (")[0] for name in opened(tmp_path / "b.zip", max_bad_share=0.5).skipped] == ["x.png"]


def test_content_says_what_an_archive_is(tmp_path: Path) -> None:
    file = packed(tmp_path / "A.ZIP", "cat/1.png", "dog/1.png")
    for name in ("pets", "pets.bin", "pets.cbz"):
        copy = tmp_path / name
        copy.write_bytes(file.read_bytes())
        assert opened(copy).classes == opened(file).classes == ("cat", "dog")
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 16, 16, 3), np.uint8), labels=np.array([0, 1, 0, 1]))
    (tmp_path / "x.npz").rename(tmp_path / "arrays.zip")
    assert opened(tmp_path / "arrays.zip").classes == ("0", "1")
    np.save(tmp_path / "x.npy", np.zeros((4, 16, 16, 3), np.uint8))
    (tmp_path / "x.npy").rename(tmp_path / "array.dat")
    assert len(opened(tmp_path / "array.dat")) == 4
    (tmp_path / "notes.doc").write_text("PK is not enough")
    with pytest.raises(ConfigError, match=r"files of type \.doc are not read"):
        describe(DataConfig(name=str(tmp_path / "notes.doc")))


def test_archives_without_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no image files there \(only folders\)"):
        describe(DataConfig(name=str(packed(tmp_path / "a.zip", "a/", "b/", "c\\d\\"))))
    with pytest.raises(ConfigError, match=r"no image files there \(it is empty\)"):
        describe(DataConfig(name=str(packed(tmp_path / "b.zip"))))
    for damage in (b"PK\3\4 cut short", b"", b"PK\5\6" + bytes(7)):
        (tmp_path / "c.zip").write_bytes(damage)
        with pytest.raises(ConfigError, match=r"not a readable \.zip archive"):
            describe(DataConfig(name=str(tmp_path / "c.zip")))


def test_links_in_archives_are_passed_over(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("x.png", picture())
        link = zipfile.ZipInfo("y.png")
        link.external_attr = 0o120777 << 16
        out.writestr(link, "x.png")
    result = opened(tmp_path / "a.zip")
    assert len(result) == 1
    assert result.remarks == ("passed over: 1 file that holds no image (1 links: y.png)",)
