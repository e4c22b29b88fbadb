"""`startup`: seconds from a command to the end of its first training step, beside what Python, torch and Ray need."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import CPUMeter, in_turn, print_table, spread, write_found
from benchmarks.parts import read_settings

LIMIT_S = 300.0
IMPORTS, STOCK = "imports", "stock TorchTrainer, 2 workers"
CONTENDERS = (IMPORTS, "one worker", "one worker, without Ray", STOCK, "two workers")
REFERENCE = {"one worker": IMPORTS, "one worker, without Ray": IMPORTS, "two workers": STOCK}

Sample = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender starts (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="contenders (default: all)")
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-startup.json)")


def run(options: argparse.Namespace) -> int:
    """Seconds from the command to the end of the first step, in interleaved rounds.

    `imports` is `python -c "import torch, ray.train.torch"`. The stock TorchTrainer has two workers, builds the same
    nets and does one step of each; Ray starts without its dashboard. Each start is a process of its own.
    """
    config = read_settings(options)
    with tempfile.TemporaryDirectory(prefix="distgan-benchmark-") as place:
        home = Path(place)
        made: dict[str, Callable[[], Sample]] = {
            IMPORTS: lambda: imports(home),
            "one worker": lambda: first_step(config, home, {"engine": "ray", "workers": 1}),
            "one worker, without Ray": lambda: first_step(config, home, {"engine": "local", "workers": 1}),
            STOCK: lambda: stock(config, home),
            "two workers": lambda: first_step(config, home, {"engine": "ray", "workers": 2, "ray.cpus_per_worker": 1}),
        }
        chosen = {name: made[name] for name in CONTENDERS if name in options.only}
        found = in_turn(chosen, options.rounds, lambda sample: f"{sample['seconds']:.2f} s")
    show(found)
    write_found(options, "startup", found)
    return 0


def imports(home: Path) -> Sample:
    marker = home / f"imports-{time.time_ns()}"
    code = f"import torch, ray.train.torch, time; open({str(marker)!r}, 'w').write(str(time.time()))"
    return timed([sys.executable, "-c", code], lambda: _number(marker))


def first_step(config: Any, home: Path, changes: dict[str, Any]) -> Sample:
    """One start of a run with a log line after each step; the first of them tells when the first step had ended."""
    import yaml

    from distgan.config import load_config

    name, step = f"start-{time.time_ns()}", config.batch_size / 1000
    short = {"storage": str(home), "name": name, "kimg": 1000, "log.every_kimg": step, "metrics.every_kimg": 1e6}
    settings = home / f"{name}.yaml"
    made = load_config(base=config.model_dump(mode="json"), overrides=short | changes)
    settings.write_text(yaml.safe_dump(made.model_dump(mode="json")))
    lines = home / name / "metrics.jsonl"

    def reached() -> float:
        if not lines.exists():
            return 0.0
        found = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        return next((float(line["time"]) for line in found if line["nimg"] > 0 and "event" not in line), 0.0)

    return timed([sys.executable, "-m", "distgan", "train", "--config", str(settings)], reached, home)


def stock(config: Any, home: Path) -> Sample:
    """Ray Train as its documents show it, with the same nets and losses, for one step on noise in place of images."""
    script, marker = home / "stock.py", home / f"stock-{time.time_ns()}"
    script.write_text(STOCK_SCRIPT)
    settings = json.dumps(config.model_dump(mode="json"))
    return timed([sys.executable, str(script), settings, str(marker), str(home)], lambda: _number(marker), home)


STOCK_SCRIPT = """
import json, sys, time
import ray, torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model


def train(settings):
    from distgan.config import validate
    from distgan.gan.step import d_step_loss, frozen, g_step_loss
    from distgan.kinds.image.augment import Augment  # what any recipe imports
    from distgan.models import build_discriminator, build_generator

    config = validate(settings["config"])
    torch.manual_seed(0)
    build = {"channels": 1, "resolution": 28, "n_classes": 10}
    how = {"broadcast_buffers": False}
    G = prepare_model(build_generator(config.model, **build), parallel_strategy_kwargs=how)
    D = prepare_model(build_discriminator(config.model, **build), parallel_strategy_kwargs=how)
    optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3, fused=True) for network in (G, D)]
    n = config.batch_size // 2
    x, c, z = torch.rand(n, 1, 28, 28), torch.arange(n) % 10, torch.randn(n, config.model.latent_dim)
    loss, _ = d_step_loss(G.module, D, x, c, z, c, config.loss)
    loss.backward()
    optimizers[1].step()
    with frozen(D.module):
        loss, _ = g_step_loss(G, D.module, x, c, z, c, config.loss)
        loss.backward()
    optimizers[0].step()
    if ray.train.get_context().get_world_rank() == 0:
        open(settings["marker"], "w").write(str(time.time()))
    ray.train.report({"loss": float(loss)})


if __name__ == "__main__":
    ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    TorchTrainer(
        train,
        train_loop_config={"config": json.loads(sys.argv[1]), "marker": sys.argv[2]},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="stock", storage_path=sys.argv[3]),
    ).fit()
"""


def timed(command: list[str], reached: Callable[[], float], home: Path | None = None) -> Sample:
    """Wall and processor seconds from starting a command to the time that `reached` tells; the command is stopped
    then.
    """
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    if home is not None:
        env |= {"DISTGAN_CACHE": f"{home}/cache", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        start = time.time()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=env)
        with CPUMeter(process.pid, 0.1) as meter:
            while not reached() and process.poll() is None and time.time() - start < LIMIT_S:
                time.sleep(0.05)
        stop = reached()
        process.terminate()
        process.wait(timeout=120)
        if not stop:
            said.seek(0)
            raise SystemExit(f"{' '.join(command[:6])} never got to its first step:\n{said.read()[-3000:]}")
    return {"seconds": stop - start, "cpu_s": meter.between(start, stop)}


def show(found: dict[str, list[Sample]]) -> None:
    """Seconds of each contender, and how many times its reference's."""
    rows = []
    for name, samples in found.items():
        cpu = [sample["cpu_s"] for sample in samples if sample["cpu_s"] is not None]
        row = [name, spread([s["seconds"] for s in samples], 2), spread(cpu, 2) if cpu else "-", "-"]
        reference = found.get(REFERENCE.get(name, ""))
        if reference is not None:
            pairs = zip(samples, reference, strict=True)
            row[3] = f"{spread([a['seconds'] / b['seconds'] for a, b in pairs], 2)} of {REFERENCE[name]}"
        rows.append(row)
    print_table(["", "s", "CPU s", "ratio"], rows)


def _number(file: Path) -> float:
    try:
        return float(file.read_text(encoding="utf-8") or 0)
    except (OSError, ValueError):
        return 0.0
