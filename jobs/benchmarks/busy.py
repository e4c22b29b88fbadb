"""`busy`: how fast a run goes on a machine that does something else too: one core of several is taken by another
process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import in_turn, print_table, spread, write_found
from benchmarks.parts import read_settings

SPIN = "while True: pass"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds, idle and busy once in each (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=20, help="length of a run after warm-up (default: %(default)s)"
    )
    parser.add_argument("--env", nargs="*", default=[], metavar="NAME=VALUE", help="variables of the run")
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-busy.json)")


def run(options: argparse.Namespace) -> int:
    """Images a second of `distgan train`, alone on the machine and beside a process that keeps one core busy."""
    config = read_settings(options)
    env = dict(pair.split("=", 1) for pair in options.env)
    made = {
        "idle": lambda: measure(config, options.seconds, env, busy=False),
        "one core busy": lambda: measure(config, options.seconds, env, busy=True),
    }
    found = in_turn(made, options.rounds, lambda rate: f"{rate:.0f} images/s")
    ratios = [b / a for a, b in zip(found["idle"], found["one core busy"], strict=True)]
    rows = [[name, spread(rates)] for name, rates in found.items()]
    print_table(["", "images/s"], [*rows, ["busy of idle", spread(ratios, 2)]])
    write_found(options, "busy", found)
    return 0


def measure(config: Any, seconds: float, env: dict[str, str], *, busy: bool) -> float:
    """The median rate of the log lines of one run, after its first two."""
    import yaml

    from distgan.config import load_config

    hog = subprocess.Popen([sys.executable, "-c", SPIN]) if busy else None
    try:
        with tempfile.TemporaryDirectory(prefix="distgan-benchmark-") as place:
            own = {"storage": place, "name": "run", "kimg": 1e6, "metrics.every_kimg": 1e6, "log.every_kimg": 0.5}
            settings, lines = Path(place, "run.yaml"), Path(place, "run", "metrics.jsonl")
            made = load_config(base=config.model_dump(mode="json"), overrides=own)
            settings.write_text(yaml.safe_dump(made.model_dump(mode="json")), encoding="utf-8")
            command = [sys.executable, "-m", "distgan", "train", "--config", str(settings)]
            process = subprocess.Popen(command, env=os.environ | env, stdout=subprocess.DEVNULL)
            try:
                deadline = time.monotonic() + 120
                while not (lines.exists() and lines.read_text(encoding="utf-8").count('"images_per_s"') >= 2):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"{' '.join(command)} never trained")
                    time.sleep(0.1)
                time.sleep(seconds)
                values = [
                    json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines() if line.endswith("}")
                ]
            finally:
                process.terminate()
                process.wait(timeout=60)
        rates = [line["images_per_s"] for line in values if "images_per_s" in line]
        return statistics.median(rates[2:])
    finally:
        if hog is not None:
            hog.kill()
            hog.wait()
