"""A small digit classifier that ships with the package, so that digits can be measured with no network.

Its 64 penultimate features serve FID and the like, its class probabilities serve the class histogram and the number of
modes. `jobs/train_feature_extractor.py` trains it from the packaged digits; digits.json beside the weights states how
well it classifies.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.kinds.image.extractors.base import Network, Wanted, given_file, load_weights

SIDE = 28
FEATURES = 64
WEIGHTS = Path(__file__).with_name("digits.safetensors")


class DigitNet(nn.Module):
    """Three convolutions and two linear layers, 2.1 million multiplications an image.

    Input: float32 (N, 1, 28, 28) in [0, 1]. Output: (features (N, 64) >= 0, logits (N, 10)).
    `normalise=True` adds the batch normalisation used in training; `fold` merges it into the weights.
    """

    def __init__(self, normalise: bool = False) -> None:
        super().__init__()
        shapes = ((1, 16, 5), (16, 32, 3), (32, 64, 3))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, k, padding=k // 2) for a, b, k in shapes)
        self.features = nn.Linear(64 * 3 * 3, FEATURES)
        self.classes = nn.Linear(FEATURES, 10)
        self.norms = (
            nn.ModuleList([*(nn.BatchNorm2d(b) for _, b, _ in shapes), nn.BatchNorm1d(FEATURES)]) if normalise else None
        )
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for i, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = F.max_pool2d(F.relu(self.norms[i](x) if self.norms is not None else x), 2)
        x = self.features(x.flatten(1))
        x = F.relu(self.norms[3](x) if self.norms is not None else x)
        return x, self.classes(self.dropout(x))

    def fold(self) -> DigitNet:
        """The same function in evaluation mode without normalisation layers."""
        if self.norms is None:
            return self.eval()
        state, net = self.state_dict(), DigitNet()
        for i, layer in enumerate(["convolutions.0", "convolutions.1", "convolutions.2", "features"]):
            weight, bias, mean, var = (
                state.pop(f"norms.{i}.{name}") for name in ("weight", "bias", "running_mean", "running_var")
            )
            scale = weight / torch.sqrt(var + 1e-5)
            state[f"{layer}.weight"] = (state[f"{layer}.weight"].transpose(0, -1) * scale).transpose(0, -1)
            state[f"{layer}.bias"] = (state[f"{layer}.bias"] - mean) * scale + bias
        net.load_state_dict({name: value for name, value in state.items() if not name.startswith("norms.")})
        return net.eval()


def to_digits(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) as DigitNet's input: grey by the channels' mean, 28 x 28 by antialiased bilinear
    interpolation, [0, 1].
    """
    x = images.float().mean(1, keepdim=True) if images.shape[1] > 1 else images.float()
    if x.shape[-2:] != (SIDE, SIDE):
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    return x / 255


def load_digits(file: str | Path = WEIGHTS) -> DigitNet:
    """The classifier in evaluation mode, with weights from a safetensors file (stored in half precision)."""
    from safetensors.torch import load

    net = DigitNet()
    net.load_state_dict(load(Path(file).read_bytes()))  # copies into single precision
    return net.eval().requires_grad_(False)


class _Digits(nn.Module):
    def __init__(self, weights: str | Path | None, stacked: bool) -> None:
        super().__init__()
        self.stacked = stacked
        self.net = load_digits()
        if weights is not None:
            load_weights(self.net, given_file(weights))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not self.stacked:
            features, logits = self.net(to_digits(images))
            return features, logits
        features, logits = self.net(to_digits(images.flatten(0, 1)[:, None]))
        a, b, c = (
            logits.log_softmax(1).view(-1, 3, 10).unbind(1)
        )  # the channels are independent digits: log probabilities add up
        return features.view(len(images), -1), (
            a[:, :, None, None] + b[:, None, :, None] + c[:, None, None, :]
        ).flatten(1)


def EXTRACTOR(wanted: Wanted) -> tuple[Network, str]:
    """The packaged classifier; on stacked-mnist applied to each channel."""
    return _Digits(wanted.weights, stacked=wanted.data_name == "stacked-mnist" and wanted.channels == 3), "digits"
