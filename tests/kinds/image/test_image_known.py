"""Known sets, from raw files that the tests make."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import distgan.kinds.image.download
from distgan.config import ConfigError, DataConfig
from distgan.kinds import describe, open_samples
from distgan.kinds.image.formats import safe_unpickle
from distgan.registry import DATA_SETS as KNOWN_SETS
from distgan.registry import DATA_SETS as SETS

RANDOM = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def put_idx(
    folder: Path, n: int = 12, part: str = "train", zipped: bool = False, dot: bool = False, seed: int = 0
) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    for kind, array in (("images-idx3", images), ("labels-idx1", (np.arange(n) % 10).astype(np.uint8))):
        name = f"{part}-{kind}-ubyte".replace("-idx", ".idx" if dot else "-idx")
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return images


# ---------------------------------------------------------------------------------------------------------------------
# The built-in digits


def test_built_in_digits() -> None:
    start = time.perf_counter()
    result = open_samples(DataConfig())
    assert time.perf_counter() - start < 1.0  # 0.05 s on an idle machine
    assert result.samples.shape == (10000, 1, 28, 28)
    assert result.labels is not None
    assert np.bincount(result.labels).tolist() == [1000] * 10
    assert 0.12 < result.samples.mean() / 255 < 0.14
    assert result.classes == tuple("0123456789")
    spec = describe(DataConfig())
    assert (spec.n, spec.shape[0], spec.shape[1], spec.n_classes, spec.name) == (10000, 1, 28, 10, "mnist10k")


def test_digits_at_other_sizes() -> None:
    plain = open_samples(DataConfig(limit=50))
    assert len(plain) == 50
    padded = open_samples(DataConfig(limit=50, resolution=32, channels=3))
    assert np.array_equal(padded.samples[:, 1, 2:30, 2:30], plain.samples[:, 0])
    assert padded.samples[:, :, :2].max() == 0
    small = open_samples(DataConfig(limit=50, resolution=14))
    assert np.abs(small.samples.mean((1, 2, 3)) - plain.samples.mean((1, 2, 3))).max() < 3
    assert describe(DataConfig(resolution=14)).shape[1] == 14
    with pytest.raises(ConfigError, match=r"data\.split = 'test'.*allowed: train"):
        describe(DataConfig(split="test"))


def test_importing_is_cheap() -> None:
    script = (
        "import sys, distgan.kinds.image; heavy = ('PIL', 'torchvision', 'scipy', 'ray'); "
        "sys.exit(any(m.split('.')[0] in heavy for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# idx files


@pytest.mark.parametrize("name", ["fashion-mnist", "FashionMNIST", "fashion_mnist", "Fashion-MNIST"])
def test_spellings(name: str, tmp_path: Path) -> None:
    images = put_idx(tmp_path)
    assert np.array_equal(open_samples(DataConfig(name=name, root=str(tmp_path))).samples[:, 0], images)


@pytest.mark.parametrize("place", ["", "FashionMNIST/raw", "fashion-mnist", "datasets/fashion_mnist/files"])
@pytest.mark.parametrize(("zipped", "dot"), [(False, False), (True, False), (False, True), (True, True)])
def test_places_of_idx_files(tmp_path: Path, place: str, zipped: bool, dot: bool) -> None:
    images = put_idx(tmp_path / place, zipped=zipped, dot=dot)
    config = DataConfig(name="fashion-mnist", root=str(tmp_path), download=False)
    result, spec = open_samples(config), describe(config)
    assert np.array_equal(result.samples[:, 0], images)
    assert result.labels is not None
    assert result.labels.tolist() == [k % 10 for k in range(12)]
    assert result.classes[9] == spec.classes[9] == "Ankle boot"
    assert (spec.n, spec.shape[1], spec.shape[0]) == (12, 28, 1)


def test_sets_with_the_same_file_names_are_kept_apart(tmp_path: Path) -> None:
    found = {
        name: put_idx(tmp_path / folder, seed=k)
        for k, (name, folder) in enumerate((("mnist", "MNIST/raw"), ("kmnist", "KMNIST/raw")))
    }
    for name, images in found.items():
        assert np.array_equal(open_samples(DataConfig(name=name, root=str(tmp_path))).samples[:, 0], images)
    with pytest.raises(ConfigError, match=r"fashion-mnist: its files are not in"):
        open_samples(DataConfig(name="fashion-mnist", root=str(tmp_path), download=False))


def test_the_files_of_another_set_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    put_idx(tmp_path)
    monkeypatch.setitem(
        SETS["kmnist"].label_md5, "train", hashlib.md5(idx((np.arange(12) % 10).astype(np.uint8))).hexdigest()
    )
    with pytest.raises(ConfigError, match=r"are those of kmnist, not of mnist; set data\.name=kmnist"):
        describe(DataConfig(name="mnist", root=str(tmp_path)))
    assert describe(DataConfig(name="kmnist", root=str(tmp_path))).n == 12


def test_parts(tmp_path: Path) -> None:
    train, test = put_idx(tmp_path, 12), put_idx(tmp_path, 5, "t10k", zipped=True, seed=1)
    for split, expected in (("train", train), ("test", test), ("all", np.concatenate([train, test]))):
        config = DataConfig(name="mnist", root=str(tmp_path), split=split)
        assert np.array_equal(open_samples(config).samples[:, 0], expected)
        assert describe(config).n == len(expected)
    with pytest.raises(ConfigError, match=r"data\.split = 'unlabeled'.*train, test, all"):
        describe(DataConfig(name="mnist", root=str(tmp_path), split="unlabeled"))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    put_idx(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"train-images-idx3-ubyte.*cannot be read as mnist"):
        open_samples(DataConfig(name="mnist", root=str(tmp_path)))
    file.write_bytes(b"<html>not found</html>")
    with pytest.raises(ConfigError, match=r"train-images-idx3-ubyte.*cannot be read as mnist"):
        describe(DataConfig(name="mnist", root=str(tmp_path)))


# ---------------------------------------------------------------------------------------------------------------------
# CIFAR's pickles


def cifar(n: int, seed: int, key: str = "labels", protocol: int = 2) -> tuple[np.ndarray, bytes]:
    data = np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)
    batch = {
        b"data": data,
        key.encode(): [k % 10 for k in range(n)],
        b"filenames": [b"x.png"] * n,
        b"batch_label": b"of tests",
    }
    return data.reshape(n, 3, 32, 32), pickle.dumps(batch, protocol)


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10(tmp_path: Path, packed: bool) -> None:
    parts = [cifar(4, k) for k in range(6)]
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    folder = tmp_path / "cifar-10-batches-py"
    if packed:
        with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
            for name, (_, blob) in reversed(list(zip(names, parts, strict=True))):
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(blob)
                archive.addfile(member, io.BytesIO(blob))
    else:
        folder.mkdir()
        for name, (_, blob) in zip(names, parts, strict=True):
            (folder / name).write_bytes(blob)
    config = DataConfig(name="CIFAR-10", root=str(tmp_path), download=False)
    result = open_samples(config)
    assert np.array_equal(result.samples, np.concatenate([images for images, _ in parts[:5]]))
    assert result.labels is not None
    assert result.labels.tolist() == [0, 1, 2, 3] * 5
    assert result.classes[3] == "cat"
    assert isinstance(result.samples, np.memmap)
    assert np.array_equal(open_samples(config.model_copy(update={"split": "test"})).samples, parts[5][0])
    spec = describe(config)
    assert (spec.shape[0], spec.shape[1], spec.n_classes) == (3, 32, 10)
    assert packed or spec.n is None  # not the published files: only reading tells


def test_cifar100(tmp_path: Path) -> None:
    images, blob = cifar(7, 0, "fine_labels")
    (tmp_path / "train").write_bytes(blob)
    (tmp_path / "meta").touch()
    result = open_samples(DataConfig(name="cifar100", root=str(tmp_path), download=False))
    assert np.array_equal(result.samples, images)
    assert len(result.classes) == 100


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(protocol: int) -> None:
    images, blob = cifar(3, 0, protocol=protocol)
    content = safe_unpickle(blob)
    assert np.array_equal(content[b"data"].reshape(-1, 3, 32, 32), images)
    assert content[b"labels"] == [0, 1, 2]


class Malicious:
    def __init__(self, function: object, *values: object) -> None:
        self.call = function, values

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call  # type: ignore[return-value]


@pytest.mark.parametrize("function", [os.system, eval, print, getattr, np.load, np.array])
def test_malicious_pickles_are_refused(tmp_path: Path, function: object) -> None:
    mark = tmp_path / "ran"
    blob = pickle.dumps({b"data": Malicious(function, f"touch {mark}"), b"labels": [0]})
    with pytest.raises(pickle.UnpicklingError, match="asks for"):
        safe_unpickle(blob)
    (tmp_path / "test_batch").write_bytes(blob)
    with pytest.raises(ConfigError, match=r"cannot be read as cifar10.*asks for"):
        open_samples(DataConfig(name="cifar10", split="test", root=str(tmp_path)))
    assert not mark.exists()


def test_object_arrays_in_pickles_are_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        safe_unpickle(pickle.dumps(np.array([{}, []], dtype=object), 2))


# ---------------------------------------------------------------------------------------------------------------------
# Others


def test_svhn(tmp_path: Path) -> None:
    scipy = pytest.importorskip("scipy.io")
    pixels = RANDOM.integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    scipy.savemat(tmp_path / "extra_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [2], [9], [10]], np.uint8)})
    result = open_samples(DataConfig(name="svhn", split="extra", root=str(tmp_path)))
    assert np.array_equal(result.samples[4, 2], pixels[:, :, 2, 4])
    assert result.labels is not None
    assert result.labels.tolist() == [0, 1, 2, 9, 0]


def test_stl10(tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images.transpose(0, 1, 3, 2).tofile(folder / "train_X.bin")
    np.array([1, 10, 5], np.uint8).tofile(folder / "train_y.bin")
    images.transpose(0, 1, 3, 2).tofile(folder / "unlabeled_X.bin")
    config = DataConfig(name="stl10", root=str(tmp_path))
    result = open_samples(config)
    assert np.array_equal(result.samples, images)
    assert result.labels is not None
    assert result.labels.tolist() == [0, 9, 4]
    assert describe(config).n == 3
    half = open_samples(DataConfig(name="stl10", root=str(tmp_path), split="unlabeled", resolution=48))
    assert half.samples.shape == (3, 3, 48, 48)
    assert (half.labels, half.classes) == (None, ())


def test_celeba(tmp_path: Path) -> None:
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for number, level in ((1, 10), (162770, 20), (170000, 30), (182638, 40)):
        Image.new("RGB", (178, 218), (level, level, 0)).save(folder / f"{number:06d}.jpg")
    for split, levels in (("train", [10, 20]), ("test", [40]), ("all", [10, 20, 30, 40])):
        config = DataConfig(name="CelebA", root=str(tmp_path), split=split)
        images = open_samples(config).samples
        assert images.shape == (len(levels), 3, 64, 64)
        assert np.abs(images[:, 0].mean((1, 2)) - levels).max() <= 2
        assert (describe(config).n, describe(config).shape[1], describe(config).name) == (len(levels), 64, "celeba")


def test_stacked_digits(tmp_path: Path) -> None:
    config = DataConfig(name="Stacked_MNIST", limit=300)
    result, digits = open_samples(config), open_samples(DataConfig())
    assert result.samples.shape == (300, 3, 28, 28)
    assert len(result.classes) == 1000
    assert result.labels is not None
    assert digits.labels is not None
    place = {image.tobytes(): label for image, label in zip(digits.samples, digits.labels, strict=True)}
    for image, label in zip(result.samples, result.labels, strict=True):
        assert label == sum(
            weight * place[np.ascontiguousarray(plane).tobytes()]
            for weight, plane in zip((100, 10, 1), image, strict=True)
        )
    assert len(np.unique(result.labels)) > 200
    longer = open_samples(DataConfig(name="stacked-mnist", limit=400, resolution=32, cache=str(tmp_path / "other")))
    assert np.array_equal(longer.samples[:300, :, 2:30, 2:30], result.samples)
    spec = describe(DataConfig(name="stacked-mnist", resolution=32))
    assert (spec.n, spec.shape[0], spec.shape[1], spec.n_classes) == (50000, 3, 32, 1000)


def test_stacked_digits_from_the_full_set(tmp_path: Path) -> None:
    put_idx(tmp_path / "MNIST" / "raw", 20)
    result = open_samples(DataConfig(name="stacked-mnist", root=str(tmp_path), limit=50))
    assert result.fingerprint != open_samples(DataConfig(name="stacked-mnist", limit=50)).fingerprint
    with pytest.raises(ConfigError, match=r"data\.channels = 1"):
        describe(DataConfig(name="stacked-mnist", channels=1))


# ---------------------------------------------------------------------------------------------------------------------
# Absent sets


@pytest.mark.parametrize("name", [name for name in KNOWN_SETS if name not in ("mnist10k", "stacked-mnist")])
def test_absent_sets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {
        "cifar10": "cifar-10-python.tar.gz",
        "cifar100": "train .* meta",
        "svhn": "train_32x32.mat",
        "stl10": "train_X.bin",
    }
    expected["celeba"] = "img_align_celeba"
    pattern = rf"data\.name = {name}.*{tmp_path}.*{{}}.*{expected.get(name, 'train-images-idx3-ubyte')}"
    with pytest.raises(ConfigError, match=pattern.format(r"data\.download is off").replace("+", r"\+")):
        describe(DataConfig(name=name, root=str(tmp_path), download=False))
    with pytest.raises(ConfigError, match=pattern.format(r"data\.download is off")):
        open_samples(DataConfig(name=name, root=str(tmp_path), download=False))
    spec = describe(DataConfig(name=name, root=str(tmp_path)))
    assert spec.n is not None
    assert spec.n >= 5000

    def offline(*_: object) -> None:
        raise OSError("<urlopen error\nno network>")

    monkeypatch.setattr(distgan.kinds.image.download, "_download", offline)
    with pytest.raises(ConfigError, match=pattern.format(r"could not be downloaded \(<urlopen error no network>\)")):
        open_samples(DataConfig(name=name, root=str(tmp_path)))


def test_a_download_is_used_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(title: str, parts: list[str], root: Path) -> None:
        calls.append((title, parts))
        put_idx(root / title / "raw")

    monkeypatch.setattr(distgan.kinds.image.download, "_download", download)
    config = DataConfig(name="mnist", root=str(tmp_path))
    assert len(open_samples(config)) == len(open_samples(config)) == 12
    assert calls == [("MNIST", ["train"])]
