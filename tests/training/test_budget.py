"""A budget in minutes becomes one in images, once."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from distgan.config import ConfigError, RunConfig, load_config
from distgan.runs.prepare import prepare, read_run_config
from distgan.storage import Folder
from distgan.training import budget, loop
from distgan.training.budget import plan, read_rate, with_budget
from distgan.training.context import Context

CPU = torch.device("cpu")


def test_minutes_are_as_many_images_as_the_machine_trains_in_most_of_them(tiny: Callable[..., RunConfig]) -> None:
    config = tiny(minutes=2, batch_size=32)
    assert with_budget(config, 100.0).kimg == pytest.approx(100 * 120 * budget.TRAINING / 1000, abs=0.06)
    assert with_budget(config, 0.01).kimg == 0.032  # a step at least
    assert with_budget(tiny(), 100.0) == tiny()


def test_a_run_of_some_seconds_is_planned_once_and_goes_on_by_its_plan(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.2)
    prepared = prepare(tiny(minutes=0.02, **{"metrics.every_kimg": 1000}))
    told: list[str] = []
    status = loop.train(prepared.config, Context(CPU), prepared.folder, tell=lambda nimg, text: told.append(text))
    rate = read_rate(prepared.folder)
    assert rate is not None
    expected = with_budget(tiny(minutes=0.02), rate)
    assert status["state"] == "complete"
    assert status["total_kimg"] == expected.total_images / 1000
    assert read_run_config(prepared.folder).kimg == expected.kimg
    assert any("a second here: 0.02 minutes are" in text for text in told)
    plans = prepared.folder.read("plan.json")

    assert prepare(tiny(minutes=0.02)).state == "complete"
    longer = prepare(tiny(minutes=0.04))
    assert longer.state == "resume"
    assert longer.config.kimg == pytest.approx(2 * expected.kimg, abs=0.11)
    assert loop.train(longer.config, Context(CPU), longer.folder)["state"] == "complete"
    assert longer.folder.read("plan.json") == plans  # the speed is measured once


def test_the_steps_that_are_timed_change_nothing(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.05)
    planned = prepare(tiny(minutes=0.02, name="planned"))
    loop.train(planned.config, Context(CPU), planned.folder)
    kimg = read_run_config(planned.folder).kimg
    given = prepare(tiny(kimg=kimg, name="given"))
    loop.train(given.config, Context(CPU), given.folder)
    weights = [folder.read("generator/generator.safetensors") for folder in (planned.folder, given.folder)]
    assert weights[0] == weights[1]


def test_kimg_takes_the_place_of_minutes_and_the_other_way_round(tiny: Callable[..., RunConfig]) -> None:
    stored = tiny(minutes=5).model_dump(mode="json")
    assert load_config(base=stored, overrides={"kimg": "7"}).minutes is None
    assert load_config(base=stored).minutes == 5
    assert load_config(overrides={"minutes": "3"}).minutes == 3


def test_a_damaged_plan_is_made_anew(tmp_path, tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path / "run")
    folder.write("plan.json", b"{")
    assert read_rate(folder) is None
    monkeypatch.setattr(budget, "_measure", lambda context, step: 50.0)
    config, said = plan(tiny(minutes=1), Context(CPU), folder, lambda: None)  # type: ignore[arg-type, return-value]
    assert said == f"50 images a second here: 1 minutes are {config.kimg:g} kimg"
    assert json.loads(folder.read("plan.json"))["images_per_s"] == 50


def test_a_search_takes_images(tiny: Callable[..., RunConfig]) -> None:
    from distgan.orchestration.tune.search import search

    with pytest.raises(ConfigError, match=r"minutes = 5: the trials of a search.*tune\.time_s"):
        search(tiny(minutes=5))
