"""Latent walks: how images turn into others while the noise goes from one vector to the next, the class staying as it
is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distgan.config import ConfigError
from distgan.export.generator import Generator, to_uint8
from distgan.kinds.image.grid import Array, enlargement, make_grid, png
from distgan.randomness import latents

FRAME_MS = 60
MOST = 20000  # images of all walks together: they are in memory at once


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
def walk(generator: Generator, n: int, steps: int, seed: int = 0, label: int | None = None) -> Tensor:
    """Images uint8 (N, steps, C, H, W) on the CPU: walk i goes from image i of the seed to the noise of image n + i."""
    device = next(generator.G.parameters()).device
    index = torch.arange(n, device=device)
    settings = generator.model
    start, end = (latents(seed, "sample/z", index + shift, settings.latent_dim, settings.latent) for shift in (0, n))
    path = between(start, end, torch.linspace(0, 1, steps, device=device), settings.latent)  # (steps, N, dim)
    c = generator.labels(index, seed, label)
    return torch.stack([torch.cat(list(_images(generator, z, c))) for z in path], dim=1)


def _images(generator: Generator, z: Tensor, c: Tensor | None, size: int = 250) -> Iterator[Tensor]:
    for start in range(0, len(z), size):
        part = slice(start, start + size)
        yield to_uint8(generator.G(z[part], c[part] if c is not None else None)).cpu()


def write_walk(generator: Generator, target: Path, n: int, steps: int, *, seed: int, label: int | None) -> None:
    """Write walks as the file's suffix asks: .gif (a grid that goes there and back), .png (one walk a row), .npy, or a
    folder of frames.

    The array is uint8 (N, steps, H, W), or (N, steps, H, W, 3) for colour. Raises ConfigError for what is too much,
    OSError.
    """
    if steps < 2:
        raise ConfigError(f"--walk {steps}: allowed: at least 2 steps")
    if n * steps > MOST:
        raise ConfigError(f"-n {n} --walk {steps}: {n * steps} images; allowed: {MOST} together")
    images = walk(generator, n, steps, seed, label).numpy()
    times, kind = enlargement(generator.resolution), target.suffix.lower()
    if kind == ".npy":
        array = images.transpose(0, 1, 3, 4, 2)
        np.save(target, array[..., 0] if generator.channels == 1 else array)
    elif kind == ".png":
        target.write_bytes(png(make_grid(images.reshape(-1, *images.shape[2:]), steps), times))
    elif kind == ".gif":
        target.write_bytes(gif([make_grid(images[:, t]) for t in range(steps)], times))
    else:
        for t in range(steps):
            (target / f"{t:0{len(str(steps - 1))}d}.png").write_bytes(png(make_grid(images[:, t]), times))


def gif(frames: list[Array], enlarge: int = 1) -> bytes:
    """An endless animation of frames uint8 (H, W) or (H, W, 3), there and back."""
    from PIL import Image

    pictures = [Image.fromarray(frame.repeat(enlarge, 0).repeat(enlarge, 1)) for frame in frames + frames[-2:0:-1]]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0)
    return buffer.getvalue()
