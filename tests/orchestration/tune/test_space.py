"""Search spaces: bad ones are refused in one line each before Ray is imported; good ones give valid configs and hold
the baseline.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distgan.config import ConfigError, RunConfig, load_config, shipped_configs
from distgan.orchestration.tune.settings_files import read_settings
from distgan.orchestration.tune.space import default_space, open_space


def space_of(space: object, **tune: object):
    base = {"tune": {"space": space, **tune}}
    return open_space(load_config(base=base))


BAD: dict[str, tuple[object, str]] = {
    "typo": ({"optim.g.lrr": {"loguniform": [1e-4, 1e-2]}}, "did you mean optim.g.lr"),
    "short typo": ({"d_lr_ration": {"choice": [1, 2]}}, "did you mean d_lr_ratio"),
    "wrong kind": ({"g_lr": {"loguniforme": [1e-4, 1e-2]}}, "did you mean loguniform"),
    "wrong type": ({"loss": {"uniform": [0, 1]}}, "use {choice: [...]}"),
    "float for a whole number": ({"n_dis": {"uniform": [1, 5]}}, "use randint or choice"),
    "whole number for a float": ({"beta1": {"randint": [0, 2]}}, "use uniform, loguniform or choice"),
    "empty choice": ({"beta1": {"choice": []}}, "is empty"),
    "out of range": ({"beta1": {"uniform": [0.0, 1.5]}}, "space.beta1: 1.5 is not allowed: optim.g.beta1"),
    "out of range choice": ({"loss": {"choice": ["hinge", "wassertstein"]}}, "did you mean wasserstein"),
    "reversed": ({"g_lr": {"uniform": [1e-2, 1e-4]}}, "the first number must be below the second"),
    "log of zero": ({"r1_gamma": {"loguniform": [0, 1]}}, "must begin above 0"),
    "no distribution": ({"g_lr": [1e-4, 1e-2]}, "needs one distribution"),
    "one number": ({"g_lr": {"loguniform": [1e-4]}}, "needs 2 numbers"),
    "text": ({"g_lr": {"loguniform": ["low", 1e-2]}}, "'low' is no number"),
    "twice": ({"g_lr": {"loguniform": [1e-4, 1e-2]}, "optim.g.lr": {"loguniform": [1e-4, 1e-2]}}, "keep one of them"),
    "ratio and rate": ({"d_lr": {"choice": [1e-4]}, "d_lr_ratio": {"choice": [1, 2]}}, "keep one of them"),
    "not comparable": ({"data.name": {"choice": ["mnist", "cifar10"]}}, "cannot be compared"),
    "budget": ({"kimg": {"uniform": [1, 2]}}, "cannot be compared"),
    "together": ({"g_lr": {"uniform": [1, 9]}, "d_lr_ratio": {"uniform": [1, 4]}}, "is not allowed: optim.d.lr"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_a_bad_space_gives_one_clear_line(case: str) -> None:
    space, hint = BAD[case]
    with pytest.raises(ConfigError) as error:
        space_of(space)
    assert hint in str(error.value)
    assert str(error.value).count("\n") == 0
    assert str(error.value).startswith("space")


@pytest.mark.parametrize(
    ("tune", "hint"),
    [
        ({"scheduler": "ashaa"}, "did you mean asha"),
        ({"searcher": "bohb"}, "allowed: random, optuna"),
        ({"metric": "loss"}, "allowed: class_kl, density, coverage, fid"),
        ({"scheduler": "pbt", "space": {"beta1": {"choice": [0, 0.5]}}}, "explores numbers"),
        ({"scheduler": "pbt", "num_samples": 1}, "allowed: at least 2"),
        ({"space": {"beta1": {"grid": [0.0, 0.5]}}}, "optuna does not walk grids"),
        (
            {"space": {"beta1": {"grid": [0.0, 0.1, 0.2, 0.5]}}, "searcher": "random", "num_samples": 3},
            "allowed: at least 4",
        ),
    ],
)
def test_a_bad_search_gives_one_clear_line(tune: dict[str, object], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as error:
        open_space(load_config(base={"tune": tune}))
    assert str(error.value).count("\n") == 0


RATE = "g_lr: {loguniform: [1.0e-4, 1.0e-2]}\n"
TYPED: dict[str, tuple[str, list[str], str]] = {
    "typo": ("optim.g.lrr: {loguniform: [1.0e-4, 1.0e-2]}\n", [], "did you mean optim.g.lr"),
    "typo of a distribution": ("g_lr: {loguniforme: [1.0e-4, 1.0e-2]}\n", [], "did you mean loguniform"),
    "wrong type": ("loss: {uniform: [0, 1]}\n", [], "use {choice: [...]}"),
    "text for a number": ("g_lr: {loguniform: [low, high]}\n", [], "'low' is no number"),
    "empty": ("beta1: {choice: []}\n", [], "is empty"),
    "a former name": (RATE + "trials: 3\n", [], "trials: is num_samples now"),
    "a former name, typed": (RATE, ["--tune.concurrent", "2"], "did you mean tune.max_concurrent_trials?"),
    "no space": ("num_samples: 3\nspace: {}\n", [], "holds no space"),
    "out of range": (
        "g_lr: {loguniform: [1.0e-4, 100]}\n",
        [],
        "100.0 is not allowed: optim.g.lr = 100.0: allowed: a number > 0",
    ),
    "out of range together": (
        "g_lr: {uniform: [1, 9]}\nd_lr_ratio: {uniform: [1, 4]}\n",
        [],
        "is not allowed: optim.d.lr",
    ),
    "reversed": ("g_lr: {loguniform: [1.0e-2, 1.0e-4]}\n", [], "the first number must be below the second"),
    "logarithm of zero": ("r1_gamma: {loguniform: [0, 1]}\n", [], "must begin above 0"),
    "set twice": (RATE + "optim.g.lr: {loguniform: [1.0e-4, 1.0e-2]}\n", [], "keep one of them"),
    "not comparable": ("data.name: {choice: [mnist, cifar10]}\n", [], "cannot be compared"),
    "no YAML": ("g_lr: {loguniform: [1.0e-4\n", [], "--search"),
    "unknown scheduler": (RATE + "scheduler: ashaa\n", [], "did you mean asha"),
    "unknown scheduler, typed": (RATE, ["--tune.scheduler", "bohb"], "allowed: asha, hyperband, pbt"),
    "unknown searcher": (RATE + "searcher: bayes\n", [], "allowed: random, optuna"),
    "unknown objective": (RATE, ["--tune.metric", "g_loss"], "allowed: class_kl, density, coverage, fid"),
    "nothing to explore": ("beta1: {choice: [0.0, 0.5]}\n", ["--tune.scheduler", "pbt"], "explores numbers"),
    "more to the default": (RATE, ["--tune.also", "loss"], "write it into the space"),
}


def tune(folder: Path, text: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    """`distgan tune` as typed, in a place where importing ray ends it."""
    (folder / "space.yaml").write_text(text)
    (folder / "ray").mkdir()
    (folder / "ray/__init__.py").write_text("raise SystemExit('ray was imported')")
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "distgan",
            "tune",
            "--search",
            str(folder / "space.yaml"),
            "--storage",
            str(folder / "runs"),
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])},
    )


@pytest.mark.parametrize("case", TYPED, ids=str)
def test_the_command_refuses_a_bad_space_in_one_line_before_ray_starts(tmp_path: Path, case: str) -> None:
    text, words, hint = TYPED[case]
    done = tune(tmp_path, text, words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("distgan: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert hint in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_good_space_goes_on_to_ray(tmp_path: Path) -> None:
    assert "ray was imported" in tune(tmp_path, RATE, []).stderr


@pytest.mark.parametrize("text", ["", "space:\n", "space: 3\n", "- 1\n", "space: [1\n"])
def test_a_search_file_without_a_space_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match="--search"):
        read_settings(None, str(tmp_path / "s.yaml"), {})
    with pytest.raises(ConfigError, match="no such file"):
        read_settings(None, str(tmp_path / "none.yaml"), {})


@pytest.mark.parametrize("base", [None, "mnist"])
@pytest.mark.parametrize("file", [name for name in shipped_configs() if name.startswith("search-")])
def test_the_searches_among_the_jobs_can_be_started(file: str, base: str | None) -> None:
    space = open_space(read_settings(base, file, {}))
    assert space.config.run_name.endswith("-search")
    assert len(space.domains) >= 4
    assert space.apply(space.draw(1, 0)) != space.config


def test_the_default_space_lies_around_the_configs_own_values_and_takes_more() -> None:
    config = load_config(overrides={"tune.also": "[loss, n_dis, batch, r1_gamma]"})
    domains = open_space(config).domains
    for key, own in (
        ("g_lr", config.optim.g.lr),
        ("gamma", config.loss.gammas[0]),
        ("one_minus_beta2", 1 - config.optim.g.beta2),
    ):
        assert domains[key].low < own < domains[key].high
    assert {"loss", "n_dis", "batch", "d_lr_ratio", "beta1"} < set(domains)
    assert "r1_gamma" not in domains  # gamma is both
    assert open_space(config).apply({"gamma": 0.3}).loss.r2_gamma == 0.3
    plain = load_config(overrides={"loss.name": "hinge", "loss.r1_gamma": 0, "loss.r2_gamma": 0})
    assert not {"gamma", "r1_gamma"} & set(open_space(plain).domains)
    asked = plain.model_copy(update={"tune": plain.tune.model_copy(update={"also": ["r1_gamma"]})})
    assert "r1_gamma" in open_space(asked).domains


def test_a_search_file_wins_over_the_config_and_the_command_line_over_both(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"kimg": 3, "tune": {"num_samples": 5, "space": {"beta2": {"uniform": [0.5, 0.9]}}}})
    )
    (tmp_path / "s.yaml").write_text(
        "num_samples: 7\ntime_s: 60\nbeta1: {uniform: [0.0, 0.9]}\nspace: {g_lr: {loguniform: [1.0e-4, 1.0e-3]}}\n"
    )
    config = read_settings(str(tmp_path / "c.yaml"), str(tmp_path / "s.yaml"), {"tune.time_s": "30"})
    assert (config.kimg, config.tune.num_samples, config.tune.time_s) == (3, 7, 30)
    assert set(config.tune.space) == {"beta1", "g_lr"}


def test_values_reach_the_settings_they_stand_for() -> None:
    space = space_of(
        {
            "g_lr": {"loguniform": [1e-4, 1e-2]},
            "d_lr_ratio": {"choice": [1, 2]},
            "beta1": {"choice": [0, 0.5]},
            "one_minus_beta2": {"loguniform": [1e-3, 1e-1]},
            "loss": {"choice": ["hinge", "relativistic"]},
            "batch": {"choice": [16, 32]},
        }
    )
    values = {"d_lr_ratio": 2, "g_lr": 1e-3, "beta1": 0, "one_minus_beta2": 0.1, "loss": "hinge", "batch": 16}
    config = space.apply(values)
    assert (config.optim.g.lr, config.optim.d.lr) == (1e-3, 2e-3)
    for adam in (config.optim.g, config.optim.d):
        assert (adam.beta1, adam.beta2) == (0.0, 0.9)
        assert isinstance(adam.beta1, float)  # torch refuses a mix of int and float
    assert (config.loss.name, config.batch_size) == ("hinge", 16)
    assert config.optim.g.lr_schedule == space.config.optim.g.lr_schedule  # searched values are multiplied by schedules


def test_the_baseline_is_trial_0_exactly_even_outside_the_space() -> None:
    space = space_of(
        {"g_lr": {"loguniform": [1e-8, 1e-7]}, "n_dis": {"choice": [2, 3]}, "one_minus_beta2": {"uniform": [0.3, 0.4]}}
    )
    assert space.draw(0, 1) == space.baseline
    assert space.baseline["n_dis"] == 1
    assert 1 in space.domains["n_dis"].choices
    assert space.apply(space.baseline, baseline=True) == space.config


def test_draws_are_the_same_every_time_lie_inside_and_spread() -> None:
    space = space_of(
        {
            "g_lr": {"loguniform": [1e-5, 1e-2]},
            "beta1": {"quniform": [0.0, 0.9, 0.1]},
            "n_dis": {"randint": [1, 4]},
            "loss.r1_gamma": {"uniform": [0, 10]},
            "model.latent_dim": {"lograndint": [1, 9]},
        }
    )
    draws = [space.draw(i, 7) for i in range(1, 200)]
    assert draws == [space.draw(i, 7) for i in range(1, 200)]
    assert all(domain.holds(draw[key]) for draw in draws for key, domain in space.domains.items())
    assert {draw["n_dis"] for draw in draws} == {1, 2, 3}  # as in Tune, the upper end of randint is outside
    assert {draw["model.latent_dim"] for draw in draws} == set(range(1, 9))
    assert len({round(draw["beta1"] * 10) for draw in draws}) == 10
    below = sum(draw["g_lr"] < 10**-3.5 for draw in draws)
    assert 70 < below < 130  # half of a logarithmic range
    for draw in draws[:5]:
        space.apply(draw)


def test_a_grid_is_walked_once_with_the_baseline_first() -> None:
    space = space_of({"beta1": {"grid": [0.5, 0.9]}, "n_dis": {"grid": [1, 2]}}, searcher="random", num_samples=20)
    combinations = [tuple(space.draw(i, 0).values()) for i in range(space.grid_size)]
    assert len(set(combinations)) == space.grid_size == 6
    assert combinations[0] == (space.config.optim.g.beta1, 1)


def test_default_spaces_fit_their_loss() -> None:
    for loss in ("non-saturating", "hinge", "wasserstein", "relativistic"):
        config: RunConfig = load_config(base={"loss": {"name": loss, "r1_gamma": 0.2}})
        space = open_space(config)
        assert set(space.domains) == {*default_space(config)}
        assert all(space.domains[key].holds(value) for key, value in space.baseline.items())


def test_explored_values_stay_inside() -> None:
    space = space_of({"beta1": {"uniform": [0.0, 0.9]}, "loss": {"choice": ["hinge"]}})
    assert space.explored({"beta1": 1.1, "loss": "hinge"}) == {"beta1": 0.9, "loss": "hinge"}
