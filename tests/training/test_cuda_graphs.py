"""What a recorded step does around its CUDA graph, with a graph that runs the function again (tests/gpu has real
ones).
"""

import gc
from contextlib import nullcontext

import fake_graph
import pytest
import torch
from torch import nn

from distgan.config import RunError
from distgan.training.context import Context
from distgan.training.cuda_graphs import WARM_UP, GraphedBackward
from distgan.training.inputs import Batch
from distgan.training.player import Player


@pytest.fixture
def recorded(monkeypatch):
    """(network, the recorded function, its calls so far by value of `double`): the second layer has no gradient unless
    doubled.
    """
    fake_graph.install(monkeypatch.setattr)
    torch.manual_seed(0)
    network = nn.ModuleList([nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last), nn.Linear(3, 1)])
    calls = {False: 0, True: 0}

    def function(x, c, *, double):
        calls[double] += 1
        h = network[0](x).mean((2, 3))
        loss = h.square().mean() + (network[1](h).square().mean() * 2 if double else 0)
        loss.backward()
        return {"loss": loss.detach(), "mean": h.detach().mean()}

    return network, GraphedBackward(function, list(network.parameters()), pool=None), calls


def expected(network, x, double):
    for p in network.parameters():
        p.grad = None
    h = network[0](x).mean((2, 3))
    loss = h.square().mean() + (network[1](h).square().mean() * 2 if double else 0)
    loss.backward()
    return float(loss.detach()), [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def test_each_call_has_its_own_results_whatever_was_recorded(recorded):
    network, step, calls = recorded
    kept = []
    for number in range(4 * WARM_UP):
        double = number % 2 == 1
        x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(number)).contiguous(
            memory_format=torch.channels_last
        )
        loss, gradients = expected(network, x, double)
        for p in network.parameters():
            p.grad = None
        stats = step(x, None, double=double)
        kept.append((stats, loss))
        for p, gradient in zip(network.parameters(), gradients, strict=True):
            assert (p.grad is None) == (gradient is None)
            if gradient is not None:
                torch.testing.assert_close(p.grad, gradient)
                assert p.grad.stride() == p.stride()
                assert p.grad.untyped_storage().data_ptr() == step.gradients.untyped_storage().data_ptr()
    assert len(step._graphs) == 2
    for stats, loss in kept:  # statistics are not overwritten by later steps
        assert float(stats["loss"]) == pytest.approx(loss, rel=1e-5)
    assert calls == dict.fromkeys(
        (False, True), 2 * WARM_UP
    )  # once a call: the first replay is of what was just recorded


def test_gradients_of_several_workers_are_averaged_in_one_message(monkeypatch):
    fake_graph.install(monkeypatch.setattr)
    network, context, messages, seen = nn.Linear(3, 1), Context(torch.device("cpu")), [], []

    def loss(batch):
        return network(batch.x).mean(), {}

    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    how = {"batch_size": 4, "accumulate": 1, "autocast": nullcontext()}
    player = Player("d", network, optimizer, loss, context, **how, graph_pool=object())
    context.world_size, context.all_reduce_sum = 2, lambda tensor: (messages.append(tensor.numel()), tensor.mul_(3))[1]
    monkeypatch.setattr(optimizer, "step", lambda: seen.extend(p.grad.clone() for p in network.parameters()))
    x = torch.arange(12.0).view(4, 3)
    player.update(Batch(x, None, x, None))
    assert messages == [4]
    # the mean over x times two workers that share a batch of 4, times 3 as the stand-in of the exchange, over 2
    torch.testing.assert_close(seen[0], x.mean(0)[None] * 2 * 3 / 2)


class Old:
    """A run that is over: only the garbage collector will find it."""

    def __init__(self, ends):
        self.itself, self.ends = self, ends

    def __del__(self):
        self.ends.append("end")


@pytest.mark.parametrize("fails", [False, True])
def test_recordings_of_an_earlier_run_do_not_end_while_one_is_made(monkeypatch, fails):
    fake_graph.install(monkeypatch.setattr)
    ends, seen = [], []

    def function(x):
        seen.append(len(ends))
        Old(ends)
        made = [[] for _ in range(10_000)]  # enough for the collector to look, were it on
        seen.append(len(ends))
        if fails:
            raise RuntimeError(f"{len(made)} lists are no step")
        return {"x": x}

    step = GraphedBackward(function, [nn.Parameter(torch.zeros(1))], pool=None)
    step._calls[()] = WARM_UP
    Old(ends)
    with pytest.raises(RunError, match="10000 lists") if fails else nullcontext():
        step(torch.zeros(1))
    assert seen == [1, 1]
    assert gc.isenabled()


def test_what_cannot_be_recorded_is_said_in_one_line(monkeypatch):
    def fails(x):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    step = GraphedBackward(fails, [nn.Parameter(torch.zeros(1))], pool=None)
    step._calls[()] = WARM_UP
    fake_graph.install(monkeypatch.setattr)
    with pytest.raises(
        RunError, match=r"cuda_graphs: this step cannot be captured \(operation not permitted .* capturing\)\. A"
    ):
        step(torch.zeros(1))
