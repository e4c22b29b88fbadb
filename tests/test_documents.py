"""The pages that people read: what they link to and name exists, and the commands in them can be typed."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import distgan
from distgan import cli
from distgan.config import find_field, load_config
from distgan.config.command_line import parse_overrides

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for pattern in ("*.md", *(f"{folder}/**/*.md" for folder in ("distgan", "jobs", "docker", "tests")))
    for page in ROOT.glob(pattern)
)
HISTORY = {"CHANGELOG.md"}
"""Pages that may name what is no more."""
TOP = ("distgan", "jobs", "tests", "docker", ".ci", ".github")
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|\.\.\.")

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="no checkout")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def code(text: str) -> list[str]:
    """What stands in code spans and code blocks, spans on one line each."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return blocks + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]


def bases(page: Path) -> set[Path]:
    """Where paths on a page begin: at the repository, beside the page, and on pages about the code in the package."""
    package = ROOT / "distgan"
    return {ROOT, page.parent} | ({package} if page.is_relative_to(package) else set())


def paths(page: Path, text: str) -> set[str]:
    """Words of code that begin with one of the repository's folders, or with one that lies at the page's bases."""
    heads = {*TOP, *(entry.name for base in bases(page) - {ROOT} for entry in base.iterdir() if entry.is_dir())}
    words = {word for part in code(text) for word in re.findall(r"(?<![\w./:-])[\w.][\w.*/-]*", part)}
    return {word.rstrip(".") for word in words if word.partition("/")[0] in heads and "/" in word}


STARTED = re.compile(
    r"(?:^\s*|&& |exec head |-m |bin/)distgan\s+(?P<words>[a-z].*)"
    r"|python jobs/(?P<script>train|tune|evaluate)\.py(?P<rest>.*)"
)


def commands(text: str) -> list[str]:
    """What stands after `distgan` in code, in whatever way it is started, without comments."""
    lines = [line for part in code(text) for line in part.replace("\\\n", " ").splitlines()]
    found = []
    for match in filter(None, (STARTED.search(re.sub(r"(^|\s)#.*", "", line)) for line in lines)):
        words = match["words"] or f"{match['script']} {match['rest']}"
        found.append(words.partition(" && ")[0].strip())
    return found


def benchmarks(text: str) -> list[str]:
    found = [re.search(r"python jobs/benchmark\.py\s+(.+)", line) for part in code(text) for line in part.splitlines()]
    return [match[1].strip() for match in found if match]


def settings(text: str) -> set[str]:
    """Dotted settings in code spans, with or without a value behind them, and options of that form anywhere in code."""
    sections = "data|model|loss|optim|augment|training|metrics|checkpoint|log|ray|tune"
    words = [word for part in code(text) for word in re.findall(rf"(?<!\S)--((?:{sections})\.[\w.-]+)", part)]
    words += [span.split()[0] for span in code(text) if re.match(rf"(?:{sections})\.[a-z]", span)]
    others = re.compile(r"ray\.(train|tune|init)\b|.*\.(jsonl|yaml|py|md)$")
    return {word.replace("-", "_") for word in words if not others.match(word)}


