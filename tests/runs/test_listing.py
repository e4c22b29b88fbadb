"""What `distgan runs` tells: states from status and lease, whatever shape they are in."""

from __future__ import annotations

import json
import time

import pytest

from distgan.config import ConfigError
from distgan.runs.lease import FILE, Lease
from distgan.runs.listing import list_runs
from distgan.runs.prepare import find_run
from distgan.storage import Folder

STATUS = {"state": "training", "kimg": 3.5, "total_kimg": 10.0, "best": {"metric": "fid", "value": 12.3456}}


@pytest.fixture
def storage(tmp_path):
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").touch()
    return Folder(tmp_path)


def add(storage, name, status=None, lease=None, age=0.0):
    folder = storage.child(name)
    folder.write("config.yaml", "")
    if status is not None:
        folder.write(
            "status.json",
            json.dumps({**status, "heartbeat": time.time() - age}) if isinstance(status, dict) else status,
        )
    if lease is not None:
        folder.write(FILE, json.dumps(lease))
    return folder


@pytest.mark.parametrize(
    ("status", "lease", "age", "state"),
    [
        (None, None, 0, "new"),
        (STATUS, None, 5, "training"),  # a trial: no lease
        (STATUS, None, 100, "interrupted"),
        (STATUS, {"machine": "elsewhere", "written": 1e12}, 100, "training"),  # a long measurement, its driver beats
        (STATUS, {"machine": "elsewhere", "written": 0}, 5, "interrupted"),
        (STATUS | {"state": "stopped"}, None, 100, "stopped"),
        (STATUS | {"state": "failed"}, None, 5, "failed"),
        (STATUS | {"state": "complete"}, None, 1e6, "complete"),
    ],
)
def test_states(storage, status, lease, age, state):
    add(storage, "a", status, lease, age)
    (run,) = list_runs(storage)
    assert (run.name, run.state) == ("a", state)
    if status:
        assert (run.kimg, run.total_kimg, run.best) == (3.5, 10.0, "fid 12.35")
        assert run.heartbeat_s is not None


def test_the_driver_of_this_machine_is_known_to_live_or_not(storage):
    folder = add(storage, "a", STATUS, age=1000)
    with Lease(folder):
        assert list_runs(storage)[0].state == "training"
        held = json.loads(folder.read(FILE))
    folder.write(FILE, json.dumps(held | {"pid": 2**22 + 1}))
    assert list_runs(storage)[0].state == "interrupted"


@pytest.mark.parametrize(
    "garbage", ["", "{", "[]", '{"state": 5, "kimg": "x", "best": [1], "heartbeat": "never"}', "\0"]
)
def test_one_damaged_run_hides_no_other(storage, garbage):
    add(storage, "a", garbage, {"pid": "x", "written": 5})
    add(storage, "b", STATUS)
    assert [run.name for run in list_runs(storage)] == ["a", "b"]


def test_searches_are_listed_and_named_where_a_run_is_wanted(storage):
    add(storage, "a", STATUS)
    search = storage.child("a-search")
    search.write("search.yaml", "tune: {metric: [fid, class_kl]}")
    for number in range(12):
        add(search.child("trials"), f"{number:03d}", STATUS, age=1000 - number)
    search.write("trials/notes.txt", "")
    run, found = list_runs(storage)
    assert (run.name, run.progress) == ("a", "3.5 of 10")
    assert (found.name, found.state, found.progress, found.best) == ("a-search", "search", "12 trials", "-")
    assert found.heartbeat_s == pytest.approx(989, abs=10)

    search.write("winner.yaml", "metrics: {fid: 1.25, class_kl: 0.1}")
    assert (list_runs(storage)[1].state, list_runs(storage)[1].best) == ("searched", "fid 1.25")
    search.write("winner.yaml", "metrics: [")
    assert (list_runs(storage)[1].state, list_runs(storage)[1].best) == ("searched", "-")
    with pytest.raises(
        ConfigError, match=r"a-search: is a search; `distgan tune --resume a-search --storage .*` goes on with it"
    ):
        find_run("a-search", storage.uri)


@pytest.mark.parametrize("file", ["config.yaml", "status.json", FILE])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x80", b"[", b"[1]", b'{"kimg": {}, "best": 3}', b"\x00"])
def test_a_damaged_file_of_one_run_hides_no_other(storage, file, content):
    add(storage, "whole", {**STATUS, "state": "complete"})
    add(storage, "damaged", STATUS).write(file, content)
    assert [run.name for run in list_runs(storage)] == ["damaged", "whole"]
    assert list_runs(storage)[1].state == "complete"


@pytest.mark.parametrize("file", ["search.yaml", "winner.yaml", "trials/000/status.json", "trials/\u00b3/status.json"])
def test_nor_does_one_of_a_search(storage, file):
    add(storage, "whole", STATUS)
    folder = storage.child("search")
    folder.write("search.yaml", "tune: {metric: fid}")
    folder.write(file, b"\xff[")
    assert [run.name for run in list_runs(storage)] == ["search", "whole"]
