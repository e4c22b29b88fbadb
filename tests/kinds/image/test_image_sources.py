"""What data.name means where it could mean two things, and sets that are too small."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgan.config import ConfigError, DataConfig, load_config
from distgan.kinds import describe, get_kind, open_samples
from distgan.kinds.image import KIND
from distgan.kinds.image.image_set import image_spec

Pictures = Callable[..., Path]


@pytest.mark.parametrize("name", ["mnist10k", "MNIST-10k"])
def test_a_folder_with_a_known_sets_name_is_pointed_out(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = DataConfig(name=name, limit=200)
    assert open_samples(config).remarks == ()
    pictures("a.png", folder=name)
    result = open_samples(config)
    assert (len(result), result.spec.name) == (200, "mnist10k")
    assert result.notes == (
        f"mnist10k: the known set mnist10k is read; for your own folder of that name give ./{name}",
    )
    assert open_samples(DataConfig(name=name, limit=200, root=str(tmp_path))).remarks == ()  # there lie its raw files
    own = open_samples(DataConfig(name=f"./{name}"))
    assert (len(own), own.remarks) == (1, ())


def test_classes_that_a_limit_leaves_bare_are_named() -> None:
    (remark,) = open_samples(DataConfig(name="mnist10k", limit=3)).remarks
    assert remark.startswith("7 of 10 classes have no image: ")


@pytest.mark.parametrize(("n", "metric", "least"), [(1, "fid", 2), (1, "kid", 2), (5, "density-coverage", 6)])
def test_a_set_that_is_too_small_is_what_is_spoken_of(
    pictures: Pictures, tmp_path: Path, n: int, metric: str, least: int
) -> None:
    folder = pictures(*(f"{i}.png" for i in range(n)))
    np.save(tmp_path / "x.npy", np.zeros((n, 16, 16, 3), np.uint8))
    count = "one image" if n == 1 else f"{n} images"
    for name in (folder, tmp_path / "x.npy"):
        config = load_config(overrides={"data.name": str(name), "metrics.names": [metric]})
        kind = get_kind(config.data)
        words = rf"data\.name = .*{name.name}: the set has {count}, and {metric} needs at least {least}"
        with pytest.raises(ConfigError, match=words):
            kind.check(config, kind.describe(config.data))
    pictures(*(f"{i}.png" for i in range(9)))
    config = load_config(overrides={"data.name": str(folder), "metrics.names": [metric]})
    kind.check(config, kind.describe(config.data))
    limited = load_config(overrides={"data.name": str(folder), "metrics.names": [metric], "data.limit": n})
    with pytest.raises(ConfigError, match=rf"data\.limit = {n}: the set has {count}"):
        kind.check(limited, kind.describe(limited.data))


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(ConfigError, match="is no file or folder"):
        describe(DataConfig(name=str(tmp_path / "pipe.zip")))
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is a link that leads nowhere"):
        describe(DataConfig(name=str(tmp_path / "gone")))


def test_the_side_of_a_folders_images_is_that_of_the_first_image(pictures: Pictures) -> None:
    folder = pictures("b.png", size=(24, 24))
    os.mkfifo(folder / "a.png")
    (folder / "a.txt").write_text("no image")
    config = DataConfig(name=str(folder))
    assert get_kind(config).like(config, None).resolution == 24
    pictures("0.png", size=(30, 24))
    assert get_kind(config).like(config, None).resolution == 24  # there are several sizes


@pytest.mark.parametrize(
    ("size", "own"), [((64, 48), "48x64"), ((48, 64), "64x48"), ((1024, 512), "128x256"), ((400, 400), 256)]
)
def test_images_of_one_size_are_measured_as_they_are(
    pictures: Pictures, tmp_path: Path, size: tuple[int, int], own: int | str
) -> None:
    folder = pictures("a.png", "b.png", size=size)
    assert KIND.like(DataConfig(name=str(folder)), None).resolution == own
    np.save(tmp_path / "x.npy", np.zeros((3, size[1], size[0]), np.uint8))
    array = KIND.like(DataConfig(name=str(tmp_path / "x.npy")), None)
    assert array.resolution == (None if size[0] == size[1] else own)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", size[::-1]).save(folder / "b.jpg", exif=exif)
    assert KIND.like(DataConfig(name=str(folder)), None).resolution == own


@pytest.mark.parametrize(("shape", "kept"), [((3, 24, 24), 24), ((4, 48, 64), "48x64")])
def test_the_same_data_as_samples_of_another_shape(pictures: Pictures, shape: tuple[int, ...], kept: object) -> None:
    config = DataConfig(name=str(pictures("b.png", size=(24, 24))))
    like = KIND.like(config, image_spec("x", shape[0], shape[1:]))
    assert (like.channels, like.resolution) == (shape[0], kept)
    assert describe(like).shape == open_samples(like).samples.shape[1:] == shape
    assert KIND.network_arguments(describe(like)) == {"channels": shape[0], "resolution": like.size}
