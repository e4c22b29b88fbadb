"""What a process is started with and in may be broken: streams, locale, home, working folder, terminal. Runs end well,
and what they say is what works.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_run import TINY

from distgan.cli import main
from distgan.config import ConfigError, load_config
from distgan.registry import by_path
from distgan.text import command, printable
from distgan.training.torchrun import VARIABLES, is_torchrun


def settings(**changes: Any) -> list[str]:
    return [word for name, value in {**TINY, **changes}.items() for word in (f"--{name}", str(value))]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start `distgan train` of a second or so; storage is "runs" in the test's own folder."""

    def begin(shell: str = "", cwd: Path = tmp_path, changes: Any = (), **options: Any) -> subprocess.Popen[bytes]:
        env = {**os.environ, "DISTGAN_CACHE": str(tmp_path / "cache"), **options.pop("env", {})}
        words = settings(**{"storage": str(tmp_path / "runs"), **dict(changes)})
        typed = [sys.executable, "-m", "distgan", "train", *words]
        if shell:
            typed = ["bash", "-c", f"exec {shlex.join(typed)} {shell}"]
        how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(typed, cwd=cwd, env=env, **how)

    return begin


def status(tmp_path: Path, name: str = "mnist10k") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "runs" / name / "status.json").read_text())
    return found


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "> /dev/full"])
def test_streams_that_are_closed_or_full(start, tmp_path: Path, closed: str) -> None:
    process = start(shell=closed)
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors
    assert status(tmp_path)["state"] == "complete"
    assert (tmp_path / "runs" / "mnist10k" / "generator" / "generator.json").exists()


