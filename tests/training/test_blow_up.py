"""A blow-up is seen, and the run goes on from before it with lower rates: the same way however often it is
interrupted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distgan.config import RunConfig
from distgan.runs.prepare import prepare
from distgan.storage import Folder
from distgan.training import loop
from distgan.training.blow_up import SLOWEST, Watchdog
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context

CPU = torch.device("cpu")
WILD = {"kimg": 8, "optim.g.lr": 1e-3, "optim.d.lr": 1.0, "checkpoint.every_kimg": 0.5, "metrics.every_kimg": 100}
WILD |= {"model.g_norm": "none", "model.d_norm": "none", "loss.name": "relativistic"}


def run(config: RunConfig, stops: list[int] | None = None) -> tuple[dict[str, Any], Folder]:
    """A run, interrupted at these counts of images and started again each time."""
    left = list(stops or [])
    while True:
        prepared, context = prepare(config), Context(CPU)

        def on_tick(status: dict[str, Any], context: Context = context) -> None:
            if left and status["nimg"] >= left[0]:
                left.pop(0)
                context.request_stop()

        status = loop.train(prepared.config, context, prepared.folder, on_tick=on_tick)
        for thread in threading.enumerate():
            if thread.name == "checkpoint-writer":
                thread.join()
        if status["state"] != "stopped":
            return status, prepared.folder


def told(folder: Folder) -> list[str]:
    lines = [json.loads(line) for line in folder.read("metrics.jsonl").decode().splitlines()]
    return [line["event"] for line in lines if "blow-up at" in line.get("event", "")]


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tiny_run import TINY

    from distgan.config import load_config

    def make(**changes: Any) -> RunConfig:
        place = str(tmp_path_factory.mktemp("runs"))
        return load_config(overrides={**TINY, **WILD, "storage": place, "name": "wild", **changes})

    return make


@pytest.fixture(scope="module")
def whole(wild: Any) -> tuple[dict[str, Any], Folder]:
    return run(wild())


def state_of(folder: Folder) -> dict[str, Any]:
    found = CheckpointStore(folder).newest()
    assert found is not None
    return found[1]


def test_a_blow_up_is_told_and_the_rates_are_halved(whole: Any) -> None:
    status, folder = whole
    assert status["state"] == "complete"
    events = told(folder)
    assert events
    state = state_of(folder)
    assert state["rate_factor"] == 0.5 ** len(events)
    assert state["rollbacks"] >= len(events)
    assert f"on with {state['rate_factor']:g} times the learning rates" in events[-1]
    lines = [json.loads(line) for line in folder.read("metrics.jsonl").decode().splitlines()]
    curve = [line["nimg"] for line in lines if "d_loss" in line]
    assert curve == sorted(set(curve))  # what was gone back over is there once
    last = next(line for line in reversed(lines) if "d_lr" in line)
    assert last["d_lr"] == pytest.approx(state["rate_factor"] * 1.0)


@pytest.mark.parametrize("stops", [[1300, 2100], [700, 1000, 2900, 5000]])
def test_interrupted_runs_take_the_same_way(whole: Any, wild: Any, stops: list[int]) -> None:
    status, folder = run(wild(), stops)
    expected = state_of(whole[1])
    found = state_of(folder)
    assert told(folder) == told(whole[1])
    assert (status["nimg"], found["rate_factor"]) == (whole[0]["nimg"], expected["rate_factor"])
    for part in ("G", "D", "ema"):
        for name, weight in expected[part].items():
            assert torch.equal(weight, found[part][name]), f"{part} {name}"


def test_it_can_be_left_alone_and_is_not_seen_where_all_is_well(wild: Any, tiny: Callable[..., RunConfig]) -> None:
    _, folder = run(wild(**{"training.on_blow_up": "ignore"}))
    assert not told(folder)
    assert state_of(folder)["rate_factor"] == 1
    _, folder = run(tiny(kimg=4))
    assert not told(folder)


class Step:
    samples = 100
    inputs = SimpleNamespace(share_weight=1.0)


class State:
    nimg, rate_factor = 0, 1.0

    def __init__(self) -> None:
        self.window = [0.0, 0.0]


def seen(losses: list[float], state: Any, config: RunConfig) -> list[int]:
    """Where the watchdog sees a blow-up, of D's losses of single steps of 100 images."""
    watchdog = Watchdog(config, Context(CPU), state, Step())  # type: ignore[arg-type]
    found = []
    for loss in losses:
        state.nimg += 100
        if watchdog.blown_up({"d_loss": torch.tensor(loss)}, read=state.nimg % 300 == 0):
            found.append(state.nimg)
    return found


def test_it_is_the_mean_over_a_thousand_images_after_the_first_thousand(tiny: Callable[..., RunConfig]) -> None:
    config = tiny(**{"loss.name": "relativistic"})  # a draw is 0.69
    assert seen([9.0] * 10 + [0.7] * 30, State(), config) == []
    assert seen([0.7] * 20 + [8.0] + [0.7] * 9, State(), config) == []  # a spike: mean 1.43
    assert seen([0.7] * 20 + [10.0] + [0.7] * 9, State(), config) == [3000]  # mean 1.63
    slowest = State()
    slowest.rate_factor = SLOWEST
    assert seen([0.7] * 20 + [50.0] * 30, slowest, config) == []
    assert seen([0.7] * 20 + [-50.0] * 30, State(), tiny(**{"loss.name": "wasserstein"})) == []
