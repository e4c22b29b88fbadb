"""Does the search pay? The winner of a search, the default recipe, and the winner of a random search in the space of
Ray's own DCGAN example, each found with the same budget and then trained again with new seeds.

    python jobs/compare_search.py --minutes 20 --seeds 3 --kimg 40 --json compare.json

The search gets `--minutes` of wall time for its trials, and so does the random one, which goes on until it has seen as
many images as the search, should the machine have been slower meanwhile. Neither's confirming runs count, as there are
none: both winners are trained again here, like the default. Ray's example samples both rates from {1e-4, 2e-4, 5e-4}
and mutates them in uniform(1e-5, 1e-2), with betas (0.5, 0.999) that it never searches.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from distgan.config import load_config

EXAMPLE = {"g_lr": {"uniform": [1e-5, 1e-2]}, "d_lr": {"uniform": [1e-5, 1e-2]}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="wall time of each search (default: %(default)s)")
    parser.add_argument(
        "--kimg", type=float, default=40.0, help="images of a trial, and of a final run (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="final runs of each contender (default: %(default)s)")
    parser.add_argument(
        "--trials", type=int, default=200, help="trials at most; the time ends a search before (default: %(default)s)"
    )
    parser.add_argument(
        "--search", metavar="FILE", help="space and settings of the search (default: those of `distgan tune`)"
    )
    parser.add_argument(
        "--storage", default="./runs/compare", help="where all runs lie; the same again goes on (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="after --: settings for all runs")
    options = parser.parse_args()
    more = [word for word in options.settings if word != "--"]

    # Trials are measured on fewer images than final runs, which saves both searches time that they put into trials
    common = ["--storage", options.storage, "--kimg", str(options.kimg), "--metrics.samples", "2000", *more]
    limits = ["--tune.num-samples", str(options.trials), "--tune.confirm-top", "0"]
    budget = [*limits, "--tune.time-s", str(60 * options.minutes)]
    place = Path(options.storage)
    place.mkdir(parents=True, exist_ok=True)
    (place / "example.yaml").write_text(json.dumps({"space": EXAMPLE, "scheduler": "none", "searcher": "random"}))
    betas = [
        f"--optim.{player}.{name}={value}" for player in "gd" for name, value in (("beta1", 0.5), ("beta2", 0.999))
    ]
    space = ["--search", options.search] if options.search else []
    _distgan("tune", "--name", "search", *space, *budget, *common)
    random = ["tune", "--name", "example", "--search", str(place / "example.yaml"), *betas, *common]
    _distgan(*random, *budget)
    if _images(place / "example") < _images(place / "search"):  # the machine was slower meanwhile
        _distgan(*random, *limits, "--tune.total-kimg", str(_images(place / "search")))

    found: dict[str, list[float]] = {}
    for name, config in (
        ("default", None),
        ("search", place / "search/best.yaml"),
        ("example", place / "example/best.yaml"),
    ):
        found[name] = []
        for seed in range(101, 101 + options.seeds):
            run = f"{name}-{seed}"
            words = ["--config", str(config)] if config else []
            _distgan("train", *words, *common, "--name", run, "--seed", str(seed))
            found[name].append(_fid(place / run))
    for name, values in found.items():
        spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
        listed = ", ".join(f"{value:.3g}" for value in values)
        print(
            f"{name:8}  FID median {statistics.median(values):.4g}, mean {statistics.mean(values):.4g}{spread}   "
            f"({listed})"
        )
    if options.json:
        figures: dict[str, Any] = {"minutes": options.minutes, "kimg": options.kimg, "fid": found}
        for name in ("search", "example"):
            best = load_config(place / name / "best.yaml")
            trials = (place / name / "trials.csv").read_text(encoding="utf-8").count("\n") - 1
            figures[name] = {
                "optim": best.optim.model_dump(mode="json"),
                "loss": best.loss.model_dump(mode="json"),
                "trials": trials,
            }
            figures[name]["kimg"] = _images(place / name)
        Path(options.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


def _distgan(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "distgan", *words], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def _images(search: Path) -> float:
    """kimg of all trials of a search together."""
    with (search / "trials.csv").open() as file:
        return sum(float(row["kimg"]) for row in csv.DictReader(file))


def _fid(run: Path) -> float:
    """The FID of the last measurement, on metrics.final_samples images."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return float([line["fid"] for line in lines if line.get("fid") is not None][-1])


if __name__ == "__main__":
    sys.exit(main())
