"""The rooms of the house and the one way that dependencies point (see the overview in distgan/README.md)."""

import ast
from pathlib import Path

import pytest

import distgan

ROOT = Path(distgan.__file__).parent
FILES = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py"))

# room -> rooms that its files may import from, beside its own
MAY = {
    "text": set(),
    "terminal": set(),
    "registry": set(),
    "config": {"registry"},
    "randomness": set(),
    "storage": {"config"},
    "kinds": {"config", "registry", "randomness", "storage", "metrics", "models"},
    "second_order": set(),
    "models": {"config", "randomness", "registry", "second_order"},
    "gan": {"config", "randomness", "registry", "second_order"},
    "metrics": {"config", "registry", "randomness", "storage"},
    "export": {"config", "randomness", "storage", "models", "kinds"},
    "training": {"config", "registry", "randomness", "storage", "kinds", "models", "gan", "metrics", "export"},
    "runs": {"config", "registry", "randomness", "storage", "kinds", "models", "gan", "metrics", "export", "training"},
    "orchestration": {"registry", "config", "storage", "kinds", "models", "metrics", "export", "training", "runs"},
    "api": {"config", "registry", "randomness", "storage", "kinds", "export", "runs", "training", "orchestration"},
    "shell": {"config"},
    "cli": {"config", "registry", "storage", "kinds", "export", "runs", "orchestration", "shell", "terminal"},
    "__main__": {"cli"},
    "__init__": {"api", "config", "orchestration"},  # nothing of it before it is asked for
}


def imports(file):
    """Dotted names of everything that a file imports, wherever in it, and the ways around an import statement."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def room(file):
    return file.parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=str)
def test_only_orchestration_imports_ray(file):
    if room(file) != "orchestration":
        assert not [name for name in imports(file) if name.split(".")[0] == "ray"]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_dependencies_point_one_way(file):
    own = room(file)
    used = {name.split(".")[1] for name in imports(file) if name.startswith("distgan.")} - {own, "__version__"}
    used -= {"text"}  # lies below everything, and everybody may use it
    assert used <= MAY[own], f"{file} imports {', '.join(sorted(used - MAY[own]))}"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_one_but_kinds_knows_which_kinds_there_are(file):
    """What is particular to images is reached through the kind of the data (and so it is for every other kind)."""
    if file.parts[:2] != ("kinds", "image"):
        assert not [name for name in imports(file) if name.startswith("distgan.kinds.image")]


def test_the_rule_sees_what_it_should(tmp_path, monkeypatch):
    """The checks above must fail where the rule is broken."""
    (tmp_path / "bad.py").write_text(
        "def f():\n    from ray import train\n    import importlib\n    importlib.import_module('ray.tune')\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert list(imports(Path("bad.py"))) == ["ray", "ray.train", "importlib", "ray.tune"]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_stay_short(file):
    """One loop file that reads top to bottom; no file that nobody reads, and no line that does not fit."""
    lines = (ROOT / file).read_text().splitlines()
    assert len(lines) < (300 if file == Path("training/loop.py") else 401)
    assert [line for line in lines if len(line) > 120] == []


def test_a_file_name_means_one_thing():
    """But where files hold entries of registries: models/kid.py and measures/kid.py would be about the same thing."""
    entries = {"families", "measures", "extractors", "sets", "losses", "writers"}
    names = [
        file.name for file in FILES if file.parent.name not in entries and file.name not in ("__init__.py", "base.py")
    ]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_nothing_goes_in_circles():
    """No module imports another that, at import time, imports it again."""
    graph = {}
    for file in FILES:
        name = ".".join(["distgan", *file.with_suffix("").parts]).removesuffix(".__init__")
        tree = ast.parse((ROOT / file).read_text())
        used = {
            full
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module
            for full in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        }
        graph[name] = used
    graph = {name: (used & graph.keys()) - {name} for name, used in graph.items()}

    def reaches(start, goal, seen):
        for other in graph[start] - seen:
            seen.add(other)
            if other == goal or reaches(other, goal, seen):
                return True
        return False

    assert [name for name in graph if name.count(".") > 1 and reaches(name, name, set())] == []
