"""What a run says when the game goes wrong, that it says it of the right thing, and that it keeps quiet otherwise."""

import itertools
import re

import pytest
import torch

from distgan.config import load_config
from distgan.training.health import Health

FINE = {
    "diversity": 0.8,
    "diversity_main": 0.7,
    "d_loss": 0.5,
    "logit_gap": 0.9,
    "d_grad_norm": 0.5,
    "g_grad_norm": 0.2,
}
COLLAPSED = {"diversity": 0.3, "diversity_main": 0.15}
CONFIG = load_config(overrides={"kimg": 100, "batch_size": 50, "model.conditioning": "projection"})


def play(changes, kimg=range(1, 101), counters=None, config=CONFIG):
    """[(kimg, text)] told over a run whose signals are FINE but for `changes(kimg)`."""
    health, told = Health(config, {} if counters is None else counters, "images"), []
    for k in kimg:
        now = FINE | changes(k)
        health.add(1000 // health.step, 1000 * k, now)
        told += [(k, text) for text in health.look(1000 * k, now)]
    return told


def test_a_good_game_is_not_commented_on():
    assert play(lambda k: {}) == []


@pytest.mark.parametrize(
    ("signs", "after", "words", "withdrawn"),
    [
        (COLLAPSED, 2, "^mode collapse: generated images of a class .* 0.15 times .* Try .*optim.g.lr", "collapse has"),
        (
            {"d_loss": 0.01, "logit_gap": 9},
            2,
            "^the discriminator wins: .* 0.010 .0.69 .* Try .*optim.d.lr",
            "no longer",
        ),
        (
            {"d_loss": 1.6},
            1,
            "^blow-up: .* is worse than chance; .* 1.60 .* Try .*optim.d.lr .* optim.g.lr",
            "blow-up has",
        ),
        ({"logit_gap": -0.5}, 1, "^blow-up: .* generated images above real ones; .* -0.50", "blow-up has"),
        ({"d_grad_norm": 500.0}, 2, "discriminator's gradient has grown .*-fold.*optim.d.lr", "as it was again"),
        ({"g_grad_norm": 1e-6}, 2, "generator's gradient has shrunk .*-fold.*optim.d.lr", "as it was again"),
    ],
)
def test_what_lasts_is_told_once_with_what_to_try_and_withdrawn(signs, after, words, withdrawn):
    told = play(lambda k: signs if 20 <= k < 40 else {})
    assert [k for k, _ in told] == [20 + after, 40]
    assert re.search(words.replace("generated images above", "rates generated samples above"), told[0][1])
    assert withdrawn in told[1][1]
    assert "Try" not in told[1][1]
    again = play(lambda k: signs if k % 10 < 5 and k >= 20 else {})
    begun = [k for k, text in again if "Try" in text]
    assert all(b - a >= 20 for a, b in itertools.pairwise(begun))  # and rarely again


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ({"d_loss": 4.0}, "spike of the discriminator's loss has passed: it was 4.00 over a kimg, is 0.50"),
        ({"d_grad_norm": 500.0}, "spike of the discriminator's gradient has passed: it was 1000 times off, is 0.5"),
        ({"g_grad_norm": 20.0}, "spike of the generator's gradient has passed: it was 100 times off, is 0.2"),
    ],
)
def test_a_spike_that_has_passed_is_told_without_advice(signs, words):
    ((k, text),) = play(lambda k: signs if k == 20 else {})
    assert k == 21
    assert words in text
    assert "Try" not in text


@pytest.mark.parametrize("signs", [COLLAPSED, {"d_loss": 0.01}, {"logit_gap": -0.1}])
def test_what_passes_at_once_and_harms_nobody_is_not_told(signs):
    assert play(lambda k: signs if k == 20 else {}) == []


def test_a_collapse_is_not_called_a_discriminator_that_wins():
    """One picture a class is easily told from the data: what lowers D's rate would not help."""
    both = COLLAPSED | {"d_loss": 0.01, "logit_gap": 9, "d_grad_norm": 1e-5}
    assert [text.partition(":")[0] for _, text in play(lambda k: both if k >= 20 else {})] == ["mode collapse"]


@pytest.mark.parametrize(
    "signs", [{"diversity": 0.9, "diversity_main": 0.1}, {"diversity": 0.4, "diversity_main": 0.5}]
)
def test_noise_and_low_contrast_are_no_collapse(signs):
    assert play(lambda k: signs) == []


def test_the_first_kimg_may_look_like_anything():
    assert play(lambda k: {"d_loss": 3.0, "logit_gap": -1, **COLLAPSED} if k == 1 else {}) == []


