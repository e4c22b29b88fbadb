"""Images that the discriminator never sees, and the accuracy of its classifier on them."""

import torch
from tiny_run import TINY

from distgan.config import load_config
from distgan.kinds import open_samples
from distgan.kinds.image import KIND
from distgan.kinds.loader import Loader
from distgan.models.layers import DiscriminatorOutput
from distgan.runs.prepare import prepare
from distgan.training import loop
from distgan.training.context import Context
from distgan.training.holdout import HeldOut, encoded

CPU = torch.device("cpu")
AUXILIARY = TINY | {"model.conditioning": "auxiliary", "data.holdout": 0.25}


class Knowing(torch.nn.Module):
    """A classifier that is right about images whose first held-out numbers say so; it looks pixels up."""

    def __init__(self, images, right):
        super().__init__()
        self.table = {
            images.samples[i].tobytes(): int(images.labels[i]) if i in right else -1 for i in range(len(images))
        }

    def forward(self, x, c):
        answers = [self.table[KIND.decode(image).numpy().tobytes()] for image in x]
        logits = torch.tensor(
            [
                [float(k == (a if a >= 0 else (int(t) + 1) % 10)) for k in range(10)]
                for a, t in zip(answers, c, strict=True)
            ]
        )
        return DiscriminatorOutput(torch.zeros(len(x)), logits)


def test_accuracy_is_the_share_of_held_out_images_named_right():
    config = load_config(overrides=AUXILIARY)
    images = open_samples(config.data)
    held = HeldOut(config, images, KIND)
    assert len(held.index) == 64
    assert sorted([*held.index.tolist(), *held.rest.tolist()]) == list(range(256))
    assert torch.equal(HeldOut(config, images, KIND).index, held.index)
    assert not torch.equal(HeldOut(load_config(overrides=AUXILIARY | {"seed": 1}), images, KIND).index, held.index)
    assert torch.equal(
        KIND.decode(encoded(images, KIND, held.index, CPU)), torch.from_numpy(images.samples[held.index.numpy()].copy())
    )
    D = Knowing(images, set(held.index[:48].tolist())).train()
    assert held.accuracy(D, Context(CPU), 20) == {"aux_accuracy_held_out": 0.75}
    assert D.training


def test_nothing_is_held_out_without_a_classifier():
    config = load_config(overrides=AUXILIARY | {"model.conditioning": "projection"})
    held = HeldOut(config, open_samples(config.data), KIND)
    assert held.rest is None
    assert held.accuracy(torch.nn.Identity(), Context(CPU), 20) == {}


def test_a_run_never_shows_them_to_the_discriminator_and_tells_the_accuracy(tmp_path, monkeypatch):
    seen = set()
    batch = Loader.batch

    def watched(feed, start, stop):
        seen.update(feed.order(start, stop).tolist())
        return batch(feed, start, stop)

    monkeypatch.setattr(Loader, "batch", watched)
    prepared = prepare(load_config(overrides=AUXILIARY | {"storage": str(tmp_path), "name": "aux"}))
    status = loop.train(prepared.config, Context(CPU), prepared.folder)
    held = HeldOut(prepared.config, open_samples(prepared.config.data), KIND)
    assert seen == set(held.rest.tolist())
    assert 0 <= status["values"]["aux_accuracy_held_out"] <= 1
    assert status["values"]["aux_accuracy_held_out"] * 64 % 1 == 0
