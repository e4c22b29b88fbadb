"""The API reference: pdoc makes it of the docstrings, it shows every name, and each of its links leads somewhere."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import distgan

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="no checkout")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The text of each page, by name."""
    pytest.importorskip("pdoc")
    place = tmp_path_factory.mktemp("reference")
    words = [sys.executable, "-m", "pdoc", "--docformat", "markdown", "-o", str(place), "distgan"]
    made = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert made.returncode == 0, made.stderr
    assert "Warn" not in made.stderr, made.stderr
    return {page.relative_to(place).as_posix(): page.read_text(encoding="utf-8") for page in place.rglob("*.html")}


def test_every_link_leads_somewhere(pages):
    assert pages["distgan.html"].count('href="#') > 50
    for name, text in pages.items():
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            page, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", page):
                continue
            target = (Path(name).parent / page).as_posix() if page else name
            assert target in pages or target == "search.js", f"{name} links to {link}"
            if anchor:
                assert f'id="{anchor}"' in pages[target], f"{name} links to {link}"


def test_every_name_and_method_is_there_with_its_text(pages):
    text = pages["distgan.html"]
    for name in set(distgan.__all__) - {"__version__"}:
        assert f'id="{name}"' in text
    for owner in (distgan.Run, distgan.Search, distgan.Generator):
        for name in (n for n in vars(owner) if not n.startswith("_") and n not in ("extra_repr",)):
            assert f'id="{owner.__name__}.{name}"' in text
            assert getattr(owner, name).__doc__, f"{owner.__name__}.{name} has no docstring"


def test_what_docstrings_name_exists():
    for file in (ROOT / "distgan" / "api").glob("*.py"):
        for name in re.findall(r"distgan\.(\w+)\(", file.read_text(encoding="utf-8")):
            assert name in distgan.__all__, f"{file.name} names distgan.{name}"


def test_the_folder_is_not_committed():
    assert "/reference/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
