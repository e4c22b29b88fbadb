"""`evaluate`: what a measurement of the generator costs, part by part, and which share of the training's time it
takes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from benchmarks.measuring import print_table, spread, write_found
from benchmarks.parts import build, describe_run, read_settings, settle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements, each beside a window of training (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of a window of training (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-evaluate.json)")


def run(options: argparse.Namespace) -> int:
    """A measurement's seconds: making images, their features, sums, comparing; and its share of the training at its
    cadence.

    One measurement of metrics.samples images every metrics.every_kimg, as the loop does it, beside windows of training
    in the same process. The real set's statistics are computed once a set and extractor, and kept in the cache: shown
    apart.
    """
    import torch

    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="distgan-benchmark-") as place:
        os.environ["DISTGAN_CACHE"] = place  # so that the real set's statistics are computed and not found
        parts = build(read_settings(options))
        found = measure(parts, options.rounds, options.seconds)
    show(parts, found)
    write_found(options, "evaluate", found)
    return 0


def measure(parts: Any, rounds: int, seconds: float) -> dict[str, Any]:
    """Seconds to get ready (statistics computed, then found in the cache), and of each round: training's rate, a
    measurement by part.
    """
    from distgan.kinds import get_kind
    from distgan.storage import Folder
    from distgan.training.measurement import Measurement

    config, G, n = parts.config, parts.state.ema.modules[0], parts.config.metrics.samples
    parts.step()

    def ready() -> tuple[Any, float]:
        """A measurement that has done its first one, small; the seconds beyond those that a second such one takes."""
        kind, place, small = get_kind(config.data), Folder(tempfile.gettempdir()), 64
        measurement = Measurement(config, parts.context, parts.images, kind, place)
        taken = []
        for _ in range(2):
            start = time.perf_counter()
            measurement(G, small)
            taken.append(time.perf_counter() - start)
        return measurement, taken[0] - taken[1]

    _, computed = ready()
    measurement, kept = ready()
    samples = []
    for number in range(rounds):
        with timed(measurement, parts.context.device) as spent:
            start, cpu = time.perf_counter(), time.process_time()
            measurement(G, n)
            whole, cpu = time.perf_counter() - start, time.process_time() - cpu
        spent["sums, the rest"] = whole - sum(spent.values())
        start, at = time.perf_counter(), parts.state.nimg
        while time.perf_counter() - start < seconds:
            parts.step()
        settle(parts.context.device)
        rate = (parts.state.nimg - at) / (time.perf_counter() - start)
        samples.append({"seconds": whole, "cpu_s": cpu, "parts_s": dict(spent), "images_per_s": rate})
        print(
            f"round {number + 1} of {rounds}: {whole:.2f} s, training {rate:.0f} images/s", file=sys.stderr, flush=True
        )
    return {
        "samples": samples,
        "n": n,
        "statistics_computed_s": computed,
        "statistics_kept_s": kept,
        "metrics": list(config.metrics.names),
    }


@contextlib.contextmanager
def timed(measurement: Any, device: Any) -> Iterator[dict[str, float]]:
    """While it lasts, what the parts of a measurement take is added up: part -> seconds."""
    spent: dict[str, float] = defaultdict(float)

    def clock(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            settle(device)
            spent[name] += time.perf_counter() - start
            return result

        return call

    evaluator = measurement._evaluator
    network, measures = evaluator.net, evaluator._measures
    measurement.sample = clock(measurement.sample, "images made")
    evaluator.net = _Timed(network, clock(network, "features"))
    evaluator._measures = [replace(one, compute=clock(one.compute, ", ".join(one.keys))) for one in measures]
    try:
        yield spent
    finally:
        del measurement.sample
        evaluator.net, evaluator._measures = network, measures


class _Timed:
    """An extractor whose calls are timed."""

    def __init__(self, own: Any, call: Callable[..., Any]) -> None:
        self._own, self._call = own, call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def share(seconds: float, every_kimg: float, images_per_s: float) -> float:
    """The share of the time that goes into measuring: every so many images, at this rate of training, so many
    seconds.
    """
    training = every_kimg * 1000 / images_per_s
    return seconds / (seconds + training)


def over_a_run(seconds_an_image: float, config: Any, images_per_s: float) -> float:
    """The same for a whole run, whose last measurement is the larger one, metrics.final_samples."""
    metrics = config.metrics
    count = max(0, -(-config.total_images // round(metrics.every_kimg * 1000)) - 1)  # those before the last one
    measuring = seconds_an_image * (count * metrics.samples + metrics.final_samples)
    return measuring / (measuring + config.total_images / images_per_s)


def show(parts: Any, found: dict[str, Any]) -> None:
    samples, config = found["samples"], parts.config
    seconds = [s["seconds"] for s in samples]
    rows = []
    for name in samples[0]["parts_s"]:
        each = [s["parts_s"].get(name, 0.0) for s in samples]
        rows.append([name, spread(each, 3), f"{statistics.median(each) / statistics.median(seconds):.1%}"])
    rows.append(["together", spread(seconds, 3), ""])
    rows.append(["processor time", spread([s["cpu_s"] for s in samples], 3), ""])
    print(
        f"\n{describe_run(config, parts.images)}; {found['n']} images measured by {', '.join(found['metrics'])}; "
        f"{len(samples)} rounds"
    )
    print_table(["", "seconds", "share"], rows)
    rates = [s["images_per_s"] for s in samples]
    shares = [share(s["seconds"], config.metrics.every_kimg, s["images_per_s"]) * 100 for s in samples]
    each = statistics.median(seconds) / found["n"]
    print(
        f"\ntraining                                     {spread(rates)} images/s\n"
        f"one measurement every {config.metrics.every_kimg:g} kimg              {spread(shares, 2)} % of the time\n"
        f"over a run of {config.kimg:g} kimg, with the last one   "
        f"{over_a_run(each, config, statistics.median(rates)):.2%} of the time\n"
        f"the real set's statistics, computed once     {found['statistics_computed_s']:.2f} s; found in the cache "
        f"{found['statistics_kept_s']:.2f} s"
    )
