"""`stacked-mnist`: how many of 1,000 modes a recipe covers, beside the plain DCGAN and with parts of the recipe taken
away.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import print_table, run_process

PRESET = Path(__file__).parent.parent / "configs" / "stacked-mnist.yaml"
SAMPLES = 26_000  # as in Lin et al., PacGAN, 2018, and all who compare with it

PLAIN = {
    "batch_size": 64,
    "model.g_norm": "batch",
    "model.d_norm": "batch",
    "model.latent_dim": 100,
    "loss.name": "non-saturating",
    "loss.r1_gamma": 0,
    "loss.r2_gamma": 0,
    "training.ema_half_life_kimg": [0],
    **{
        f"optim.{player}.{name}": value
        for player in "gd"
        for name, value in (("lr", 2e-4), ("beta1", 0.5), ("beta2", 0.999))
    },
    **{f"optim.{player}.{name}_schedule.kind": "constant" for player in "gd" for name in ("lr", "beta2")},
}
"""DCGAN (Radford et al., 2016) at the preset's width."""
R1 = {"loss.r2_gamma": 0}
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "preset": ("relativistic + R1 + R2 (the preset)", {}),
    "dcgan": ("DCGAN with batch norm", PLAIN),
    "rpgan-r1r2": ("relativistic + R1 + R2", {}),
    "rpgan-r1": ("relativistic + R1", R1),
    "ns-r1r2": ("non-saturating + R1 + R2", {"loss.name": "non-saturating"}),
    "ns-r1": ("non-saturating + R1", {"loss.name": "non-saturating"} | R1),
}
"""Name -> what it is, and how its settings differ from the preset's. The last four are the ablation: the preset's
networks and rates.
"""
LONG = ("preset", "dcgan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="training time of preset and dcgan (default: %(default)s)"
    )
    parser.add_argument(
        "--ablation-minutes", type=float, default=5.0, help="training time of the others (default: %(default)s)"
    )
    parser.add_argument("--kimg", type=float, help="the same budget of images for all, in place of a time")
    parser.add_argument(
        "--only", choices=list(RECIPES), nargs="+", default=list(RECIPES), help="recipes (default: all)"
    )
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help="generated images that are counted (default: %(default)s)"
    )
    parser.add_argument(
        "--storage", help="folder that keeps the runs; those that are complete are not trained again (default: none)"
    )
    parser.add_argument("--pictures", metavar="FOLDER", help="write a grid of 100 images of each recipe there")
    parser.add_argument(
        "--json", metavar="FILE", help="where all that was found goes (default: benchmark-stacked-mnist.json)"
    )


