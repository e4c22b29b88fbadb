"""What a run tells: means over steps, lines that appear once, a live line, final words."""

import io
import itertools
import json
import math
import time
import uuid

import numpy as np
import pytest
import torch
from PIL import Image

from distgan.config import LogConfig
from distgan.kinds.image.grid import enlarged, make_grid
from distgan.kinds.picture import png
from distgan.runs.prepare import Prepared
from distgan.runs.progress import ProgressLine, final_words
from distgan.storage import Folder
from distgan.training.context import Context, share
from distgan.training.logs import RunLog, read_status, write_status
from distgan.training.meter import Meter, Stopwatch

# -- meter and clock --------------------------------------------------------------------------------------------------


def test_means_over_the_steps_that_have_the_number():
    meter, here = Meter(), Context(torch.device("cpu"))
    for i in range(4):
        meter.add({"d_loss": torch.tensor(float(i)), **({"r1": torch.tensor(10.0)} if i == 0 else {})})
    assert meter.read(here) == ({"d_loss": 1.5, "r1": 10.0}, {"d_loss": 3.0})
    assert meter.read(here) == ({}, {})
    meter.add({"d_loss": torch.tensor(5.0)})
    assert meter.read(here) == ({"d_loss": 5.0}, {"d_loss": 5.0})


def test_a_mean_does_not_change_the_step_s_tensor_and_keeps_nan():
    meter, x = Meter(), torch.tensor(1.0, requires_grad=True)
    meter.add({"a": x})
    meter.add({"a": torch.tensor(math.nan)})
    meter.add({"a": torch.tensor(1.0)})
    assert float(x.detach()) == 1
    assert math.isnan(meter.read(Context(torch.device("cpu")))[0]["a"])


