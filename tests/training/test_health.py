"""What a run says when the game goes wrong, and that it keeps quiet otherwise."""

import itertools
import re

import pytest

from distgan.config import load_config
from distgan.training.health import Health

FINE = {"diversity": 0.9, "d_loss": 0.65, "logit_gap": 0.3, "d_grad_norm": 0.5, "g_grad_norm": 0.2}
CONFIG = load_config(overrides={"kimg": 100, "batch_size": 100})


def play(changes, kimg=range(1, 101), counters=None, config=CONFIG):
    """[(kimg, text)] told over a run whose signals are FINE but for `changes(kimg)`."""
    health = Health(config, {} if counters is None else counters)
    return [(k, text) for k in kimg for text in health.look(1000 * k, FINE | changes(k))]


def test_a_good_game_is_not_commented_on():
    assert play(lambda k: {}) == []


@pytest.mark.parametrize(
    ("signal", "value", "words"),
    [
        ("diversity", 0.1, "mode collapse: .* 0.10 times .* optim.g.lr"),
        ("d_loss", 0.01, "discriminator wins: its loss is 0.010, and 0.69 .* loss.r1_gamma"),
        ("logit_gap", -0.5, "rates generated samples above real ones .*-0.50"),
        ("d_grad_norm", 500.0, "discriminator's gradient has grown .*-fold.*optim.d.lr"),
        ("g_grad_norm", 1e-6, "generator's gradient has shrunk .*-fold.*optim.d.lr"),
    ],
)
def test_what_lasts_is_told_with_what_to_try(signal, value, words):
    told = play(lambda k: {signal: value} if k >= 20 else {})
    assert told, signal
    assert told[0][0] == 23  # 3 kimg after it began
    assert re.search(words, told[0][1])
    assert all(b[0] - a[0] >= 20 for a, b in itertools.pairwise(told))  # and rarely again
    assert play(lambda k: {signal: value} if k in (20, 21, 40, 41, 42) else {}) == []


def test_a_resumed_run_says_what_an_uninterrupted_one_says():
    bad = lambda k: {"diversity": 0.1, "d_loss": 0.01} if k >= 20 else {}  # noqa: E731
    counters = {}
    first = play(bad, range(1, 22), counters)
    assert first == []
    assert play(bad, range(22, 101), {rule: list(entry) for rule, entry in counters.items()}) == play(bad)


def test_losses_without_a_draw_have_no_winner():
    config = load_config(overrides={"kimg": 100, "loss.name": "wasserstein"})
    assert play(lambda k: {"d_loss": -50.0}, config=config) == []


def test_getting_worse_is_told_at_the_third_measurement():
    health = Health(CONFIG, {})
    told = [
        health.look(10_000 * i, FINE, {"fid": fid}, best=2.0) for i, fid in enumerate([2.0, 4.1, 3.9, 5, 6, 7, 8], 1)
    ]
    assert [bool(t) for t in told] == [False] * 5 + [True, False]
    assert "FID 7, and 2 was the best" in told[5][0]


def test_missing_classes_are_named_once_there_are_images_enough():
    names = [f"class {i}" for i in range(10)]
    counts = [500.0] * 8 + [3.0, 0.0]
    health = Health(CONFIG, {})
    assert health.look(10_000, FINE, {"fid": 1.0}, 1.0, counts, names) == []  # early
    assert health.look(30_000, FINE, {"fid": 1.0}, 1.0, [c / 50 for c in counts], names) == []  # may be chance
    (text,) = health.look(30_000, FINE, {"fid": 1.0}, 1.0, counts, names)
    assert "2 of 10 classes hardly appear: class 8, class 9." in text
    assert health.look(40_000, FINE, {"fid": 1.0}, 1.0, counts, names) == []
