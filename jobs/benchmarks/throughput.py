"""`throughput`: training steps a second, of distgan, of the textbook loop, and of the steps with nothing around
them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.parts import CLASSIC, settle
from benchmarks.slices import Program, in_slices, points_of_a_loop, points_of_a_run, report, started

TELL_S = 0.25
"""How often the loops without distgan's say how far they are."""

ALSO: dict[str, dict[str, Any]] = {
    "new images": {"training.reuse_fakes": False},
    "bf16": {"training.precision": "bf16"},
    "eager": {"training.cuda_graphs": "off"},
    "recorded": {"training.cuda_graphs": "on"},
    "float32": {"training.precision": "fp32"},
}
"""Options of the step that a user may turn on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=8, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6, help="length of a turn (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-throughput.json)")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="compare so many one-thread workers under torchrun and on Ray, and one worker that has as many threads",
    )
    parser.add_argument(
        "--also",
        nargs="+",
        choices=ALSO,
        default=[],
        help="distgan alone again, with these added one after another: %(choices)s",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="contenders to compare with the bare steps, by their names in the table",
    )
    parser.add_argument(
        "--loader-workers",
        type=int,
        default=2,
        help="processes of the textbook loop's DataLoader (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Training steps a second: distgan under Ray and alone, the textbook loop, and the step functions with nothing
    around them.

    All are started and take turns of a few seconds, the others stopped meanwhile with all their processes. Logs, sample
    grids and checkpoints of distgan are on, at their default cadence, and in the figures; measurements (FID) are off.
    """
    from distgan.config import load_config
    from distgan.config.command_line import parse_overrides

    file, typed = parse_overrides(options.settings)
    config = load_config(file, typed if file else CLASSIC | typed).model_dump(mode="json")
    with tempfile.TemporaryDirectory(prefix="distgan-benchmark-") as place:
        trial = _Trial(Path(place), config, options.loader_workers)
        if options.workers > 1:
            n = options.workers
            reference = f"{n} workers of torchrun"
            several = {"workers": n, "ray.cpus_per_worker": 1}
            make = {
                reference: trial.distgan("local", {"workers": n}, torchrun=n),
                f"{n} workers on Ray": trial.distgan("ray", several),
                f"1 worker of {n} threads": trial.distgan("ray", {"workers": 1, "ray.cpus_per_worker": n}),
            }
        else:
            reference = "bare steps"
            make = {
                reference: trial.bare("limit"),
                "distgan on Ray": trial.distgan("ray", {"workers": 1}),
                "distgan alone": trial.distgan("local", {"workers": 1}),
            }
            changes: dict[str, Any] = {"workers": 1}
            for name in options.also:
                changes = changes | ALSO[name]
                make[f"... + {name}"] = trial.distgan("local", changes)
            if has_textbook(config):
                make["textbook"] = trial.bare("textbook")
            if options.only:
                make = {name: start for name, start in make.items() if name == reference or name in options.only}
        with started(make) as programs:
            found = in_slices(programs, reference, options.rounds, options.seconds)
        report(options, "throughput", found, reference, also="textbook")


def has_textbook(config: dict[str, Any]) -> bool:
    """The textbook loop knows all losses and penalties, but neither augmentation nor an auxiliary classifier."""
    return config["augment"]["kind"] == "none" and config["model"]["conditioning"] != "auxiliary"


class _Trial:
    """Makes the contenders of `throughput` for one set of settings."""

    def __init__(self, place: Path, config: dict[str, Any], loader_workers: int) -> None:
        self.place, self.config, self.loader_workers = place, config, loader_workers
        self.env = {"DISTGAN_CACHE": str(place / "cache")}
        self._count = 0

    def distgan(self, engine: str, changes: dict[str, Any], torchrun: int = 0) -> Callable[[], Program]:
        """A run with logs, samples and checkpoints at their default cadence, longer than anyone waits."""

        def start() -> Program:
            import yaml

            from distgan.config import load_config

            self._count += 1
            name = f"run-{self._count}"
            own = {
                "engine": engine,
                "storage": str(self.place),
                "name": name,
                "kimg": 10**6,
                "metrics.every_kimg": 10**6,
            }
            config = load_config(base=self.config, overrides=own | changes)
            file = self.place / f"{name}.yaml"
            file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(torchrun)]
            words = [*(launcher if torchrun else []), "-m", "distgan", "train", "--config", str(file)]
            return Program(name, [sys.executable, *words], self.env, lambda: points_of_a_run(self.place / name))

        return start

    def bare(self, name: str) -> Callable[[], Program]:
        """A loop of this file in a process of its own."""

        def start() -> Program:
            file, progress = self.place / "config.json", self.place / f"{name}.progress"
            file.write_text(json.dumps(self.config))
            command = [
                sys.executable,
                sys.argv[0],
                "loop",
                name,
                str(file),
                str(progress),
                "--loader-workers",
                str(self.loader_workers),
            ]
            return Program(name, command, self.env, lambda: points_of_a_loop(progress))

        return start


