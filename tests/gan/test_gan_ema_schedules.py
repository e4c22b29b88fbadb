"""Averages and schedules are functions of images, not of steps."""

import math

import pytest
import torch
from torch import nn

from distgan.config import AdamConfig, Schedule
from distgan.gan.ema import GeneratorEMA, ema_decay
from distgan.gan.schedules import apply_adam, value


def constant_adam(**changes):
    """Adam whose settings stay where they start, but for what a test changes."""
    return AdamConfig(
        **{"beta1": 0.5, "beta2": 0.999, "lr_schedule": Schedule(), "beta2_schedule": Schedule(), **changes}
    )


def net(start=0.0):
    G = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    nn.init.constant_(G[0].weight, start)
    return G


@pytest.mark.parametrize("batch", [10, 50, 250])
def test_half_life_does_not_depend_on_the_batch(batch):
    G = net(0.0)
    ema = GeneratorEMA(G, [1.0], rampup=0)
    nn.init.constant_(G[0].weight, 1.0)
    for nimg in range(batch, 2001, batch):
        ema.update(G, batch, nimg)
    assert ema.modules[0][0].weight.item() == pytest.approx(0.75, abs=1e-5)  # two half-lives of 1000 images


def test_several_half_lives_buffers_and_zero():
    G = net(1.0)
    ema = GeneratorEMA(G, [0, 1, 4], rampup=0)
    nn.init.constant_(G[0].weight, 3.0)
    G[1].running_mean.fill_(7)
    G[1].num_batches_tracked.fill_(5)
    ema.update(G, 1000, 1000)
    raw, one, four = (m[0].weight.item() for m in ema.modules)
    assert (raw, one) == (3.0, 2.0)
    assert four == pytest.approx(3 - 2 * 0.5**0.25)
    assert all(m[1].running_mean.item() == 7 and m[1].num_batches_tracked.item() == 5 for m in ema.modules)
    assert not any(m.training or any(p.requires_grad for p in m.parameters()) for m in ema.modules)
    nn.init.constant_(G[0].weight, 9.0)
    assert ema.modules[0][0].weight.item() == 3.0  # a copy, not the weights themselves


def test_rampup_bounds_the_half_life():
    assert ema_decay(10_000, 0.05, 64, 1000) == pytest.approx(0.5 ** (64 / 50))
    assert ema_decay(10_000, 0.05, 64, 10**7) == pytest.approx(0.5 ** (64 / 10_000))
    assert ema_decay(10_000, 0.05, 64, 0) == 0.0


def test_half_lives_follow_their_schedule():
    """From 0, the raw weights, up to the base over the warm-up, then on to `final` times it."""
    way = Schedule(kind="linear", warmup_kimg=1, over_kimg=1, final=3)
    ema = GeneratorEMA(net(0.0), [10.0], 0, way, 2000)
    for nimg, half_life in ((0, 0), (500, 5000), (1000, 10_000), (1500, 20_000), (9000, 30_000)):
        nn.init.zeros_(ema.modules[0][0].weight)
        ema.update(net(1.0), 100, nimg)
        assert ema.modules[0][0].weight.item() == pytest.approx(
            1 - (0.5 ** (100 / half_life) if half_life else 0), abs=1e-5
        )


def test_state_round_trip():
    ema = GeneratorEMA(net(1.0), [0.5, 10])
    other = GeneratorEMA(net(2.0), [0.5, 10])
    assert {k.partition("/")[0] for k in ema.state_dict()} == {"0.5", "10"}
    other.load_state_dict(ema.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ema.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(KeyError, match="20 kimg"):
        GeneratorEMA(net(), [20]).load_state_dict(ema.state_dict())


def test_schedule_shapes():
    assert value(2.0, Schedule(final=0.1), 500, 1000) == 2.0
    linear = Schedule(kind="linear", final=0.5)
    assert [value(2.0, linear, n, 1000) for n in (0, 500, 1000, 5000)] == [2.0, 1.5, 1.0, 1.0]
    cosine = Schedule(kind="cosine", final=0.0, over_kimg=1)
    assert value(1.0, cosine, 250, 10**6) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert value(1.0, cosine, 10**6, 10**6) == 0.0


def test_warmup_comes_before_the_way():
    schedule = Schedule(kind="linear", final=0.0, warmup_kimg=1)
    assert [value(4.0, schedule, n, 3000) for n in (0, 500, 1000, 2000, 3000)] == [0.0, 2.0, 4.0, 2.0, 0.0]
    assert value(4.0, schedule, 5, 10) == 0.02  # a budget shorter than the warm-up
    assert value(4.0, Schedule(kind="linear", final=0.0), 0, 0) == 0.0


def test_adam_gets_floats_and_steps():
    adam = constant_adam(lr=1e-2, beta1=0, beta2=0.9, beta2_schedule=Schedule(kind="linear", final=0.1))
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([weight])
    apply_adam(optimizer, adam, 1000, 1000)
    group = optimizer.param_groups[0]
    assert group["betas"] == pytest.approx((0.0, 0.99))
    assert all(type(b) is float for b in group["betas"])
    assert group["lr"] == 1e-2
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == pytest.approx(0.99)


def test_warming_beta2_up_keeps_adam_finite():
    adam = constant_adam(lr=1e-3, beta2_schedule=Schedule(warmup_kimg=1))
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([weight])
    for nimg in (0, 64, 128):
        apply_adam(optimizer, adam, nimg, 1000)
        weight.grad = torch.ones(1)
        optimizer.step()
    assert torch.isfinite(weight).all()
