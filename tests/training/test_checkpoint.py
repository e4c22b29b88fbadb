"""A checkpoint is complete or absent, whatever happens to its bytes or to its writer."""

import json
import os
import random
import shutil
import threading
import uuid
import warnings

import pytest
import torch

from distgan.storage import Folder
from distgan.training import checkpoint
from distgan.training.checkpoint import (
    CHECKPOINTS,
    CheckpointDamagedError,
    CheckpointStore,
    CheckpointWriteError,
    free_bytes,
)


def state(value):
    return {
        "G": {"w": torch.full((3, 2), float(value)), "half": torch.ones(2, dtype=torch.bfloat16)},
        "opt": {0: {"step": torch.tensor(value)}},
        "nimg": value,
        "best": {"metric": "fid", "value": 1.5},
        "list": [1, torch.arange(3)],
    }


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def saved(folder, *numbers, keep=2, best=None):
    store = CheckpointStore(folder, keep)
    for number in numbers:
        store.save(number, state(number), best=best)
    store.wait()
    return store


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    return Folder(tmp_path / "run") if request.param == "local" else Folder(f"memory://{uuid.uuid4().hex}/run")


def test_roundtrip(folder):
    store = saved(folder, 1000, 2000)
    nimg, found = store.newest()
    assert nimg == 2000
    assert equal(found, state(2000))
    assert equal(store.load(1000)[1], state(1000))
    assert CheckpointStore(folder).newest()[0] == 2000


def test_nothing_saved(folder):
    assert CheckpointStore(folder).newest() is None


def test_the_state_is_copied_before_save_returns(folder, monkeypatch):
    go, live = threading.Event(), state(1)
    commit = CheckpointStore._commit
    monkeypatch.setattr(CheckpointStore, "_commit", lambda *a: (go.wait(10), commit(*a)))
    store = CheckpointStore(folder)
    store.save(1, live)
    live["G"]["w"].zero_()  # training goes on while the writer writes
    live["best"]["value"] = 9
    go.set()
    store.wait()
    assert equal(store.load(1)[1], state(1))


