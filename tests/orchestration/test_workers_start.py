"""Ray's worker processes start whatever lies in the working folder and however long the temporary folder's name is; and
where they cannot start, the command ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_run import TINY

pytestmark = pytest.mark.timeout(200)

DIES = """
import sys
if "default_worker.py" in open("/proc/self/cmdline", encoding="utf-8").read():
    raise SystemExit("ImportError: this worker has no numpy")
"""


def start(cwd: Path, env: dict[str, str] | None = None, **changes: Any) -> subprocess.Popen[str]:
    settings = {**TINY, "engine": "ray", "workers": 2, "storage": cwd / "runs", **changes}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", "distgan", "train", *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_files_of_the_user_s_take_no_package_s_name_and_temporary_folders_may_be_deep(tmp_path: Path) -> None:
    for module in ("numpy", "random", "yaml"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('not this one')", encoding="utf-8")
    (tmp_path / "own.py").write_text("from distgan.models.mlp import MLPGenerator as G\n", encoding="utf-8")
    deep = tmp_path / "slurm_jobdir" / "people" / "somebody" / "1355700" / "tmp.t0016.local.scratch"
    deep.mkdir(parents=True)
    process = start(tmp_path, {"TMPDIR": str(deep)}, **{"model.generator": "own:G"})
    said = process.communicate(timeout=150)[0]
    assert process.returncode == 0, said
    assert "complete: 1.024 kimg" in said


def test_workers_that_die_as_they_start_end_the_command(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DIES, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    began = time.monotonic()
    process = start(tmp_path, {"PYTHONPATH": path}, **{"ray.start_timeout_s": 8})
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 1, said
    assert time.monotonic() - began < 90
    assert "ray.start_timeout_s = 8: no worker process of Ray's has started" in said
    assert "this worker has no numpy" in said
    assert "Traceback" not in said


def test_a_command_that_waits_for_workers_ends_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DIES, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    process = start(tmp_path, {"PYTHONPATH": path}, **{"ray.start_timeout_s": 300})
    time.sleep(15)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[0]
    assert process.returncode in (143, -signal.SIGTERM), said
    assert "Traceback" not in said