# The two loops without distgan's; each runs in a process of its own and writes down how far it is.


def add_loop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=("limit", "textbook"))
    parser.add_argument("config", help="settings as JSON")
    parser.add_argument("progress", help="file for lines of time and images")
    parser.add_argument("--loader-workers", type=int, default=2)


def run_loop(options: argparse.Namespace) -> None:
    """One loop without distgan's in this process, until it is ended; `throughput` uses it."""
    from distgan.training.threads import keep_memory, share_cores

    share_cores()  # both as `distgan train` does
    keep_memory()
    import torch

    from distgan.config import validate
    from distgan.kinds import describe
    from distgan.training.context import default_device

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = validate(json.loads(Path(options.config).read_text(encoding="utf-8")))
    config = config.for_classes(describe(config.data).n_classes)
    images, told, device = 0, 0.0, default_device()
    with Path(options.progress).open("w", encoding="utf-8", buffering=1) as file:
        for count in limit_steps(config) if options.name == "limit" else textbook_steps(config, options.loader_workers):
            images += count
            if time.time() - told >= TELL_S:
                settle(device)
                told = time.time()
                file.write(f"{told} {images}\n")


def limit_steps(config: Any) -> Iterator[int]:
    """Both steps of distgan's algorithm on tensors that are at hand; yields the images of each. No logs, averages or
    checkpoints.

    In the run's precision and layout; nothing is recorded as a CUDA graph.
    """
    import torch

    from distgan.gan.step import d_step_loss, frozen, g_step_loss
    from distgan.kinds import get_kind, open_samples
    from distgan.training.context import default_device
    from distgan.training.state import TrainState, uses_bf16
    from distgan.training.train_step import CachedGenerator

    device, real = default_device(), open_samples(config.data)
    labelled = config.model.conditioning != "none"
    size = {**get_kind(config.data).network_arguments(real.spec), "n_classes": len(real.classes) if labelled else 0}
    state = TrainState(config, **size, device=device)
    G, D, n, reuse = state.G, state.D, config.batch_size, config.training.reuses_fakes
    shown = CachedGenerator(G, keep_graph=reuse)
    images = torch.tensor(real.samples[: 64 * n], device=device).float() / 127.5 - 1
    images = images.contiguous(memory_format=torch.channels_last)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config, device))
    labels = torch.tensor(real.labels[: 64 * n], device=device) if labelled else None

    def noise() -> Any:
        return torch.randn(n, config.model.latent_dim, device=device)

    alpha = torch.rand(n, device=device) if config.loss.gp_lambda else None
    at = number = 0
    while True:
        with_penalty = number % config.loss.penalty_every == 0
        for _ in range(config.training.n_dis):
            at = at + n if at + 2 * n <= len(images) else 0
            x, c = images[at : at + n], labels[at : at + n] if labels is not None else None
            with autocast:
                loss, _ = d_step_loss(shown, D, x, c, noise(), c, config.loss, with_penalty=with_penalty, alpha=alpha)
            state.d_opt.zero_grad(set_to_none=True)
            loss.backward()
            state.d_opt.step()
        with frozen(D):
            with autocast:
                loss, _ = g_step_loss(shown.again if reuse else G, D, x, c, noise(), c, config.loss)
            state.g_opt.zero_grad(set_to_none=True)
            loss.backward()
        state.g_opt.step()
        number += 1
        yield n * config.training.n_dis


def textbook_steps(config: Any, loader_workers: int) -> Iterator[int]:
    """The textbook loop: the same networks, of torch's own operations; yields the images of each step."""
    steps = _textbook(config, loader_workers)
    while True:
        with torchs_own():
            images = next(steps)
        yield images


@contextmanager
def torchs_own() -> Iterator[None]:
    """Inside, networks of this package compute with torch's operations alone."""
    from distgan import second_order
    from distgan.models import layers

    ours = [(second_order, "_differentiated"), (layers, "_thin")]
    before = [getattr(module, name) for module, name in ours]
    for module, name in ours:
        setattr(module, name, lambda x: False)
    try:
        yield
    finally:
        for (module, name), own in zip(ours, before, strict=True):
            setattr(module, name, own)


