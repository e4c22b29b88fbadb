"""Losses against their closed forms and gradients, penalties against discriminators whose gradients are known."""

import math

import pytest
import torch
from torch import nn

from distgan.config import LossConfig
from distgan.gan.penalties import gradient_gap, input_gradients, mix, squared_norm
from distgan.gan.step import d_step_loss
from distgan.registry import LOSSES
from distgan.registry import LOSSES as NAMES

real0 = torch.tensor([0.3, -1.2, 2.5, 0.9], dtype=torch.float64)
fake0 = torch.tensor([-0.7, 0.4, -2.1, 1.3], dtype=torch.float64)


def s(t: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-t))


# name -> d loss, d/d real, d/d fake, g loss, d/d fake; per sample, written with plain logarithms and exponentials
CLOSED = {
    "non-saturating": lambda r, f: (-s(r).log() - (1 - s(f)).log(), s(r) - 1, s(f), -s(f).log(), s(f) - 1),
    "minimax": lambda r, f: (-s(r).log() - (1 - s(f)).log(), s(r) - 1, s(f), (1 - s(f)).log(), -s(f)),
    "least-squares": lambda r, f: ((r - 1) ** 2 / 2 + f**2 / 2, r - 1, f, (f - 1) ** 2 / 2, f - 1),
    "hinge": lambda r, f: (
        (1 - r).clamp(0) + (1 + f).clamp(0),
        -(r < 1).double(),
        (f > -1).double(),
        -f,
        -torch.ones(4).double(),
    ),
    "wasserstein": lambda r, f: (f - r, -torch.ones(4).double(), torch.ones(4).double(), -f, -torch.ones(4).double()),
    "relativistic": lambda r, f: (-s(r - f).log(), -s(f - r), s(f - r), -s(f - r).log(), -s(r - f)),
}


@pytest.mark.parametrize("name", NAMES)
def test_closed_forms_and_gradients(name):
    real, fake = real0.clone().requires_grad_(), fake0.clone().requires_grad_()
    d, d_real, d_fake, g, g_fake = CLOSED[name](real0, fake0)
    loss = LOSSES[name].d(real, fake)
    torch.testing.assert_close(loss, d.mean())
    got_real, got_fake = torch.autograd.grad(loss, [real, fake])
    torch.testing.assert_close(got_real, d_real / 4)
    torch.testing.assert_close(got_fake, d_fake / 4)
    loss = LOSSES[name].g(real0, fake)
    torch.testing.assert_close(loss, g.mean())
    torch.testing.assert_close(torch.autograd.grad(loss, fake)[0], g_fake / 4)


def test_every_loss_of_the_config_exists():
    assert set(LOSSES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_stay_finite(name):
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    for loss in (LOSSES[name].d(logits, logits.flip(0)), LOSSES[name].g(logits.detach(), logits)):
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_minimax_saturates_where_non_saturating_does_not():
    fake = torch.tensor([-20.0], requires_grad=True)  # D is sure that it is generated
    assert abs(float(torch.autograd.grad(LOSSES["minimax"].g(fake, fake), fake)[0])) < 1e-8
    assert float(torch.autograd.grad(LOSSES["non-saturating"].g(fake, fake), fake)[0]) == pytest.approx(-1)


def plain_loss(**changes):
    """The non-saturating loss without any penalty, and what a test changes of it."""
    return LossConfig(**{"name": "non-saturating", "r1_gamma": 0, "r2_gamma": 0, "gp_lambda": 0, **changes})


class Quadratic(nn.Module):
    """D(x) = w.x + a/2 |x|^2, whose input gradient is w + a x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(1, 2, 2))
        self.a = nn.Parameter(torch.tensor(0.7))

    def forward(self, x, c=None):
        return (self.w * x).sum((1, 2, 3)) + self.a / 2 * x.square().sum((1, 2, 3))


def penalty_part(loss, **kwargs):
    """(D, x_real, x_fake, what the penalty adds to the loss, stats)."""
    torch.manual_seed(0)
    D, x_real, x_fake = Quadratic(), torch.randn(5, 1, 2, 2), torch.randn(5, 1, 2, 2)
    args = (lambda z, c: x_fake, D, x_real, None, torch.zeros(5, 1), None)
    total, stats = d_step_loss(*args, plain_loss(**loss), **kwargs)
    plain, _ = d_step_loss(*args, plain_loss())
    return D, x_real, x_fake, total - plain, stats


def test_r1_and_r2():
    D, x_real, x_fake, added, stats = penalty_part({"r1_gamma": 3.0, "r2_gamma": 5.0}, penalty_scale=0.5)
    r1 = (D.w + D.a * x_real).square().sum((1, 2, 3)).mean()
    r2 = (D.w + D.a * x_fake).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(stats["r1"], r1.detach())
    torch.testing.assert_close(stats["r2"], r2.detach())
    expected = 0.5 * (3 * r1 + 5 * r2) / 2
    torch.testing.assert_close(added, expected)
    for got, want in zip(
        torch.autograd.grad(added, [D.w, D.a]), torch.autograd.grad(expected, [D.w, D.a]), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("target", [0, 1])
def test_gradient_penalty_between(target):
    alpha = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    D, x_real, x_fake, added, stats = penalty_part({"gp_lambda": 10.0, "gp_target": target}, alpha=alpha)
    middle = alpha.view(-1, 1, 1, 1) * x_real + (1 - alpha.view(-1, 1, 1, 1)) * x_fake
    gap = ((D.w + D.a * middle).square().sum((1, 2, 3)).sqrt() - target).square().mean()
    torch.testing.assert_close(stats["gp"], gap.detach())
    torch.testing.assert_close(added, 10 * gap)


def test_lazy_penalty_has_the_same_strength():
    _, _, _, every, _ = penalty_part({"r1_gamma": 1.0})
    _, _, _, fourth, _ = penalty_part({"r1_gamma": 1.0, "penalty_every": 4})
    _, _, _, none, stats = penalty_part({"r1_gamma": 1.0, "penalty_every": 4}, with_penalty=False)
    torch.testing.assert_close(fourth, 4 * every)
    assert none.item() == 0
    assert "r1" not in stats


def test_gap_is_differentiable_at_zero_gradient():
    w = torch.zeros(1, 1, 2, 2, requires_grad=True)
    x = torch.randn(3, 1, 2, 2, requires_grad=True)
    (gradient,) = input_gradients((w * x).sum((1, 2, 3)), [x])
    gap = gradient_gap(gradient, 1).mean()
    assert gap.item() == pytest.approx(1, abs=1e-5)
    assert torch.isfinite(torch.autograd.grad(gap, w)[0]).all()


def test_mix_and_norm():
    x, y = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    assert mix(x, y, torch.tensor([0.25, 1.0]))[:, 0, 0, 0].tolist() == [0.25, 1.0]
    assert squared_norm(3 * x).tolist() == [36, 36]


def test_a_penalty_under_autocast_is_float32():
    D = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0))
    D.forward = lambda x, c=None: nn.Sequential.forward(D, x)
    with torch.autocast("cpu", torch.bfloat16):
        loss, stats = d_step_loss(
            lambda z, c: z.view(-1, 1, 2, 2),
            D,
            torch.randn(3, 1, 2, 2),
            None,
            torch.randn(3, 4),
            None,
            plain_loss(r1_gamma=1),
        )
    assert loss.dtype == stats["r1"].dtype == torch.float32
    assert math.isfinite(float(loss))