def every(what: Any) -> list[Any]:
    """(page, command) of all pages, as parameters."""
    return [
        pytest.param(command, id=f"{page_name(page)}: {command}")
        for page in PAGES
        if page.name not in HISTORY
        for command in dict.fromkeys(what(page.read_text()))
        if not PLACEHOLDER.search(command)
    ]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            file, _, heading = target.partition("#")
            place = page.parent / file if file else page
            assert place.exists(), f"{page_name(page)} links to {target}"
            if heading:
                headings = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
                assert heading in slugs, f"{page_name(page)} links to {target}: no such heading"


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in HISTORY], ids=page_name)
def test_paths_exist(page):
    for path in paths(page, page.read_text()):
        if not PLACEHOLDER.search(path.removesuffix("README.md").removesuffix("NOTICE.txt")):
            places = [place for base in bases(page) for place in base.glob(path.rstrip("/"))]
            assert places, f"{page_name(page)} names {path}"
            assert not path.endswith("/") or any(place.is_dir() for place in places)


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in HISTORY], ids=page_name)
def test_settings_exist(page):
    assert [name for name in settings(page.read_text()) if find_field(name) is None] == []


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_page_can_be_reached_from_the_first():
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop().resolve()
        if page not in seen:
            seen.add(page)
            links = re.findall(r"\]\(([^)\s#]+\.md)\)", page.read_text())
            left += [page.parent / link for link in links if "://" not in link]
            left = [page for page in left if page.exists()]
    assert {page.resolve() for page in PAGES} <= seen


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands end where what was typed has been read and checked: nothing trains, measures or connects. Returns the
    names of the commands that came so far.
    """
    reached: list[str] = []

    def end(name: str, answer: Any = 0) -> Any:
        def called(*_: Any, **__: Any) -> Any:
            reached.append(name)
            return answer

        return called

    def evaluate(*_: Any, metrics: str, overrides: dict[str, Any], **__: Any) -> dict[str, Any]:
        load_config(overrides={"metrics.names": f"[{metrics}]", **overrides})
        reached.append("evaluate")
        return {}

    folder = SimpleNamespace(split=lambda: ("./runs", "run"), exists=lambda name: True)
    for name, instead in {
        "orchestration.start.start": end("train"),
        "orchestration.tune.search.search": end("tune"),
        "orchestration.doctor.examine": end("doctor"),
        "orchestration.jobs.submit.run": end("submit"),
        "export.sample.write_samples": end("sample"),
        "export.portable.export_generator": end("export"),
        "runs.evaluate.evaluate_source": evaluate,
        "runs.evaluate.as_table": str,
        "runs.listing.list_runs": end("runs", ()),
        "runs.report.report_of": end("report", ""),
        "storage._remote_filesystem": lambda uri: (None, uri.partition("://")[2]),
        "runs.prepare.find_run": lambda run, storage: folder,
        "runs.prepare.read_run_config": lambda folder: load_config(),
    }.items():
        monkeypatch.setattr(f"distgan.{name}", instead)
    return reached


ENDS = {"resume": "train", "config": None}
"""Commands that end in another one, or in nothing but what they print."""


def run(words: str, reached: list[str]) -> None:
    """Read one command line as `distgan` does; an error is the test's."""
    name, *arguments = shlex.split(words)
    reached.clear()
    assert name in cli.COMMANDS, f"distgan {name}: no such command"
    if arguments in ([], ["--help"]):  # named in a sentence, or asked for help
        return
    assert cli.main([name, *arguments]) == 0, f"distgan {words}"
    expected = ENDS.get(name, name)
    assert expected is None or reached == [expected]


@pytest.mark.parametrize("command", every(commands))
def test_commands_can_be_typed(command, parsed, monkeypatch):
    monkeypatch.chdir(ROOT)
    run(command, parsed)


@pytest.mark.parametrize(
    "command",
    ["train --optm.g.lr 1", "tune --search no.yaml", "submit nothing", "evaluate run --metrics fidd", "sampel"],
)
def test_wrong_commands_are_noticed(command, parsed):
    with pytest.raises(AssertionError):
        run(command, parsed)


@pytest.mark.parametrize("command", every(benchmarks))
def test_benchmarks_can_be_typed(command, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    import benchmark

    own, _, settings = f" {command} ".partition(" -- ")
    name, *arguments = shlex.split(own)
    if arguments == ["--help"]:
        return
    parser = argparse.ArgumentParser(exit_on_error=False)
    benchmark.COMMANDS[name][0](parser)
    parser.parse_args(arguments)
    monkeypatch.chdir(ROOT)
    file, values = parse_overrides(shlex.split(settings))
    load_config(file, values)


def test_what_is_read_of_a_page():
    """The checks above must see what they are for."""
    text = (
        "Run `distgan\nruns` or\n\n```sh\npython3 -m venv x && x/bin/distgan train   # a comment\n"
        "ray job submit -- python jobs/train.py \\\n  --kimg 1\ntorchrun -m distgan train --seed 1\n```\n"
        "See `jobs/no.py`, `jobs/`, [x](docker/no) and `python jobs/benchmark.py step -- --kimg 1`."
    )
    assert commands(text) == ["train", "train     --kimg 1", "train --seed 1", "runs"]
    assert benchmarks(text) == ["step -- --kimg 1"]
    assert paths(ROOT / "README.md", text) >= {"jobs/no.py", "jobs/", "jobs/train.py"}
    assert settings(
        "`loss.name`, `ray.train.report`, `metrics.jsonl`, `distgan x --optim.g.lr 1`, `loss.r1_gamma 1`"
    ) == {"loss.name", "optim.g.lr", "loss.r1_gamma"}
    assert Path(distgan.__file__).is_relative_to(ROOT)
