"""What is not public in Ray stays in one file, and each entry does what it says where Ray has it no more."""

import re
from pathlib import Path

import pytest

import distgan
from distgan.config import ConfigError
from distgan.orchestration import ray_compat
from distgan.storage import Folder

PRIVATE = re.compile(
    r"\bray[\w.]*\._(?!_)\w|\b_raylet\b|\b_internal\b|\b_private\b|from ray[\w.]* import (\w+, )*_[a-z]"
    r"|\bRAY_[a-z]|\b_node_ip_address\b|\b_temp_dir\b|\b_system_config\b"
)


def test_no_other_file_knows_a_private_name_of_ray_s():
    root = Path(distgan.__file__).parent
    found = [
        f"{file.relative_to(root)}:{number}: {line.strip()}"
        for file in sorted(root.rglob("*.py"))
        if file.name != "ray_compat.py"
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "from ray._private import services",
        "import ray.train.v2._internal.execution",
        "from ray import _raylet",
        "from ray.train._internal.session import x",
        "ray._private.worker.global_worker",
        'os.environ["RAY_prestart_worker_first_driver"] = "0"',
        'ray.init(_node_ip_address="127.0.0.1")',
    ],
)
def test_the_search_finds_what_it_should(line):
    assert PRIVATE.search(line)


def test_entries_are_few():
    text = Path(ray_compat.__file__).read_text(encoding="utf-8")
    entries = re.findall(r"^def (\w+)", text, re.MULTILINE)
    assert len(entries) <= 3
    for entry in entries:
        assert entry in ray_compat.__doc__, f"{entry}: what happens without it?"


def test_a_cluster_that_cannot_be_kept_to_loopback_is_refused(monkeypatch):
    from ray._private import services

    with ray_compat.loopback_only():
        assert services.resolve_ip_for_localhost("127.0.0.1") == "127.0.0.1"
    monkeypatch.delattr(services, "resolve_ip_for_localhost")
    with (
        pytest.raises(ConfigError, match="cannot be kept to the loopback interface; allowed: workers = 1"),
        ray_compat.loopback_only(),
    ):
        pytest.fail("it went on")


def test_without_own_sessions_a_cluster_starts_all_the_same(monkeypatch):
    from ray._private import services

    before = services.ConsolePopen
    with ray_compat.own_session():
        assert services.ConsolePopen is not before
    assert services.ConsolePopen is before
    monkeypatch.delattr(services, "ConsolePopen")
    with ray_compat.own_session():
        pass


def test_ray_s_record_of_a_run_is_forgotten_and_nothing_else(tmp_path):
    folder = Folder(tmp_path)
    folder.write(ray_compat.RUN_STATE, b"garbage")
    folder.write("config.yaml", b"kimg: 1")
    ray_compat.forget_run_state(folder)
    assert folder.list() == ["config.yaml"]
