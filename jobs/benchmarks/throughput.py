"""`throughput`: training steps a second, of distgan, of the textbook loop, and of the steps with nothing around them."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring import WARMUP_S, CPUMeter, Sample, add_common, report_rates, rounds, run_process

CLASSIC = {
    "data.name": "mnist10k", "data.resolution": 32, "batch_size": 64, "model.name": "dcgan", "model.g_width": 32, "model.d_width": 32,
    "model.g_norm": "batch", "model.d_norm": "batch", "model.latent_dim": 100, "model.conditioning": "none", "loss.name": "non-saturating",
    "loss.r1_gamma": 0, "loss.r2_gamma": 0, "augment.kind": "none",
    **{f"optim.{player}.{name}": value for player in "gd" for name, value in (("lr", 2e-4), ("beta1", 0.5), ("beta2", 0.999))},
    **{f"optim.{player}.{name}_schedule.kind": "constant" for player in "gd" for name in ("lr", "beta2")},
}  # fmt: skip
"""DCGAN on 32 x 32 digits, as the tutorials have it: what all contenders of `throughput` train unless told otherwise."""


ALSO: dict[str, dict[str, Any]] = {
    "layout": {"training.channels_last": "on"},
    "reuse": {"training.reuse_fakes": True},
    "bf16": {"training.precision": "bf16"},
    "compile": {"training.compile": "on"},
    "eager": {"training.compile": "off"},
    "float32": {"training.precision": "fp32"},
    "standard layout": {"training.channels_last": "off"},
}
"""Options of the step that a user may turn on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common(parser, 20)
    parser.add_argument(
        "--workers", type=int, default=1, help="compare so many one-thread workers with one worker that has as many threads"
    )
    parser.add_argument(
        "--also", nargs="+", choices=ALSO, default=[], help="distgan alone again, with these added one after another: %(choices)s"
    )
    parser.add_argument("--loader-workers", type=int, default=2, help="processes of the textbook loop's DataLoader (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Training steps a second: distgan under Ray and alone, the textbook loop, and the step functions with nothing around them."""
    from distgan.cli import parse_overrides
    from distgan.config import load_config

    file, typed = parse_overrides(options.settings)
    config = load_config(file, typed if file else CLASSIC | typed).model_dump(mode="json")
    with tempfile.TemporaryDirectory(prefix="distgan-benchmark-") as place:
        trial = _Trial(Path(place), config, options.seconds, options.loader_workers)
        rate = trial.bare("limit", 3)().images_per_s  # how long a run must be
        print(f"calibrated: {rate:.0f} images/s", file=sys.stderr, flush=True)
        if options.workers > 1:
            n = options.workers
            one, many = f"1 worker of {n} threads", f"{n} workers of 1 thread"
            contenders = {
                one: trial.distgan("ray", rate, {"workers": 1, "ray.cpus_per_worker": n}),
                many: trial.distgan("ray", rate, {"workers": n, "ray.cpus_per_worker": 1}),
            }
            references = [one]
        else:
            contenders = {
                "distgan on Ray": trial.distgan("ray", rate, {"workers": 1}),
                "distgan alone": trial.distgan("local", rate, {"workers": 1}),
                "limit": trial.bare("limit"),
            }
            changes: dict[str, Any] = {"workers": 1}
            for name in options.also:
                changes = changes | ALSO[name]
                contenders[f"... + {name}"] = trial.distgan("local", rate, changes)
            references = ["limit"]
            if has_textbook(config):
                contenders["textbook"] = trial.bare("textbook")
                references.append("textbook")
        beside = "limit" if "limit" in contenders else None
        report_rates(options, "throughput", rounds(contenders, options.rounds, beside), references)


def has_textbook(config: dict[str, Any]) -> bool:
    """The textbook loop knows binary cross-entropy without labels, penalties and augmentation."""
    loss, model = config["loss"], config["model"]
    plain = loss["name"] == "non-saturating" and not (loss["r1_gamma"] or loss["r2_gamma"] or loss["gp_lambda"])
    return plain and model["conditioning"] == "none" and config["augment"]["kind"] == "none"


class _Trial:
    """Makes the contenders of `throughput` for one set of settings."""

    def __init__(self, place: Path, config: dict[str, Any], seconds: float, loader_workers: int) -> None:
        self.place, self.config, self.seconds, self.loader_workers = place, config, seconds, loader_workers
        self.env = {"DISTGAN_CACHE": str(place / "cache")}
        self._count = 0

    def distgan(self, engine: str, rate: float, changes: dict[str, Any]) -> Callable[[], Sample]:
        """A whole run with logs, samples and checkpoints at their default cadence; rates come from its metrics.jsonl."""

        def run() -> Sample:
            import yaml

            from distgan.config import load_config

            self._count += 1
            name, kimg = f"run-{self._count}", max(rate * (self.seconds + WARMUP_S) / 1000, 2.0)
            own = {"engine": engine, "storage": str(self.place), "name": name, "kimg": kimg, "metrics.final_samples": 2000}
            config = load_config(base=self.config, overrides=own | changes)
            file = self.place / f"{name}.yaml"
            file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
            command = [sys.executable, "-m", "distgan", "train", "--config", str(file)]
            _, meter = run_process(command, self.env, 20 * self.seconds + 300)
            lines = [json.loads(line) for line in (self.place / name / "metrics.jsonl").read_text().splitlines()]
            return _from_log(lines, meter)

        return run

    def bare(self, name: str, seconds: float | None = None) -> Callable[[], Sample]:
        """A loop of this file in a process of its own."""

        def run() -> Sample:
            file = self.place / "config.json"
            file.write_text(json.dumps(self.config))
            command = [
                sys.executable, sys.argv[0], "loop", name, str(file), "--seconds", str(seconds or self.seconds),
                "--loader-workers", str(self.loader_workers),
            ]  # fmt: skip
            said, meter = run_process(command, self.env, 20 * self.seconds + 300)
            found = json.loads(said.splitlines()[-1])
            rate, cpu = found["images"] / (found["stop"] - found["start"]), meter.between(found["start"], found["stop"])
            return Sample(rate, rate, cpu / found["images"] * 1000 if cpu is not None else None)

        return run


def _from_log(lines: list[dict[str, Any]], meter: CPUMeter) -> Sample:
    """Rates between the warm-up and the last line but one (the last one waits for the final measurement)."""
    points = [line for line in lines if "images_per_s" in line][:-1]
    window = [p for p in points if p["time"] >= points[0]["time"] + WARMUP_S]
    if len(window) < 3:
        raise SystemExit(f"only {len(window)} log lines after {WARMUP_S:g} s of warm-up; give more --seconds")
    steps = [b["nimg"] - a["nimg"] for a, b in itertools.pairwise(window)]
    training_s = sum(n / b["images_per_s"] for n, b in zip(steps, window[1:], strict=True))
    start, stop = window[0]["time"], window[-1]["time"]
    cpu = meter.between(start, stop)
    return Sample(sum(steps) / training_s, sum(steps) / (stop - start), cpu / sum(steps) * 1000 if cpu is not None else None)


# The two loops without distgan's; each runs in a process of its own and prints what it did as its last line.


def add_loop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=("limit", "textbook"))
    parser.add_argument("config", help="settings as JSON")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--loader-workers", type=int, default=2)


