"""Tests of what runs on a GPU: `pytest -m gpu`. Without one they are skipped."""

import os

import pytest
import torch

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # as a run with training.deterministic has it from its beginning


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """The GPU, computing in whole float32 where a test does not say otherwise."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    return torch.device("cuda", 0)
