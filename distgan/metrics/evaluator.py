"""Measuring a generator against real samples on any number of workers: every worker generates and sees its share,
once.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distgan.config import ConfigError
from distgan.metrics.accumulators import Accumulator, Reference
from distgan.metrics.collective import Collective, SingleProcess
from distgan.metrics.extractor import Extractor
from distgan.metrics.measures.base import Measure
from distgan.registry import METRICS
from distgan.storage import Folder, user_cache

log = logging.getLogger(__name__)

CAP = 10_000  # samples a side whose features are compared pair by pair


def statistics_dir() -> Path:
    """Where this machine keeps the statistics of real sets."""
    given = os.environ.get("DISTGAN_CACHE")
    return (Path(os.path.expanduser(given)) if given else user_cache()) / "statistics"


class Evaluator:
    """Measures generated samples against one real set with one extractor.

    samples: as stored (N, ...), array or memory map, the same on all ranks. labels: int64 (N,) or None. fingerprint:
    the set's content hash. metrics: names of registry.METRICS. cache_dir: where the real set's statistics are kept
    between runs, by content, or None; store: the same in storage, which a run that is continued on another machine
    still finds. context: the group of processes; every one must construct and call in step. batch_size: samples a rank
    handles at once.

    All real samples enter the moments; at most CAP on each side, evenly spread over the real set, enter metrics that
    compare pairs. Raises ConfigError for unknown metrics, for metrics that need a classifier where the extractor is
    none, and for too few samples.
    """

    def __init__(
        self,
        samples: NDArray[Any],
        labels: NDArray[np.int64] | None,
        fingerprint: str,
        extractor: Extractor,
        metrics: Sequence[str],
        *,
        cache_dir: str | Path | None = None,
        store: Folder | None = None,
        context: Collective | None = None,
        batch_size: int = 500,
    ) -> None:
        self.context: Collective = context or SingleProcess(extractor.device)
        self.net, self.extractor, self.metrics, self.batch_size = (
            extractor,
            extractor.name,
            list(dict.fromkeys(metrics)),
            batch_size,
        )
        self.histogram: Tensor | None = None  # of the last measurement: samples by class, float64 (k,)
        self.real_samples = len(samples)
        self._device = extractor.device if extractor.device.type != "mps" else torch.device("cpu")  # mps has no float64
        self._check(len(samples), "the data")
        able = [name for name in METRICS if extractor.n_classes is not None or not METRICS[name].classifies]
        unasked = [name for name in able if METRICS[name].unasked]
        self._measures: list[Measure] = [METRICS[name] for name in dict.fromkeys([*self.metrics, *unasked])]
        self._same_extractor()

        def truth(index: Tensor) -> Tensor:
            return torch.from_numpy(np.asarray(labels)[index.numpy()])

        def read(index: Tensor) -> Tensor:
            return torch.from_numpy(np.asarray(samples[index.numpy()]))

        places = [Folder(cache_dir)] if cache_dir is not None else []
        places += [store] if store is not None else []
        name = self._file(fingerprint, labels is not None)
        self._real = self._cached(places, name)
        missing = torch.tensor([0.0 if self._real is not None else 1.0])
        if float(self._from_first(missing, 1)[0]):  # the first rank's finding is everyone's
            chosen = torch.arange(min(CAP, len(samples))) * len(samples) // min(CAP, len(samples))
            sums = self._pass(read, len(samples), chosen, truth if labels is not None else None, torch.device("cpu"))
            sums.all_reduce(self.context, None, True)
            if self.context.rank == 0:
                self._real = Reference(sums)
                self._keep(sums.dump(), places, name)
        self._reference = self._from_first(None if self._real is None else self._real.moments.mean, extractor.dim)
        # A conditional generator's labels, and missing classes, can be checked only by a classifier whose classes are
        # the data's.
        known = None if self._real is None else self._real.recognised[None] / len(samples)
        self.knows_labels = float(self._from_first(known, 1)[0]) > 0.5

    def evaluate(
        self, sample: Callable[[Tensor], Tensor], n: int, labels: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, float]:
        """The metrics of n generated samples; the same dictionary on all ranks.

        sample: indices int64 (b,) on the extractor's device -> samples as stored (b, ...), a pure function of the
        indices. labels: the same for the classes asked for, int64 (b,); adds class_accuracy. Ranks take equal runs of
        0..n-1, none twice, none left out. Keys: those of the metrics asked for, of those that come unasked (class_kl
        where the extractor classifies), samples, real_samples.
        """
        self._check(n, "metrics.samples")
        paired = any(measure.pairs for measure in self._measures)
        checked = labels if self.knows_labels else None
        made = self._pass(sample, n, torch.arange(min(n, CAP) if paired else 0), checked, self.net.device)
        made.all_reduce(self.context, self._reference, paired)
        self.histogram = None if made.classes is None else made.classes.histogram
        keys = [key for measure in self._measures for key in measure.keys]
        values, real = None, self._real
        if real is not None:  # the first rank computes, so that all ranks hold the very same numbers
            found: dict[str, float] = {}
            for measure in self._measures:
                found |= measure.compute(made, real)
            values = torch.tensor([found[key] for key in keys], dtype=torch.float64)
        result = dict(zip(keys, self._from_first(values, len(keys)).tolist(), strict=True))
        if checked is not None:
            result["class_accuracy"] = float(made.recognised) / n
        return {**result, "samples": float(n), "real_samples": float(self.real_samples)}

    def floor_fid(self) -> float:
        """FID between two random halves of (at most CAP) real samples: about the least that so many can reach."""
        if self.real_samples < 4:
            raise ConfigError(
                f"the data have {self.real_samples} samples: floor_fid needs at least 4; add some, or raise data.limit "
                "where it is set"
            )
        value = None if self._real is None else torch.tensor([self._real.floor_fid], dtype=torch.float64)
        return float(self._from_first(value, 1)[0])

    def _pass(
        self,
        read: Callable[[Tensor], Tensor],
        n: int,
        chosen: Tensor,
        labels: Callable[[Tensor], Tensor] | None,
        place: torch.device,
    ) -> Accumulator:
        """This rank's sums over its run of samples 0..n-1, with the features of those among `chosen`; `read` gets
        indices at `place`.
        """
        sums = Accumulator(self.net.dim, self.net.n_classes, self._device)
        mine = torch.arange(n).tensor_split(self.context.world_size)[self.context.rank]
        for index in torch.split(mine, self.batch_size) if len(mine) else ():
            features, logits = self.net(read(index.to(place)))
            truth = None if labels is None else labels(index.to(place))
            sums.update(features, logits, truth, torch.isin(index, chosen))
        return sums

    def _from_first(self, value: Tensor | None, size: int) -> Tensor:
        """The first rank's float64 vector on all ranks."""
        here = torch.zeros(size, dtype=torch.float64, device=self._device)
        if self.context.rank == 0 and value is not None:
            here += value.to(here)
        return self.context.all_reduce_sum(here)

    def _same_extractor(self) -> None:
        mark = torch.tensor([[int(self.net.digest[:12], 16)]], dtype=torch.float64, device=self._device)
        marks = self.context.all_gather_rows(mark)
        if not bool((marks == marks[0]).all()):
            raise ConfigError(
                f"metrics.extractor: the workers hold different networks (this one: {self.extractor!r}); name one "
                "extractor, and put its weights on every machine"
            )

    def _check(self, n: int, side: str) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise ConfigError(f"metrics.names = {name!r}: {METRICS.refusal(name)}")
            measure: Measure = METRICS[name]
            if measure.classifies and self.net.n_classes is None:
                raise ConfigError(
                    f"metrics.names = {name!r}: needs an extractor that classifies, and {self.extractor!r} does not; "
                    "take another metrics.extractor (for images digits, inception or torchvision:NAME), or leave the "
                    "metric out"
                )
            if n < measure.least:
                found = f"{side} = {n}" if side != "the data" else f"the data have {n} sample{'s' * (n != 1)}"
                raise ConfigError(f"{found}: {name} needs at least {measure.least} samples on each side")

    def _file(self, fingerprint: str, labelled: bool) -> str:
        key = f"1/{fingerprint}/{self.net.digest}/{CAP}/{labelled}"
        return f"real-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"

    def _cached(self, places: Sequence[Folder], name: str) -> Reference | None:
        """The real side from the first place that has it whole; the other places get it too."""
        for place in places if self.context.rank == 0 else ():
            try:
                dumped = place.read(name)
                real = Reference(Accumulator.load(dumped, self.net.dim, self.net.n_classes, self._device))
            except FileNotFoundError:
                continue
            except (
                Exception
            ) as error:  # whatever a damaged file makes the readers raise: the statistics can always be made again
                log.warning("%s: cannot be used (%s); the real samples are measured again", place.path(name), error)
                continue
            self._keep(dumped, [other for other in places if other is not place], name, replace=False)
            return real
        return None

    def _keep(self, dumped: bytes, places: Sequence[Folder], name: str, replace: bool = True) -> None:
        for place in places:
            try:
                if replace or not place.exists(name):
                    place.write(name, dumped)
            except OSError as error:
                log.warning(
                    "%s: cannot be written (%s); the next run measures the real samples again", place.path(name), error
                )


