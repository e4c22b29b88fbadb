"""`checkpoint`: what saving costs the training that goes on meanwhile."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, default=4, help="pairs of windows, with a checkpoint and without (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a window (default: %(default)s)")
    parser.add_argument(
        "--interval",
        type=float,
        default=30.0,
        help="seconds between two checkpoints of the run that is judged (default: %(default)s)",
    )
    parser.add_argument("--storage", help="where to write (default: a temporary folder)")
    parser.add_argument("--json", metavar="FILE", help="write all samples there")


def run(options: argparse.Namespace) -> int:
    """The cost of a checkpoint every so many seconds: windows with one and without, in turn, in one process.

    A window shorter than the interval makes the cost stand out: one checkpoint loses the same seconds in both.
    """
    from distgan.config import load_config
    from distgan.config.command_line import parse_overrides

    file, typed = parse_overrides(options.settings)
    config = load_config(file, typed)
    with tempfile.TemporaryDirectory(prefix="distgan-benchmark-") as place:
        found = measure(config, options.storage or place, options.rounds, options.seconds)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1), encoding="utf-8")
    share = found["cpu_s"] / options.interval / found["threads"]
    wall, cpu = (_lost(found["windows"], key) for key in ("images_per_s", "images_per_cpu_s"))
    print(
        f"a checkpoint of {found['bytes'] / 1e6:.1f} MB every {options.interval:g} s, {found['settings']}\n"
        f"  training waits for it         {statistics.median(found['blocked_s']) * 1000:8.1f} ms\n"
        f"  in storage after              {statistics.median(found['written_s']) * 1000:8.1f} ms\n"
        f"  processor time                {found['cpu_s'] * 1000:8.1f} ms = {share:.2%} of the interval\n"
        f"  images per second lost        {_scaled(wall, options)}\n"
        f"  images per processor second   {_scaled(cpu, options)}"
    )
    return 0


def _scaled(lost: list[float], options: argparse.Namespace) -> str:
    """Mean and its 95 % interval of shares of a window, as shares of the interval between checkpoints."""
    scale = options.seconds / options.interval
    error = 1.96 * statistics.stdev(lost) / len(lost) ** 0.5 if len(lost) > 1 else float("nan")
    mean = statistics.fmean(lost)
    return (
        f"{mean * scale:8.2%} +- {error * scale:.2%}   ({mean:.1%} +- {error:.1%} of windows of {options.seconds:g} s, "
        f"{len(lost)} pairs)"
    )


def measure(config: Any, storage: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Train in this process, with the loop's own parts, and save at the beginning of every other window."""
    import torch

    from distgan.kinds import describe, get_kind, open_samples
    from distgan.kinds.loader import Loader
    from distgan.randomness import DataOrder
    from distgan.storage import Folder
    from distgan.training.best import export_generator
    from distgan.training.checkpoint import CheckpointStore
    from distgan.training.context import Context
    from distgan.training.state import TrainState
    from distgan.training.train_step import TrainStep

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    config = config.for_classes(describe(config.data).n_classes)
    context, images = Context(), open_samples(config.data)
    classes = len(images.classes) if config.model.conditioning != "none" else 0
    kind = get_kind(config.data)
    state = TrainState(config, n_classes=classes, device=context.device, **kind.network_arguments(images.spec))
    feed = Loader(
        images,
        kind,
        context.device,
        DataOrder(len(images), config.seed),
        device_mib=config.data.device_mib,
        config=config.data,
        seed=config.seed,
    )
    step = TrainStep(config, context, state, feed)
    store = CheckpointStore(Folder(storage).child("run"))
    blocked, written = [], []

    def save() -> None:
        begin = time.perf_counter()

        def then(saved: dict[str, Any]) -> None:
            export_generator(store.folder, saved, images, config, which=0)
            written.append(time.perf_counter() - begin)

        store.save(state.nimg, state.state_dict(), then=then)
        blocked.append(time.perf_counter() - begin)

    def window(length: float, with_checkpoint: bool) -> dict[str, float]:
        start, cpu, before = time.perf_counter(), time.process_time(), state.nimg
        if with_checkpoint:
            save()
        while time.perf_counter() - start < length:
            step()
        if with_checkpoint:
            store.wait()
        if context.device.type == "cuda":
            torch.cuda.synchronize()
        count = state.nimg - before
        return {
            "images_per_s": count / (time.perf_counter() - start),
            "images_per_cpu_s": count / (time.process_time() - cpu),
        }

    window(min(5.0, seconds), True)  # allocators, caches and clocks settle
    blocked.clear()
    written.clear()
    windows = []
    for number in range(rounds):
        pair: dict[str, Any] = {}
        for kind in ("with", "without") if number % 2 else ("without", "with"):
            pair[kind] = window(seconds, kind == "with")
        windows.append(pair)
        rates = {kind: f"{found['images_per_s']:.0f} images/s {kind}" for kind, found in pair.items()}
        print(f"round {number + 1} of {rounds}: {', '.join(rates.values())}", file=sys.stderr, flush=True)
    cpu = time.process_time()
    for _ in range(5):  # its processor time, with nothing beside it
        save()
        store.wait()
    name = store.names()[-1]
    size = len(store.folder.read(f"checkpoints/{name}/state.pt"))
    settings = (
        f"{config.model.name} {images.spec.shape[1]} x {images.spec.shape[2]}, batch {config.batch_size}, "
        f"{threads} threads, {context.device}"
    )
    return {
        "bytes": size,
        "settings": settings,
        "threads": threads,
        "windows": windows,
        "cpu_s": (time.process_time() - cpu) / 5,
        "blocked_s": blocked[:rounds],
        "written_s": written[:rounds],
    }


def _lost(windows: list[dict[str, Any]], key: str) -> list[float]:
    return [1 - pair["with"][key] / pair["without"][key] for pair in windows]
