"""Runs in an object store: moto's S3 server on this machine, spoken to over HTTP as any other endpoint."""

from __future__ import annotations

import errno
import json
import os
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch

from distgan import cli
from distgan.config import ConfigError
from distgan.runs.lease import FILE, Lease, read_lease, wait_until_free
from distgan.runs.prepare import prepare
from distgan.storage import Folder
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context
from distgan.training.logs import read_status
from distgan.training.loop import train

moto = pytest.importorskip("moto.server", reason="needs moto[server]")


@pytest.fixture(scope="module")
def endpoint():
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield f"127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """The URI of a new, empty bucket as s3://bucket/path?query, split in two."""
    for key, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-written",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name = f"b{uuid.uuid4().hex[:12]}"
    urllib.request.urlopen(urllib.request.Request(f"http://{endpoint}/{name}", method="PUT")).close()
    return f"s3://{name}", f"?endpoint_override={endpoint}&scheme=http"


@pytest.fixture
def uri(bucket):
    return "{}/runs{}".format(*bucket)


def test_files(uri):
    folder = Folder(uri).child("a").child("b")
    assert folder.uri == uri.replace("/runs?", "/runs/a/b?")
    assert folder.list() == []
    assert not folder.exists("x")
    with pytest.raises(FileNotFoundError):
        folder.read("x")
    folder.write("x", b"1")
    folder.write("x", "22")
    folder.write("deep/er/y", b"")
    assert folder.read("x") == b"22"
    assert Folder(uri).child("a").list("b") == ["deep", "x"]
    folder.remove("deep")
    folder.remove("nothing")
    assert folder.list() == ["x"]


def test_what_cannot_be_used_is_told_before_anything_starts(bucket, endpoint):
    start, query = bucket
    Folder(f"{start}/runs{query}").check_writable()
    assert Folder(f"{start}/runs{query}").list() == []
    with pytest.raises(ConfigError, match="cannot write there"):
        Folder(f"s3://no-such-bucket/runs{query}").check_writable()
    begin = time.monotonic()
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9.*cannot write there"):
        Folder(f"{start}/runs?endpoint_override=127.0.0.1:9&scheme=http").check_writable()
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    "uri",
    [
        "s3://me:hush@bucket/runs",
        "s3://hush@bucket/runs",
        "s3://bucket/runs?access_key=me&secret_key=hush",
        "gs://hush@bucket/runs",
        "ftp://me:hush@host/runs",
    ],
)
def test_credentials_in_the_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(ConfigError, match="environment") as refused:
        Folder(uri)
    assert "hush" not in str(refused.value)


def test_a_checkpoint_counts_when_its_manifest_is_there(uri):
    folder = Folder(uri)
    store = CheckpointStore(folder)
    for nimg in (1000, 2000, 3000):
        store.save(nimg, {"w": torch.full((5,), float(nimg))})
    store.wait()
    assert store.names() == ["000000002000", "000000003000"]
    folder.write("checkpoints/000000004000/state.pt", b"half an upload")
    with pytest.warns(UserWarning, match="000000004000 is damaged"):
        nimg, state = store.newest()
    assert nimg == 3000
    assert torch.equal(state["w"], torch.full((5,), 3000.0))
    store.save(3500, {"w": torch.zeros(1)})
    store.wait()
    assert store.names() == ["000000003000", "000000003500"]


def test_one_driver(uri):
    folder = Folder(uri).child("run")
    with Lease(folder), pytest.raises(ConfigError, match="trained already"):
        wait_until_free(folder)
    assert not folder.exists(FILE)
    folder.write(FILE, json.dumps({"owner": "x", "beat": 1, "machine": "other", "pid": 1}))
    wait_until_free(folder, beat_s=0.2, lapse_s=0.5)
    assert read_lease(folder) == {}


def files(folder, name=""):
    """{name: bytes} of all files in a folder."""
    found = {}
    for entry in folder.list(name):
        path = f"{name}/{entry}".lstrip("/")
        inner = files(folder, path)
        found |= inner if inner else {path: folder.read(path)}
    return found


def test_a_run_in_an_object_store_is_the_run_on_a_disk(tiny, uri, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    local = prepare(tiny(**{"log.tensorboard": True}))
    train(local.config, Context(), local.folder)

    remote = prepare(tiny(storage=uri, **{"log.tensorboard": True}))
    context, ticks = Context(), []

    def stop_midway(status):
        ticks.append(status)
        if status["nimg"] >= 500:
            context.request_stop()

    stopped = train(remote.config, context, remote.folder, on_tick=stop_midway)
    assert stopped["state"] == "stopped"
    assert prepare(remote.config).state == "resume"
    status = train(remote.config, Context(), remote.folder)
    assert status["state"] == "complete"
    assert prepare(remote.config).state == "complete"

    there, here = files(remote.folder), files(local.folder)
    for name in ("generator/generator.safetensors", "samples/000001.png", "samples/reals.png"):
        assert there[name] == here[name]
    a, b = CheckpointStore(remote.folder).newest(), CheckpointStore(local.folder).newest()
    assert a[0] == b[0]
    for part in ("G", "D", "ema"):
        assert all(torch.equal(a[1][part][k], v) for k, v in b[1][part].items())
    lines = [json.loads(line) for line in there["metrics.jsonl"].splitlines()]
    assert [line["nimg"] for line in lines if "fid" in line] == [512, 1024]
    assert sum(name.startswith("tensorboard/events") for name in there) == 2
    assert read_status(remote.folder)["state"] == "complete"
    assert not any(b"not-to-be-written" in data for data in there.values())
    assert list((tmp_path / "tmp").glob("distgan-copy-*")) == []

    # The commands
    assert cli.main(["runs", "--storage", uri]) == 0
    listed = capsys.readouterr().out
    assert "tiny" in listed
    assert "complete" in listed
    out = tmp_path / "images.npy"
    assert cli.main(["sample", uri.replace("/runs?", "/runs/tiny?"), "-n", "3", "--out", str(out)]) == 0
    assert np.load(out).shape == (3, 28, 28)
    assert (
        cli.main(["sample", "tiny", "--storage", uri, "-n", "3", "--seed", "0", "--out", str(tmp_path / "again.npy")])
        == 0
    )
    assert np.array_equal(np.load(out), np.load(tmp_path / "again.npy"))


def test_a_temporary_copy_of_a_killed_process_is_removed(uri, tmp_path, monkeypatch):
    from distgan.storage import local_copy

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = tmp_path / "distgan-copy-99999999-x"
    dead.mkdir()
    copy = local_copy(Folder(uri))
    assert not dead.exists()
    assert Path(copy).exists()


def test_a_full_storage_is_told_at_once(uri, monkeypatch):
    """It does not pass in a moment as an outage does, and a training that goes on meanwhile could not be kept."""
    folder, tried = Folder(uri), []

    def failing(number):
        def write(self, name, data):
            tried.append(name)
            raise OSError(number, os.strerror(number))

        return write

    folder.pauses_s = (0.0, 0.0)
    for number, attempts in ((errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EIO, 3)):
        tried.clear()
        monkeypatch.setattr(Folder, "_write", failing(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            folder.write("x", b"")
        assert len(tried) == attempts
