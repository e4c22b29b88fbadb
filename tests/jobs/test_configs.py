"""The run configs among the jobs make what they say they make."""

import pytest
import torch

from distgan.config import load_config
from distgan.runs.prepare import prepare
from distgan.training import loop
from distgan.training.context import Context


@pytest.mark.timeout(120)
def test_the_classic_scheme_learns_digits(tmp_path, caches):
    """In a seventh of its budget: rough shapes at an FID of 100, where a generator that fails makes noise, at 300."""
    short = {
        "engine": "local",
        "storage": str(tmp_path),
        "kimg": 60,
        "metrics.every_kimg": 60,
        "metrics.final_samples": 2000,
        "metrics.names": "[fid]",
        "log.samples_every_kimg": 60,
        "log.tensorboard": False,
    }
    prepared = prepare(load_config("mnist", short))
    status = loop.train(prepared.config, Context(torch.device("cpu")), prepared.folder)
    assert status["values"]["fid"] < 150
