"""One interface over a local folder and an object store: here a real folder, and fsspec's store in memory through
pyarrow.
"""

import os
import uuid

import pytest

from distgan.config import ConfigError
from distgan.storage import Folder, local_copy


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    return Folder(tmp_path / "store") if request.param == "local" else Folder(f"memory://{uuid.uuid4().hex}/runs")


def test_what_is_written_is_read(folder):
    folder.write("a.json", "text")
    folder.write("deep/er/b.bin", bytes(range(256)) * 5000)
    assert folder.read("a.json") == b"text"
    assert folder.read("deep/er/b.bin") == bytes(range(256)) * 5000
    folder.write("a.json", b"")
    assert folder.read("a.json") == b""
    assert folder.child("deep").read("er/b.bin")[:3] == b"\0\1\2"


def test_what_is_not_there(folder):
    assert not folder.exists("x")
    assert not folder.exists()
    assert folder.list("x") == []
    folder.remove("x")
    with pytest.raises(FileNotFoundError):
        folder.read("x")


def test_lists_and_removes(folder):
    for name in ("b/2", "b/1", "a", "c/d/e"):
        folder.write(name, name)
    assert folder.list() == ["a", "b", "c"]
    assert folder.list("b") == ["1", "2"]
    folder.remove("b/1")
    folder.remove("c")
    assert folder.list("b") == ["2"]
    assert not folder.exists("c/d/e")
    assert folder.exists("a")
    assert folder.exists("b")


def test_upload_takes_everything_but_what_is_unfinished(folder, tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a").write_text("1")
    (source / "deep" / "b").write_text("2")
    (source / ".c.123.tmp").write_text("half")
    folder.upload(source, "copy")
    folder.upload(source, "")
    assert folder.list("copy") == ["a", "deep"]
    assert folder.read("deep/b") == b"2"


def test_writing_leaves_no_trace_of_the_check(folder):
    folder.check_writable()
    assert folder.list() == []


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    folder = Folder(tmp_path)
    folder.write("a", "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        folder.write("a", "new and longer")
    assert folder.read("a") == b"old"
    assert folder.list() == ["a"]


def test_places():
    assert Folder("file:///tmp/x").uri == "/tmp/x"
    assert Folder("~/x").path("y") == os.path.expanduser("~/x/y")
    assert Folder("runs").uri == os.path.abspath("runs")
    assert Folder("memory://b/x/").child("run").uri == "memory://b/x/run"
    assert not Folder("memory://b/x").is_local
    assert str(Folder("/tmp/x").child("run")) == "/tmp/x/run"


def test_a_query_stays_at_the_end_of_a_uri():
    uri = "s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    child = Folder(uri).child("mnist")
    assert child.uri == "s3://bucket/runs/mnist?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    assert child.path("config.yaml") == "bucket/runs/mnist/config.yaml"


def test_growing_files_go_to_the_folder_itself_or_to_a_local_one(tmp_path):
    assert local_copy(Folder(tmp_path)) == tmp_path
    aside = local_copy(Folder("memory://b/y"))
    assert aside.is_dir()
    aside.rmdir()


@pytest.mark.parametrize("uri", ["nonsense://bucket/x", "s3://"])
def test_a_location_that_cannot_be_is_named(uri):
    with pytest.raises(ConfigError, match="storage = ") as caught:
        Folder(uri).check_writable()
    assert uri in str(caught.value)
    assert "s3://bucket/path" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"storage = .*file/runs: cannot write there .*allowed: a folder"):
        Folder(tmp_path / "file" / "runs").check_writable()
