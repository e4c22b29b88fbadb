"""Early stop: a run ends where its metric has not become better for so many measurements, the same wherever it was
interrupted and however many workers it has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_loop import assert_same_state, newest, run
from tiny_run import TINY
from two_processes import run_two

from distgan.cli import main
from distgan.config import ConfigError, load_config
from distgan.export.generator import load_generator
from distgan.orchestration.tune.search import search
from distgan.runs.prepare import prepare
from distgan.training import loop
from distgan.training.context import Context

FID = {128: 9.0, 256: 5.0, 384: 6.0, 512: 7.0, 640: 4.0, 768: 4.0, 896: 8.0, 1024: 3.0}
"""What is measured after so many images: better up to 256, and again at 640."""
SETTINGS = TINY | {"metrics.every_kimg": 0.128, "checkpoint.every_kimg": 0.128, "name": "run"}


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch)


def script(patch: pytest.MonkeyPatch) -> None:
    measure = loop.measure_averages

    def measured(m: Any, state: Any, config: Any, last: bool) -> tuple[int, dict[str, float]]:
        chosen, values = measure(m, state, config, last)
        return chosen, values | {"fid": FID[state.nimg]}

    patch.setattr(loop, "measure_averages", measured)


def settings(folder: Path, **more: Any) -> Any:
    return load_config(overrides=SETTINGS | {"storage": str(folder)} | more)


@pytest.mark.parametrize(("patience", "ends"), [(1, 384), (2, 512), (3, 1024), (None, 1024)])
def test_it_ends_after_so_many_measurements_without_a_better_one(tmp_path, caches, patience, ends):
    status, folder = run(settings(tmp_path, **{"training.patience": patience}))
    assert (status["state"], status["nimg"]) == ("complete", ends)
    events = [line["event"] for line in map(json.loads, folder.read("metrics.jsonl").splitlines()) if "event" in line]
    told = [event for event in events if event.startswith("early stop")]
    if ends == 1024:
        assert told == []
        return
    many = "1 measurement" if patience == 1 else "2 measurements"
    assert told == [
        f"early stop at {ends / 1000:g} kimg: no better FID in {many} (training.patience); the best was 5 at 0.256 kimg"
    ]
    assert load_generator(folder.child("generator")).info["kimg"] == 0.256  # the best, not the last
    assert folder.exists(f"samples/{ends // 1000:06d}.png")
    assert newest(folder)[0] == ends


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, caches):
    whole, there = run(settings(tmp_path / "whole", **{"training.patience": 2}))

    def stop(status: dict[str, Any], context: Context) -> None:
        if status["nimg"] in (384, 512):
            context.request_stop()

    config = settings(tmp_path / "parts", **{"training.patience": 2})
    states = [run(config, stop)[0] for _ in range(2)]
    assert [(s["state"], s["nimg"], s["waited"]) for s in states] == [("stopped", 416, 1), ("complete", 512, 2)]
    end, here = run(config)
    assert (end["nimg"], end["state"]) == (whole["nimg"], "complete")
    saved = [loop.CheckpointStore(folder).load(512)[1] for folder in (there, here)]
    means = [state.pop("health") for state in saved]  # which warnings follow from: rounded where a log line was cut
    assert_same_state(*saved)
    for rule, values in means[0].items():
        assert means[1][rule] == pytest.approx(values, rel=1e-5)


def test_the_same_command_finds_it_complete_and_a_larger_patience_goes_on(tmp_path, caches, capsys):
    words = [f"--{key}={value}" for key, value in SETTINGS.items()]
    words += [f"--storage={tmp_path}"]
    assert main(["train", *words, "--training.patience", "1"]) == 0
    assert "early stop at 0.384 kimg" in capsys.readouterr().out
    assert main(["train", *words, "--training.patience", "1"]) == 0
    said = capsys.readouterr().out
    assert "ended early, at 0.384 of 1.024 kimg, with training.patience = 1 (a larger one, or null" in said
    assert main(["train", *words, "--training.patience", "2"]) == 0
    assert "early stop at 0.512 kimg" in capsys.readouterr().out
    assert main(["train", *words, "--training.patience", "null"]) == 0
    assert "complete: 1.024 kimg" in capsys.readouterr().out


def _worker(rank: int, port: int, home: str) -> None:
    patch = pytest.MonkeyPatch()
    script(patch)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    config = settings(Path(home), **{"training.patience": 2, "model.g_norm": "none", "model.d_norm": "none"})
    prepared = prepare(config) if rank == 0 else None
    context = Context(torch.device("cpu"))
    folder = context.broadcast(prepared.folder if prepared else None)
    status = loop.train(context.broadcast(prepared.config if prepared else None), context, folder)
    Path(home, f"{rank}.json").write_text(json.dumps(status), encoding="utf-8")
    dist.destroy_process_group()


def test_workers_end_together(tmp_path, caches):
    run_two(_worker, caches, str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert (first["state"], first["nimg"], first["workers"]) == ("complete", 512, 2)


def test_it_needs_the_metric_that_it_waits_for(tmp_path):
    with pytest.raises(ConfigError, match=r"training.patience = 2: waits for a better kid \(checkpoint.best_metric\)"):
        settings(tmp_path, **{"training.patience": 2, "checkpoint.best_metric": "kid"})
    with pytest.raises(ConfigError, match=r"training.patience = 0: allowed: a whole number >= 1"):
        settings(tmp_path, **{"training.patience": 0})


def test_a_population_cannot_have_it(tmp_path):
    with pytest.raises(ConfigError, match=r"training.patience = 2: .* allowed with pbt: null"):
        search(settings(tmp_path, **{"training.patience": 2, "tune.scheduler": "pbt"}))
