"""`own-images`: what the command gives on folders that nobody tuned it for, in a given time, judged by features that
were not trained against.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring import print_table, write_found

JUDGE = "efficientnet-lite0"
METRICS = ("fid", "kid", "coverage")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sets", nargs="+", metavar="DATA", help="folders, archives or known sets, as data.name takes")
    parser.add_argument("--minutes", type=float, default=10, help="of each run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each set (default: %(default)s)")
    parser.add_argument("--against", metavar="DATA", help="images that none was trained on; else the set itself")
    parser.add_argument("-n", type=int, default=2000, help="generated images (default: %(default)s)")
    parser.add_argument("--storage", default="benchmark-own-images", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-own-images.json)")


def run(options: argparse.Namespace) -> int:
    """FID, KID and coverage in features of an ImageNet network of what `distgan train --minutes M` makes of folders."""
    found: dict[str, list[dict[str, float]]] = {}
    for data in options.sets:
        for seed in range(options.seeds):
            found.setdefault(data, []).append(one(options, data, seed))
            print(f"{data}, seed {seed}: {_words(found[data][-1])}", flush=True)
    rows = [
        [
            Path(data).name,
            *(_spread([run[name] for run in runs]) for name in METRICS),
            _spread([r["kimg"] for r in runs]),
        ]
        for data, runs in found.items()
    ]
    print_table(["", *(f"{name} ({JUDGE}, {options.n:,} images)" for name in METRICS), "kimg"], rows)
    write_found(options, "own-images", found)
    return 0


def one(options: argparse.Namespace, data: str, seed: int) -> dict[str, float]:
    """Train, measure, and leave a grid of samples beside the run."""
    name = f"{Path(data).stem}-{seed}"
    place = ["--storage", options.storage]
    settings = ["--data.name", data, "--minutes", str(options.minutes), "--seed", str(seed), "--name", name]
    _distgan("train", *settings, *place, *options.settings)
    against = ["--against", options.against] if options.against else []
    judge = ["--extractor", JUDGE, "--metrics", "fid,kid,density-coverage", "-n", str(options.n), "--json"]
    measured = json.loads(_distgan("evaluate", name, *place, *against, *judge).splitlines()[-1])
    _distgan("sample", name, *place, "-n", "64", "--out", str(Path(options.storage, f"{name}.png")))
    status = json.loads(Path(options.storage, name, "status.json").read_text(encoding="utf-8"))
    return {**{key: float(measured[key]) for key in METRICS}, "kimg": status["kimg"]}


def _distgan(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "distgan", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"distgan {' '.join(words)} ended with {done.returncode}")
    return done.stdout


def _words(measured: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in measured.items())


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g} - {max(values):.4g})"