def test_a_reader_that_goes_away_ends_nothing(start, tmp_path: Path) -> None:
    process = start(changes={"kimg": 20}, stderr=subprocess.STDOUT)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=100) == 0
    assert status(tmp_path)["kimg"] == 20
    listed = subprocess.Popen(
        [sys.executable, "-m", "distgan", "runs", "--storage", str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    listed.stdout.close()
    assert listed.wait(timeout=60) == 0
    assert listed.stderr.read() == b""


def test_text_that_cannot_be_encoded_ends_nothing(start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "söts \N{CAT}"
    for kind in ("k\N{LATIN SMALL LETTER A WITH DIAERESIS}se", "\N{CAT}", os.fsdecode(b"l\xe4sst")):
        (folder / kind).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{i}.png")
    Path(os.fsdecode(bytes(folder) + b"/k\xc3\xa4se/bad\xe9.png")).write_text("x", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    own = {"data.name": folder, "data.limit": "null", "data.max_bad_share": 0.5, "model.conditioning": "projection"}
    own |= {"model.name": "dcgan", "model.g_norm": "none", "model.d_norm": "none", "log.tensorboard": True}
    process = start(changes=own, env=ascii_only)
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert rb"bad\xe9.png" in said
    (name,) = os.listdir(tmp_path / "runs")
    run = tmp_path / "runs" / name
    made = json.loads((run / "generator" / "generator.json").read_text(encoding="utf-8"))
    assert sorted(made["spec"]["classes"]) == sorted(["käse", "\N{CAT}", "l\\xe4sst"])
    for words in (
        ["runs", "--storage", "runs"],
        ["report", str(run)],
        ["evaluate", str(run), "-n", "50", "--metrics", "fid"],
        ["sample", str(run), "-n", "3", "--label", "l\\xe4sst", "--out", "x.png"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "distgan", *words],
            cwd=tmp_path,
            env={**os.environ, **ascii_only, "DISTGAN_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr


NOBODY = """
import pwd
def none(user): raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = none
import sys
from distgan.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_a_home(start, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "DISTGAN_CACHE", "USER", "LOGNAME")}
    env["TMPDIR"] = str(tmp_path)
    words = ["train", *settings(storage=tmp_path / "runs")]
    for home in ({}, {"HOME": "/nowhere"}):
        done = subprocess.run(
            [sys.executable, "-c", NOBODY, *words, "--name", "a" + home.get("HOME", "")[1:]],
            env=env | home,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("no home folder to write to") == 1
        assert list(tmp_path.glob("distgan-cache-*/statistics"))


@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.4, 0.8, 1.5])
def test_ctrl_c_at_any_time_says_a_line_at_most(start, tmp_path: Path, after_s: float) -> None:
    process = start(changes={"kimg": 2000})
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode in (130, -signal.SIGINT)
    assert b"Traceback" not in errors
    assert len(errors.splitlines()) <= 2


def test_nohup_stays_nohup(start, tmp_path: Path) -> None:
    process = start(changes={"kimg": 30}, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    lines, deadline = tmp_path / "runs" / "mnist10k" / "metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (lines.exists() and '"nimg"' in lines.read_text(encoding="utf-8")):
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=100) == 0
    assert status(tmp_path)["kimg"] >= 30


@pytest.mark.parametrize("module", ["numpy", "random", "torch"])
def test_a_file_in_the_working_folder_takes_no_package_s_name(start, tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text("raise ImportError('not this one')", encoding="utf-8")
    (tmp_path / "own.py").write_text("from distgan.models.mlp import MLPGenerator as G\n", encoding="utf-8")
    process = start(changes={"model.generator": "own:G"})
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == 0, errors


def test_own_modules_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_module.py").write_text("WHAT = 5", encoding="utf-8")
    assert by_path("own_module:WHAT") == 5
    assert sys.path[-1] == str(tmp_path)


def test_printed_commands_work_when_pasted(start, tmp_path: Path) -> None:
    place = tmp_path / "My $Drive's"
    place.mkdir()
    process = start(changes={"storage": "./runs", "name": "my run"}, cwd=place)
    said = process.communicate(timeout=100)[0].decode()
    typed = next(line for line in said.splitlines() if line.startswith("  more "))
    pasted = typed.removeprefix("  more").strip().replace("distgan", f"{sys.executable} -m distgan", 1)
    subprocess.run(["bash", "-c", pasted], cwd=place, check=True, timeout=100, capture_output=True)
    assert (place / "grid.png").exists()
    assert (
        shlex.split(command("distgan", "resume", "my run", "--storage", "s3://b/p?a=1&b=2"))[-1] == "s3://b/p?a=1&b=2"
    )


def test_settings_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_bytes(
        b"\xef\xbb\xbfname: K\xc3\xa4se\n"
    )  # with a byte order mark, as Windows writes it
    code = "from distgan.config import load_config; print(ascii(load_config('own.yaml').name))"
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "'K\\xe4se'\n", done.stderr


@pytest.mark.parametrize("name", ["-x", "a\udce9", ".a", "a#b"])
def test_names_that_no_command_could_take_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="plain folder name"):
        load_config(overrides={"name": name})
    assert load_config(overrides={"data.name": f"/photos/{name}"}).run_name == printable(name).lstrip(".-").replace(
        "#", "_"
    ).replace("\\", "_")


def test_a_start_that_is_refused_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise ConfigError("data.name: gone meanwhile")

    monkeypatch.setattr("distgan.training.loop.open_samples", refuse)
    assert main(["train", *settings()]) == 2
    assert "gone meanwhile" in capsys.readouterr().err
    assert os.listdir("runs") == []
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["train", *settings()]) == 0
    before = sorted(str(file) for file in Path("runs").rglob("*"))
    monkeypatch.setattr("distgan.training.loop.open_samples", refuse)
    assert main(["train", *settings(kimg=2)]) == 2
    assert set(before) <= {str(file) for file in Path("runs").rglob("*")}


@pytest.mark.parametrize(
    "left",
    [{"RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1"}, dict.fromkeys(VARIABLES, "abc"), dict.fromkeys(VARIABLES, "")],
)
def test_leftovers_of_torchrun_mean_nothing(left: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert not is_torchrun()
