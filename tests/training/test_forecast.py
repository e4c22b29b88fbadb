"""What is told of a run at its start: its networks, a step's memory, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from distgan.config import RunConfig
from distgan.runs.prepare import prepare
from distgan.training import forecast as module
from distgan.training import loop
from distgan.training.context import Context
from distgan.training.forecast import GIB, Forecast, introduce, too_large
from distgan.training.logs import read_status
from distgan.training.memory import Memory
from distgan.training.state import TrainState

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def told(forecast: Forecast, clock: list[float], step: int, step_s: float, steps: int = 50) -> list[tuple[int, str]]:
    found = []
    for i in range(1, steps + 1):
        clock[0] += step_s
        text = forecast(forecast.first + i * step)
        found += [(i, text)] if text else []
    return found


def test_the_length_is_told_once_after_the_first_seconds(tiny: Callable[..., RunConfig], clock: list[float]) -> None:
    forecast = Forecast(tiny(kimg=140.8), 0)
    clock[0] += 2.0  # the first step makes things ready
    assert forecast(32) == ""
    forecast.first = 32
    ((step, text),) = told(forecast, clock, 32, 0.32)
    assert 0.32 * step == pytest.approx(module.SECONDS, abs=0.33)
    assert text == "100 images a second: the other 140.768 kimg take about 26 min"


def test_a_first_step_that_takes_long_tells_enough(tiny: Callable[..., RunConfig], clock: list[float]) -> None:
    forecast = Forecast(tiny(kimg=5.12, batch_size=512), 0)
    ((step, text),) = told(forecast, clock, 512, 60.0, 4)
    assert step == 1
    assert text == "8.5 images a second: the 5.12 kimg take about 10 min"


def test_of_a_run_of_hours_what_would_fit_into_one_is_told(tiny: Callable[..., RunConfig], clock: list[float]) -> None:
    wide = {"model.name": "r3gan", "model.g_width": 64, "model.d_width": 32, "data.resolution": 32}
    text = Forecast(tiny(kimg=2000, **wide), 0).text(0, 100.0)
    assert "take about 6 h 18 min" in text
    assert "An hour (--minutes 60) is about 317 kimg" in text
    assert "--model.g-width 32 --model.d-width 16" in text
    assert "--model" not in Forecast(tiny(kimg=2000), 0).text(0, 100.0)  # no width to halve
    assert "--minutes" not in Forecast(tiny(kimg=2000), 32_000).text(32_000, 100.0)  # it goes on as it began
    assert "the other 1968 kimg" in Forecast(tiny(kimg=2000), 32_000).text(32_000, 100.0)
    assert Forecast(tiny(), 0).text(0, 1000.0) == ""  # a second


def test_going_back_in_the_first_seconds_is_no_pace(tiny: Callable[..., RunConfig], clock: list[float]) -> None:
    forecast = Forecast(tiny(kimg=100), 3200)
    for nimg in (3232, 3264):
        clock[0] += 1
        assert forecast(nimg) == ""
    clock[0] += 10
    assert forecast(1600) == ""
    clock[0] += 10
    assert forecast(3200).startswith("160 images a second")


def test_a_run_tells_its_networks_and_length_and_the_log_does_not(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "SOON_S", 0.0)
    heard: list[tuple[int, str]] = []
    prepared = prepare(tiny())
    loop.train(prepared.config, Context(CPU), prepared.folder, tell=lambda nimg, text: heard.append((nimg, text)))
    assert len(heard) == 2
    assert heard[0] == (0, "mlp networks for 1 x 28 x 28: G 26,688, D 12,713 weights; 1.024 kimg in steps of 32")
    assert " a second: the 1.024 kimg take about " in heard[1][1]
    assert [(e["nimg"], e["text"]) for e in read_status(prepared.folder)["events"]] == heard
    assert b"event" not in prepared.folder.read("metrics.jsonl")  # they depend on the clock


def test_too_little_gpu_memory_is_told_with_the_value_that_fits(tiny: Callable[..., RunConfig]) -> None:
    memory = Memory(weights=2 * GIB, per_sample=GIB, part=64, share=64)
    assert too_large(tiny(), memory, 70 * GIB) == []
    (text,) = too_large(tiny(), memory, 24 * GIB)
    assert "training.accumulate = 1: a step needs about 66.0 GiB of GPU memory, 24.0 are free" in text
    assert "training.accumulate = 4 computes it in parts that fit" in text  # 16 samples and the weights: 18 GiB
    assert "not even one sample fits" in too_large(tiny(), memory, 2 * GIB)[0]


def test_on_a_gpu_the_line_tells_its_memory(tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(Context):
        def __init__(self) -> None:
            super().__init__(CPU)
            self.device = torch.device("cuda")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: GIB)
    config, size = tiny(), {"channels": 1, "resolution": 28}
    state: Any = TrainState(config, n_classes=0, device=CPU, **size)
    (line,) = introduce(config, state, OnGpu(), (1, 28, 28), size)
    assert line.endswith("; about 0.0 of 3.0 GiB of GPU memory")
