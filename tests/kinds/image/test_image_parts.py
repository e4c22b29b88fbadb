"""Sub-folders for training and tests are parts of a set, however the field names them; classes are not."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distgan.config import ConfigError, DataConfig
from distgan.kinds import describe, open_samples
from distgan.kinds.base import SampleSet
from distgan.kinds.image.parts import part_of

Pictures = Callable[..., Path]


def opened(path: Path, **settings: object) -> SampleSet:
    return open_samples(DataConfig(name=str(path), **settings))


def sizes(path: Path, *splits: str) -> list[int]:
    return [len(opened(path, split=split)) for split in splits]


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("train", ("train", "")),
        ("TEST", ("test", "")),
        ("trainA", ("train", "A")),
        ("testb", ("test", "b")),
        ("train2017", ("train", "")),
        ("val_256", ("val", "")),
        ("train_images", ("train", "images")),
        ("images-val", ("val", "images")),
        ("seg_train", ("train", "seg")),
        ("Training Set", ("train", "Set")),
        ("test_set", ("test", "set")),
        ("Validation", ("val", "")),
        ("trainval", ("train", "")),
        ("holdout", ("test", "")),
        ("trains", None),
        ("valley", None),
        ("device", None),
        ("steam train", None),
        ("contest", None),
    ],
)
def test_folders_that_are_called_parts(folder: str, expected: tuple[str, str] | None) -> None:
    part = part_of(folder)
    assert (part and (part.role, part.domain)) == expected


def test_domains_are_the_classes_of_a_part(pictures: Pictures) -> None:
    folder = pictures("trainA/1.png", "trainA/2.png", "trainB/1.png", "testA/1.png", "testB/1.png", "testB/2.png")
    result = opened(folder)
    assert result.classes == ("A", "B") == describe(DataConfig(name=str(folder))).classes
    assert result.labels is not None
    assert result.labels.tolist() == [0, 1, 0]
    assert result.remarks == (
        "sub-folders are parts, not classes: 3 of 6 images are used, those of trainA, trainB (data.split = train; test "
        "takes 3 (testA, testB), all takes 6)",
    )
    everything = opened(folder, split="all")
    assert (len(everything), everything.classes) == (6, ("A", "B"))
    with pytest.raises(ConfigError, match=r"data\.split = 'val'.*parts test, train \(folders testA, .*or all"):
        opened(folder, split="val")


@pytest.mark.parametrize(
    ("train", "test", "key"),
    [
        ("train", "val", "val"),
        ("Train", "Test", "test"),
        ("train2017", "val2017", "val"),
        ("train_images", "test_images", "test"),
        ("images_train", "images_test", "test"),
        ("seg_train", "seg_test", "test"),
        ("training", "validation", "val"),
        ("training_set", "test_set", "test"),
        ("train", "holdout", "test"),
        ("train", "dev", "val"),
    ],
)
def test_parts_above_classes_and_without(pictures: Pictures, train: str, test: str, key: str) -> None:
    flat = pictures(f"{train}/1.png", f"{train}/2.png", f"{train}/3.png", f"{test}/1.png", folder="flat")
    assert sizes(flat, "train", key, "all") == [3, 1, 4]
    assert opened(flat).classes == ()
    deep = pictures(
        f"x/{train}/{train}/cat/1.png", f"x/{train}/{train}/dog/1.png", f"x/{test}/{test}/dog/1.png", folder="deep"
    )
    assert sizes(deep, "train", key) == [2, 1]
    assert opened(deep).classes == ("cat", "dog")


def test_parts_below_classes(pictures: Pictures) -> None:
    folder = pictures(
        *(f"{name}/train/{i}.png" for name in ("cat", "dog") for i in range(3)), "cat/test/1.png", "dog/test/1.png"
    )
    assert sizes(folder, "train", "test", "all") == [6, 2, 8]
    assert opened(folder).classes == opened(folder, split="test").classes == ("cat", "dog")
    mvtec = pictures(
        *(f"{name}/train/good/{i}.png" for name in ("bolt", "nut") for i in range(3)),
        *(f"{name}/{part}/bent/1.png" for name in ("bolt", "nut") for part in ("test", "ground_truth")),
        folder="mvtec",
    )
    result = opened(mvtec)
    assert (len(result), result.classes) == (6, ("bolt", "nut"))
    assert "1 in bolt/ground_truth, 1 in nut/ground_truth" in result.remarks[1]


def test_yolo(pictures: Pictures) -> None:
    folder = pictures("images/train/1.png", "images/train/2.png", "images/val/1.png")
    for part, i in (("train", 1), ("train", 2), ("val", 1)):
        (folder / "labels" / part).mkdir(parents=True, exist_ok=True)
        (folder / "labels" / part / f"{i}.txt").write_text("0 .5 .5 1 1")
    assert sizes(folder, "train", "val", "all") == [2, 1, 3]
    result = opened(folder)
    assert result.classes == ()
    assert "passed over: 3 files" in result.remarks[0]
    roboflow = pictures("train/images/1.png", "train/images/2.png", "valid/images/1.png", folder="roboflow")
    (roboflow / "train" / "labels").mkdir()
    assert sizes(roboflow, "train", "val") == [2, 1]


def test_masks_are_no_class(pictures: Pictures) -> None:
    folder = pictures("images/1.png", "images/2.png", "masks/1.png")
    result = opened(folder)
    assert (len(result), result.classes) == (2, ())
    assert result.remarks == ("images of images are used; their masks are left out (1 in masks)",)
    both = pictures(
        *(f"{kind}/{part}/1.png" for kind in ("images", "masks") for part in ("train", "val")), folder="both"
    )
    assert sizes(both, "train", "all") == [1, 2]
    flat = pictures("train_images/1.png", "train_masks/1.png", "test_images/1.png", folder="flat")
    assert sizes(flat, "train", "test") == [1, 1]


def test_what_lies_beside_parts_is_left_out_and_said(pictures: Pictures) -> None:
    folder = pictures("seg_train/a/1.png", "seg_train/b/1.png", "seg_test/a/1.png", "seg_pred/1.png", "cover.png")
    result = opened(folder)
    assert (len(result), result.classes) == (2, ("a", "b"))
    assert "2 of 5 images are used" in result.remarks[0]
    assert "1 in the folder itself, 1 in seg_pred" in result.remarks[1].replace(
        "1 in seg_pred, 1 in the folder itself", "1 in the folder itself, 1 in seg_pred"
    )
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as out:
        for file in folder.rglob("*.png"):
            out.write(file, f"top/{file.relative_to(folder).as_posix()}")
    assert opened(archive).fingerprint == result.fingerprint


@pytest.mark.parametrize(
    "classes",
    [
        ("bus", "car", "train"),
        ("car", "train", "trainers"),
        ("crash_test", "freight_train", "passenger_train"),
        ("dev", "eval"),
        ("test", "val"),
        ("contest", "train", "valley"),
    ],
)
def test_classes_with_such_names_stay_classes(pictures: Pictures, classes: tuple[str, ...]) -> None:
    folder = pictures(*(f"{name}/1.png" for name in classes))
    result = opened(folder)
    assert (result.classes, len(result), result.remarks) == (classes, len(classes), ())
    with pytest.raises(ConfigError, match=r"no sub-folders train and test"):
        opened(folder, split="test")


def test_parts_together_give_each_image_once(pictures: Pictures) -> None:
    folder = pictures("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "val/b/2.png")
    parts = [opened(folder, split=split).samples for split in ("train", "test", "val")]
    together = opened(folder, split="all").samples
    assert len(together) == 5
    assert {image.tobytes() for image in together} == {image.tobytes() for image in np.concatenate(parts)}
