"""Train the packaged digit classifier from the packaged digits: `python jobs/train_feature_extractor.py`, minutes on
one core.

Writes digits.safetensors (half precision) and digits.json (accuracy, architecture, command) into
distgan/kinds/image/extractors or --out. The last 100 digits of each class are held out of training. `--test-images` and
`--test-labels` (the official test set's idx files) add the accuracy there to the statement; nothing is trained or
chosen on either.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

import distgan
from distgan.kinds.image.extractors.digits import WEIGHTS, DigitNet, load_digits, to_digits

HELD_OUT_A_CLASS = 100


def read_idx(file: Path) -> Tensor:
    """An idx file of bytes, gzipped or not, as a uint8 tensor of its own shape."""
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(*map(int, shape)).copy())


def packaged_digits() -> tuple[Tensor, Tensor, Tensor]:
    """The packaged images uint8 (10000, 1, 28, 28), labels int64 (10000,), and which are held out, bool (10000,)."""
    folder = Path(distgan.__file__).parent / "kinds" / "image" / "mnist10k"
    images, labels = (
        read_idx(folder / "images-idx3-ubyte.gz")[:, None],
        read_idx(folder / "labels-idx1-ubyte.gz").long(),
    )
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for c in range(10):
        held_out[torch.nonzero(labels == c)[-HELD_OUT_A_CLASS:, 0]] = True
    return images, labels, held_out


def augment(x: Tensor) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by 0.85 to 1.15, sheared by up to 0.15 and shifted by up to 2.8
    pixels.
    """

    def draw(limit: float) -> Tensor:
        return (torch.rand(len(x)) * 2 - 1) * limit

    angle, shear, scale = draw(12 * math.pi / 180), draw(0.15), 1 / (1 + draw(0.15))
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack([cos, shear * cos - sin, draw(0.2), sin, shear * sin + cos, draw(0.2)], dim=1).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


@torch.inference_mode()
def accuracy(net: DigitNet, images: Tensor, labels: Tensor) -> float:
    """Share of uint8 images (N, 1, H, W) whose most probable class is their label."""
    right = sum(
        int((net(to_digits(x))[1].argmax(1) == y).sum())
        for x, y in zip(torch.split(images, 1000), torch.split(labels, 1000), strict=True)
    )
    return right / len(labels)


def train(images: Tensor, labels: Tensor, epochs: int, batch_size: int, lr: float, seed: int) -> DigitNet:
    """A classifier trained by AdamW on a one-cycle step size, its normalisation folded in."""
    torch.manual_seed(seed)
    net = DigitNet(normalise=True)
    x, steps = to_digits(images), len(images) // batch_size
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * steps)
    for epoch in range(epochs):
        losses = []
        for batch in torch.split(torch.randperm(len(x))[: steps * batch_size], batch_size):
            loss = F.cross_entropy(net(augment(x[batch]))[1], labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}  loss {torch.stack(losses).mean():.4f}", flush=True)
    return net.eval().fold()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="the .safetensors file; the .json goes beside it")
    parser.add_argument("--test-images", type=Path, help="idx file of the official test images")
    parser.add_argument("--test-labels", type=Path, help="idx file of the official test labels")
    args = parser.parse_args()

    images, labels, held_out = packaged_digits()
    start = time.perf_counter()
    net = train(images[~held_out], labels[~held_out], args.epochs, args.batch_size, args.lr, args.seed)
    seconds = time.perf_counter() - start
    args.out.write_bytes(save({name: value.half() for name, value in net.state_dict().items()}))
    net = load_digits(args.out)  # what is stated is what is stored, rounding included
    settings = f"--epochs {args.epochs} --batch-size {args.batch_size} --lr {args.lr} --seed {args.seed}"
    statement = {
        "architecture": "convolutions 5x5 1-16, 3x3 16-32, 3x3 32-64 (each: ReLU, 2x2 maximum); "
        "linear 576-64, ReLU; linear 64-10",
        "input": "grey 28 x 28 in [0, 1]",
        "features": net.features.out_features,
        "parameters": sum(p.numel() for p in net.parameters()),
        "trained_on": f"{int((~held_out).sum())} packaged MNIST digits (training set), {args.epochs} epochs, "
        "shift, turn, scale, shear",
        "command": f"python jobs/train_feature_extractor.py {settings}",
        "seconds": round(seconds),
        "torch": torch.__version__,
        "held_out_accuracy": accuracy(net, images[held_out], labels[held_out]),
        "held_out": f"the last {HELD_OUT_A_CLASS} packaged digits of each class",
        "sha256": hashlib.sha256(args.out.read_bytes()).hexdigest(),
    }
    if args.test_images and args.test_labels:
        statement["test_accuracy"] = accuracy(
            net, read_idx(args.test_images)[:, None], read_idx(args.test_labels).long()
        )
        statement["test"] = "the official MNIST test set, 10000 digits"
    args.out.with_suffix(".json").write_text(json.dumps(statement, indent=2) + "\n")
    print(json.dumps(statement, indent=2))


if __name__ == "__main__":
    main()
