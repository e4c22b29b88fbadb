"""STL-10: photographs of ten things, and many without labels (Coates et al., 2011)."""

from distgan.kinds.image.sets.base import Known, stl_files

SET = Known(
    "stl10",
    "STL10",
    (3, 96, 96),
    {"train": 5000, "test": 8000, "unlabeled": 100000},
    stl_files,
    ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
)
