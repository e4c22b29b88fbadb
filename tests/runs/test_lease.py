"""One driver a run: refused while one lives, taken over soon after one died, without comparing clocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from distgan.config import ConfigError
from distgan.runs import lease as module
from distgan.runs.lease import FILE, Lease, read_lease, seems_held, wait_until_free
from distgan.runs.prepare import prepare
from distgan.storage import Folder
from distgan.training.context import Context
from distgan.training.loop import train


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "run")


def foreign(folder, **changes):
    """A lease of a driver on another machine."""
    values = {
        "owner": "x",
        "beat": 1,
        "host": "node7",
        "machine": "other",
        "pid": 12,
        "started": 1,
        "held_s": 200,
        "written": 0,
    }
    folder.write(FILE, json.dumps(values | changes))


def test_a_second_driver_on_this_machine_is_refused_at_once(folder):
    with Lease(folder):
        begin = time.monotonic()
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on .* for 0 s.*--name"):
            wait_until_free(folder)
        assert time.monotonic() - begin < 1
        assert seems_held(read_lease(folder))
    assert not folder.exists(FILE)
    with Lease(folder):
        pass


def test_the_lease_of_a_dead_process_here_is_taken_at_once(folder):
    code = (
        "import os; from distgan.storage import Folder; from distgan.runs.lease import Lease\n"
        f"Lease(Folder({folder.path()!r})).__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert read_lease(folder)["pid"] != os.getpid()
    assert not seems_held(read_lease(folder))
    begin = time.monotonic()
    with Lease(folder):
        assert read_lease(folder)["pid"] == os.getpid()
    assert time.monotonic() - begin < 2


def test_a_pid_that_is_used_again_is_not_the_driver(folder):
    """This process has the pid in the lease, but was started at another time."""
    with Lease(folder):
        held = read_lease(folder)
    folder.write(FILE, json.dumps(held | {"started": held["started"] - 1}))
    wait_until_free(folder)
    assert not folder.exists(FILE)


def test_a_lease_from_elsewhere_is_watched_and_refused_when_it_moves(folder):
    foreign(folder)  # written in 1970 by its own clock, and alive all the same
    threading.Timer(0.3, foreign, (folder,), {"beat": 2}).start()
    with pytest.raises(ConfigError, match="process 12 on node7 for 3 min"):
        wait_until_free(folder, beat_s=0.2, lapse_s=5)


def test_a_lease_from_elsewhere_that_stands_still_lapses(folder):
    foreign(folder, written=time.time() + 1e6)  # written in the future by its own clock, and dead all the same
    begin = time.monotonic()
    with Lease(folder, beat_s=0.2, lapse_s=0.6):
        assert 0.6 <= time.monotonic() - begin < 3
        assert read_lease(folder)["host"] != "node7"


def test_a_lapse_takes_less_than_a_minute_and_more_than_three_beats():
    assert 3 * module.BEAT_S < module.LAPSE_S < 60 - module.BEAT_S


def test_the_lease_is_renewed(folder):
    with Lease(folder, beat_s=0.05):
        first = read_lease(folder)["beat"]
        time.sleep(0.4)
        assert read_lease(folder)["beat"] > first


def test_a_driver_that_lost_its_lease_is_told_and_leaves_the_other_ones_alone(folder):
    told = threading.Event()
    with Lease(folder, told.set, beat_s=0.05) as lease:
        foreign(folder)
        assert told.wait(5)
        assert lease.lost.is_set()
    assert read_lease(folder)["owner"] == "x"


def test_of_two_at_the_same_moment_one_wins(folder):
    outcomes = []

    def drive():
        try:
            with Lease(folder):
                outcomes.append("won")
                time.sleep(1)
        except ConfigError:
            outcomes.append("refused")

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 3 + ["won"]


def test_storage_that_is_away_costs_a_beat_and_no_more(folder, monkeypatch):
    with Lease(folder, beat_s=0.05) as lease:
        beat = read_lease(folder)["beat"]
        monkeypatch.setattr(Folder, "write", lambda *_: (_ for _ in ()).throw(OSError("away")))
        time.sleep(0.3)
        monkeypatch.undo()
        time.sleep(0.3)
        assert not lease.lost.is_set()
        assert read_lease(folder)["beat"] > beat


@pytest.mark.parametrize("garbage", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_garbage_is_no_lease(folder, garbage):
    folder.write(FILE, garbage)
    with Lease(folder) as lease:
        assert read_lease(folder)["owner"] == lease.owner


def test_a_run_that_is_driven_is_refused_before_anything_of_it_is_changed(tiny):
    config = tiny()
    prepared = prepare(config)
    before = prepared.folder.read("config.yaml")
    with Lease(prepared.folder), pytest.raises(ConfigError, match="trained already"):
        prepare(tiny(**{"log.every_kimg": 0.256}))
    assert prepared.folder.read("config.yaml") == before
    assert prepare(tiny(**{"log.every_kimg": 0.256})).state == "new"


def test_a_suspended_driver_that_was_given_up_stops_when_it_wakes(tiny):
    """The local engine's lease is taken by another one while it trains: the loop ends with a checkpoint and leaves the
    run.
    """
    prepared = prepare(tiny(kimg=2000))
    context = Context()
    with Lease(prepared.folder, context.request_stop, beat_s=0.05) as lease:
        status = train(
            prepared.config,
            context,
            prepared.folder,
            on_tick=lambda status: status["nimg"] < 1000 or foreign(prepared.folder),
        )
        assert lease.lost.is_set()
    assert status["state"] == "stopped"
    assert status["nimg"] < 2_000_000
    assert read_lease(prepared.folder)["host"] == "node7"