def test_the_advice_fits_the_settings():
    def advice(signs, **changes):
        config = load_config(overrides={"kimg": 100, "batch_size": 50, **changes})
        return play(lambda k: signs, range(1, 10), config=config)[0][1].partition(" Try ")[2]

    assert advice(COLLAPSED, **{"loss.r1_gamma": 0, "loss.r2_gamma": 0}).startswith("loss.name = relativistic with")
    assert "optim.g.lr (0.003, say), loss.r1_gamma and loss.r2_gamma of 1 (now 0.1)" in advice(
        COLLAPSED, **{"loss.r1_gamma": 0.1, "loss.r2_gamma": 0.1}
    )
    assert "gamma" not in advice(COLLAPSED)
    assert "optim.d.lr (0.0015, say) and optim.g.lr (0.003, say)" in advice({"d_loss": 2.0})
    assert advice({"logit_gap": -1}, **{"optim.g.lr": 1, "optim.d.lr": 1e-4}).startswith(
        "a lower optim.g.lr (0.5, say)"
    )
    assert "training.n_dis = 1" in advice({"d_loss": 0.001}, **{"training.n_dis": 3, "batch_size": 10})
    assert "n_dis" not in advice({"d_loss": 0.001})


@pytest.mark.parametrize("cut", [21, 22, 40])
def test_a_resumed_run_says_what_an_uninterrupted_one_says(cut):
    bad = lambda k: (COLLAPSED if k >= 20 else {}) | ({"d_loss": 2.0} if 21 <= k < 41 else {})  # noqa: E731
    counters = {}
    first = play(bad, range(1, cut), counters)
    kept = {rule: list(entry) for rule, entry in counters.items()}
    assert first + play(bad, range(cut, 101), kept) == play(bad)


def test_a_stop_between_two_log_lines_changes_no_mean():
    whole, cut = ({}, {})
    Health(CONFIG, whole).add(20, 3000, {"d_loss": 1.0, "logit_gap": 0.5})
    Health(CONFIG, cut).add(8, 2400, {"d_loss": 0.25, "logit_gap": 0.5})
    Health(CONFIG, cut).add(12, 3000, {"d_loss": 1.5, "logit_gap": 0.5})
    assert whole == cut


def test_counters_of_older_checkpoints_are_read():
    old = {"collapse": [-1, -1], "won": [3000, 5000], "lost": [-1, -1], "d jump": [-1, -1], "d gradient": [1000, 0.1]}
    assert play(lambda k: {}, range(7, 12), old)[0][1].startswith("the discriminator no longer wins")


@pytest.mark.parametrize("loss", ["hinge", "non-saturating", "least-squares", "minimax"])
def test_limits_follow_the_loss(loss):
    config = load_config(overrides={"kimg": 100, "batch_size": 50, "loss.name": loss})
    draw = Health(config, {}).draw
    assert play(lambda k: {"d_loss": draw}, config=config) == []
    assert "blow-up" in play(lambda k: {"d_loss": 3 * draw}, config=config)[0][1]
    assert "wins" in play(lambda k: {"d_loss": draw / 20}, config=config)[0][1]


def test_losses_without_a_draw_have_no_winner():
    config = load_config(overrides={"kimg": 100, "batch_size": 50, "loss.name": "wasserstein"})
    assert play(lambda k: {"d_loss": -50.0}, config=config) == []
    assert "above real ones" in play(lambda k: {"d_loss": 50.0, "logit_gap": -3}, config=config)[0][1]


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


RUN = {
    "kimg": 5,
    "model.name": "dcgan",
    "model.g_width": 8,
    "model.d_width": 8,
    "model.g_norm": "none",
    "model.d_norm": "none",
    "data.limit": None,
    "model.latent_dim": 64,
    "optim.g.beta1": 0,
    "optim.d.beta1": 0,
    "optim.g.beta2": 0.99,
    "optim.d.beta2": 0.99,
    "model.conditioning": "projection",
    "model.g_upsampling": "transposed",
    "log.every_kimg": 0.5,
    "metrics.every_kimg": 1000,
    "checkpoint.every_kimg": 100,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optim.g.lr": 2e-2, "optim.d.lr": 5e-3}, "mode collapse"),
        ({"loss.name": "relativistic", "optim.g.lr": 1e-4, "optim.d.lr": 1e-2}, "the discriminator wins"),
    ],
)
def test_real_runs_that_go_wrong_say_what_is_wrong(tiny, changes, words):
    from distgan.runs.prepare import prepare
    from distgan.training.context import Context
    from distgan.training.loop import train

    told = []
    prepared = prepare(tiny(**RUN, **changes))
    train(prepared.config, Context(torch.device("cpu")), prepared.folder, tell=lambda *event: told.append(event))
    warned = [(nimg, text) for nimg, text in told if "Try" in text]
    assert [text.partition(":")[0] for _, text in warned] == [words]
    assert warned[0][0] <= 4500
