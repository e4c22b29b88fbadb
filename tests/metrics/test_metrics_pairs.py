"""KID, precision and recall, density and coverage, Inception Score and class KL against independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from distgan.metrics import (
    ClassStatistics,
    density_coverage,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
)
from distgan.metrics.kid import kernel_sum
from distgan.metrics.prdc import radii


@pytest.fixture(scope="module")
def two_sets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(310, 8, generator=generator) * 0.8 + 0.2, torch.randn(270, 8, generator=generator)


def test_kid_is_the_unbiased_estimate_over_all_pairs(two_sets) -> None:
    x, y = (s.double().numpy() for s in two_sets)
    xx, yy, xy = ((a @ b.T / 8 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    expected = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean()
    assert kernel_distance(*two_sets) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(*two_sets, real_sum=kernel_sum(two_sets[1])) == pytest.approx(expected, rel=1e-10)
    assert float(kernel_sum(two_sets[0], chunk=7)) == pytest.approx(xx.sum() - np.trace(xx), rel=1e-12)


def test_kid_subsets_agree_with_torch_fidelity(two_sets) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    mean, std = kernel_distance_subsets(*two_sets, subsets=200, size=100)
    theirs = kid_features_to_metric(*two_sets, kid_subsets=200, kid_subset_size=100, verbose=False, rng_seed=1)
    error = 4 * theirs["kernel_inception_distance_std"] * math.sqrt(2 / 200)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=error)
    assert mean == pytest.approx(kernel_distance(*two_sets), abs=error)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], rel=0.3)
    assert (mean, std) == kernel_distance_subsets(*two_sets, subsets=200, size=100)
    whole = kernel_distance_subsets(
        *(s[:270] for s in two_sets), subsets=2, size=1000
    )  # fewer images than a subset: all of them
    assert whole == (
        pytest.approx(kernel_distance(two_sets[0][:270], two_sets[1]), rel=1e-9),
        pytest.approx(0, abs=1e-12),
    )


def test_kid_of_one_distribution_is_zero_on_average() -> None:
    generator = torch.Generator().manual_seed(3)
    values = [
        kernel_distance(torch.randn(20, 4, generator=generator), torch.randn(30, 4, generator=generator))
        for _ in range(400)
    ]
    assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / 20)
    assert min(values) < 0  # an estimate cut off at zero would be biased
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(torch.zeros(1, 4), torch.zeros(5, 4))


def test_precision_and_recall_are_torch_fidelitys(two_sets) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    theirs = prc_features_to_metric(*(s.double() for s in two_sets), prc_neighborhood=3, verbose=False)
    assert precision_recall(*two_sets) == (pytest.approx(theirs["precision"]), pytest.approx(theirs["recall"]))
    assert theirs["precision"] != theirs["recall"]
    assert precision_recall(*two_sets, real_radii=radii(two_sets[1], 3)) == precision_recall(*two_sets)


def test_density_and_coverage_are_prdcs(two_sets) -> None:
    from prdc import compute_prdc

    theirs = compute_prdc(two_sets[1].double().numpy(), two_sets[0].double().numpy(), nearest_k=5)
    assert density_coverage(*two_sets) == (pytest.approx(theirs["density"]), pytest.approx(theirs["coverage"]))


def test_chunks_do_not_change_radii(two_sets) -> None:
    torch.testing.assert_close(radii(two_sets[0], 3, chunk=13), radii(two_sets[0], 3))
    with pytest.raises(ValueError, match="more than 3"):
        radii(two_sets[0][:3], 3)


def test_extremes_of_the_manifold_metrics() -> None:
    real = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real + 1000, real) == (0.0, 0.0)
    one = real[:1].repeat(60, 1) + 1e-3 * torch.randn(
        60, 4, generator=torch.Generator().manual_seed(2)
    )  # collapsed to one image
    precision, recall = precision_recall(one, real)
    density, coverage = density_coverage(one, real)
    assert precision == 1.0
    assert recall < 0.1
    assert density > 0.5
    assert coverage < 0.3


def test_inception_score_is_torch_fidelitys() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) * 3
    statistics = ClassStatistics(7)
    for batch in logits.split(90):
        statistics.update(batch)
    theirs = isc_features_to_metric(logits, splits=1, shuffle=False)["inception_score_mean"]
    assert statistics.inception_score == pytest.approx(theirs, rel=1e-5)
    halves = [ClassStatistics(7), ClassStatistics(7)]
    for half, part in zip(halves, logits.split([100, 400]), strict=True):
        half.update(part)
    merged = ClassStatistics.unpack(halves[0].pack() + halves[1].pack())
    assert merged.inception_score == pytest.approx(statistics.inception_score, rel=1e-12)
    assert torch.equal(merged.histogram, statistics.histogram)


def test_class_kl_and_modes() -> None:
    statistics = ClassStatistics(4)
    statistics.update(torch.eye(4)[[0, 0, 0, 1, 1, 3]] * 20)
    assert statistics.histogram.tolist() == [3, 2, 0, 1]
    assert statistics.modes == 3
    assert statistics.kl() == pytest.approx(entropy([3, 2, 0, 1], [1, 1, 1, 1]))
    assert statistics.kl(torch.tensor([10, 20, 30, 0])) == pytest.approx(entropy([3, 2, 0, 1], [10.5, 20.5, 30.5, 0.5]))
    collapsed = ClassStatistics(4)
    collapsed.update(torch.eye(4)[[2] * 9] * 20)
    assert collapsed.kl() == pytest.approx(math.log(4))
    assert collapsed.inception_score == pytest.approx(1, abs=1e-6)
