"""Sub-folders that are classes, shards that are none, and limits that would leave classes bare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distgan.config import ConfigError, DataConfig
from distgan.kinds import describe, open_samples
from distgan.kinds.base import SampleSet
from distgan.kinds.image.classes import numbering
from distgan.kinds.image.files import Entry

Pictures = Callable[..., Path]


def opened(path: Path, **settings: object) -> SampleSet:
    return open_samples(DataConfig(name=str(path), **settings))


def shards(*names: str) -> bool:
    return numbering([(tuple(name.split("/")), Entry(name, (0,))) for name in names]) == "shards"


def test_shards_are_told_from_classes() -> None:
    assert shards(*(f"{i // 4:05d}/img{i:08d}.png" for i in range(10)))
    assert shards(*(f"{i // 4:05d}/img{i:08d}.png" for i in range(10) if i not in (0, 5, 6)))  # some were deleted
    assert shards(*(f"{i // 1000 * 1000:05d}/{i:05d}.png" for i in range(0, 4000, 7)))  # FFHQ
    assert shards(*(f"{i // 4 + 1:02d}/{i + 1}.png" for i in range(12)))  # counted from 1
    assert shards(*(f"{i // 1000:05d}/img{i:08d}.png" for i in range(3000, 6000, 9)))  # a piece from the middle
    assert shards(*(f"{i % 1000:04d}/{i}.jpg" for i in range(5, 90000, 777)))  # Danbooru
    assert shards(*(f"{word[:2]}/{word}.jpg" for word in ("00" + "a" * 30, "a1" + "b" * 30, "ff" + "0" * 30)))
    for names in (
        [f"{k}/{i}.png" for k in range(10) for i in range(3)],  # classes with numbers of their own
        [f"{k:02d}/{i}.png" for k in range(10) for i in range(3)],
        [f"{k:05d}/{i:05d}_{j:05d}.ppm" for k in range(43) for i in range(2) for j in range(3)],  # GTSRB
        [f"{i // 4}/{i}.png" for i in range(12)],  # no zeros in front
        [f"{k:02d}/{n:05d}.png" for k, a in enumerate((0, 590, 1260)) for n in range(a, (590, 1260, 1700)[k])],
        [f"{k:02d}/cat.png" for k in range(3)],
        [f"{k:03d}/image_{6734 - 40 * k + i:05d}.jpg" for k in range(9) for i in range(40)],  # Flowers
        ["01.cat/1.png", "02.dog/2.png"],
        [f"{10 + i // 4}/{i}.png" for i in range(12)],
        ["2019/1.png", "2020/2.png"],
        ["aa/bird.png", "bb/fish.png"],
    ):
        assert not shards(*names), names[:3]


def test_shards_make_no_classes_and_that_is_said(pictures: Pictures) -> None:
    folder = pictures(*(f"{i // 4:05d}/img{i:08d}.png" for i in range(10)))
    result = opened(folder)
    assert (len(result), result.labels, result.classes) == (10, None, ())
    assert "3 sub-folders 00000 to 00002 are shards" in result.remarks[0]
    uneven = pictures(*(f"{k:02d}/{n}.png" for n, k in enumerate((0, 0, 0, 0, 1, 2, 2, 2, 2, 2))), folder="uneven")
    doubtful = opened(uneven)
    assert doubtful.classes == ("00", "01", "02")
    assert "where they are shards, set data.labels=false" in doubtful.remarks[0]
    digits = pictures(*(f"{k}/{i}.png" for k in range(3) for i in range(2)), folder="digits")
    assert opened(digits).classes == ("0", "1", "2")


def test_a_limit_below_the_number_of_classes_is_refused(pictures: Pictures) -> None:
    folder = pictures(*(f"{name}/{i}.png" for name in "abcd" for i in range(3)))
    with pytest.raises(ConfigError, match=r"data\.limit = 3: .* has 4 classes; allowed: at least one image for each"):
        describe(DataConfig(name=str(folder), limit=3))
    assert len(opened(folder, limit=3, labels=False)) == 3
    assert sorted(opened(folder, limit=4).labels.tolist()) == [0, 1, 2, 3]  # type: ignore[union-attr]


def test_a_class_without_a_readable_image_is_refused(pictures: Pictures) -> None:
    folder = pictures(*(f"{name}/{i}.png" for name in "ab" for i in range(9)))
    (folder / "c").mkdir()
    (folder / "c" / "1.png").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"no image of the class c can be read: c/1\.png"):
        opened(folder, max_bad_share=0.5)


def test_folders_without_images_are_named(pictures: Pictures) -> None:
    folder = pictures("top/cat/1.png", "top/cat/deep/2.png", "top/dog/1.png")
    for empty in ("top/cow", "top/pig/young", "top/cat/old", "extra"):
        (folder / empty).mkdir(parents=True)
    assert opened(folder).remarks == ("no images in the folders extra, top/cow, top/pig",)
    alone = pictures("cat/1.png", "cat/2.png", folder="alone")
    (alone / "dog").mkdir()
    result = opened(alone)
    assert (result.classes, result.remarks) == ((), ("no images in the folders dog",))


def test_classes_that_a_person_would_take_for_one_are_named(pictures: Pictures) -> None:
    folder = pictures("Cat/1.png", "cat/1.png", "caf\u00e9/1.png", "cafe\u0301/1.png", "dog/1.png", " dog/1.png")
    result = opened(folder)
    assert len(result.classes) == 6
    (remark,) = result.remarks
    assert "'Cat' and 'cat'" in remark
    assert "' dog' and 'dog'" in remark
    assert remark.count(" and ") == 3


def test_classes_in_names_that_are_not_text(pictures: Pictures) -> None:
    folder = pictures("a/1.png", "\udcff\udcfe/1.png", " /1.png")
    result = opened(folder)
    assert result.classes == (" ", "a", "\\xff\\xfe")  # what no file could hold is written as numbers
    assert opened(folder).fingerprint == result.fingerprint
