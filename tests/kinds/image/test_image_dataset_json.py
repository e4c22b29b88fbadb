"""StyleGAN's dataset.json, in folders and archives."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distgan.config import ConfigError, DataConfig
from distgan.kinds import describe, open_samples
from distgan.kinds.base import SampleSet

N = 24


def names(n: int = N) -> list[str]:
    return [f"{i // 10:05d}/img{i:08d}.png" for i in range(n)]


def built(place: Path, content: Any, top: str = "", n: int = N, index: str = "dataset.json") -> Path:
    """Images in shards, the i-th of value i, and a dataset.json; an archive where the place ends in .zip."""
    files = {}
    for i, name in enumerate(names(n)):
        out = io.BytesIO()
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(out, "png")
        files[top + name] = out.getvalue()
    files[top + index] = content if isinstance(content, bytes) else json.dumps(content).encode()
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        for name, data in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
    return place


def opened(path: Path, **settings: object) -> SampleSet:
    return open_samples(DataConfig(name=str(path), **settings))


def by_image(result: SampleSet) -> dict[int, str]:
    """The class of each image, whose value is its number."""
    assert result.labels is not None
    return {
        int(image[0, 0, 0]): result.classes[label] for image, label in zip(result.samples, result.labels, strict=True)
    }


def labelled(value: Callable[[int], Any], n: int = N) -> dict[str, Any]:
    return {"labels": [[name, value(i)] for i, name in enumerate(names(n))]}


@pytest.mark.parametrize("place", ["set", "set.zip"])
@pytest.mark.parametrize("top", ["", "top/", "a/b/"])
def test_labels_in_folders_and_archives(tmp_path: Path, place: str, top: str) -> None:
    path = built(tmp_path / place, labelled(lambda i: i % 3), top)
    result = opened(path)
    assert result.classes == ("0", "1", "2") == describe(DataConfig(name=str(path))).classes
    assert by_image(result) == {i: str(i % 3) for i in range(N)}
    assert result.remarks == ()
    assert by_image(opened(path, limit=4)).keys() == {0, 1, 2, 3}
    assert opened(path, labels=False).classes == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda i: 7 if i % 2 else 4000, ("7", "4000")),
        (lambda i: "dog" if i % 2 else "cat", ("cat", "dog")),
        (lambda i: [i % 2], ("0", "1")),
        (lambda i: [1 - i % 2, i % 2], ("0", "1")),
        (lambda i: [1.0 - i % 2, float(i % 2), 0.0], ("0", "1")),
        (lambda i: float(i % 2), ("0", "1")),
    ],
)
def test_kinds_of_labels(tmp_path: Path, value: Callable[[int], Any], expected: tuple[str, ...]) -> None:
    result = opened(built(tmp_path / "set.zip", labelled(value)))
    assert result.classes == expected
    odd = {name for i, name in by_image(result).items() if i % 2}
    even = {name for i, name in by_image(result).items() if not i % 2}
    assert len(odd) == len(even) == 1
    assert odd != even


@pytest.mark.parametrize("labels", [None, "absent"])
def test_without_labels_there_are_no_classes(tmp_path: Path, labels: object) -> None:
    result = opened(built(tmp_path / "set", {"labels": None} if labels is None else {"made by": "a tool"}))
    assert (len(result), result.labels, result.classes) == (N, None, ())
    shards = [remark for remark in result.remarks if "shards" in remark]
    passed = [remark for remark in result.remarks if "dataset.json" in remark]
    assert (len(shards), len(passed)) == ((0, 0) if labels is None else (1, 1))


def test_another_programs_dataset_json_does_not_hide_the_folders(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        built(tmp_path / "pets" / kind, {"labels": None}, n=3)
    (tmp_path / "pets" / "dataset.json").write_text(json.dumps({"labels": ["cat", "dog"]}))
    result = opened(tmp_path / "pets")
    assert result.classes == ("cat", "dog")
    assert "3 .json" in result.remarks[0]


def test_names_of_classes(tmp_path: Path) -> None:
    content = {**labelled(lambda i: 2 * (i % 2)), "classes": ["ant", "bee", "cat"]}
    result = opened(built(tmp_path / "set.zip", content))
    assert by_image(result) == {i: "cat" if i % 2 else "ant" for i in range(N)}
    renamed = opened(built(tmp_path / "set.zip", {**content, "classes": ["x", "y", "z"]}))
    assert renamed.classes == ("x", "z")


def test_few_images_of_many_named_classes(tmp_path: Path) -> None:
    """What `distgan sample --out FOLDER` writes of a generator of many classes."""
    content = {**labelled(lambda i: 10 * i), "classes": [f"class {k}" for k in range(1000)]}
    assert by_image(opened(built(tmp_path / "set", content))) == {i: f"class {10 * i}" for i in range(N)}


def test_names_that_the_list_has_and_the_folder_has_not(tmp_path: Path) -> None:
    result = opened(built(tmp_path / "set", labelled(lambda i: i % 2, N + 3)))
    assert len(result) == N
    assert result.remarks == (
        "dataset.json names 3 files that are not among the images: 00002/img00000024.png, 00002/img00000025.png, "
        "00002/img00000026.png",
    )
    windows = {"labels": [[name.replace("/", "\\"), 0 if i else 1] for i, name in enumerate(names())]}
    assert opened(built(tmp_path / "set.zip", windows)).classes == ("0", "1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (labelled(lambda i: i % 2, N - 2), r"no label to 2 of 24 images: top/00002/img00000022\.png"),
        ({"labels": []}, "no label to 24 of 24 images"),
        (b'{"labels": [["00000/img', "cannot be read as JSON"),
        (b"\xff\xfe\xfd", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        ({"labels": [[name, 0] for name in names()][:-1] + ["x"]}, r"that is no \[name, label\]: 'x'"),
        (labelled(lambda i: [0.1 * i, 0.2, 0.3]), "not one-hot"),
        (labelled(lambda i: [0] * (1 + i % 2)), "lists of several lengths"),
        (labelled(lambda i: None if i == 3 else 1), "types int, null"),
        (labelled(lambda i: "a" if i == 3 else 1), "types int, str"),
        (labelled(lambda i: {"a": 1}), "types dict"),
        (labelled(lambda i: 0.5 * i), "not whole numbers"),
        (labelled(lambda i: 10**30 + i % 2), "type object|too large"),
        (labelled(lambda i: -1 if i else 0), "go down to -1"),
        (labelled(lambda i: i), "24 different values for 24 images"),
        ({**labelled(lambda i: i % 3), "classes": ["a", "b"]}, 'no name for 2: "classes" names 0 to 1'),
        ({**labelled(lambda i: i % 3), "classes": "abc"}, "no list of texts"),
        ({**labelled(lambda i: i - 1), "classes": ["a", "b"]}, "no name for -1"),
        ({**labelled(lambda i: "ab"[i % 2]), "classes": ["a", "b"]}, "not whole numbers"),
    ],
)
def test_what_is_refused_and_how_to_go_on(tmp_path: Path, content: Any, words: str) -> None:
    path = built(tmp_path / "set.zip", content, "top/")
    with pytest.raises(ConfigError, match=rf"set\.zip: top/dataset\.json .*({words}).*data\.labels=false") as caught:
        describe(DataConfig(name=str(path)))
    assert len(str(caught.value)) < 600
    assert len(opened(path, labels=False)) == N


def test_parts_with_a_list_each(tmp_path: Path) -> None:
    built(tmp_path / "set" / "train", labelled(lambda i: i % 2))
    built(tmp_path / "set" / "test", labelled(lambda i: i % 3, 9), n=9)
    path = tmp_path / "set"
    assert by_image(opened(path)) == {i: str(i % 2) for i in range(N)}
    assert by_image(opened(path, split="test")) == {i: str(i % 3) for i in range(9)}
    assert len(opened(path, split="all")) == N + 9
    assert opened(path, split="all").classes == ("0", "1", "2")
    built(tmp_path / "set" / "test", {"labels": None}, n=9)
    with pytest.raises(ConfigError, match=r"both need labels"):
        opened(path, split="all")
