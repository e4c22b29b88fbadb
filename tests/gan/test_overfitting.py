"""r_v, by the numbers of its definition."""

import pytest
import torch

from distgan.gan.overfitting import overfitting


@pytest.mark.parametrize(("held", "r_v"), [([2.0, 4.0], 0.0), ([-1.0, 1.0], 0.75), ([-1.0, -1.0], 1.0)])
def test_held_out_samples_lie_between_real_and_generated_ones(held, r_v):
    train, fake = torch.tensor([2.0, 4.0]), torch.tensor([-2.0, 0.0])
    for constant in (0.0, 5.0):  # which a loss of pairs leaves open
        apart, range_ = overfitting(train + constant, torch.tensor(held) + constant, fake + constant)
        assert float(apart / range_) == pytest.approx(r_v)
