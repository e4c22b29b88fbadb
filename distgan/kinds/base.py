"""What a kind of sample is: the one interface between the adversarial algorithm and what it makes.

The training loop, the metrics and the exports know tensors of any shape. Everything that is particular to images (or
tables, or sound) is a `Kind`: one object in one folder. Whoever adds a kind writes that folder and changes no line
elsewhere.

    real samples     open -> SampleSet, an array as it is stored          encode: stored -> what networks see
    generated ones   decode: what networks make -> stored                 preview, save: stored -> pictures, files
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distgan.config import AugmentConfig, DataConfig, RunConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distgan.metrics.extractor import Extractor

Progress = Callable[[str, int, int], None]
"""(what is being done, samples done, samples in all)"""

Augmentation = Callable[["Tensor", "Tensor", Any, str], "Tensor"]
"""(x (N, *shape), sample indices int64 (N,), probability, stream name) -> x; differentiable twice, draws by sample
index.
"""


@dataclass(frozen=True)
class SampleSpec:
    """What one sample is, and what is known of the set without opening it."""

    name: str
    """Of the data set, as a person would call it."""
    shape: tuple[int, ...]
    """Of a sample as the networks see it, float32, without the batch."""
    value_range: tuple[float, float]
    """Lowest and highest number in such a sample."""
    classes: tuple[str, ...] = ()
    """Names of the classes, () without labels."""
    n: int | None = None
    """Samples in the set; None where only opening it tells."""
    class_counts: tuple[int, ...] = ()
    """Samples of each class; () without labels, or where only opening the set tells."""
    meaning: str = ""
    """What one must know of the numbers beside their range, in words; it goes where generators go."""

    @property
    def n_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Real samples, opened. `samples` may be a read-only memory map that the workers of a node share."""

    spec: SampleSpec
    samples: NDArray[Any]
    """(N, ...), as stored: compact, C-contiguous."""
    labels: NDArray[np.int64] | None
    """(N,), or None."""
    fingerprint: str
    """Hash of samples and labels as used, in hexadecimal: the same content gives the same hash wherever it came
    from.
    """
    skipped: tuple[str, ...] = ()
    """What was passed over because it could not be read, each with the reason."""
    remarks: tuple[str, ...] = ()
    """What a person should know of how the data were read, a sentence each."""

    def __post_init__(self) -> None:
        if self.labels is not None and not self.spec.class_counts:
            counts = np.bincount(self.labels, minlength=self.spec.n_classes).tolist()
            object.__setattr__(self, "spec", replace(self.spec, class_counts=tuple(counts)))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.classes

    @property
    def notes(self) -> tuple[str, ...]:
        """What is told at the start: the remarks, how many samples could not be read, and the first of these."""
        remarks = tuple(f"{self.spec.name}: {remark}" for remark in self.remarks)
        if not self.skipped:
            return remarks
        total = len(self.samples) + len(self.skipped)
        return (
            *remarks,
            f"{self.spec.name}: {len(self.skipped)} of {total:,} cannot be read and are left out: {some(self.skipped)}",
        )


class Kind(Protocol):
    """One kind of sample. Methods are pure: the same arguments give the same result on every worker."""

    name: str
    """What `data.kind` calls it."""
    noun: str
    """What a person calls several samples: "images", "rows"."""
    suffixes: tuple[str, ...]
    """Endings of the files that `save` writes, ".png" for instance; "" = a folder."""

    def describe(self, config: DataConfig) -> SampleSpec:
        """What can be said cheaply. Raises ConfigError for every mistake that can be seen early."""

    def knows(self, name: str) -> bool:
        """Whether data.name means a set that the kind knows by name, and no path."""

    def claims(self, name: str) -> bool:
        """Whether data.name, a known set or a path, looks like samples of this kind: data.kind = auto asks it."""

    def like(self, config: DataConfig, spec: SampleSpec | None) -> DataConfig:
        """The same data, to be read as samples of this shape (None: as they are stored): what measures samples against
        real ones needs.
        """

    def convert(self, stored: NDArray[Any], spec: SampleSpec) -> NDArray[Any]:
        """Stored samples (N, ...) as those of `spec` are stored, where they differ in form (images: channels, size).
        Raises ConfigError where that makes no sense.
        """

    def open(self, config: DataConfig, progress: Progress | None = None) -> SampleSet:
        """The real samples: deterministic, cached where decoding costs. Raises ConfigError."""

    def describe_in_words(self, spec: SampleSpec) -> str:
        """The data in one phrase for the first line of a run: "10,000 images of mnist10k, 28 x 28 x 1, 10 classes"."""

    def encode(self, stored: Tensor) -> Tensor:
        """Stored samples (N, ...) as the networks see them, float32 (N, *spec.shape), on the same device."""

    def decode(self, x: Tensor) -> Tensor:
        """What a generator made, float (N, *spec.shape), as samples are stored."""

    def vary(self, x: Tensor, position: Tensor, config: DataConfig, seed: int) -> Tensor:
        """Random variation of real samples that `config` asks for (images: data.mirror), by their positions int64 (N,)
        in the run's sequence of samples.
        """

    def preview(self, samples: NDArray[Any], columns: int | None = None) -> NDArray[np.uint8]:
        """One picture, uint8 (H, W) or (H, W, 3), of stored samples (N, ...), near-square unless `columns` is given,
        and large enough for a person to see.
        """

    def save(
        self,
        batches: Iterable[NDArray[Any]],
        n: int,
        target: Path,
        columns: int | None = None,
        labels: NDArray[np.int64] | None = None,
        classes: tuple[str, ...] = (),
    ) -> None:
        """Write n stored samples, which come in batches (b, ...), in the format of target's ending, one of `suffixes`:
        "" is a folder, which is there and empty. With labels (n,) and the names of the classes, formats that can hold
        them tell the class of each sample. Raises OSError.
        """

    def extractor(self, config: RunConfig, spec: SampleSpec, device: torch.device | str) -> Extractor:
        """The feature extractor that metrics compare in. Raises ConfigError."""

    def augmentation(self, config: AugmentConfig, seed: int) -> Augmentation | None:
        """What D's samples go through, real and generated alike; None without augmentation."""

    def recipe(self, config: RunConfig, spec: SampleSpec) -> dict[str, Any]:
        """Defaults for this data, dotted name -> value, for settings that nobody gave."""

    def decide(self, config: RunConfig, samples: SampleSet) -> dict[str, Any]:
        """Values, dotted name -> value, for the settings that may be `auto` and that only the samples tell:
        loss.r1_gamma, loss.r2_gamma, augment.kind, and what goes with an augmentation that was chosen so. The same on
        every machine; of those that are not `auto`, nothing is taken. None of them is left `auto`.
        """

    def network_arguments(self, spec: SampleSpec) -> dict[str, Any]:
        """Keyword arguments of every generator's and discriminator's constructor that tell what a sample is."""

    def check(self, config: RunConfig, spec: SampleSpec) -> None:
        """Raise ConfigError for settings that cannot work on this data, before any worker starts: networks, and the
        feature extractor where it may be missing. config.model.conditioning is decided.
        """


def some(problems: Sequence[str], count: int = 5) -> str:
    """The first of several problems, and how many more there are."""
    more = f" and {len(problems) - count} more" if len(problems) > count else ""
    return ", ".join(problems[:count]) + more
