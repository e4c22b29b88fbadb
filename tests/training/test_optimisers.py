"""Adam without torch's compiler is torch's Adam, and really without."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from tiny_run import TINY
from torch import nn

from distgan.config import AdamConfig
from distgan.training.optimisers import adam, load


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_torch_s_also_when_it_goes_on(decay):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last), nn.Flatten(), nn.Linear(12, 1))
    theirs = copy.deepcopy(ours)
    settings = AdamConfig(lr=0.01, weight_decay=decay)
    optimiser = adam(ours, settings)
    kind = torch.optim.AdamW if decay else torch.optim.Adam
    reference = kind(
        theirs.parameters(),
        lr=0.01,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=decay,
        fused=True,
    )
    for number in range(6):
        for network, each in ((ours, optimiser), (theirs, reference)):
            each.zero_grad(set_to_none=True)
            assert network[2].bias.grad is None
            network(torch.linspace(-1, 1, 5 * 2 * 16).view(5, 2, 4, 4) * number).square().mean().backward()
            each.step()
        if number == 2:  # both go on from a checkpoint
            saved = copy.deepcopy(reference.state_dict())
            assert saved["param_groups"] == optimiser.state_dict()["param_groups"]
            optimiser, fresh = adam(ours, settings), kind(theirs.parameters(), fused=True)
            load(optimiser, copy.deepcopy(saved["state"]))
            fresh.load_state_dict(saved)
            reference = fresh
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
    for a, b in zip(optimiser.state.values(), reference.state.values(), strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


RUN = """
import json, sys
from distgan.config import load_config
from distgan.training.context import Context
from distgan.training.loop import train
from distgan.storage import Folder
import torch
for kimg in (0.512, 1.024):
    config = load_config(overrides=json.loads(sys.argv[1]) | {"kimg": kimg})
    print(train(config, Context(torch.device("cpu")), Folder(sys.argv[2]))["nimg"], "torch._dynamo" in sys.modules)
"""


def test_a_run_does_without_torch_s_compiler(tmp_path, caches):
    """At its start, when it goes on, and when it measures and exports: importing it takes longer than all else that a
    start does.
    """
    plan = json.dumps(TINY | {"storage": str(tmp_path)})
    command = [sys.executable, "-c", RUN, plan, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["512", "False", "1024", "False"], done.stderr[-3000:]