def test_the_stopwatch_stands_still_while_paused(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    now[0] = 2.0
    with watch.paused():
        now[0] = 10.0
    now[0] = 11.0
    assert watch.lap() == 3.0
    now[0] = 12.5
    assert watch.lap() == 1.5


def test_shares_cover_everything_once():
    for total, workers in ((64, 2), (10, 3), (3, 4)):
        parts = [share(total, rank, workers) for rank in range(workers)]
        assert parts[0][0] == 0
        assert parts[-1][1] == total
        assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
        assert max(b - a for a, b in parts) - min(b - a for a, b in parts) <= 1


# -- metrics.jsonl, status.json, samples ------------------------------------------------------------------------------


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    return Folder(tmp_path / "run") if request.param == "local" else Folder(f"memory://{uuid.uuid4().hex}/run")


def lines(folder):
    return [json.loads(line) for line in folder.read("metrics.jsonl").decode().splitlines()]


def test_a_resume_drops_later_lines_and_a_torn_last_one(folder):
    log = RunLog(folder, 0, LogConfig(tensorboard=False))
    for nimg in (100, 200, 300):
        log.scalars(nimg, {"d_loss": nimg / 2})
    log.event(300, "diverged")
    log.close()
    folder.write("metrics.jsonl", folder.read("metrics.jsonl") + b'{"nimg": 150, "d_l')
    log = RunLog(folder, 200, LogConfig(tensorboard=False))
    log.scalars(300, {"d_loss": -1.0})
    log.close()
    assert [(line["nimg"], line["kimg"], line["d_loss"]) for line in lines(folder)] == [
        (100, 0.1, 50.0),
        (200, 0.2, 100.0),
        (300, 0.3, -1.0),
    ]


def test_numbers_that_are_not_finite_are_valid_json(folder):
    log = RunLog(folder, 0, LogConfig(tensorboard=False))
    log.scalars(1, {"a": math.nan, "b": math.inf, "c": 1.0})
    log.close()
    (line,) = lines(folder)
    assert (line["a"], line["b"], line["c"]) == (None, None, 1.0)


def test_curves_and_grids_reach_tensorboard(folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(folder, 0, LogConfig(tensorboard=True))
    log.scalars(64, {"d_loss": 1.0, "fid": math.inf})
    log.scalars(128, {"d_loss": 0.5, "g_loss": 2.0})
    log.picture(64, "000000", np.zeros((20, 20), np.uint8))
    log.close()
    (file,) = folder.list("tensorboard")
    (tmp_path / file).write_bytes(folder.read(f"tensorboard/{file}"))
    events = EventAccumulator(str(tmp_path / file)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("d_loss")] == [(64, 1.0), (128, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("g_loss")] == [(128, 2.0)]
    assert [(e.step, e.value) for e in events.Scalars("fid")] == [(64, math.inf)]
    assert [e.step for e in events.Images("pictures/samples from 0.064 kimg")] == [64]
    assert folder.list("samples") == ["000000.png"]


def test_status(folder):
    log = RunLog(folder, 0, LogConfig(tensorboard=False))
    assert read_status(folder) == {}
    log.status({"state": "training", "nimg": 5}, urgent=True)
    found = read_status(folder)
    assert (found["state"], found["nimg"]) == ("training", 5)
    assert abs(found["heartbeat"] - time.time()) < 60
    log.close()
    for text in ("", "{", "[]", "5"):
        folder.write("status.json", text)
        assert read_status(folder) == {}


def test_an_event_is_recorded_and_told_at_once_and_by_the_status(folder):
    heard = []
    log = RunLog(folder, 0, LogConfig(tensorboard=False), lambda *event: heard.append(event))
    log.event(0, "some files are left out")
    log.status({"nimg": 0}, urgent=True)
    log.event(5000, "a spike", "a spike of the other player")
    log.status({"nimg": 5000}, urgent=True)
    assert heard == [(0, "some files are left out"), (5000, "a spike"), (5000, "a spike of the other player")]
    assert [(e["nimg"], e["text"]) for e in read_status(folder)["events"]] == heard
    log.close()
    assert [(line["nimg"], line["event"]) for line in lines(folder)] == heard


def test_the_last_event_of_a_run_that_ends_by_an_error_is_in_the_status(tmp_path):
    log = RunLog(Folder(tmp_path / "run"), 0, LogConfig(tensorboard=False))
    log.status({"nimg": 5000}, urgent=True)
    log.event(5500, "diverged")
    assert [e["text"] for e in read_status(log.folder)["events"]] == ["diverged"]
    for i in range(100):
        log.event(6000, f"{i}")
    assert [e["text"] for e in read_status(log.folder)["events"]] == [f"{i}" for i in range(80, 100)]
    log.close()


def test_a_beginning_that_is_begun_anew_is_recorded_once(folder):
    for _ in range(2):
        log = RunLog(folder, 0, LogConfig(tensorboard=False))
        log.event(0, "some files are left out")
        log.scalars(64, {"d_loss": 1.0})
        log.close()
    assert [line["nimg"] for line in lines(folder)] == [0, 64]


def test_a_heartbeat_that_fails_stops_nothing(tmp_path):
    write_status(Folder(tmp_path / "gone" / "away"), "{}")


def test_grids():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
    grid = make_grid(images)
    assert grid.shape == (2 * 6 + 2, 3 * 6 + 2)
    assert grid[2, 2] == 0
    assert grid[2, 8] == 1
    assert grid[8, 2] == 3
    assert grid[8, 14] == 127  # an empty place
    assert make_grid(images, columns=5).shape == (8, 32)
    colour = make_grid(np.zeros((1, 3, 4, 4), np.uint8), pad=0)
    assert colour.shape == (4, 4, 3)
    picture = Image.open(io.BytesIO(png(enlarged(grid, 28))))
    assert picture.size == (40, 28)
    assert (np.asarray(picture)[::2, ::2] == grid).all()
    assert [len(enlarged(grid, r)) // len(grid) for r in (16, 28, 32, 64, 256)] == [4, 2, 2, 1, 1]


# -- the live line and the last words ---------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def status(kimg, **more):
    return {
        "nimg": kimg * 1000,
        "kimg": kimg,
        "total_kimg": 10,
        "best": {},
        "values": {"d_loss": 1.0, "g_loss": 2.0, "images_per_s": 500.0},
    } | more


def test_the_live_line_is_rewritten(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = Terminal()
    line = ProgressLine("10 images; 1 worker", out)
    line.update({"state": "training", "nimg": 0, "values": {}})  # nothing to show yet
    for kimg in (1, 2, 4):
        now[0] += kimg
        line.update(status(kimg))
    line.update(status(4))  # nothing new
    line.note("hello")
    line.close()
    shown = out.getvalue()
    assert shown.startswith("10 images; 1 worker\n")
    assert shown.count("\r     ") >= 3
    assert "4.0 / 10 kimg  500 images/s  ETA 0:12  D 1.000  G 2.000" in shown  # 3 kimg in 6 s, 6 to go
    assert shown.count("4.0 / 10") == 1
    assert "hello\n" in shown
    assert shown.endswith("\n")


def test_in_a_log_a_line_comes_now_and_then_and_with_each_measurement(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    line = ProgressLine("head", out, every_s=10)
    for kimg in range(1, 9):
        now[0] += 3
        values = {"d_loss": 1.0} | ({"fid": 5.0, "real_samples": 10.0} if kimg == 7 else {})
        best = {"metric": "fid", "value": 5.0} if kimg >= 7 else {}
        line.update(status(kimg, values=values, best=best))
    line.close()
    text = out.getvalue().splitlines()
    assert [part.split("/")[0].strip() for part in text[1:]] == ["1.0", "5.0", "7.0"]
    assert text[-1].endswith("best FID 5")
    assert "\r" not in out.getvalue()


def test_each_event_is_told_once_with_its_place():
    out = io.StringIO()
    line = ProgressLine("head", out, notes=["3 files are left out"])
    first = {"writer": {"pid": 1}, "events": [{"nimg": 0, "text": "3 files are left out"}, {"nimg": 2500, "text": "a"}]}
    line.update(first)
    line.update(first)
    line.tell(2500, "a")
    # workers that start anew from a checkpoint come to the same again; the same at another place is another event
    line.update({"writer": {"pid": 2}, "events": [{"nimg": 2500, "text": "a"}, {"nimg": 4000, "text": "a"}]})
    assert out.getvalue().splitlines() == ["3 files are left out", "head", "2.5 kimg: a", "4 kimg: a"]


def test_what_a_former_start_told_is_not_told_again():
    former = status(5) | {"writer": {"pid": 1}, "events": [{"nimg": 5000, "text": "old"}]}
    out = io.StringIO()
    line = ProgressLine("head", out)
    line.follow(former)
    line.update(former)
    line.update(status(6) | {"writer": {"pid": 2}, "events": [{"nimg": 6000, "text": "new"}]})
    assert "old" not in out.getvalue()
    assert "5.0 / 10" not in out.getvalue()
    assert "6 kimg: new\n" in out.getvalue()
    assert "6.0 / 10" in out.getvalue()


def test_final_words_say_where_everything_is(tiny, tmp_path):
    prepared = Prepared(tiny(), Folder(tmp_path / "runs" / "tiny"), "new", "images")
    best = {"metric": "fid", "value": 1.234, "nimg": 512}
    words = final_words(
        prepared,
        {
            "state": "complete",
            "nimg": 1024,
            "kimg": 1.024,
            "total_kimg": 1.024,
            "best": best,
            "values": {"class_kl": 0.01, "samples": 10000.0, "real_samples": 9000.0},
        },
    )
    assert "10,000 generated images against 9,000 of mnist10k (train)" in words
    assert "FID 1.23 at 0.512 kimg, class KL 0.01" in words
    for part in (
        "samples/000001.png",
        "/generator",
        "tensorboard --logdir",
        f"distgan sample tiny --storage {tmp_path}/runs",
    ):
        assert part in words
    stopped = final_words(prepared, {"state": "stopped", "kimg": 0.5, "total_kimg": 1.024})
    assert "stopped at 0.5 of 1.024 kimg" in stopped
    assert f"distgan resume tiny --storage {tmp_path}/runs" in stopped


def test_a_countdown_shows_long_jobs_and_no_short_ones(monkeypatch):
    from distgan.runs import progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    for out, expected in (
        (
            Terminal(),
            "\r" + "decoding: 200 of 400 images".ljust(60) + "\r" + "decoding: 400 of 400 images".ljust(60) + "\n",
        ),
        (io.StringIO(), "decoding: 300 of 400 images\n"),
    ):
        clock[0] = 0.0
        shown = progress.Countdown(out, every_s=10)
        for second, done in (
            ((0.1, 100), (5, 200), (11, 300), (11.1, 400)) if not out.isatty() else ((0.1, 100), (0.4, 200), (0.5, 400))
        ):
            clock[0] = second
            shown("decoding", done, 400)
        shown.close()
        assert out.getvalue() == expected
    short = Terminal()
    shown = progress.Countdown(short)
    shown("decoding", 400, 400)
    shown.close()
    assert short.getvalue() == ""


def test_a_folder_whose_name_is_no_text_is_logged_without_tensorboard(tmp_path):
    """TensorBoard opens names that are UTF-8; the other writers, and the training, go on."""
    folder = Folder(f"{tmp_path}/r\udce9")
    log = RunLog(folder, 0, LogConfig(tensorboard=True))
    log.scalars(100, {"d_loss": 1.0})
    log.status({"state": "training"}, urgent=True)
    log.close()
    lines = [json.loads(line) for line in folder.read("metrics.jsonl").splitlines()]
    assert [line["d_loss"] for line in lines if "d_loss" in line] == [1.0]
    assert "tensorboard" in read_status(folder)["events"][0]["text"]
    assert "r\\xe9" in lines[0]["event"]
