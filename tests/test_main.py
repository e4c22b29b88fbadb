"""The command's standard streams, and the first moments of the process: nothing there may end a run."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

SHOW = "from distgan.terminal import prepare_streams; import sys; prepare_streams(); "
"""What a child process does before it writes."""


def child(code, *redirect, **environment):
    """(exit status, output, errors) of a Python that runs `code` with a shell's redirections."""
    line = f'exec "$0" -c "$1" {" ".join(redirect)}'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, SHOW + code],
        capture_output=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("redirect", [(">&-",), ("2>&-",), ("<&-",), (">&-", "2>&-", "<&-"), (">/dev/full",)])
def test_streams_that_are_closed_or_full_take_everything(redirect, tmp_path):
    """And no file that is opened later gets their number, and with it what they are told."""
    file = tmp_path / "file"
    code = (
        f"file = open({str(file)!r}, 'w', encoding='utf-8'); print('said'); print('cried', file=sys.stderr); "
        "sys.stdin.read(); file.write(str(file.fileno() > 2)); sys.stdout.flush(); sys.stderr.flush()"
    )
    status, said, cried = child(code, *redirect, *(("</dev/null",) if "<&-" not in redirect else ()))
    assert status == 0
    assert file.read_text(encoding="utf-8") == "True"
    assert said == (b"said\n" if not any(r.startswith(">") for r in redirect) else b"")
    assert cried == (b"cried\n" if "2>&-" not in redirect else b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict"])
def test_what_an_encoding_cannot_say_is_written_as_its_number(encoding):
    status, said, _ = child(r"print('\u5b57 \U0001f600 \udce9')", PYTHONIOENCODING=encoding)
    assert (status, said) == (0, rb"\u5b57 \U0001f600 \udce9" + b"\n")


def test_a_reader_that_goes_away_changes_nothing():
    code = "[print('x' * 100, flush=True) for _ in range(10_000)]; print('done', file=sys.stderr)"
    status, said, cried = child(code, "| head -1")
    assert (said, cried) == (b"x" * 100 + b"\n", b"done\n")
    assert status == 0


def test_a_terminal_that_is_closed_changes_nothing(tmp_path):
    master, slave = pty.openpty()
    done = tmp_path / "done"
    code = (
        f"sys.stdin.readline(); print('x', flush=True); print('y', file=sys.stderr); open({str(done)!r}, 'x').close()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW + code], stdin=subprocess.PIPE, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    os.close(master)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert done.exists()


def test_a_full_pipe_that_does_not_block_gets_every_byte():
    read, write = os.pipe()
    os.set_blocking(write, False)
    code = "[print('x' * 999) for _ in range(1000)]; sys.stdout.flush()"
    process = subprocess.Popen([sys.executable, "-c", SHOW + code], stdout=write)
    os.close(write)
    time.sleep(0.5)  # it has filled the pipe by then
    with open(read, "rb") as reader:
        assert len(reader.read()) == 1_000_000
    assert process.wait(timeout=60) == 0


def test_streams_that_somebody_has_replaced_stay(monkeypatch):
    from distgan.terminal import prepare_streams

    before = object()
    monkeypatch.setattr(sys, "stdout", before)
    prepare_streams()
    assert sys.stdout is before


PRESS = """
import os, signal, sys

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), number)

module, number = sys.argv.pop(1), int(sys.argv.pop(1))
sys.meta_path.insert(0, Press())
from distgan.__main__ import main
sys.exit(main())
"""
"""The command, to which a signal comes when it begins to import a module."""
MODULES = ["distgan.cli", "pydantic", "yaml", "numpy", "torch", "torch.nn", "distgan.training.loop"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", MODULES)
def test_a_signal_in_the_first_moments_says_one_line_at_most(module, number, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PRESS, module, str(int(number)), "train", "--kimg", "0.1", "--engine", "local"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode in (128 + number, -number), done.stdout
    assert set(done.stdout.split("\n")) <= {"", "interrupted"} or "10,000 images" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_file_in_the_working_folder_takes_no_packages_name(tmp_path):
    for name in ("numpy", "random", "yaml", "torch", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "distgan", "config"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "kimg: " in done.stdout
