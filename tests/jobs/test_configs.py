"""The run configs among the jobs make what they say they make."""

from pathlib import Path

import pytest
import torch

from distgan.config import load_config
from distgan.runs.prepare import prepare
from distgan.training import loop
from distgan.training.context import Context

CONFIGS = Path(__file__).resolve().parents[2] / "jobs/configs"


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
    prepared = prepare(load_config(str(CONFIGS / "mnist.yaml"), short))
    status = loop.train(prepared.config, Context(torch.device("cpu")), prepared.folder)
    assert status["values"]["fid"] < 150
