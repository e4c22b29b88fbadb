"""A run that is broken again and again ends as if nothing had happened. Minutes: `pytest -m slow tests/chaos`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "jobs" / "chaos.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_survives_what_its_machine_can_do_to_it(tmp_path):
    only = "worker killed,controller killed,raylet killed,driver killed,rendezvous breaks,everything terminated"
    command = [sys.executable, str(CHAOS), "--faults", "6", "--only", only, "--seed", "1", "--work", str(tmp_path)]
    said = subprocess.run(command, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, timeout=1700)
    assert said.returncode == 0, said.stdout + said.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["problems"] == []
    assert sorted(row["fault"] for row in result["rows"]) == sorted(only.split(","))
