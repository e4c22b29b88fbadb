"""Do two versions of the code train the same? Final states of twelve small runs, as hashes.

    python jobs/golden.py record golden.json       on the version before a change
    python jobs/golden.py compare golden.json      on the version after it; exit status 1 if any state differs

Hashes hold for one machine and one version of PyTorch: kernels differ between processors. That is why they are not in a
test.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SMALL = {
    "kimg": "1",
    "batch-size": "16",
    "data.limit": "400",
    "model.latent-dim": "8",
    "model.g-width": "4",
    "model.d-width": "4",
    "metrics.every-kimg": "10",
    "metrics.samples": "64",
    "metrics.final-samples": "64",
    "log.tensorboard": "false",
    "log.grid": "4",
    "log.every-kimg": "0.5",
    "checkpoint.every-kimg": "0.5",
    "seed": "3",
}

RUNS: dict[str, tuple[int, dict[str, str]]] = {
    "relativistic, R1 and R2, projection, reuse": (1, {}),
    "relativistic, new fakes": (1, {"training.reuse-fakes": "false"}),
    "non-saturating, mlp, batch norm": (
        1,
        {
            "model.name": "mlp",
            "model.g-norm": "batch",
            "model.conditioning": "none",
            "loss.name": "non-saturating",
            "loss.r1-gamma": "0",
            "loss.r2-gamma": "0",
        },
    ),
    "hinge, resnet, spectral norm, n_dis 2, balanced": (
        1,
        {
            "model.name": "resnet",
            "model.d-norm": "spectral",
            "loss.name": "hinge",
            "training.n-dis": "2",
            "training.fake-labels": "balanced",
            "data.resolution": "32",
        },
    ),
    "wasserstein, gradient penalty": (
        1,
        {"loss.name": "wasserstein", "loss.gp-lambda": "10", "loss.r1-gamma": "0", "loss.r2-gamma": "0"},
    ),
    "least-squares, lazy penalty, schedules, two EMAs": (
        1,
        {
            "loss.name": "least-squares",
            "loss.penalty-every": "4",
            "loss.gamma-schedule.kind": "cosine",
            "loss.gamma-schedule.final": "0.1",
            "training.ema-half-life-kimg": "[0.2, 1]",
        },
    ),
    "accumulate 3": (1, {"training.accumulate": "3"}),
    "diffaugment": (
        1,
        {"augment.kind": "diffaugment", "augment.policy": "[flip, translate, rotate, scale, colour, cutout]"},
    ),
    "ada": (
        1,
        {
            "augment.kind": "ada",
            "augment.target": "0.6",
            "augment.p": "0",
            "augment.ramp-kimg": "2",
            "loss.name": "non-saturating",
            "data.mirror": "true",
        },
    ),
    "auxiliary, minimax, r3gan": (
        1,
        {"model.name": "r3gan", "model.conditioning": "auxiliary", "loss.name": "minimax", "data.resolution": "32"},
    ),
    "two workers": (2, {}),
    "two workers, batch norm, new fakes, accumulate 2, n_dis 2": (
        2,
        {
            "model.g-norm": "batch",
            "training.reuse-fakes": "false",
            "training.accumulate": "2",
            "training.n-dis": "2",
            "loss.name": "non-saturating",
        },
    ),
    "two workers, new fakes, ada": (
        2,
        {"training.reuse-fakes": "false", "augment.kind": "ada", "augment.target": "0.6", "batch-size": "17"},
    ),
}


def final_hash(workers: int, changes: dict[str, str]) -> str:
    """Train one run in processes of its own; SHA-256 of networks, averages and optimisers in its last checkpoint."""
    with tempfile.TemporaryDirectory() as place:
        settings = {**SMALL, **changes, "storage": place, "name": "run"}
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        start = [sys.executable, "-m"]
        start += ["torch.distributed.run", "--nproc-per-node", str(workers), "-m"] if workers > 1 else []
        command = [*start, "distgan", "train", "--engine", "local", *words]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DISTGAN_CACHE": f"{place}/cache"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        import torch

        newest = max(Path(place, "run", "checkpoints").glob("[0-9]*"))
        state = torch.load(newest / "state.pt", weights_only=True)
    digest = hashlib.sha256()
    for part in ("G", "D", "ema", "g_opt", "d_opt", "augment_p"):
        _feed(digest, part, state[part])
    return digest.hexdigest()


def _feed(digest: Any, name: str, value: Any) -> None:
    import torch

    if isinstance(value, dict):
        for key in sorted(value, key=str):
            _feed(digest, f"{name}/{key}", value[key])
    elif isinstance(value, torch.Tensor):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", help="runs whose name holds this text")
    options = parser.parse_args()
    names = [name for name in RUNS if not options.only or options.only in name]
    before = json.loads(options.file.read_text(encoding="utf-8")) if options.action == "compare" else {}
    found, differ = {}, []
    for name in names:
        found[name] = final_hash(*RUNS[name])
        word = "" if not before else "equal" if before.get(name) == found[name] else "DIFFERENT"
        differ += [name] if word == "DIFFERENT" else []
        print(f"{found[name][:16]}  {name}  {word}", flush=True)
    if options.action == "record":
        options.file.write_text(json.dumps(found, indent=1))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
