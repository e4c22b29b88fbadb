"""KMNIST: ten characters of cursive Japanese (Clanuwat et al., 2018)."""

from distgan.kinds.image.sets.base import SIXTY, Known, idx_files

SET = Known(
    "kmnist", "KMNIST", (1, 28, 28), SIXTY, idx_files, ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
)
