"""The notebook that shows the Python interface runs from the first cell to the last."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT / "jobs" / "tour.ipynb"

pytestmark = [
    pytest.mark.skipif(not FILE.exists(), reason="no checkout"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the search needs two CPUs"),
    pytest.mark.timeout(280),
]


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat")
    found = nbformat.read(FILE, as_version=4)
    nbformat.validate(found)
    return found


def test_it_is_kept_without_outputs(notebook):
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_it_runs(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the kernel stands in another folder
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where Ray keeps a token, and Jupyter its files
    (tmp_path / "home").mkdir()
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=place).execute()
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = [{kind for output in cell.outputs for kind in output.get("data", {})} for cell in codes]

    def shown(words):
        return next(found for cell, found in zip(codes, kinds, strict=True) if cell.source.splitlines()[-1] == words)

    assert "text/html" in shown("run")
    assert "image/png" in shown("generator")
    assert "image/png" in shown("tuned.samples()")
    assert "text/html" in shown("search.trials_frame()")
    refused = next(cell for cell in codes if "lrr" in cell.source)
    assert "optim.g.lrr: no such setting" in refused.outputs[0].text
    made = sorted(entry.name for entry in (tmp_path / "tour").iterdir())
    assert made == ["digits", "generator", "images", "own", "rates"]
