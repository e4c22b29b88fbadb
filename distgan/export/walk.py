"""Latent walks: how samples turn into others while the noise goes from one vector to the next, the class staying as it
is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distgan.config import ConfigError
from distgan.export.generator import Generator, Label
from distgan.kinds.picture import PICTURES, encoded, gif, png, write_mp4
from distgan.randomness import latents

ANIMATIONS = (".gif", ".mp4")
STEPS = 24
"""Of a walk whose length nobody said."""
MOST_SAMPLES = 20000  # samples of all walks together: they are in memory at once


def between(a: Tensor, b: Tensor, t: Tensor, kind: str) -> Tensor:
    """Noise (T, N, dim) on the way from a to b (N, dim), at shares t (T,) from 0 to 1.

    For kind "normal" on the great circle, its length going evenly from |a| to |b|: the straight line would cross a
    region that such noise never comes from (White, Sampling generative networks, 2016, section 2.1). For "uniform",
    whose cube is convex, straight.
    """
    t = t.view(-1, 1, 1)
    if kind == "uniform":
        return a + t * (b - a)
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    cosine = ((a / length_a) * (b / length_b)).sum(1, keepdim=True).clamp(-1, 1)
    angle = torch.acos(cosine).clamp_min(1e-4)  # the same direction twice: sin(s x) / sin(x) is s there
    direction = (torch.sin((1 - t) * angle) * (a / length_a) + torch.sin(t * angle) * (b / length_b)) / torch.sin(angle)
    path: Tensor = direction * (length_a + t * (length_b - length_a))
    return path


@torch.inference_mode()
def walk(
    generator: Generator, n: int, steps: int, seed: int = 0, label: Label = None, truncation: float = 1.0
) -> Tensor:
    """Samples as stored (N, steps, ...) on the CPU: walk i goes from sample i of the seed to the noise of sample
    n + i.
    """
    device = next(generator.G.parameters()).device
    index = torch.arange(n, device=device)
    settings = generator.model
    start, end = (latents(seed, "sample/z", index + shift, settings.latent_dim, settings.latent) for shift in (0, n))
    path = between(start, end, torch.linspace(0, 1, steps, device=device), settings.latent)  # (steps, N, dim)
    c = generator.labels(index, seed, label)
    return torch.stack([torch.cat(list(_samples(generator, z, c, truncation))) for z in path], dim=1)


def _samples(generator: Generator, z: Tensor, c: Tensor | None, truncation: float, size: int = 250) -> Iterator[Tensor]:
    for start in range(0, len(z), size):
        part = slice(start, start + size)
        yield generator.decoded(z[part], c[part] if c is not None else None, truncation).cpu()


def write_walk(
    generator: Generator, target: Path, n: int, steps: int, *, seed: int, label: Label, truncation: float = 1.0
) -> None:
    """Write walks as the file's suffix asks: .gif or .mp4 (previews that go there and back), a picture (one walk a
    row), .npy, or a folder of frames.

    The array is (N, steps, ...), samples as the kind's own .npy has them: images (N, steps, H, W), or (N, steps, H, W,
    3 or 4) for colour. Raises ConfigError for what is too much, or for another suffix, OSError.
    """
    if steps < 2:
        raise ConfigError(f"--walk {steps}: allowed: at least 2 steps")
    if n * steps > MOST_SAMPLES:
        raise ConfigError(f"-n {n} --walk {steps}: {n * steps} {generator.kind.noun}; allowed: {MOST_SAMPLES} together")
    samples, kind, suffix = (
        walk(generator, n, steps, seed, label, truncation).numpy(),
        generator.kind,
        target.suffix.lower(),
    )
    flat = samples.reshape(-1, *samples.shape[2:])
    if suffix == ".npy" and ".npy" in kind.suffixes:
        kind.save([flat], len(flat), target)
        array = np.load(target)
        np.save(target, array.reshape(n, steps, *array.shape[1:]))
    elif suffix in PICTURES:
        target.write_bytes(encoded(kind.preview(flat, steps), suffix))
    elif suffix == ".gif":
        target.write_bytes(gif([kind.preview(samples[:, t]) for t in range(steps)]))
    elif suffix == ".mp4":
        try:
            write_mp4([kind.preview(samples[:, t]) for t in range(steps)], target)
        except ImportError:
            raise ConfigError(
                "--out FILE.mp4: needs imageio-ffmpeg: pip install 'distgan[video]'; FILE.gif does without"
            ) from None
    elif not suffix:
        for t in range(steps):
            (target / f"{t:0{len(str(steps - 1))}d}.png").write_bytes(png(kind.preview(samples[:, t])))
    else:
        raise ConfigError(
            f"--out {target}: walks are written as FILE.gif, FILE.mp4, FILE.png, FILE.npy or a folder of frames"
        )
