"""Moments against numpy, the Fréchet distance against scipy, torchmetrics and torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from distgan.metrics import Moments, frechet_distance


def features(n: int, d: int, seed: int, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mix + offset + torch.randn(d, generator=generator)


@pytest.mark.parametrize("sizes", [(57,), (1, 1, 55), (20, 0, 30, 7)])
def test_moments_in_any_batches_are_numpys(sizes: tuple[int, ...]) -> None:
    x = features(57, 9, 0)
    moments = Moments(9)
    for batch in x.split(list(sizes)):
        moments.update(batch)
    assert moments.n == 57
    np.testing.assert_allclose(moments.mean, x.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.cov, np.cov(x.double().numpy(), rowvar=False), rtol=1e-10)


def test_merge_equals_one_pass_and_takes_empty_sides() -> None:
    x = features(40, 5, 1)
    merged = (
        Moments(5).merge(Moments(5)).merge(Moments(5).update(x[:3])).merge(Moments(5).update(x[3:])).merge(Moments(5))
    )
    whole = Moments(5).update(x)
    torch.testing.assert_close(merged.cov, whole.cov, rtol=1e-12, atol=1e-12)
    assert merged.n == whole.n == 40


def test_a_large_offset_does_not_cancel() -> None:
    x = features(200, 4, 2).double()
    far = Moments(4)
    for batch in (x + 1e7).split(17):
        far.update(batch)
    torch.testing.assert_close(far.cov, Moments(4).update(x).cov, rtol=1e-6, atol=1e-6)


def test_packs_add_up_and_a_common_reference_keeps_the_digits() -> None:
    x = features(90, 6, 3).double() + 1e6
    reference = x[:5].mean(0)
    parts = [Moments(6).update(part) for part in x.split([1, 60, 29])] + [Moments(6)]
    total = Moments.unpack(sum(part.pack(reference) for part in parts), reference)  # type: ignore[arg-type]
    whole = Moments(6).update(x)
    assert total.n == 90
    torch.testing.assert_close(total.mean, whole.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(total.cov, whole.cov, rtol=1e-8, atol=1e-8)


def test_save_and_load(tmp_path) -> None:
    moments = Moments(3).update(features(10, 3, 4))
    moments.save(tmp_path / "m.npz")
    back = Moments.load(tmp_path / "m.npz")
    assert back.n == 10
    assert torch.equal(back.mean, moments.mean)
    assert torch.equal(back.scatter, moments.scatter)
    assert frechet_distance(back.update(features(5, 3, 5)), moments) > 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(n, 3\)"):
        Moments(3).update(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="at least 2"):
        _ = Moments(3).update(torch.zeros(1, 3)).cov
    with pytest.raises(ValueError, match="same extractor"):
        frechet_distance(Moments(3).update(torch.zeros(2, 3)), Moments(4).update(torch.zeros(2, 4)))


def test_frechet_of_known_gaussians() -> None:
    a, b = Moments(2), Moments(2)
    a.n = b.n = 2  # scatter / (n - 1) = covariance
    a.scatter, b.scatter = torch.diag(torch.tensor([4.0, 9.0]).double()), torch.diag(torch.tensor([1.0, 16.0]).double())
    b.mean = torch.tensor([3.0, 4.0]).double()
    assert frechet_distance(a, b) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 4) ** 2, rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n", [500, 12])  # 12 < 20 dimensions: singular covariances
def test_frechet_is_scipys_and_the_libraries(n: int) -> None:
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    x, y = features(n, 20, 6).double(), features(n + 3, 20, 7, offset=0.3).double()
    a, b = Moments(20).update(x), Moments(20).update(y)
    ours = frechet_distance(a, b)
    cov_a, cov_b = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    theirs = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + np.trace(cov_a + cov_b - 2 * root)
    tolerance = 1e-8 if n > 20 else 1e-4
    assert ours == pytest.approx(theirs, rel=tolerance)
    assert ours == pytest.approx(float(_compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())), rel=tolerance)
    stats = [{"mu": m.mean.numpy(), "sigma": m.cov.numpy()} for m in (a, b)]
    fidelity = fid_statistics_to_metric(stats[0], stats[1], False)["frechet_inception_distance"]
    assert ours == pytest.approx(fidelity, rel=tolerance)
    assert ours == pytest.approx(frechet_distance(b, a), rel=1e-8)


def test_non_finite_features_give_nan_not_a_crash() -> None:
    x = features(30, 4, 8)
    broken = x.clone()
    broken[3, 2] = float("inf")
    assert np.isnan(frechet_distance(Moments(4).update(x), Moments(4).update(broken)))
