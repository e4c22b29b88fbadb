"""Workers meet at one address, and nobody else can join them there from another interface."""

import errno
import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from distgan.orchestration.jobs.job_logs import RENDEZVOUS_FAILED
from distgan.orchestration.network import free_port, rendezvous_store

SOON = timedelta(seconds=30)


def meet(address, port):
    """Both ends of a group of two, from two threads."""
    found = {}
    second = threading.Thread(target=lambda: found.update(second=rendezvous_store(address, port, 1, 2, SOON)))
    second.start()
    first = rendezvous_store(address, port, 0, 2, SOON)
    second.join(30)
    return first, found["second"]


def test_two_workers_meet_on_loopback_alone():
    port = free_port()
    first, second = meet("127.0.0.1", port)
    first.set("key", "value")
    assert second.get("key") == b"value"
    if Path("/proc/net/tcp").exists():
        lines = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text(encoding="utf-8").splitlines()[1:]
        ]
        assert [w[1] for w in lines if w[3] == "0A" and w[1].endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_a_port_that_is_taken_is_told_in_words_that_ask_for_another_try():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RuntimeError, match="failed to open") as told:
        rendezvous_store("127.0.0.1", taken.getsockname()[1], 0, 2, SOON)
    assert RENDEZVOUS_FAILED.search(str(told.value))


def test_an_address_that_is_translated_on_the_way_is_met_all_the_same(monkeypatch):
    def not_here(*_, **__):
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", not_here)
    first, second = meet("127.0.0.1", free_port())
    first.set("key", "value")
    assert second.get("key") == b"value"
