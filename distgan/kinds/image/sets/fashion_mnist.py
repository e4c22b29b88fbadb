"""Fashion-MNIST: clothes (Xiao et al., 2017)."""

from distgan.kinds.image.sets.base import SIXTY, Known, idx_files

SET = Known(
    "fashion-mnist",
    "FashionMNIST",
    (1, 28, 28),
    SIXTY,
    idx_files,
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    {"train": "9018921c3c673c538a1fc5bad174d6f9", "test": "15d484375f8d13e6eb1aabb0c3f46965"},
)