@pytest.mark.parametrize(
    "harm", ["truncate", "flip", "empty", "missing", "no manifest", "empty manifest", "strange manifest"]
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning_that_names_it(folder, harm):
    store = saved(folder, 1000, 2000)
    where = f"{CHECKPOINTS}/{2000:012d}"
    data = bytearray(folder.read(f"{where}/state.pt"))
    if harm == "truncate":
        folder.write(f"{where}/state.pt", bytes(data[:-10]))
    elif harm == "flip":
        data[len(data) // 2] ^= 1
        folder.write(f"{where}/state.pt", bytes(data))
    elif harm == "empty":
        folder.write(f"{where}/state.pt", b"")
    elif harm == "missing":
        folder.remove(f"{where}/state.pt")
    elif harm == "no manifest":
        folder.remove(f"{where}/manifest.json")
    elif harm == "empty manifest":
        folder.write(f"{where}/manifest.json", b"")
    else:
        folder.write(f"{where}/manifest.json", b"[1, 2]")
    with pytest.warns(UserWarning, match="000000002000 is damaged"):
        nimg, found = store.newest()
    assert nimg == 1000
    assert equal(found, state(1000))
    with pytest.raises(CheckpointDamagedError, match="000000002000"):
        store.load(2000)


def test_random_damage_never_loads_wrongly_nor_crashes(tmp_path):
    store = saved(Folder(tmp_path), 1000, 2000)
    good = {p: p.read_bytes() for p in (tmp_path / CHECKPOINTS / f"{2000:012d}").iterdir()}
    dice = random.Random(0)
    passed_over = 0
    for _ in range(500):
        victim = dice.choice(list(good))
        data = bytearray(good[victim])
        if dice.random() < 0.5:
            for _ in range(dice.choice([1, 1, 8])):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        else:
            del data[dice.randrange(len(data)) :]
        victim.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nimg, found = store.newest()
        assert equal(found, state(nimg))  # the newest one only if the damage met nothing that matters (a date, a space)
        passed_over += nimg == 1000
        victim.write_bytes(good[victim])
    assert passed_over > 400
    assert store.newest()[0] == 2000


def test_loading_never_runs_code(tmp_path):
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    store = saved(Folder(tmp_path), 1000, 2000)
    data = pickle.dumps(Evil(), 2)
    where = f"{CHECKPOINTS}/{2000:012d}"
    manifest = json.loads(store.folder.read(f"{where}/manifest.json"))
    manifest["files"]["state.pt"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    store.folder.write(f"{where}/state.pt", data)
    store.folder.write(f"{where}/manifest.json", json.dumps(manifest))
    with pytest.warns(UserWarning, match="damaged"):
        assert store.newest()[0] == 1000
    assert not (tmp_path / "owned").exists()


def test_the_newest_and_the_best_are_kept(folder):
    store = saved(folder, 1, 2, 3, 4, 5, keep=2, best=2)
    assert [int(n) for n in store.names()] == [2, 4, 5]
    store.save(6, state(6), best=6)
    store.wait()
    assert [int(n) for n in store.names()] == [5, 6]
    assert saved(folder, 7, keep=4).names() == [f"{n:012d}" for n in (5, 6, 7)]


def test_what_was_passed_over_does_not_push_out_what_is_good(folder):
    """After two damaged ones the run goes on from an older one; its new checkpoints are older than the damaged, and
    must stay.
    """
    store = saved(folder, 1000, 2000, 3000, keep=3)
    for number in (2000, 3000):
        folder.write(f"{CHECKPOINTS}/{number:012d}/state.pt", b"damaged")
    with pytest.warns(UserWarning, match="damaged"):
        assert store.newest()[0] == 1000
    store.keep = 2
    store.save(1500, state(1500))
    store.wait()
    assert [int(n) for n in store.names()] == [1000, 1500]
    assert store.newest()[0] == 1500


def test_the_same_number_again_replaces(folder):
    store = saved(folder, 1000)
    store.save(1000, state(7))
    store.wait()
    assert equal(store.newest()[1], state(7))


@pytest.mark.parametrize("step", ["state.pt", "manifest.json", "rename"])
def test_an_interrupted_write_leaves_nothing_visible(tmp_path, monkeypatch, step):
    folder = Folder(tmp_path)
    store = saved(folder, 1000)

    class Killed(BaseException):
        pass

    write, rename = Folder.write, os.rename

    def dying_write(self, name, data):
        if name.endswith(step):
            write(self, name, data[: len(data) // 2])
            raise Killed
        write(self, name, data)

    def dying_rename(*a):
        if step == "rename":
            raise Killed
        rename(*a)

    monkeypatch.setattr(Folder, "write", dying_write)
    monkeypatch.setattr(os, "rename", dying_rename)
    monkeypatch.setattr(Folder, "remove", lambda *_: None)  # a killed process tidies nothing up
    store.save(2000, state(2000))
    with pytest.raises(Killed):
        store.wait()
    monkeypatch.undo()
    again = CheckpointStore(folder)
    assert again.newest()[0] == 1000
    assert len(folder.list(CHECKPOINTS)) == 2
    again.sweep()
    assert folder.list(CHECKPOINTS) == [f"{1000:012d}"]


def test_an_interrupted_upload_is_no_checkpoint(monkeypatch):
    folder = Folder(f"memory://{uuid.uuid4().hex}/run")
    store = saved(folder, 1000)
    write = Folder.write

    def dying(self, name, data):
        if name.endswith("manifest.json"):
            raise KeyboardInterrupt
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", dying)
    store.save(2000, state(2000))
    with pytest.raises(KeyboardInterrupt):
        store.wait()
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="damaged"):
        assert CheckpointStore(folder).newest()[0] == 1000


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_training_goes_on_while_storage_is_away_and_the_newest_state_is_kept(folder, monkeypatch):
    troubled = []
    store = CheckpointStore(folder, on_trouble=lambda: troubled.append(1))

    def away(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Folder, "write", away)
    for nimg in (1000, 2000, 3000):
        store.save(nimg, state(nimg))  # returns at once
    monkeypatch.undo()
    store.wait()
    assert store.newest()[0] == 3000
    assert not troubled
    (note,) = store.notes()
    assert note == "checkpoint at 1 kimg not written, trying on: [Errno 5] Input/output error"
    assert store.notes() == []


def test_a_full_disk_is_told_at_once_and_old_checkpoints_stay(tmp_path, monkeypatch):
    troubled = []
    store = CheckpointStore(Folder(tmp_path), on_trouble=lambda: troubled.append(1))
    store.save(1000, state(1000))
    store.wait()
    monkeypatch.setattr(Folder, "write", full_disk)
    store.save(2000, state(2000))
    with pytest.raises(
        CheckpointWriteError, match=r"No space left on device: a checkpoint needs [\d,]+ bytes, [\d,]+ are free"
    ) as told:
        store.wait()
    assert str(tmp_path / CHECKPOINTS) in str(told.value)
    assert [n for n in os.listdir(tmp_path / CHECKPOINTS) if n.startswith(".")] == []
    assert troubled == [1]
    store.wait()  # told once
    assert store.newest()[0] == 1000
    monkeypatch.undo()
    store.save(3000, state(3000))
    store.wait()
    assert store.newest()[0] == 3000


def test_a_disk_that_cannot_take_a_checkpoint_is_not_even_tried(tmp_path, monkeypatch):
    store = CheckpointStore(Folder(tmp_path))
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 100)
    store.save(1000, state(1000))
    with pytest.raises(CheckpointWriteError, match="100 are free"):
        store.wait()
    assert store.names() == []


def test_an_object_store_that_fails_for_a_moment_is_tried_again(monkeypatch):
    folder = Folder(f"memory://{uuid.uuid4().hex}/run")
    monkeypatch.setattr(checkpoint.time, "sleep", lambda _: None)
    write, failures = Folder.write, [1, 2, 3]

    def shaky(self, name, data):
        if failures:
            failures.pop()
            raise OSError("SLOW_DOWN")
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", shaky)
    assert saved(folder, 1000).newest()[0] == 1000


def test_storage_out_of_reach_is_no_damage(monkeypatch):
    """Taking it for damage would start the run from the beginning, over checkpoints that are intact."""
    store = saved(Folder(f"memory://{uuid.uuid4().hex}/run"), 1000, 2000)
    monkeypatch.setattr(checkpoint.time, "sleep", lambda _: None)
    read, failures = Folder._read, []

    def shaky(self, name):
        failures.append(name)
        if len(failures) in (1, 3):
            raise OSError("timeout")
        return read(self, name)

    monkeypatch.setattr(Folder, "_read", shaky)
    assert store.newest()[0] == 2000  # for a moment: tried again

    def gone(*_):
        raise OSError("access denied")

    monkeypatch.setattr(Folder, "read", gone)
    with pytest.raises(OSError, match="access denied"):
        store.newest()


def test_then_comes_after_the_checkpoint_is_in_storage(folder):
    seen = []
    store = CheckpointStore(folder)
    store.save(1000, state(1000), then=lambda copy: seen.append((store.newest()[0], copy["nimg"])))
    store.wait()
    assert seen == [(1000, 1000)]


def test_free_space(tmp_path):
    assert free_bytes(Folder(tmp_path / "not" / "yet")) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert free_bytes(Folder("memory://b/x")) is None
