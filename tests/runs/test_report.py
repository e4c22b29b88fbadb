"""report.html of runs whose files are not whole."""

import json

import pytest

from distgan.runs.report import write_report
from distgan.storage import Folder

LINES = [json.dumps({"nimg": n, "kimg": n / 1000, "time": 1.0, "d_loss": 1.0}) for n in (100, 200, 300)]


@pytest.mark.parametrize("line", ["{", '{"nimg": 300, "kim', "[1]", "null", "\\udce9", "3"])
@pytest.mark.parametrize("status", [None, b"", b"\xff", b"[]", b'{"state": "complete"}'])
def test_what_is_damaged_is_left_out(tmp_path, line, status):
    folder = Folder(tmp_path)
    folder.write("config.yaml", b"name: \xff")
    folder.write("metrics.jsonl", "\n".join([*LINES[:2], line, LINES[2], line]))
    if status is not None:
        folder.write("status.json", status)
    write_report(folder)
    page = folder.read("report.html").decode()
    assert "Losses" in page
    folder.write("metrics.jsonl", "\n".join(LINES))
    write_report(folder)
    assert folder.read("report.html").decode() == page
