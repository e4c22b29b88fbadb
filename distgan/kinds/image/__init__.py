"""Images: known sets, folders, zip archives and arrays, stored as uint8 (N, C, H, W), C of 1 (grey), 3 (RGB) or 4
(RGB and opacity, the colours multiplied by it).

Importing this package imports neither torch nor Pillow, which the drivers of clusters do without.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distgan.config import AugmentConfig, ConfigError, DataConfig, RunConfig
from distgan.kinds.base import Augmentation, Progress, SampleSet, SampleSpec, some
from distgan.kinds.image.grid import columns_of, enlarged, make_grid, over_two
from distgan.kinds.image.opacity import straight
from distgan.kinds.image.recipe import decide, recipe
from distgan.kinds.image.sources import hint, is_known, source
from distgan.kinds.picture import PICTURES, encoded, png

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distgan.metrics.extractor import Extractor

MOST_IN_A_GRID = 10_000
FEW = 100  # images, from which on there are enough for every metric
MEASURED = 256
"""Side up to which images are measured as they are stored; extractors make larger ones smaller anyway."""


class Images:
    """The kind of sample "image"; networks see float32 (N, C, H, W) in [-1, 1]."""

    name = "image"
    noun = "images"
    suffixes = (*PICTURES, ".npy", ".npz", "")

    def knows(self, name: str) -> bool:
        return is_known(name)

    def claims(self, name: str) -> bool:
        """Everything: what no other kind claims is taken for images."""
        return True

    def like(self, config: DataConfig, spec: SampleSpec | None) -> DataConfig:
        if spec is not None:
            channels, height, width = spec.shape
            return config.model_copy(update={"channels": channels, "resolution": _written(height, width)})
        return config if config.resolution else config.model_copy(update={"resolution": _own_size(config.name)})

    def describe(self, config: DataConfig) -> SampleSpec:
        return source(config).describe()

    def open(self, config: DataConfig, progress: Progress | None = None) -> SampleSet:
        result = source(config).open(progress)
        remarks = [remark for remark in (hint(config), _bare_classes(result)) if remark]
        return replace(result, remarks=(*remarks, *result.remarks)) if remarks else result

    def describe_in_words(self, spec: SampleSpec) -> str:
        channels, height, width = spec.shape
        count = f"{spec.n:,} " if spec.n else ""
        classes = f", {spec.n_classes} classes" if spec.n_classes else ""
        return f"{count}image{'s' if spec.n != 1 else ''} of {spec.name}, {height} x {width} x {channels}{classes}"

    def encode(self, stored: Tensor) -> Tensor:
        return stored.float().mul_(2 / 255).sub_(1)

    def decode(self, x: Tensor) -> Tensor:
        """[-1, 1] to 0..255, rounded to the nearest. No colour, multiplied by the opacity, is more than that."""
        import torch

        stored = (x.float() * 127.5 + 128).clamp_(0, 255).to(torch.uint8)
        return (
            torch.cat([stored[:, :3].minimum(stored[:, 3:]), stored[:, 3:]], 1)
            if x.ndim == 4 and x.shape[1] == 4
            else stored
        )

    def vary(self, x: Tensor, position: Tensor, config: DataConfig, seed: int) -> Tensor:
        """Flips left to right with probability 1/2, where data.mirror asks for it."""
        if not config.mirror:
            return x
        import torch

        from distgan.randomness import uniform

        flipped = uniform(seed, "mirror", position, 1)[:, 0] < 0.5
        return torch.where(flipped[:, None, None, None], x.flip(3), x)

    def preview(self, samples: NDArray[Any], columns: int | None = None) -> NDArray[np.uint8]:
        """A grid of the images in rows, pixels repeated until small ones can be seen. Transparent ones lie over white
        and black in turn, as the squares of a chessboard.
        """
        if samples.shape[1] == 4:
            columns = columns_of(len(samples), columns)
            samples = over_two(samples, columns)
        return enlarged(make_grid(samples, columns), max(samples.shape[2:]))

    def convert(self, stored: NDArray[Any], spec: SampleSpec) -> NDArray[Any]:
        """Transparent parts become white where `spec` has no opacity."""
        from distgan.kinds.image.pixels import Target, convert

        channels, height, width = spec.shape
        return convert(straight(stored) if stored.shape[1] == 4 else stored, Target(channels, (height, width)))

    def as_written(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Of images with opacity, the colours are not multiplied by it in files."""
        return straight(stored) if stored.shape[1] == 4 else stored

    def save(
        self,
        batches: Iterable[NDArray[Any]],
        n: int,
        target: Path,
        columns: int | None = None,
        labels: NDArray[np.int64] | None = None,
        classes: tuple[str, ...] = (),
    ) -> None:
        """.png, .jpg, .jpeg, .webp: a grid; .npy: uint8 (N, H, W) for grey, (N, H, W, 3) or (N, H, W, 4); .npz: that as
        `images`, and the names of the classes (N,) as `labels`; a folder: PNG files named by number, and dataset.json
        with their classes. Images with opacity are RGBA as usual, their colours not multiplied by it.
        """
        batches = map(self.as_written, batches)
        if target.suffix == "":
            save_folder(batches, n, target, labels, classes)
        elif target.suffix.lower() in PICTURES:
            if n > MOST_IN_A_GRID:
                raise ConfigError(f"-n {n}: a grid holds at most {MOST_IN_A_GRID} images; write FILE.npy or a folder")
            images = np.concatenate(list(batches))
            grid = enlarged(make_grid(images, columns), max(images.shape[2:]))
            target.write_bytes(encoded(grid, target.suffix.lower()))
        else:
            array = np.concatenate(list(batches)).transpose(0, 2, 3, 1)
            array = array[..., 0] if array.shape[-1] == 1 else array
            names: dict[str, Any] = {} if labels is None else {"labels": np.array(classes)[labels]}
            with open(target, "wb") as file:
                if target.suffix.lower() == ".npz":
                    np.savez_compressed(file, images=array, **names)
                else:
                    np.save(file, array)

    def extractor(self, config: RunConfig, spec: SampleSpec, device: torch.device | str) -> Extractor:
        from distgan.kinds.image.extractors import get_extractor

        settings = config.metrics
        return get_extractor(
            settings.extractor,
            device,
            settings.weights,
            data_channels=spec.shape[0],
            resolution=_resolution(spec),
            data_name=config.data.name,
        )

    def augmentation(self, config: AugmentConfig, seed: int) -> Augmentation | None:
        if config.kind == "none":
            return None
        from distgan.kinds.image.augment import Augment

        return Augment(config, seed)

    def recipe(self, config: RunConfig, spec: SampleSpec) -> dict[str, Any]:
        return recipe(config, spec)

    def decide(self, config: RunConfig, samples: SampleSet) -> dict[str, Any]:
        return decide(config, samples)

    def network_arguments(self, spec: SampleSpec) -> dict[str, Any]:
        """`resolution`: the side of square images, (height, width) of others."""
        return {"channels": spec.shape[0], "resolution": _resolution(spec)}

    def check(self, config: RunConfig, spec: SampleSpec) -> None:
        from distgan.models import check_models

        n_classes = spec.n_classes if config.data.labels else 0
        if config.model.conditioning not in ("none", "auto") and not n_classes:
            raise ConfigError(
                f"model.conditioning = {config.model.conditioning!r}: {spec.name} has no class labels; allowed here: "
                "none. A folder of images gets classes from its sub-folders, an .npz from an array named labels"
            )
        check_models(config.model, **self.network_arguments(spec), n_classes=n_classes)
        settings = config.metrics
        if spec.n is not None and spec.n < FEW:
            _enough(config, spec.n)
        # The extractor is first used after thousands of images, which would be trained in vain. What auto takes is
        # there; trying it would import torch, seconds that every start would take longer.
        if settings.names and (settings.weights is not None or settings.extractor != "auto"):
            self.extractor(config, spec, "cpu")


