"""Steps that take long: signs of life while they last, and a stop that takes back the one that has begun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY
from two_processes import run_two

from distgan.config import RunConfig, RunError
from distgan.runs.prepare import prepare
from distgan.storage import Folder
from distgan.training import context as context_module
from distgan.training import long_steps, loop
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context
from distgan.training.logs import read_status

CPU = torch.device("cpu")
SLEEPY = """
import os, time
from torch import nn, tanh

def nap():
    time.sleep(float(os.environ.get("NAP", "0")))

class Sleepy(nn.Module):
    def forward(self, x):
        nap()
        return x

class G(nn.Module):
    def __init__(self, *, latent_dim, channels, resolution, n_classes=0):
        super().__init__()
        self.shape = (channels, resolution, resolution)
        self.body = nn.Sequential(nn.Linear(latent_dim, 16), Sleepy(), nn.Linear(16, channels * resolution**2))
    def forward(self, z, c=None):
        return tanh(self.body(z)).view(len(z), *self.shape)

class D(nn.Module):
    def __init__(self, *, channels, resolution, n_classes=0):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * resolution**2, 16), Sleepy(), nn.LeakyReLU(0.2), nn.Linear(16, 1)
        )
    def forward(self, x, c=None):
        return self.body(x)[:, 0]
"""
OWN = {"model.generator": "sleepy:G", "model.discriminator": "sleepy:D", "loss.r1_gamma": 1, "kimg": 0.16}
OWN |= {"log.every_kimg": 0.064, "checkpoint.every_kimg": 0.064, "metrics.every_kimg": 10}


@pytest.fixture
def own(tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sleepy", raising=False)
    monkeypatch.delenv("NAP", raising=False)
    return lambda **changes: tiny(**OWN | changes)


def train(
    config: RunConfig, context: Context | None = None, on_tick: Callable[[dict[str, Any]], None] | None = None
) -> tuple[dict[str, Any], Folder]:
    prepared = prepare(config)
    return loop.train(prepared.config, context or Context(CPU), prepared.folder, on_tick=on_tick), prepared.folder


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return all(same(*pair) for pair in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def last(folder: Folder) -> Any:
    return CheckpointStore(folder).newest()


class StopsAt(Context):
    """Somebody asks for a stop while a step comes past Python for the n-th time."""

    def __init__(self, n: int) -> None:
        super().__init__(CPU)
        self.n, self.asked = n, 0

    @property
    def stop_requested(self) -> bool:
        self.asked += 1
        if self.asked == self.n:
            self.request_stop()
        return super().stop_requested


@pytest.mark.parametrize("conditions", [{}, {"training.reuse_fakes": True, "batch_size": 16}, {"training.n_dis": 2}])
def test_a_step_is_taken_back_wherever_the_stop_comes(
    own: Callable[..., RunConfig], conditions: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first step and the next ones, in forward, backward and double backward passes of both players; the run
    then ends in what an undisturbed one ends in.
    """
    monkeypatch.setattr(long_steps, "LONG_S", 0.0)  # every step is
    whole, places = last(train(own(**conditions, name="whole"))[1]), set()
    for n in (2, 20, 45, 77, 120, 200):
        config = own(**conditions, name=f"stop{n}")
        status, folder = train(config, StopsAt(n))
        assert status["state"] == "stopped"
        step = config.batch_size * config.training.n_dis
        nimg, state = last(folder)
        assert nimg % step == 0
        assert nimg == status["nimg"] == state["nimg"]
        places.add(nimg)
        lines = [json.loads(line) for line in folder.read("metrics.jsonl").splitlines()]
        assert len({line["nimg"] for line in lines}) == len(lines)  # each point once
        assert train(config)[0]["state"] == "complete"
        for key in whole[1].keys() - {"window", "health"}:  # sums, which a stop rounds in the middle
            assert same(last(folder)[1][key], whole[1][key]), (n, key)
    assert len(places) > 1


def test_a_taken_back_step_leaves_the_very_state_of_before(own: Callable[..., RunConfig]) -> None:
    """A run that comes past this place has the same in its checkpoint, the watchdog's and the health's sums too."""
    conditions = {"checkpoint.every_kimg": 0.032, "log.every_kimg": 10, "model.g_norm": "none", "kimg": 0.16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_steps, "LONG_S", 0.0)
        _, stopped = train(own(**conditions, name="stopped"), StopsAt(150))
    nimg, state = last(stopped)
    assert 0 < nimg < 160
    prepared = prepare(own(**conditions, name="whole", **{"checkpoint.keep": 10}))
    loop.train(prepared.config, Context(CPU), prepared.folder)
    assert same(CheckpointStore(prepared.folder).load(nimg)[1], state)