class RealSamples(Protocol):
    """What `evaluate_samples` reads of a data set (distgan.kinds.base.SampleSet has it)."""

    @property
    def samples(self) -> NDArray[Any]: ...

    @property
    def labels(self) -> NDArray[np.int64] | None: ...

    @property
    def fingerprint(self) -> str: ...


def evaluate_samples(
    generated: NDArray[Any],
    real: RealSamples,
    metrics: Sequence[str],
    extractor: Extractor,
    *,
    cache_dir: str | Path | None = None,
    context: Collective | None = None,
    batch_size: int = 500,
) -> dict[str, float]:
    """The metrics of given samples (N, ...) against a real set of the same sample shape, and floor_fid beside fid.

    Raises ConfigError where the shapes differ, and as Evaluator does.
    """
    if generated.shape[1:] != real.samples.shape[1:]:
        raise ConfigError(
            f"the samples to evaluate have the shape {tuple(generated.shape[1:])} and the data's "
            f"{tuple(real.samples.shape[1:])} (images: channels, height, width); read the data as such samples, images "
            "by data.resolution and data.channels"
        )
    evaluator = Evaluator(
        real.samples,
        real.labels,
        real.fingerprint,
        extractor,
        metrics,
        cache_dir=cache_dir,
        context=context,
        batch_size=batch_size,
    )
    result = evaluator.evaluate(
        lambda index: torch.from_numpy(np.array(generated[index.cpu().numpy()])), len(generated)
    )
    if "fid" in result:
        result["floor_fid"] = evaluator.floor_fid()
    return result