def _resolution(spec: SampleSpec) -> int | tuple[int, int]:
    _, height, width = spec.shape
    return height if height == width else (height, width)


def _bare_classes(data: SampleSet) -> str:
    """A remark on classes that no image in use belongs to, or ""."""
    if data.labels is None:
        return ""
    counts = np.bincount(data.labels, minlength=len(data.classes))
    bare = [name for name, count in zip(data.classes, counts, strict=False) if not count]
    return f"{len(bare):,} of {len(data.classes):,} classes have no image: {some(bare)}" if bare else ""


def _enough(config: RunConfig, n: int) -> None:
    """Raise ConfigError where so few images cannot be measured by what metrics.names asks for."""
    from distgan.registry import METRICS

    for name in config.metrics.names:
        if n < (least := METRICS[name].least):
            where = f"data.limit = {n}" if n == config.data.limit else f"data.name = {config.data.name}"
            count = "one image" if n == 1 else f"{n} images"
            raise ConfigError(
                f"{where}: the set has {count}, and {name} needs at least {least}; give more, or leave {name} out of "
                "metrics.names"
            )


def save_folder(
    batches: Iterable[NDArray[Any]], n: int, folder: Path, labels: NDArray[np.int64] | None, classes: tuple[str, ...]
) -> None:
    """PNG files named by number; with labels dataset.json beside them, as StyleGAN's tools have it, which tells the
    class of each file, and what the classes are called.
    """
    names = [f"{number:0{len(str(n - 1))}d}.png" for number in range(n)]
    left = iter(names)
    for batch in batches:
        for image, name in zip(batch, left, strict=False):
            (folder / name).write_bytes(png(make_grid(image[None], pad=0)))
    if labels is not None:
        known = {"labels": list(map(list, zip(names, labels.tolist(), strict=True))), "classes": list(classes)}
        (folder / "dataset.json").write_text(json.dumps(known), encoding="utf-8")


def _written(height: int, width: int) -> int | str:
    """As data.resolution has it."""
    return height if height == width else f"{height}x{width}"


def _own_size(name: str) -> int | str | None:
    """The size of a set's images, up to MEASURED a side, so that they are measured as they are: of a folder or archive
    whose images have several sizes the side of the first one.
    """
    from distgan.kinds.image.arrays import ArraySource
    from distgan.kinds.image.folder import FolderSource

    found = source(DataConfig(name=name, split="all", labels=False))
    if not isinstance(found, ArraySource | FolderSource):
        return None
    size = found.own_size()
    if size is None:
        return None
    height, width = size
    if height == width and isinstance(found, ArraySource):
        return None
    share = min(1.0, MEASURED / max(height, width))
    return _written(*(max(4, round(side * share)) for side in (height, width)))


KIND = Images()