def run(options: argparse.Namespace) -> int:
    """Modes and KL of Stacked MNIST: the preset, the plain DCGAN in the same time, and the preset without R2 or
    relativistic pairing.

    Counted are 26,000 images of each run's best generator (lowest FID in the digit classifier's features) by the
    packaged digit classifier on each of the three channels. KL is that of the counts to the distribution that the data
    is drawn from, in nats; of so many images of a perfect generator it would still be about 999 / (2 x 26,000) = 0.019,
    and the row of real images says what the classifier's mistakes add.
    """
    from distgan.config.command_line import parse_overrides

    _, typed = parse_overrides(options.settings)
    with contextlib.ExitStack() as stack:
        storage = options.storage or stack.enter_context(tempfile.TemporaryDirectory(prefix="distgan-benchmark-"))
        judge = Judge()
        real = judge.count_real(options.samples)
        print(f"real images: {real['modes']} modes, KL {real['kl']:.4f}", file=sys.stderr, flush=True)
        found: dict[str, dict[str, Any]] = {}
        for name in options.only:
            minutes = options.minutes if name in LONG else options.ablation_minutes
            found[name] = train(name, Path(storage), minutes, options.kimg, typed)
            found[name] |= judge.count_generated(Path(storage) / name, options.samples, options.pictures)
            print(f"{name}: {found[name]['modes']} modes, KL {found[name]['kl']:.4f}", file=sys.stderr, flush=True)
    _report(options, real, found)
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train(name: str, storage: Path, minutes: float, kimg: float | None, typed: dict[str, Any]) -> dict[str, Any]:
    """One recipe trained for so long by `distgan train`: what it took, how it went, and what was said about it."""
    import yaml

    from distgan.config import load_config

    own = {"engine": "local", "storage": str(storage), "name": name, **RECIPES[name][1], **typed}
    if kimg is None:
        kimg = _rate(storage, own) * minutes * 60 / 1000
    every = kimg / 10
    shown = {"metrics.every_kimg": every, "log.samples_every_kimg": every, "metrics.final_samples": SAMPLES}
    own = shown | own | {"kimg": round(kimg, 3)}
    file = storage / f"{name}.yaml"
    if file.exists():  # the run was begun before: its own budget holds
        config = load_config(file)
    else:
        config = load_config(PRESET, own)
        storage.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    begun, ended_by, cpu_s = time.time(), None, None
    try:
        _, meter = run_process(
            [sys.executable, "-m", "distgan", "train", "--config", str(file)], {}, 6 * 60 * minutes + 3600
        )
        cpu_s = meter.between(begun, time.time())
    except SystemExit as error:
        if "not finite" not in str(error):
            raise
        ended_by = "diverged"  # which is what an ablation may do
    lines = [json.loads(line) for line in (storage / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return _course(lines) | {
        "what": RECIPES[name][0],
        "settings": RECIPES[name][1],
        "typed": typed,
        "kimg": config.kimg,
        "ended_by": ended_by,
        "wall_s": time.time() - begun,
        "cpu_s": cpu_s,
    }


def _rate(storage: Path, own: dict[str, Any]) -> float:
    """Images a second of a run's first 10 kimg."""
    import yaml

    from distgan.config import load_config

    with tempfile.TemporaryDirectory(dir=storage.parent if not storage.exists() else storage, prefix=".rate-") as place:
        trial = {
            "storage": place,
            "kimg": 10,
            "metrics.every_kimg": 100,
            "metrics.final_samples": 1000,
            "log.every_kimg": 1,
        }
        file = Path(place) / "trial.yaml"
        file.write_text(yaml.safe_dump(load_config(PRESET, own | trial).model_dump(mode="json")))
        run_process([sys.executable, "-m", "distgan", "train", "--config", str(file)], {}, 600)
        lines = [
            json.loads(line)
            for line in (Path(place) / own["name"] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    late = [line for line in lines if "images_per_s" in line][4:]
    return len(late) / sum(1 / line["images_per_s"] for line in late)


def _course(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Training time, measurements on the way and warnings, from metrics.jsonl; time is that of training steps alone."""
    seconds, nimg, course = 0.0, 0, []
    for line in lines:
        if "images_per_s" not in line:
            continue
        seconds, nimg = seconds + (line["nimg"] - nimg) / line["images_per_s"], line["nimg"]
        if "modes" in line:
            keys = ("kimg", "modes", "class_kl", "fid", "samples")
            course.append({"minutes": seconds / 60} | {key: line[key] for key in keys})
    said = [str(line["event"]) for line in lines if "event" in line]
    return {"minutes": seconds / 60, "trained_kimg": nimg / 1000, "course": course, "said": said}


# ---------------------------------------------------------------------------------------------------------------------
# Counting


class Judge:
    """Counts images by class with the packaged classifier, and compares the counts with what the data is drawn from."""

    def __init__(self) -> None:
        import numpy as np
        import torch

        from distgan.config import load_config
        from distgan.kinds import open_samples
        from distgan.kinds.image.extractors import get_extractor

        self.real = open_samples(load_config(PRESET).data.model_copy(update={"labels": True}))
        assert self.real.labels is not None
        self.classify = get_extractor(
            "digits", data_channels=3, resolution=self.real.spec.shape[1], data_name="stacked-mnist"
        )
        # Channels are drawn independently from the same digits (distgan/kinds/image/sets/stacked_mnist.py)
        digits = np.stack([self.real.labels // 100, self.real.labels // 10 % 10, self.real.labels % 10])
        share = torch.from_numpy(np.bincount(digits.ravel(), minlength=10) / digits.size)
        self.truth = (share[:, None, None] * share[:, None] * share).flatten()

    def count(self, batches: Any) -> dict[str, Any]:
        """Modes and KL of images uint8 (N, 3, S, S), in parts."""
        from distgan.metrics import ClassStatistics

        statistics = ClassStatistics(1000)
        for images in batches:
            statistics.update(self.classify(images)[1])
        share = statistics.histogram / statistics.histogram.sum()
        kl = float((share[share > 0] * (share[share > 0] / self.truth[share > 0]).log()).sum())
        return {"modes": statistics.modes, "kl": kl, "samples": int(statistics.histogram.sum())}

    def count_real(self, n: int) -> dict[str, Any]:
        import numpy as np
        import torch

        images = self.real.samples
        return self.count(torch.from_numpy(np.array(images[i : min(i + 500, n)])) for i in range(0, n, 500))

    def count_generated(self, run_folder: Path, n: int, pictures: str | None) -> dict[str, Any]:
        """Of the generator that the run exported; its noise is none that the run measured with."""
        import torch

        from distgan.export.generator import load_generator
        from distgan.kinds.picture import png
        from distgan.storage import Folder

        generator = load_generator(Folder(str(run_folder / "generator")))
        if pictures:
            Path(pictures).mkdir(parents=True, exist_ok=True)
            grid = generator.kind.preview(torch.cat(list(generator.batches(100, seed=1))).numpy())
            (Path(pictures) / f"stacked-mnist-{run_folder.name}.png").write_bytes(png(grid))
        return self.count(generator.batches(n, seed=1, batch_size=500)) | {"generator": generator.info}


# ---------------------------------------------------------------------------------------------------------------------
# Telling


def _report(options: argparse.Namespace, real: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
    import torch

    from distgan import __version__

    rows = [["real images", "", "", str(real["modes"]), f"{real['kl']:.3f}", "", ""]]
    for one in found.values():
        last = one["course"][-1] if one["course"] else {}
        end = f"{last['modes']:.0f}, {last['class_kl']:.3f}" if last else "-"
        first = next((f"{at['minutes']:.1f}" for at in one["course"] if at["modes"] == 1000), "-")
        rows.append(
            [
                one["what"],
                f"{one['trained_kimg']:.0f}",
                f"{one['minutes']:.1f}",
                str(one["modes"]),
                f"{one['kl']:.3f}",
                first,
                one["ended_by"] or end,
            ]
        )
    print(
        f"\n{options.samples:,} images by the packaged digit classifier; minutes of training on "
        f"{len(os.sched_getaffinity(0))} cores"
    )
    print_table(["", "kimg", "minutes", "modes", "KL", "1000 modes at (min)", "modes, KL to the set at the end"], rows)
    for name, one in found.items():
        for sentence in one["said"]:
            print(f"{name}: {sentence}")
    file = Path(options.json or "benchmark-stacked-mnist.json")
    machine = {
        "cpus": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "distgan": __version__,
        "load_average": os.getloadavg(),
    }
    file.write_text(
        json.dumps({"command": "stacked-mnist", "machine": machine, "real": real, "found": found}, indent=1) + "\n",
        encoding="utf-8",
    )
    print(f"\n{file}")