def run_loop(options: argparse.Namespace) -> None:
    """One loop without distgan's in this process; `throughput` uses it."""
    import torch

    from distgan.config import validate
    from distgan.data import describe

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = validate(json.loads(Path(options.config).read_text()))
    config = config.for_classes(describe(config.data).n_classes)
    start = images = 0.0
    begun = time.time()
    for count in limit_steps(config) if options.name == "limit" else textbook_steps(config, options.loader_workers):
        now = time.time()
        if not start and now - begun >= WARMUP_S:
            start, images = now, 0
            continue
        images += count
        if start and now - start >= options.seconds:
            break
    print(json.dumps({"images": images, "start": start, "stop": now}))


def limit_steps(config: Any) -> Iterator[int]:
    """Both steps of distgan's algorithm on tensors that are at hand; yields the images of each. No logs, averages or checkpoints.

    In the run's precision and layout; nothing is recorded as a CUDA graph."""
    import torch

    from distgan.data import open_images
    from distgan.gan.step import d_step_loss, frozen, g_step_loss
    from distgan.training.context import default_device
    from distgan.training.state import TrainState, channels_last, uses_bf16

    device, real = default_device(), open_images(config.data)
    labelled = config.model.conditioning != "none"
    size = {"channels": real.channels, "resolution": real.resolution, "n_classes": len(real.classes) if labelled else 0}
    state = TrainState(config, **size, device=device)
    G, D, n = state.G, state.D, config.batch_size
    images = torch.tensor(real.images[: 64 * n], device=device).float() / 127.5 - 1
    if channels_last(config, device):
        images = images.contiguous(memory_format=torch.channels_last)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config, device))
    labels = torch.tensor(real.labels[: 64 * n], device=device) if labelled else None

    def noise() -> Any:
        return torch.randn(n, config.model.latent_dim, device=device)

    share = torch.rand(n, device=device) if config.loss.gp_lambda else None
    at = number = 0
    while True:
        with_penalty = number % config.loss.penalty_every == 0
        for _ in range(config.training.n_dis):
            at = at + n if at + 2 * n <= len(images) else 0
            x, c = images[at : at + n], labels[at : at + n] if labels is not None else None
            with autocast:
                loss, _ = d_step_loss(G, D, x, c, noise(), c, config.loss, with_penalty=with_penalty, share=share)
            state.d_opt.zero_grad(set_to_none=True)
            loss.backward()
            state.d_opt.step()
        with frozen(D):
            with autocast:
                loss, _ = g_step_loss(G, D, x, c, noise(), c, config.loss)
            state.g_opt.zero_grad(set_to_none=True)
            loss.backward()
        state.g_opt.step()
        number += 1
        yield n * config.training.n_dis


