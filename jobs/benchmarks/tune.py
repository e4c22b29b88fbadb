"""`tune`: what a trial costs, beside the patterns that Ray's documents and examples show."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTENDERS = ("distgan", "function", "nested", "ray-dcgan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds, each contender once in each (default: %(default)s)"
    )
    parser.add_argument("--trials", type=int, default=6, help="trials of a search (default: %(default)s)")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at once (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=32, help="training steps of a trial, of 32 images each (default: %(default)s)"
    )
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=CONTENDERS, help="contenders")
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Seconds a trial: distgan's reused processes, a plain function, the documented Train in Tune, and Ray's own DCGAN
    example.

    The first three do the same work: the training loop of distgan, measured and saved three times. Ray's example does
    its own, with as many steps, on the same digits. Every search runs in a process of its own; the start of Ray is not
    counted.
    """
    if options.contender:
        print(json.dumps(measure(options.contender, options.trials, options.concurrent, options.steps)))
        return 0
    found: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
    for _ in range(options.rounds):
        for name in found:
            words = [
                "--contender",
                name,
                "--trials",
                options.trials,
                "--concurrent",
                options.concurrent,
                "--steps",
                options.steps,
            ]
            command = [sys.executable, "-m", "benchmarks.tune", *map(str, words)]
            env = {
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parent.parent),
                "OMP_NUM_THREADS": "1",
                "RAY_AUTH_MODE": "disabled",
            }
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, timeout=1800, check=True)
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    if options.json:
        Path(options.json).write_text(
            json.dumps({"trials": options.trials, "concurrent": options.concurrent, "found": found}, indent=1),
            encoding="utf-8",
        )
    print(f"{'':12}{'s a trial':>12}{'trials an hour':>18}{'against nested':>18}")
    each = {
        name: statistics.median(sample["seconds"] / sample["trials"] for sample in samples)
        for name, samples in found.items()
    }
    for name, seconds in each.items():
        ratio = f"{each['nested'] / seconds:.1f} x" if "nested" in each else ""
        print(f"{name:12}{seconds:12.2f}{3600 / seconds:18.0f}{ratio:>18}")
    return 0