def test_a_signal_in_a_long_step_is_answered_at_once_and_nothing_is_lost(
    own: Callable[..., RunConfig], tmp_path: Path, caches: Path
) -> None:
    """Steps of 20 s and more: seven naps. status.json tells meanwhile that the run lives."""
    settings = TINY | OWN | {"storage": str(tmp_path / "runs"), "name": "long", "log.every_s": 1}
    words = [w for k, v in settings.items() for w in (f"--{k}", str(v))]
    environment = os.environ | {"DISTGAN_CACHE": str(caches / "decoded"), "OMP_NUM_THREADS": "1", "NAP": "3"}
    process = subprocess.Popen(
        [sys.executable, "-m", "distgan", "train", *words],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        folder, deadline = Folder(tmp_path / "runs" / "long"), time.monotonic() + 100
        while read_status(folder).get("step_s", 0) < 3 and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        said, _ = process.communicate(timeout=60)
        # A nap of 3 s, and the end of a process on a busy machine; the rest of the step takes 15 s, the next one 20
        assert time.monotonic() - asked < 20
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "stopped at 0 of 0.16 kimg; nothing is lost" in said
    assert "in a step for 0:0" in said
    config = own(name="long", storage=settings["storage"])
    assert train(config)[0]["state"] == "complete"
    assert same(last(folder), last(train(own(name="whole"))[1]))


def test_signs_of_life_between_log_lines(own: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_steps, "LONG_S", 0.0)
    seen: list[dict[str, Any]] = []
    config = own(name="alive", **{"log.every_kimg": 10, "checkpoint.every_kimg": 10, "log.every_s": 1e-9})
    status, folder = train(config, on_tick=seen.append)
    between = [s for s in seen if s.get("step_s") == 0]
    assert [s["nimg"] for s in between] == [32, 64, 96, 128]
    assert all(s["values"]["images_per_s"] > 0 for s in between)
    assert any(s.get("step_s", 0) > 0 and s["nimg"] == 32 for s in seen)
    lines = [json.loads(line)["nimg"] for line in folder.read("metrics.jsonl").splitlines()]
    assert lines == [160]  # the log has what a function of the images says, and no more
    quiet, seen = own(name="quiet", **{"log.every_kimg": 10, "checkpoint.every_kimg": 10}), []
    _, other = train(quiet, on_tick=seen.append)
    assert [s["nimg"] for s in seen] == [160]
    assert same(last(folder), last(other))
    assert status["state"] == "complete"


def test_short_steps_have_no_hooks(own: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    real = loop.TrainStep.__call__

    def count(self: Any, **how: Any) -> Any:
        held.append(sum(len(m._forward_hooks) for m in self.state.D.modules()))
        return real(self, **how)

    monkeypatch.setattr(loop.TrainStep, "__call__", count)
    train(own(name="short"))
    assert held[0] > 0  # how long the first one is nobody knows
    assert held[1:] == [0] * 4


def test_a_gpu_that_is_full_is_told_with_what_helps(
    own: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, **how: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(loop.TrainStep, "__call__", fails)
    expected = r"training.accumulate = 2: .* training.accumulate = 4 .*new run \(CUDA out of memory"
    with pytest.raises(RunError, match=expected):
        train(own(name="full", **{"training.accumulate": 2}))


def worker(rank: int, port: int, plan: dict[str, Any], home: str, out: str) -> None:
    import torch.distributed as dist

    from distgan.config import validate

    sys.path.insert(0, home)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    context_module.SLOW_S = 0.0
    context, config = Context(CPU), validate(plan)
    if rank == 1:  # in the middle of some step
        real, made = loop.TrainStep.__call__, []

        def stop_in_the_fifth(self: Any, **how: Any) -> Any:
            made.append(self)
            if len(made) == 5:
                context.request_stop()
            return real(self, **how)

        loop.TrainStep.__call__ = stop_in_the_fifth  # type: ignore[method-assign]
    status = loop.train(config, context, Folder(config.storage).child(config.run_name))
    Path(out, f"{rank}.json").write_text(json.dumps(status), encoding="utf-8")
    dist.destroy_process_group()


def test_several_workers_stop_together_after_the_step_that_runs(
    own: Callable[..., RunConfig], tmp_path: Path, caches: Path
) -> None:
    """Steps are slow on one of them; there is no log line for long."""
    far = {"kimg": 100, "log.every_kimg": 100, "log.samples_every_kimg": 100, "checkpoint.every_kimg": 100}
    config = own(name="two", **far, **{"metrics.every_kimg": 100})
    run_two(worker, caches, config.model_dump(mode="json"), str(tmp_path), str(tmp_path))
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert told[0] == told[1]
    assert told[0]["state"] == "stopped"
    assert told[0]["nimg"] == 5 * 32
    assert last(Folder(tmp_path / "runs" / "two"))[0] == told[0]["nimg"]
