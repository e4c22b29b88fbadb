"""`data`: from a folder of pictures to batches, beside torchvision's ImageFolder and a DataLoader on the same
folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring import CPUMeter, in_turn, print_table, spread, write_found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=4000, help="pictures in the folder (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="their side in pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender runs (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="length of a measurement of batches (default: %(default)s)"
    )
    parser.add_argument(
        "--loader-workers", type=int, nargs="+", default=[0, 2], help="processes of the DataLoader (default: 0 2)"
    )
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-data.json)")


def run(options: argparse.Namespace) -> int:
    """Decoding a folder once into the cache, opening the cache, and batches from it, beside ImageFolder and DataLoader.

    All give float32 batches in [-1, 1] in a random order. distgan's come from the memory-mapped cache (gathered by a
    thread, or when asked for), or from the images held on the device, as sets of up to data.device_mib are. The folder
    is made for this: PNGs of blurred noise, in two classes.
    """
    with tempfile.TemporaryDirectory(prefix="distgan-benchmark-") as place:
        folder = Path(place) / "pictures"
        make_folder(folder, options.images, options.side)
        print(f"{options.images} pictures made", file=sys.stderr, flush=True)
        found = measure(folder, Path(place), options.batch, options.rounds, options.seconds, options.loader_workers)
    show(found, options)
    write_found(options, "data", found)
    return 0


def make_folder(folder: Path, images: int, side: int) -> None:
    """PNGs that compress about as photographs do: noise, blurred, with a little noise upon it. Two sub-folders."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for kind in ("a", "b"):
        (folder / kind).mkdir(parents=True)
    for i in range(images):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        pixels = np.clip(np.asarray(coarse, np.int16) + rng.integers(-6, 7, (side, side, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i:06d}.png")


def measure(
    folder: Path, place: Path, batch: int, rounds: int, seconds: float, loader_workers: list[int]
) -> dict[str, Any]:
    """{"decoding": ..., "opening": ..., "batches": contender -> samples}."""
    import torch

    from distgan.config import load_config
    from distgan.kinds import describe, open_samples

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = load_config(overrides={"data.name": str(folder), "data.cache": str(place / "cache")}).data

    def once(action: Callable[[], Any]) -> dict[str, float]:
        start, cpu = time.perf_counter(), time.process_time()
        result = action()
        return {
            "seconds": time.perf_counter() - start,
            "cpu_s": time.process_time() - cpu,
            "images": getattr(result, "spec", result).n or 0,
        }

    def cold() -> dict[str, float]:
        shutil.rmtree(place / "cache", ignore_errors=True)
        return once(lambda: open_samples(config))

    entries = in_turn(
        {
            "the folder described": lambda: once(lambda: describe(config)),
            "decoded into the cache": cold,
            "opened from the cache": lambda: once(lambda: open_samples(config)),
        },
        rounds,
    )
    open_samples(config)  # it is there, whichever came last
    made: dict[str, Callable[[], dict[str, float]]] = {
        "gathered ahead by a thread": lambda: rate(
            feed_batches(config, batch, device_mib=0, ahead=True), batch, seconds
        ),
        "gathered when asked for": lambda: rate(feed_batches(config, batch, device_mib=0, ahead=False), batch, seconds),
        "held on the device": lambda: rate(feed_batches(config, batch, device_mib=2048, ahead=False), batch, seconds),
    }
    for workers in loader_workers:
        made[f"ImageFolder, {workers} loader processes"] = lambda workers=workers: rate(  # type: ignore[misc]
            loader_batches(folder, batch, workers), batch, seconds
        )
    batches = in_turn(made, rounds, lambda s: f"{s['batches_per_s']:.0f} batches/s")
    size = next((place / "cache").rglob("images.npy")).stat().st_size
    return {"entries": entries, "batches": batches, "cache_bytes": size}


def rate(source: Iterator[Any], batch: int, seconds: float) -> dict[str, float]:
    """Batches a second from an endless source, after the first twenty, and the processor time of all processes behind
    them.
    """
    for _ in range(20):
        x = next(source)
    if len(x) != batch or not x.is_floating_point() or float(x.min()) < -1 or float(x.max()) > 1:
        raise SystemExit("a contender's batches are not what they should be")
    with CPUMeter(os.getpid(), 0.2) as meter:
        time.sleep(0.3)
        start, clock, count = time.time(), time.perf_counter(), 0
        while time.perf_counter() - clock < seconds:
            next(source)
            count += 1
        elapsed, stop = time.perf_counter() - clock, time.time()
        time.sleep(0.3)
    source.close()  # type: ignore[attr-defined]
    return {"batches_per_s": count / elapsed, "cpu_ms_a_batch": (meter.between(start, stop) or 0.0) / count * 1000}


def feed_batches(config: Any, batch: int, *, device_mib: int, ahead: bool) -> Iterator[Any]:
    """distgan's batches, for ever."""
    from distgan.kinds import get_kind, open_samples
    from distgan.kinds.loader import Loader
    from distgan.randomness import DataOrder
    from distgan.training.context import default_device

    images = open_samples(config)
    order = DataOrder(len(images), 0)
    feed = Loader(images, get_kind(config), default_device(), order, device_mib=device_mib, config=config)
    at = 0
    try:
        while True:
            x, _ = feed.batch(at, at + batch)
            if ahead:
                feed.prefetch(at + batch, at + 2 * batch)
            at += batch
            yield x
    finally:
        feed.close()


def loader_batches(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """torchvision's, for ever."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    middle = (0.5, 0.5, 0.5)
    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize(middle, middle)])
    pictures = datasets.ImageFolder(str(folder), prepare)
    loader = DataLoader(
        pictures, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )
    while True:
        for x, _ in loader:
            yield x


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    rows = []
    for name, samples in found["entries"].items():
        images = [s["images"] / s["seconds"] for s in samples if s["images"]]
        cells = [spread([s[key] * 1000 for s in samples], 1) for key in ("seconds", "cpu_s")]
        rows.append([name, *cells, spread(images) if name.startswith("decoded") else "-"])
    print(
        f"\n{options.images} PNGs of {options.side} x {options.side}; the cache is {found['cache_bytes'] / 1e6:.1f} MB"
    )
    print_table(["", "ms", "CPU ms", "images/s"], rows)
    batches = found["batches"]
    loaders = [name for name in batches if name.startswith("ImageFolder")]
    rows = []
    for name, samples in batches.items():
        rates = [s["batches_per_s"] for s in samples]
        ratios = [
            spread([a / b["batches_per_s"] for a, b in zip(rates, batches[ref], strict=True)], 1) for ref in loaders
        ]
        rows.append([name, spread(rates), spread([s["cpu_ms_a_batch"] for s in samples], 2), *ratios])
    print(f"\nbatches of {options.batch}, float32 in [-1, 1]")
    print_table(
        ["", "batches/s", "CPU ms a batch", *(f"x {ref.removeprefix('ImageFolder, ')}" for ref in loaders)], rows
    )