def measure(name: str, trials: int, concurrent: int, steps: int) -> dict[str, float]:
    """One search on a private cluster with as many CPUs as trials at once; returns its seconds."""
    from distgan.config import RayConfig
    from distgan.orchestration.cluster import cluster

    with tempfile.TemporaryDirectory(prefix="distgan-benchmark-") as place:
        os.environ |= {
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            "RAY_AIR_NEW_OUTPUT": "0",
            "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        }
        with cluster(RayConfig()) as found:
            if found.total("CPU") < concurrent:
                raise SystemExit(f"--concurrent {concurrent}: this machine has {found.total('CPU'):g} CPUs")
            search: dict[str, Callable[[str, int, int, int], int]] = {
                "distgan": _distgan,
                "function": _function,
                "nested": _nested,
                "ray-dcgan": _ray_dcgan,
            }
            begin = time.perf_counter()
            ended = search[name](place, trials, concurrent, steps)
            seconds = time.perf_counter() - begin
    if ended != trials:
        raise SystemExit(f"{name}: {ended} of {trials} trials ended")
    return {"seconds": seconds, "trials": trials}


def settings(place: str, trials: int, concurrent: int, steps: int) -> Any:
    """A short trial: a small network on 512 digits, measured on 200 images and saved three times."""
    from distgan.config import load_config

    kimg = steps * 32 / 1000
    words = {
        "storage": place,
        "name": "search",
        "kimg": kimg,
        "batch_size": 32,
        "data.limit": 512,
        "log.tensorboard": False,
        "log.every_kimg": kimg / 3,
        "log.samples_every_kimg": kimg / 3,
        "metrics.every_kimg": kimg / 3,
        "metrics.samples": 200,
        "metrics.final_samples": 200,
        "checkpoint.every_kimg": kimg / 3,
        "tune.num_samples": trials,
        "tune.max_concurrent_trials": concurrent,
        "tune.grace_share": 1 / 3,
        "tune.scheduler": "none",
        "tune.searcher": "random",
        "tune.confirm_top": 0,
        "ray.cpus_per_worker": 1,
    }
    return load_config(overrides=words, base={"tune": {"space": {"g_lr": {"loguniform": [1e-4, 1e-3]}}}}).for_classes(
        10
    )


def _distgan(place: str, trials: int, concurrent: int, steps: int) -> int:
    from dataclasses import replace

    from distgan.orchestration.placement import Placement
    from distgan.orchestration.tune.search import _environment, run_trials
    from distgan.orchestration.tune.space import open_space
    from distgan.storage import Folder

    config = settings(place, trials, concurrent, steps)
    _environment()
    space = replace(open_space(config), config=config)
    table = run_trials(space, Folder(place).child("search"), "trials", Placement(1, 1, 1, 0.0), concurrent)
    return sum(row.state == "done" for row in table.rows)


def _one(settings: dict[str, Any], lr: float, folder: str, report: Callable[[dict[str, Any]], None]) -> None:
    """The training of one trial, as a function that knows nothing of distgan's search would run it."""
    import torch

    from distgan.config import validate
    from distgan.storage import Folder
    from distgan.training.context import Context
    from distgan.training.loop import train

    torch.set_num_threads(1)
    config = validate(settings)
    adam = config.optim.g.model_copy(update={"lr": lr})
    config = config.model_copy(update={"optim": config.optim.model_copy(update={"g": adam})})
    train(config, Context(torch.device("cpu"), on_report=report), Folder(folder))


def _function(place: str, trials: int, concurrent: int, steps: int) -> int:
    """Tune's function pattern."""
    from ray import tune

    base = settings(place, trials, concurrent, steps).model_dump(mode="json")

    def trainable(config: dict[str, Any]) -> None:
        _one(base, config["lr"], f"{place}/{tune.get_context().get_trial_id()}", tune.report)

    return _tune(trainable, place, trials, concurrent, {"lr": tune.loguniform(1e-4, 1e-3)}, {"cpu": 1})


def _nested(place: str, trials: int, concurrent: int, steps: int) -> int:
    """The documented way: a function that drives a TorchTrainer with TuneReportCallback."""
    import ray.train
    import ray.train.torch
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    base = settings(place, trials, concurrent, steps).model_dump(mode="json")

    def worker(config: dict[str, Any]) -> None:
        import tempfile

        def report(metrics: dict[str, Any]) -> None:  # the callback forwards what comes with a checkpoint
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "empty").touch()
                ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

        _one(base, config["lr"], config["folder"], report)

    def trainable(config: dict[str, Any]) -> None:
        name = tune.get_context().get_trial_id()
        ray.train.torch.TorchTrainer(
            worker,
            train_loop_config={**config, "folder": f"{place}/{name}"},
            scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(name=f"train-{name}", storage_path=place, callbacks=[TuneReportCallback()]),
        ).fit()

    # The driver of a trial may not take the CPU that its worker needs
    return _tune(trainable, place, trials, concurrent, {"lr": tune.loguniform(1e-4, 1e-3)}, {"cpu": 0, "memory": 2**20})


def _ray_dcgan(place: str, trials: int, concurrent: int, steps: int) -> int:
    """The class that Ray bundles as its GAN example, on the packaged digits in place of a download, with an untrained
    classifier.
    """
    import ray
    from ray import tune
    from ray.tune.examples.pbt_dcgan_mnist import common, pbt_dcgan_mnist_trainable

    class OnDigits(pbt_dcgan_mnist_trainable.PytorchTrainable):  # type: ignore[misc, name-defined]
        def setup(self, config: dict[str, Any]) -> None:
            import torch

            torch.set_num_threads(1)
            pbt_dcgan_mnist_trainable.get_data_loader = _digits  # type: ignore[attr-defined]
            super().setup(config)

        def step(self) -> dict[str, Any]:
            result = super().step()
            return {**result, "done": self.iteration + 1 >= max(1, steps // common.train_iterations_per_step)}

    classifier = ray.put(common.Net().eval())
    space = {"mnist_model_ref": classifier, "netG_lr": tune.loguniform(1e-4, 1e-3), "netD_lr": 1e-4, "use_gpu": False}
    return _tune(OnDigits, place, trials, concurrent, space, {"cpu": 1})


def _digits(data_dir: str = "") -> Any:
    import numpy as np
    import torch

    from distgan.config import DataConfig
    from distgan.kinds import open_samples

    found = open_samples(DataConfig(limit=512))
    images = torch.from_numpy(np.array(found.samples)).float().div(255).sub(0.13066).div(0.30131)
    images = torch.nn.functional.interpolate(images, 32)
    data = torch.utils.data.TensorDataset(images, torch.zeros(len(images)))
    return torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)


def _tune(
    trainable: Any, place: str, trials: int, concurrent: int, space: dict[str, Any], resources: dict[str, float]
) -> int:
    from ray import tune

    results = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space=space,
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(name="tune", storage_path=place, verbose=0),
    ).fit()
    return len(results) - results.num_errors


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=run.__doc__)
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
