"""`step`: the step alone and what options do to it, beside the textbook loop, in one process that takes them in
turn.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.measuring import print_table, spread, write_found
from benchmarks.parts import build, describe_run
from benchmarks.throughput import ALSO, CLASSIC, has_textbook, limit_steps, textbook_steps, torchs_own

WARMUP = 8
VARIANTS: dict[str, tuple[str, ...]] = {"step": (), "new images": ("new images",), "bf16": ("bf16",)}
"""distgan's own step, and with options of a user's: names of ALSO."""

TORCHS = "torch's operations"
"""The step without `distgan.second_order` and the layers for grey images."""

ON_CUDA: dict[str, tuple[str, ...]] = {
    "step": (),
    "new images": ("new images",),
    "float32": ("float32",),
    "recorded": ("recorded",),
    "eager": ("eager",),
}
"""The same for GPUs, where the defaults are bf16, channels_last, and CUDA graphs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", choices=("classic", "default"), default="classic", help="the tutorials' DCGAN, or distgan's default"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the process (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender runs (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn (default: %(default)s)")
    parser.add_argument(
        "--without", nargs="+", metavar="VARIANT", help="variants of the step to leave out, by their names in the table"
    )
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-step.json)")


def run(options: argparse.Namespace) -> int:
    """Images a second of processor time: the textbook loop, the bare steps, distgan's step, and that with options of a
    user's.

    All live in one process and take turns of a few seconds, so that a machine whose speed drifts drifts for all of them
    alike; the clock is the process's own, which other processes do not move. The textbook loop loads its images in the
    same process here. On a GPU the options are others, and the clock is the wall's, as the processor waits for the GPU.
    """
    import torch

    torch.set_num_threads(options.threads)
    contenders, said = prepare(options)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number, (name, step) in itertools.product(range(-1, options.rounds), contenders.items()):
        rate = turn(step, options.seconds) if number >= 0 else warm(step)
        if number >= 0:
            found[name].append(rate)
        print(f"round {number + 1} of {options.rounds}: {name}: {rate:.0f}", file=sys.stderr, flush=True)
    clock = "" if torch.cuda.is_available() else " of processor time"
    print(
        f"\n{said}, {options.threads} thread(s); images a second{clock}, medians of {options.rounds} turns (lowest - "
        "highest)"
    )
    first = next(iter(found))
    ratios = {name: [a / b for a, b in zip(rates, found[first], strict=True)] for name, rates in found.items()}
    print_table(
        ["", "images/s", f"of {first}"],
        [[name, spread(rates), spread(ratios[name], 2)] for name, rates in found.items()],
    )
    write_found(options, "step", found, median_ratios={name: statistics.median(r) for name, r in ratios.items()})
    return 0


def prepare(options: argparse.Namespace) -> tuple[dict[str, Callable[[], int]], str]:
    """Name -> one step, that returns its images; and in words what is trained."""
    import torch

    from distgan.config import load_config
    from distgan.config.command_line import parse_overrides
    from distgan.training.threads import keep_memory

    keep_memory()  # as `distgan train` does
    file, typed = parse_overrides(options.settings)
    base = CLASSIC if options.recipe == "classic" and not file else {}
    wanted = ON_CUDA if torch.cuda.is_available() else VARIANTS
    chosen = {name: also for name, also in wanted.items() if name == "step" or name not in (options.without or ())}
    variants = {name: build(load_config(file, {**base, **typed, **_changes(also)})) for name, also in chosen.items()}
    plain = variants["step"]
    loops = {"textbook": lambda: textbook_steps(plain.config, 0)} if has_textbook(plain.config.model_dump()) else {}
    loops["bare steps"] = lambda: limit_steps(plain.config)
    contenders = {name: _next(make()) for name, make in loops.items()}
    contenders |= {name: _once(parts) for name, parts in variants.items()}
    if TORCHS not in (options.without or ()):
        contenders[TORCHS] = _of_torchs(_once(build(plain.config)))
    return contenders, describe_run(plain.config, plain.images)


def turn(step: Callable[[], int], seconds: float) -> float:
    images, begun, start = 0, time.perf_counter(), now()
    while time.perf_counter() - begun < seconds:
        images += step()
    return images / (now() - start)


def warm(step: Callable[[], int]) -> float:
    start = now()
    return sum(step() for _ in range(WARMUP)) / (now() - start)


def now() -> float:
    """Seconds of this process's processor time; with a GPU of the wall's, when all that was asked of the GPU is
    done.
    """
    import torch

    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _changes(also: tuple[str, ...]) -> dict[str, Any]:
    return {setting: value for name in also for setting, value in ALSO[name].items()}


def _next(steps: Iterator[int]) -> Callable[[], int]:
    return lambda: next(steps)


def _of_torchs(step: Callable[[], int]) -> Callable[[], int]:
    def inside() -> int:
        with torchs_own():
            return step()

    return inside


def _once(parts: Any) -> Callable[[], int]:
    def step() -> int:
        parts.step()
        return int(parts.step.samples)

    return step
