"""CelebA: the aligned faces as a folder or .zip of numbered JPEGs (Liu et al., Deep Learning Face Attributes in the
Wild, ICCV 2015).
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from distgan.config import ConfigError, DataConfig
from distgan.kinds.base import Progress, SampleSet, SampleSpec
from distgan.kinds.image.folder import FolderSource
from distgan.kinds.image.image_set import first, image_spec
from distgan.kinds.image.known import absent, brief, data_root, walk

FOLDER = "img_align_celeba"
PARTS = {"train": (1, 162770), "test": (182638, 202599), "all": (1, 202599)}  # image numbers, as published
RESOLUTION = 64  # of the centre crop of 178 x 218 pixels, unless set


class CelebSource:
    """CelebA's faces without labels (its 40 attributes are not exclusive classes)."""

    def __init__(self, config: DataConfig) -> None:
        if config.split not in PARTS:
            raise ConfigError(f"data.split = {config.split!r}: celeba has no such part; allowed: {', '.join(PARTS)}")
        if config.channels == 4:
            raise ConfigError("data.channels = 4: celeba has no transparent parts; allowed: 1, 3, or leave it empty")
        self.root, self.part = data_root(config), PARTS[config.split]
        settings = {
            "split": "all",
            "labels": False,
            "channels": config.channels or 3,
            "resolution": config.resolution or RESOLUTION,
        }
        self.config = config.model_copy(update=settings)

    def describe(self) -> SampleSpec:
        """From the files if they are there, else as published; ConfigError if they are absent and may not be
        fetched.
        """
        path = self._find()
        if path is not None:
            return self._faces(path).describe()
        if not self.config.download:
            raise self._absent("data.download is off")
        low, high = self.part
        n = first(self.config, high - low + 1)
        return image_spec("celeba", self.config.channels or 3, self.config.size or RESOLUTION, n=n)

    def open(self, progress: Progress | None = None) -> SampleSet:
        """The faces; downloaded first where that is needed and allowed."""
        path = self._find()
        if path is None and not self.config.download:
            raise self._absent("data.download is off")
        if path is None:
            from distgan.kinds.image.download import fetch

            try:
                fetch("CelebA", [], self.root, lambda: self._find() is not None)
            except Exception as error:  # network, proxy, disk, a missing helper package: every kind has its own error
                raise self._absent(f"they could not be downloaded ({brief(error)})") from None
            path = self._find()
        if path is None:
            raise self._absent("the download did not bring them")
        return self._faces(path).open(progress)

    def _faces(self, path: Path) -> FolderSource:
        low, high = self.part

        def numbered(name: str) -> bool:
            stem = PurePosixPath(name).stem
            return stem.isdigit() and low <= int(stem) <= high

        return FolderSource(self.config, path, "celeba", numbered)

    def _find(self) -> Path | None:
        """The folder or archive of faces: data.root itself, its usual places, or anywhere below."""
        if self.root.name == FOLDER and os.path.isdir(self.root):
            return self.root
        for folder in (self.root, self.root / "celeba", *walk(self.root)):
            if os.path.isdir(folder / FOLDER):
                return folder / FOLDER
            if os.path.isfile(folder / f"{FOLDER}.zip"):
                return folder / f"{FOLDER}.zip"
        return None

    def _absent(self, reason: str) -> ConfigError:
        return absent("celeba", self.root, f"a folder {FOLDER} with 000001.jpg and so on, or {FOLDER}.zip", reason)


SET = CelebSource