def _textbook(config: Any, loader_workers: int) -> Iterator[int]:
    """The loop as tutorials have it: PIL images through transforms in a DataLoader, losses read at every step.

    Without penalties and with cross-entropy it is PyTorch's DCGAN tutorial. Other losses have one backward pass a
    player, each penalty an inner gradient of its own. An average of G is kept where distgan keeps one.
    """
    import copy

    import torch
    from PIL import Image
    from torch import nn
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    from distgan.kinds import open_samples
    from distgan.models import build_discriminator, build_generator
    from distgan.registry import LOSSES
    from distgan.training.context import default_device

    stored = open_samples(config.data.model_copy(update={"resolution": None, "channels": None}))
    shown = open_samples(config.data)
    channels, side, _ = shown.spec.shape
    middle = (0.5,) * channels
    prepare = transforms.Compose([transforms.Resize(side), transforms.ToTensor(), transforms.Normalize(middle, middle)])
    labelled = config.model.conditioning != "none"

    class Pictures(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(stored)

        def __getitem__(self, index: int) -> Any:
            pixels = stored.samples[index].transpose(1, 2, 0)
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert(
                "L" if channels == 1 else "RGB"
            )
            return prepare(image), int(stored.labels[index]) if labelled else 0

    device = default_device()
    size = {"channels": channels, "resolution": side, "n_classes": len(shown.classes) if labelled else 0}
    G, D = build_generator(config.model, **size).to(device), build_discriminator(config.model, **size).to(device)
    average = copy.deepcopy(G)
    g, d, loss, n_dis = config.optim.g, config.optim.d, config.loss, config.training.n_dis
    g_opt = torch.optim.Adam(G.parameters(), lr=g.lr, betas=(g.beta1, g.beta2))
    d_opt = torch.optim.Adam(D.parameters(), lr=d.lr, betas=(d.beta1, d.beta2))
    classic = loss.name == "non-saturating" and n_dis == 1 and not (any(loss.gammas) or loss.gp_lambda or labelled)
    criterion = nn.BCELoss()
    loader = DataLoader(
        Pictures(), batch_size=config.batch_size, shuffle=True, num_workers=loader_workers, drop_last=True
    )

    def noise(n: int) -> Any:
        return torch.randn(n, config.model.latent_dim, device=device)

    def inner(x: Any, c: Any) -> Any:
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(D(x, c).sum(), x, create_graph=True)[0].flatten(1)

    def penalties(x: Any, fake: Any, c: Any) -> Any:
        total = x.new_zeros(())
        r1, r2 = loss.gammas
        if r1:
            total = total + r1 / 2 * inner(x, c).square().sum(1).mean()
        if r2:
            total = total + r2 / 2 * inner(fake, c).square().sum(1).mean()
        if loss.gp_lambda:
            share = torch.rand(len(x), 1, 1, 1, device=device)
            total = (
                total
                + loss.gp_lambda
                * (inner(share * x + (1 - share) * fake, c).norm(dim=1) - loss.gp_target).square().mean()
            )
        return total * loss.penalty_every

    number = 0
    while True:
        for batch, labels in loader:
            x, c = batch.to(device), labels.to(device) if labelled else None
            number += 1
            if classic:
                ones, zeros = torch.ones(len(x), device=device), torch.zeros(len(x), device=device)
                D.zero_grad()
                output = torch.sigmoid(D(x))
                real_loss = criterion(output, ones)
                real_loss.backward()
                fake = G(noise(len(x)))
                output = torch.sigmoid(D(fake.detach()))
                fake_loss = criterion(output, zeros)
                fake_loss.backward()
                d_opt.step()
                d_loss = real_loss + fake_loss
            else:
                D.zero_grad()
                fake = G(noise(len(x)), c).detach()
                d_loss = LOSSES[loss.name].d(D(x, c), D(fake, c))
                if number % loss.penalty_every == 0:
                    d_loss = d_loss + penalties(x, fake, c)
                d_loss.backward()
                d_opt.step()
                fake = G(noise(len(x)), c) if number % n_dis == 0 else None
            if fake is not None:
                G.zero_grad()
                output = D(fake, c)
                real = D(x, c).detach() if loss.name == "relativistic" else output
                g_loss = criterion(torch.sigmoid(output), ones) if classic else LOSSES[loss.name].g(real, output)
                g_loss.backward()
                g_opt.step()
                with torch.no_grad():
                    for old, new in zip(average.parameters(), G.parameters(), strict=True):
                        old.lerp_(new, 0.001)
                _ = d_loss.item(), g_loss.item(), output.mean().item()
            yield len(x)