def textbook_steps(config: Any, loader_workers: int) -> Iterator[int]:
    """The loop of the tutorials: PIL images through transforms in a DataLoader, three backward passes, losses read at every step."""
    import torch
    from PIL import Image
    from torch import nn
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    from distgan.data import open_images
    from distgan.models import build_discriminator, build_generator
    from distgan.models.layers import GreyConv2d, GreyConvTranspose2d
    from distgan.training.context import default_device

    stored = open_images(config.data.model_copy(update={"resolution": None}))
    side, channels = config.data.resolution or stored.resolution, stored.channels
    middle = (0.5,) * channels
    prepare = transforms.Compose([transforms.Resize(side), transforms.ToTensor(), transforms.Normalize(middle, middle)])

    class Pictures(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(stored)

        def __getitem__(self, index: int) -> Any:
            pixels = stored.images[index].transpose(1, 2, 0)
            return prepare(Image.fromarray(pixels[..., 0] if channels == 1 else pixels))

    device, size = default_device(), {"channels": channels, "resolution": side}
    G, D = build_generator(config.model, **size).to(device), build_discriminator(config.model, **size).to(device)
    for module in (*G.modules(), *D.modules()):  # torch's own layers, as in the tutorials
        module.__class__ = {GreyConv2d: nn.Conv2d, GreyConvTranspose2d: nn.ConvTranspose2d}.get(type(module), type(module))
    g, d = config.optim.g, config.optim.d
    g_opt = torch.optim.Adam(G.parameters(), lr=g.lr, betas=(g.beta1, g.beta2))
    d_opt = torch.optim.Adam(D.parameters(), lr=d.lr, betas=(d.beta1, d.beta2))
    criterion = nn.BCELoss()
    loader = DataLoader(Pictures(), batch_size=config.batch_size, shuffle=True, num_workers=loader_workers, drop_last=True)
    while True:
        for batch in loader:
            x = batch.to(device)
            ones, zeros = torch.ones(len(x), device=device), torch.zeros(len(x), device=device)
            D.zero_grad()
            output = torch.sigmoid(D(x))
            real_loss = criterion(output, ones)
            real_loss.backward()
            fake = G(torch.randn(len(x), config.model.latent_dim, device=device))
            output = torch.sigmoid(D(fake.detach()))
            fake_loss = criterion(output, zeros)
            fake_loss.backward()
            d_opt.step()
            G.zero_grad()
            output = torch.sigmoid(D(fake))
            g_loss = criterion(output, ones)
            g_loss.backward()
            g_opt.step()
            _ = (real_loss + fake_loss).item(), g_loss.item(), output.mean().item()
            yield len(x)
