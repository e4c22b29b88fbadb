"""What is read, what it is measured by, and what is kept: the sections `data`, `metrics`, `checkpoint` and `log`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import field_validator

from distgan.config.base import Count, Number, OneOf, Section, Sides, setting
from distgan.registry import DATA_SETS, EXTRACTORS, KINDS, LOG_WRITERS, METRICS, objectives


class DataConfig(Section):
    """Where the real samples come from. What a kind of sample has no use for, it ignores."""

    kind: Annotated[str, OneOf(KINDS, ("auto",), own="package.module:NAME")] = setting(
        "auto", "kind of sample; auto = as the data says, in doubt image"
    )
    name: str = setting(
        "mnist10k", f"a known set ({', '.join(DATA_SETS)}), or the path of a folder, .zip, .npy or .npz"
    )
    root: str | None = setting(
        None, "folder that holds (or receives) a known set; empty = $DISTGAN_DATA or ~/.cache/distgan/data"
    )
    split: Literal["train", "test", "val", "all", "extra", "unlabeled"] = setting(
        "train", "part of a known set, or of a folder or .zip that has sub-folders train, test, val or the like"
    )
    resolution: Annotated[int | str | None, Sides(4, 1024)] = setting(
        None,
        "side of the square images, or height and width: 48x64; empty = the set's own side, or for folders a power of "
        "two from 16 to 64 that fits them",
        unit="pixels",
    )
    channels: Literal[1, 3, 4] | None = setting(
        None, "1 = grey, 3 = RGB, 4 = RGB and opacity, which is generated too; empty = grey or RGB, as in the data"
    )
    fit: Literal["crop", "pad"] = setting(
        "crop",
        "how images of another shape get that of data.resolution: centre crop, or pad with the background (of 4 "
        "channels: with transparency)",
    )
    background: str = setting(
        "#ffffff", "colour behind transparent pixels (of 1 and 3 channels) and around padded images, #rrggbb"
    )
    labels: bool = setting(True, "read class labels where there are any (sub-folders, or StyleGAN's dataset.json)")
    max_bad_share: Number = setting(0.05, "share of unreadable files above which the run is refused", ge=0, le=1)
    download: bool = setting(True, "fetch a known set that is not in root (one process a node does it)")
    cache: str | None = setting(None, "folder for decoded images; empty = $DISTGAN_CACHE or ~/.cache/distgan/decoded")
    limit: Count | None = setting(None, "use only the first so many images", unit="images", ge=1)
    device_mib: Count = setting(
        2048, "sets up to this size are kept on the training device, larger ones are memory-mapped", unit="MiB", ge=0
    )
    holdout: Number = setting(
        0.1,
        "share of the samples that is not trained on, where they are needed: to measure an auxiliary classifier's "
        "accuracy, or for augment.target",
        ge=0,
        le=0.5,
    )
    mirror: bool = setting(False, "show each image flipped left to right half of the time")

    @property
    def size(self) -> int | tuple[int, int] | None:
        """data.resolution as numbers: the side of square images, (height, width) of others, None where it is empty."""
        if not isinstance(self.resolution, str):
            return self.resolution
        height, width = map(int, self.resolution.split("x"))
        return height, width

    @field_validator("background")
    @classmethod
    def _colour(cls, value: str) -> str:
        digits = value.lstrip("#")
        if len(digits) != 6 or any(c not in "0123456789abcdefABCDEF" for c in digits):
            raise ValueError("must be a colour like #ffffff")
        return "#" + digits.lower()


class MetricsConfig(Section):
    """Measurement of the averaged generator."""

    names: list[Annotated[str, OneOf(METRICS)]] = setting(
        ["fid", "kid"], "metrics in the loop; class histogram and KL come with any classifier"
    )
    every_kimg: Number = setting(40.0, "images between two measurements", unit="kimg", gt=0)
    samples: Count = setting(5000, "generated images for each measurement in the loop", unit="images", ge=2)
    final_samples: Count = setting(10000, "generated images for the last measurement", unit="images", ge=2)
    extractor: Annotated[str, OneOf(EXTRACTORS, ("auto",), own="torchvision:NAME, package.module:Class")] = setting(
        "auto", "feature extractor; auto = what suits the data"
    )
    weights: str | None = setting(None, "file with the extractor's weights")
    batch_size: Count = setting(500, "images a worker pushes through the networks at once", unit="images", ge=1)


class CheckpointConfig(Section):
    """What is kept so that nothing is lost."""

    every_kimg: Number = setting(10.0, "images between two checkpoints", unit="kimg", gt=0)
    pause_s: Number = setting(
        1.0, "least time between two of them: a run so fast that less lies between skips some", unit="s", ge=0
    )
    keep: Count = setting(
        2, "newest checkpoints to keep, beside the best and, where they lie close, some to go back to", ge=2
    )
    best_metric: Annotated[str, OneOf(lambda: objectives("lower"))] = setting(
        "fid", "the lower the better; decides which checkpoint is the best"
    )


class LogConfig(Section):
    """What is written down."""

    every_kimg: Number = setting(1.0, "images between two lines of metrics.jsonl and TensorBoard", unit="kimg", gt=0)
    every_s: Number = setting(
        20.0,
        "time between two signs of life, where lines are further apart: status.json and the console",
        unit="s",
        gt=0,
    )
    samples_every_kimg: Number = setting(20.0, "images between two sample grids", unit="kimg", gt=0)
    grid: Count = setting(100, "images in a sample grid", ge=1, le=4096)
    writers: list[Annotated[str, OneOf(LOG_WRITERS)]] = setting(
        lambda: list(LOG_WRITERS), "who writes lines, events and pictures"
    )
    tensorboard: bool = setting(True, "false = without the writer tensorboard")

    @property
    def chosen_writers(self) -> list[str]:
        """The names of the writers in use."""
        return [name for name in dict.fromkeys(self.writers) if self.tensorboard or name != "tensorboard"]

    @field_validator("writers")
    @classmethod
    def _lines(cls, value: list[str]) -> list[str]:
        if "jsonl" not in value:
            raise ValueError("must hold jsonl, whose lines searches and the report read")
        return value
