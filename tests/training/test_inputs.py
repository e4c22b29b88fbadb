"""Draws made ahead are those of each step alone."""

from __future__ import annotations

import pytest
import torch

from distgan.randomness import latents
from distgan.training import inputs as draws
from distgan.training.inputs import DrawBuffer


def z(index):
    return latents(3, "g/z", index, 5)


@pytest.mark.parametrize("most", [1, 7 * 5, 10**6])
def test_how_many_are_drawn_at_once_changes_nothing(monkeypatch, most):
    monkeypatch.setattr(draws, "NUMBERS_AT_ONCE", most)
    share = DrawBuffer(24, 7, 14, torch.device("cpu"))
    # in order, then again from somewhere (a resume, a rollback), and from where no step of before began
    for nimg in [*range(0, 24 * 70, 24), 480, 504, 24, 1000, 1024]:
        found = share("g/z", nimg, 5, z)
        assert found.equal(z(torch.arange(nimg + 7, nimg + 14))), nimg


def test_streams_are_kept_apart():
    share = DrawBuffer(8, 0, 8, torch.device("cpu"))
    assert share("a", 16, 5, z).equal(share("b", 16, 5, z))
    assert not share("a", 16, 5, z).equal(share("c", 16, 5, lambda i: latents(4, "g/z", i, 5)))


def test_few_calls_for_many_steps():
    calls = []
    share = DrawBuffer(8, 0, 8, torch.device("cpu"))
    for step in range(draws.STEPS_AT_ONCE):
        share("a", 8 * step, 5, lambda index: calls.append(1) or z(index))
    assert len(calls) == 1
