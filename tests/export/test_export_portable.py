"""What leaves for other programs gives the same images there."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from distgan.cli import main
from distgan.config import ConfigError, ModelConfig, RunError
from distgan.export import portable
from distgan.export.generator import load_generator, save_generator
from distgan.export.portable import export_generator, program_difference, to_program
from distgan.kinds.image.image_set import image_spec
from distgan.models import build_generator
from distgan.registry import NETWORKS
from distgan.storage import Folder

FAMILIES = tuple(NETWORKS)


def export(folder, name="dcgan", classes=("cat", "dog", "axolotl"), norm="batch", channels=3, resolution=16):
    """A generator on disk that shows what goes in: no weight is as small as at the start of training, none is 0."""
    model = ModelConfig(
        name=name, g_norm=norm, latent_dim=6, g_width=4, d_width=4, conditioning="projection" if classes else "none"
    )
    G = build_generator(model, channels=channels, resolution=resolution, n_classes=len(classes), seed=3)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*G.parameters(), *(b for b in G.buffers() if b.is_floating_point() and b.ndim == 1)):
            noise = torch.randn(tensor.shape, generator=draw)
            if name == "style" and tensor.ndim > 1:
                continue  # starts at N(0, 1) and is scaled where it is used: other sizes would hide what goes in
            if tensor.ndim == 1:
                tensor.add_(0.1 * noise.abs())
            else:
                tensor.copy_(noise * (1.5 * (tensor.shape[0] / tensor.numel()) ** 0.5))
    spec = image_spec("tiny", channels, resolution, classes)
    save_generator(folder, G.state_dict(), model, kind="image", spec=spec, info={"run": "tiny", "kimg": 1.5})
    generator = load_generator(folder)
    images = generator.sample(torch.arange(8)).float()
    assert images.std(0).mean() > 1, "the noise must be seen in the images, or comparing them tells nothing"
    return generator


@pytest.mark.parametrize("classes", [(), ("cat", "dog", "axolotl")], ids=["plain", "classes"])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_traced_with_any_number_of_images(tmp_path, name, norm, classes):
    generator = export(Folder(tmp_path), name, classes, norm)
    data = to_program(generator, "{}")
    assert program_difference(generator, data) < 1e-5
    with torch.no_grad():
        for parameter in generator.G.parameters():
            parameter.mul_(1.1)  # the comparison must see another network
    assert program_difference(generator, data) > 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_traced_with_opacity_and_sides_that_differ(tmp_path, name):
    generator = export(Folder(tmp_path), name, (), "none", channels=4, resolution=(16, 24))
    assert generator.sample(torch.arange(2)).shape == (2, 4, 16, 24)
    assert program_difference(generator, to_program(generator, "{}")) < 1e-5


def test_the_exported_program_needs_nothing_of_this_package(tmp_path):
    generator = export(Folder(tmp_path / "g"))
    said = export_generator(str(tmp_path / "g"), str(tmp_path / "new" / "g.pt2"))
    assert said.startswith(
        f"generator of tiny at 1.5 kimg: {tmp_path}/new/g.pt2 (5 images compared with the original: off by at most"
    )
    z, label = torch.randn(7, 6), torch.arange(7) % 3
    np.save(tmp_path / "z.npy", z.numpy())
    code = (
        "import sys, json, numpy as np, torch; extra = {'generator.json': ''};program = "
        "torch.export.load(sys.argv[1], extra_files=extra);z = torch.from_numpy(np.load(sys.argv[2])); x = "
        "program.module()(z, torch.arange(7) % 3);np.save(sys.argv[3], x.detach().numpy()); assert "
        "json.loads(extra['generator.json'])['spec']['classes'] == ['cat', 'dog', 'axolotl'];assert not [m for m in "
        "sys.modules if m.startswith('distgan')]"
    )
    words = [str(tmp_path / "new" / "g.pt2"), str(tmp_path / "z.npy"), str(tmp_path / "x.npy")]
    subprocess.run([sys.executable, "-c", code, *words], check=True, timeout=100, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), generator.G(z, label).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "classes"), [("dcgan", ()), ("dcgan", ("cat", "dog", "axolotl")), ("style", ("cat", "dog", "axolotl"))]
)
def test_onnx(tmp_path, name, classes):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    generator = export(Folder(tmp_path / "g"), name, classes)
    export_generator(str(tmp_path / "g"), str(tmp_path / "g.onnx"))
    onnx.checker.check_model(str(tmp_path / "g.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"))
    assert [node.name for node in session.get_inputs()] == (["z", "label"] if classes else ["z"])
    assert [node.name for node in session.get_outputs()] == ["images"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["generator.json"])["input"]["z"] == [6]
    for n in (1, 11):
        z, label = torch.randn(n, 6), torch.arange(n) % 3
        (found,) = session.run(None, {"z": z.numpy()} | ({"label": label.numpy()} if classes else {}))
        np.testing.assert_allclose(found, generator.G(z, label if classes else None).numpy(), atol=1e-4)


def test_a_folder_is_a_generator_again(tmp_path, capsys):
    export(Folder(tmp_path / "runs" / "tiny" / "generator"), classes=())
    assert main(["export", "tiny", "--storage", str(tmp_path / "runs"), "--out", str(tmp_path / "copy")]) == 0
    assert "generator of tiny at 1.5 kimg" in capsys.readouterr().out
    z = torch.randn(2, 6)
    a, b = load_generator(Folder(tmp_path / "copy")), load_generator(Folder(tmp_path / "runs" / "tiny" / "generator"))
    assert torch.equal(a.G(z, None), b.G(z, None))


def test_a_network_that_comes_out_different_is_not_written(tmp_path, monkeypatch):
    export(Folder(tmp_path / "g"), classes=())
    other = to_program(export(Folder(tmp_path / "h"), norm="none", classes=()), "{}")
    monkeypatch.setattr(portable, "to_program", lambda *_: other)
    with pytest.raises(RunError, match="gives other images"):
        export_generator(str(tmp_path / "g"), str(tmp_path / "g.pt2"))
    assert not (tmp_path / "g.pt2").exists()


def test_own_networks_that_cannot_be_traced_are_told_so(tmp_path, monkeypatch):
    (tmp_path / "branching.py").write_text(
        "import torch\nclass G(torch.nn.Module):\n    def __init__(self, **k):\n        super().__init__(); self.w = "
        "torch.nn.Linear(k['latent_dim'], 3 * 16 * 16)\n    def forward(self, z, c=None):\n        x = "
        "torch.tanh(self.w(z)).view(-1, 3, 16, 16)\n        return x if float(z.sum()) > 0 else -x\n"
    )
    monkeypatch.chdir(tmp_path)
    model = ModelConfig(generator="branching:G", latent_dim=6, conditioning="none")
    weights = build_generator(model, channels=3, resolution=16).state_dict()
    spec = image_spec("tiny", 3, 16)
    save_generator(Folder("g"), weights, model, kind="image", spec=spec, info={"run": "tiny", "kimg": 1})
    with pytest.raises(
        ConfigError, match=r"model\.generator = 'branching:G': cannot be traced.*must not branch on values"
    ) as caught:
        export_generator("g", "g.pt2")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("g.pt", r"--out g\.pt: allowed: FILE\.onnx, FILE\.pt2"),
        ("s3://bucket/g.onnx", "on this machine"),
        ("/proc/nowhere/g.pt2", "--out .*cannot be written"),
    ],
)
def test_bad_places_are_refused_in_words(tmp_path, monkeypatch, out, says):
    monkeypatch.chdir(tmp_path)
    export(Folder("g"), classes=())
    with pytest.raises(ConfigError, match=says):
        export_generator("g", out)
    assert [p.name for p in tmp_path.iterdir()] == ["g"]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    import importlib.util

    export(Folder(tmp_path / "g"), classes=())
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else find(name, *a))
    with pytest.raises(ConfigError, match=r"onnxscript missing; `pip install 'distgan\[onnx\]'`"):
        export_generator(str(tmp_path / "g"), str(tmp_path / "g.onnx"))
