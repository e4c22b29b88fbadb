"""What is known of the known sets before they are seen: sizes, classes, and the files that they come in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from distgan.kinds.image import formats

Slots = tuple[tuple[str, ...], ...]  # one file for each slot, under any of the slot's names
Reader = Callable[[list[Path]], formats.Raw]


@dataclass(frozen=True)
class Layout:
    """One way in which a part of a set lies in a folder."""

    slots: Slots
    read: Reader


@dataclass(frozen=True)
class Known:
    """What is known of a set before it is seen."""

    title: str  # torchvision's class, and the folder that it makes
    shape: tuple[int, int, int]  # C, H, W
    sizes: dict[str, int]  # images in each official part
    layouts: Callable[[str], list[Layout]]
    classes: tuple[str, ...] = tuple("0123456789")
    label_md5: dict[str, str] = field(default_factory=dict)  # of the raw label files, where sets share file names


def idx_files(part: str) -> list[Layout]:
    stem = {"train": "train", "test": "t10k"}[part]
    names = [
        (f"{stem}-{kind}-idx{rank}-ubyte", f"{stem}-{kind}.idx{rank}-ubyte")
        for kind, rank in (("images", 3), ("labels", 1))
    ]
    return [Layout(tuple((dash, dash + ".gz", dot, dot + ".gz") for dash, dot in names), formats.read_idx_pair)]


def cifar10_files(part: str) -> list[Layout]:
    names = [f"data_batch_{k}" for k in range(1, 6)] if part == "train" else ["test_batch"]
    archive = Layout((("cifar-10-python.tar.gz",),), formats.tar_of_pickles(names.__contains__))
    return [Layout(tuple((name,) for name in names), formats.read_pickles), archive]


def cifar100_files(part: str) -> list[Layout]:
    archive = Layout((("cifar-100-python.tar.gz",),), formats.tar_of_pickles([part].__contains__))
    return [Layout(((part,), ("meta",)), lambda files: formats.read_pickles(files[:1])), archive]


def svhn_files(part: str) -> list[Layout]:
    return [Layout(((f"{part}_32x32.mat",),), formats.read_mat)]


def stl_files(part: str) -> list[Layout]:
    names = [(f"{part}_X.bin",)] + ([(f"{part}_y.bin",)] if part != "unlabeled" else [])
    return [Layout(tuple(names), formats.read_stl)]


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_STL = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_HUNDRED = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
_MNIST = {"train": "a25bea736e30d166cdddb491f175f624", "test": "27ae3e4e09519cfbb04c629615203637"}
_FASHION = {"train": "9018921c3c673c538a1fc5bad174d6f9", "test": "15d484375f8d13e6eb1aabb0c3f46965"}
_SIXTY = {"train": 60000, "test": 10000}
_FIFTY = {"train": 50000, "test": 10000}
SETS = {
    "mnist10k": Known("", (1, 28, 28), {"train": 10000}, idx_files),
    "mnist": Known("MNIST", (1, 28, 28), _SIXTY, idx_files, label_md5=_MNIST),
    "fashion-mnist": Known("FashionMNIST", (1, 28, 28), _SIXTY, idx_files, _CLOTHES, _FASHION),
    "kmnist": Known(
        "KMNIST", (1, 28, 28), _SIXTY, idx_files, ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    ),
    "cifar10": Known("CIFAR10", (3, 32, 32), _FIFTY, cifar10_files, _THINGS),
    "cifar100": Known("CIFAR100", (3, 32, 32), _FIFTY, cifar100_files, tuple(_HUNDRED.split())),
    "svhn": Known("SVHN", (3, 32, 32), {"train": 73257, "test": 26032, "extra": 531131}, svhn_files),
    "stl10": Known("STL10", (3, 96, 96), {"train": 5000, "test": 8000, "unlabeled": 100000}, stl_files, _STL),
}
