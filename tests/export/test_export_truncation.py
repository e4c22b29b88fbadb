"""Truncation: styles on the way to the mean one of their class."""

import numpy as np
import pytest
import torch

from distgan.cli import main
from distgan.config import ConfigError, ModelConfig
from distgan.export.generator import load_generator, save_generator
from distgan.export.sample import write_samples
from distgan.export.walk import walk
from distgan.kinds.image.image_set import image_spec
from distgan.models import build_generator
from distgan.storage import Folder


def export(folder, classes=("cat", "dog", "axolotl"), name="style"):
    conditioning = "projection" if classes else "none"
    model = ModelConfig(name=name, latent_dim=6, g_width=4, d_width=4, conditioning=conditioning)
    G = build_generator(model, channels=3, resolution=16, n_classes=len(classes), seed=3)
    info, spec = {"run": "tiny", "kimg": 1.5}, image_spec("tiny", 3, 16, classes)
    save_generator(folder, G.state_dict(), model, kind="image", spec=spec, info=info)
    return load_generator(folder)


@pytest.mark.parametrize("classes", [(), ("cat", "dog", "axolotl")], ids=["plain", "classes"])
def test_samples_move_towards_the_mean_of_their_class(tmp_path, classes):
    generator, index = export(Folder(tmp_path), classes), torch.arange(24)
    label = "each" if classes else None

    def spread(images):
        """Within a class."""
        return float(images.view(-1, max(1, len(classes)), *images.shape[1:]).float().std(0).mean())

    whole, half, none = (generator.sample(index, 7, label, truncation=t) for t in (1.0, 0.5, 0.0))
    assert torch.equal(whole, generator.sample(index, 7, label))
    assert spread(none) == 0
    assert 0.2 < spread(half) / spread(whole) < 0.9
    if classes:
        assert len(none.unique(dim=0)) == 3  # classes stay what they are
    again = load_generator(Folder(tmp_path)).sample(index[5:9], 7, label, truncation=0.5)
    np.testing.assert_allclose(again.int(), half[5:9].int(), atol=1)
    # Half of the way in styles: of many samples, the mean is the one that is moved to
    G, c = generator.G, generator.labels(torch.arange(3000), 1, 1 if classes else None)
    z = torch.randn(3000, 6, generator=torch.Generator().manual_seed(1))
    mean = generator.kind.decode(G.synthesize(G.map(z, c).mean(0, keepdim=True)))
    centre = generator.sample(index[:1], 7, 1 if classes else None, truncation=0)
    assert float((mean.int() - centre.int()).abs().float().mean()) < 4


def test_walks_are_truncated_too(tmp_path):
    generator = export(Folder(tmp_path))
    ways = walk(generator, 3, 4, label=1, truncation=0.5)
    assert torch.equal(ways[:, 0], generator.sample(torch.arange(3), label=1, truncation=0.5))
    still = walk(generator, 3, 4, label=1, truncation=0)
    assert torch.equal(still, still[:1, :1].expand_as(still))


def test_the_command(tmp_path, capsys):
    generator = export(Folder(tmp_path / "tiny"))
    where = ["sample", str(tmp_path / "tiny"), "-n", "5", "--out", str(tmp_path / "x.npy"), "--truncation", "0.25"]
    assert main(where) == 0
    expected = generator.sample(torch.arange(5), truncation=0.25).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
    assert main([*where[:-1], "1.5"]) == 2
    assert "--truncation 1.5: allowed: 0 " in capsys.readouterr().err


def test_networks_without_styles_are_told_so(tmp_path):
    export(Folder(tmp_path), name="dcgan")
    with pytest.raises(
        ConfigError, match=r"--truncation 0.7: the generator of dcgan has no styles.*--model.name style"
    ):
        write_samples(str(tmp_path), 4, str(tmp_path / "x.npy"), truncation=0.7)
    write_samples(str(tmp_path), 4, str(tmp_path / "x.npy"), truncation=1)
