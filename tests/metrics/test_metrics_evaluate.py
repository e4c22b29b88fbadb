"""The Evaluator: sharded equals single, cache, what each figure says about good, noisy and collapsed generators,
mistakes.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from distgan.config import ConfigError
from distgan.kinds.image.extractors import get_extractor
from distgan.metrics import Evaluator, Extractor, Moments, TorchDistributed, evaluate_samples, frechet_distance
from distgan.registry import METRICS
from distgan.storage import Folder

ALL = list(METRICS)
PAIRED = ("kid", "kid_std", "precision", "recall", "density", "coverage")
EXAMPLE = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)


class Linear:
    """Features and logits that do not depend on how images are batched, to the last bit, and that count images."""

    seen = 0

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        Linear.seen += len(images)
        x = images.flatten(1).double()
        features = torch.stack([x[:, i::6].sum(1) / 100 for i in range(6)], dim=1)  # sums of whole numbers are exact
        return features, features[:, :5]


def extractor(name: str = "linear") -> Extractor:
    return Extractor(name, Linear(), "cpu", EXAMPLE)


def made_images(index: Tensor) -> Tensor:
    """Generated images, a pure function of the index."""
    base = (index[:, None] * 37 + torch.arange(64) * 11 + index[:, None] * torch.arange(64) % 17) % 256
    return base.byte().view(-1, 1, 8, 8)


REAL = np.random.default_rng(0).integers(0, 256, (103, 1, 8, 8), dtype=np.uint8)
LABELS = np.zeros(103, dtype=np.int64)


def measure(n: int, context: TorchDistributed | None = None, cache: Path | None = None) -> dict[str, float]:
    evaluator = Evaluator(REAL, LABELS, "f", extractor(), ALL, context=context, batch_size=10, cache_dir=cache)
    return {**evaluator.evaluate(made_images, n), "floor": evaluator.floor_fid()}


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    context = TorchDistributed()
    x = torch.randn(31, 5, generator=torch.Generator().manual_seed(1)).double() + 1e4
    cuts = [0, 1, 31, 31][: world + 1]  # very uneven; with three ranks the last has nothing
    part = x[cuts[rank] : cuts[rank + 1]]
    reduced = Moments(5).update(part).all_reduce(context, x[:4].mean(0))
    rows = context.all_gather_rows(part)
    cached = measure(
        61, context, Path(folder) / f"cache{rank}"
    )  # no shared folder: only the first rank ever has the file
    again = measure(61, context, Path(folder) / f"cache{rank}")
    try:
        Evaluator(REAL, None, "f", extractor(f"net{rank}"), ALL, context=context)
        refused = ""
    except ConfigError as error:
        refused = str(error)
    result = {"n": reduced.n, "mean": reduced.mean, "cov": reduced.cov, "rows": rows, "refused": refused}
    result |= {"few": measure(7, context), "metrics": cached, "again": again, "seen": Linear.seen}
    torch.save(result, f"{folder}/{rank}.pt")
    dist.barrier()  # what the broadcasts held is let go of before the interpreter ends (Context.leave)
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_sharded_equals_single(world: int, tmp_path) -> None:
    mp.spawn(worker, (world, str(tmp_path)), nprocs=world)
    x = torch.randn(31, 5, generator=torch.Generator().manual_seed(1)).double() + 1e4
    single, expected, few = Moments(5).update(x), measure(61), measure(7)
    shares = []
    for rank in range(world):
        result = torch.load(f"{tmp_path}/{rank}.pt")
        assert result["n"] == 31
        torch.testing.assert_close(result["mean"], single.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(result["cov"], single.cov, rtol=1e-8, atol=1e-8)
        assert torch.equal(result["rows"], x)
        assert result["metrics"] == pytest.approx(expected, rel=1e-8, abs=1e-8)
        assert result["again"] == pytest.approx(expected, rel=1e-8, abs=1e-8)
        assert result["few"] == pytest.approx(few, rel=1e-8, abs=1e-8)
        assert result["metrics"] == torch.load(f"{tmp_path}/0.pt")["metrics"]  # the very same numbers on all ranks
        assert "different networks" in result["refused"]
        shares.append(result["seen"])
    probes = world * 2 * 4
    assert sum(shares) == probes + 61 + 61 + 7 + 103 * 2  # each image once, none padded; the second run found the cache
    assert max(shares) - min(shares) <= 5
    assert len(list(tmp_path.glob("cache*/real-*.npz"))) == 1


def test_keys_follow_the_metrics_asked_for() -> None:
    result = measure(61)
    assert set(result) == {"fid", *PAIRED, "inception_score", "modes", "class_kl", "samples", "real_samples", "floor"}
    assert (result["samples"], result["real_samples"]) == (61.0, 103.0)
    evaluator = Evaluator(REAL, None, "f", extractor(), ["fid"])
    assert set(evaluator.evaluate(made_images, 20)) == {"fid", "class_kl", "samples", "real_samples"}
    assert evaluator.extractor == "linear"
    assert evaluator.histogram is not None
    assert int(evaluator.histogram.sum()) == 20


def test_fid_is_that_of_all_images_at_once() -> None:
    features = [extractor()(images)[0] for images in (made_images(torch.arange(61)), torch.from_numpy(REAL))]
    direct = frechet_distance(*(Moments(6).update(f) for f in features))
    assert measure(61)["fid"] == pytest.approx(direct, rel=1e-9)


def test_second_construction_reads_the_cache_and_damage_is_made_good(tmp_path, caplog) -> None:
    first = measure(61, cache=tmp_path)
    (file,) = tmp_path.glob("*")  # and nothing left aside
    Linear.seen = 0
    assert measure(61, cache=tmp_path) == first
    assert Linear.seen == 2 + 61  # the probe and the generated images
    Evaluator(REAL, LABELS, "other data", extractor(), ALL, cache_dir=tmp_path)
    Evaluator(REAL, LABELS, "f", extractor("other net"), ALL, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 3
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for damaged in (whole[: len(whole) // 2], b"", bytes(flipped)):
        file.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert measure(61, cache=tmp_path) == first
        assert str(file) in caplog.text
        assert file.read_bytes() != damaged


def test_storage_keeps_the_statistics_for_a_machine_that_has_never_seen_the_data(tmp_path) -> None:
    def seen(cache: Path) -> tuple[int, float]:
        Linear.seen = 0
        evaluator = Evaluator(
            REAL, LABELS, "f", extractor(), ["fid"], cache_dir=cache, store=Folder(tmp_path / "run" / "statistics")
        )
        return Linear.seen, evaluator.evaluate(made_images, 20)["fid"]

    (first, fid), (elsewhere, again) = seen(tmp_path / "a"), seen(tmp_path / "b")
    assert (first, elsewhere) == (2 + 103, 2)  # the probe, and all real images once
    assert fid == again
    (kept,) = (tmp_path / "run" / "statistics").iterdir()
    assert (tmp_path / "b" / kept.name).read_bytes() == kept.read_bytes()  # and now it is near
    kept.write_bytes(b"damaged")
    assert seen(tmp_path / "c") == (2 + 103, fid)
    assert seen(tmp_path / "d") == (2, fid)


def test_an_unwritable_cache_is_no_failure(tmp_path, caplog) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert measure(20, cache=tmp_path / "taken")["samples"] == 20
    assert "cannot be written" in caplog.text


def test_mistakes_are_named_before_anything_is_extracted() -> None:
    with pytest.raises(ConfigError, match=r"metrics.names = 'fdi': allowed: .*fid, .*kid.*did you mean fid"):
        Evaluator(REAL, None, "f", extractor(), ["fdi"])
    blind = get_extractor("random-conv", data_channels=1, resolution=8)
    with pytest.raises(ConfigError, match=r"'modes': needs an extractor that classifies, and 'random-conv' does not"):
        Evaluator(REAL, None, "f", blind, ["modes"])
    with pytest.raises(ConfigError, match=r"the data have 5 samples: density-coverage needs at least 6"):
        Evaluator(REAL[:5], None, "f", extractor(), ["density-coverage"])
    with pytest.raises(ConfigError, match=r"metrics.samples = 3: precision-recall needs at least 4"):
        Evaluator(REAL, None, "f", extractor(), ["fid", "precision-recall"]).evaluate(made_images, 3)
    with pytest.raises(ConfigError, match=r"have the shape \(1, 4, 4\).*data's \(1, 8, 8\)"):
        evaluate_samples(REAL[:, :, :4, :4], Images(REAL), ["fid"], extractor())


def test_broken_generator_gives_nan_and_no_crash() -> None:
    class Broken(Linear):
        def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
            features, logits = super().__call__(images)
            return torch.where(images.flatten(1)[:, :1] == 255, torch.nan, features), logits

    white = Evaluator(np.minimum(REAL, 254), None, "f", Extractor("broken", Broken(), "cpu", EXAMPLE), ALL)
    result = white.evaluate(lambda index: torch.full((len(index), 1, 8, 8), 255, dtype=torch.uint8), 20)
    assert np.isnan(result["fid"])
    assert np.isnan(result["kid"])
    assert (result["precision"], result["density"]) == (0, 0)


class Images:
    """The least that evaluate_samples reads."""

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        self.samples, self.labels, self.fingerprint = images, labels, "f"


def test_what_the_figures_say_about_digits(digits) -> None:
    """Other real digits are near the floor; noise hurts fidelity, a missing class and one single image hurt
    diversity.
    """
    images, labels = digits[0].numpy(), digits[1].numpy()
    split = np.random.default_rng(0).permutation(10000)
    real, fresh = Images(images[split[:1500]], labels[split[:1500]]), split[1500:2500]
    net = get_extractor("auto", data_channels=1, resolution=28, data_name="mnist10k")
    good = evaluate_samples(images[fresh], real, ALL, net)
    noisy = evaluate_samples(
        np.clip(images[fresh] + np.random.default_rng(1).normal(0, 60, images[fresh].shape), 0, 255).astype(np.uint8),
        real,
        ALL,
        net,
    )
    few = evaluate_samples(images[fresh[labels[fresh] < 5]], real, ALL, net)
    assert good["fid"] < 2 * good["floor_fid"]
    assert abs(good["kid"]) < 4 * good["kid_std"]
    assert good["precision"] > 0.75
    assert good["recall"] > 0.75
    assert good["coverage"] > 0.85
    assert good["density"] == pytest.approx(1, abs=0.15)
    assert good["modes"] == 10
    assert good["inception_score"] > 9
    assert good["class_kl"] < 0.02
    assert noisy["fid"] > 20 * good["fid"]
    assert noisy["precision"] < good["precision"] - 0.2
    assert few["modes"] < 10
    assert few["class_kl"] == pytest.approx(np.log(2), abs=0.05)
    assert few["recall"] < 0.7
    assert few["coverage"] < 0.6
    assert few["fid"] > 20 * good["fid"]


def test_class_accuracy_where_the_classifier_knows_the_labels(digits) -> None:
    images, labels = digits[0][:400], digits[1][:400]
    net = get_extractor("digits", data_channels=1, resolution=28)
    pick = torch.arange(50, 250)
    evaluator = Evaluator(images.numpy(), labels.numpy(), "f", net, ["fid"])
    assert evaluator.evaluate(lambda i: images[pick[i]], 200, lambda i: labels[pick[i]])["class_accuracy"] > 0.97
    assert (
        evaluator.evaluate(lambda i: images[pick[i]], 200, lambda i: (labels[pick[i]] + 1) % 10)["class_accuracy"]
        < 0.03
    )
    foreign = Evaluator(
        images.numpy(), (labels.numpy() + 3) % 10, "f", net, ["fid"]
    )  # classes in an order of their own
    assert "class_accuracy" not in foreign.evaluate(lambda i: images[pick[i]], 200, lambda i: labels[pick[i]])


def test_pairs_are_capped_evenly_over_the_real_set_and_moments_are_not(monkeypatch) -> None:
    from distgan.metrics import density_coverage
    from distgan.metrics import evaluator as evaluate

    monkeypatch.setattr(evaluate, "CAP", 20)
    result = measure(61)
    real, made = extractor()(torch.from_numpy(REAL))[0], extractor()(made_images(torch.arange(61)))[0]
    spread = torch.tensor([i * 103 // 20 for i in range(20)])
    assert (result["density"], result["coverage"]) == density_coverage(made[:20], real[spread])
    assert result["fid"] == pytest.approx(frechet_distance(Moments(6).update(made), Moments(6).update(real)), rel=1e-9)
