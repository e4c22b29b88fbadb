"""What a worker tells Ray Train, how often, and what it hears from it."""

import pytest
import ray.train
import torch
from ray.train import CheckpointUploadMode

from distgan.orchestration import ray_context
from distgan.orchestration.ray_context import RayContext
from distgan.storage import Folder


@pytest.fixture
def told(monkeypatch):
    reports = []
    monkeypatch.setattr(ray.train, "report", lambda metrics, **how: reports.append((metrics, how)))
    return reports


def context(tmp_path, **how):
    return RayContext(torch.device("cpu"), Folder(tmp_path), **how)


def test_what_comes_between_two_reports_goes_into_the_next(told, tmp_path):
    here = context(tmp_path, report_every_s=1000)
    for kimg in (1, 2, 3):
        here.report({"kimg": kimg} | ({"fid": 9.0} if kimg == 2 else {}))
    here.report({"kimg": 4}, last=True)
    assert [metrics for metrics, _ in told] == [{"kimg": 1}, {"kimg": 4, "fid": 9.0}]


def test_without_a_pause_each_report_goes(told, tmp_path):
    here = context(tmp_path, report_every_s=0)
    here.report({"kimg": 5})
    here.report({"kimg": 6})
    assert [metrics for metrics, _ in told] == [{"kimg": 5}, {"kimg": 6}]


def test_the_last_report_names_the_checkpoint_that_lies_there(told, tmp_path):
    here = context(tmp_path, report_every_s=0)
    here.report({"kimg": 1}, checkpoint="checkpoints/000000001000")
    here.report({"kimg": 2}, checkpoint="checkpoints/000000002000", last=True)
    assert told[0][1]["checkpoint"] is None  # it may be pruned before the run ends
    assert told[1][1]["checkpoint"].path == str(tmp_path / "checkpoints" / "000000002000")
    assert all(how["checkpoint_upload_mode"] is CheckpointUploadMode.NO_UPLOAD for _, how in told)


def test_gauges_get_every_report(told, tmp_path):
    seen = []
    here = context(tmp_path, report_every_s=1000, gauges=seen.append)
    here.report({"kimg": 1})
    here.report({"kimg": 2})
    assert seen == [{"kimg": 1}, {"kimg": 2}]


def test_a_notice_of_preemption_asks_for_one_checkpoint(monkeypatch, tmp_path):
    notice = [None]
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: notice[0])
    monkeypatch.setattr(ray_context, "PREEMPTION_S", 0.0)
    here = context(tmp_path, report_every_s=0, watch_preemption=True)
    assert here.requests()[:2] == (False, False)
    notice[0] = "the node goes in a minute"
    assert here.requests()[:2] == (False, True)
    assert here.requests()[:2] == (False, False)  # told once
    notice[0] = None
    assert here.requests()[:2] == (False, False)
    notice[0] = "another one"
    assert here.requests()[:2] == (False, True)


def test_who_does_not_watch_never_asks(monkeypatch, tmp_path):
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: pytest.fail("asked"))
    here = context(tmp_path, report_every_s=0)
    here.request_stop()
    assert here.requests()[:2] == (True, False)
