"""`startup`: from the command to the first training step, stage by stage, beside what Python, torch and Ray need
themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import CPUMeter, in_turn, print_table, spread, write_found
from benchmarks.parts import read_settings

MARKS = "DISTGAN_BENCHMARK_MARKS"
"""Names the file to which driver and worker write what they have reached; a worker inherits it through Ray."""

STAGES = (
    ("driver: interpreter", "driver"),
    ("driver: imports of the command", "command"),
    ("driver: settings, data and storage checked", "prepared"),
    ("driver: import ray", "ray imported"),
    ("Ray up", "ray up"),
    ("driver: import ray.train", "fit"),
    ("Ray: placement, worker process", "worker"),
    ("worker: import torch", "torch"),
    ("worker: import the loop", "loop"),
    ("data opened", "data"),
    ("nets built", "nets"),
    ("beginnings of logs, grid, first checkpoint", "stepping"),
    ("first step", "stepped"),
)
"""A stage in words, and the mark at its end. A mark that an engine does not set is skipped."""

YARDSTICKS = {
    "import torch": "import torch",
    "yardstick": """
import torch, ray.train, ray
ray.init(logging_level="ERROR", log_to_driver=False{more})
@ray.remote
class Actor:
    def ready(self):
        import torch
        return torch.__version__
actor = Actor.remote()
ray.get(actor.ready.remote())
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender starts (default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="contenders (default: all)"
    )
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-startup.json)")


CONTENDERS = ("yardstick", "yardstick, no dashboard", "distgan on Ray", "distgan alone", "import torch")


def run(options: argparse.Namespace) -> int:
    """Seconds from the command to the end of the first step, by stage; beside importing torch and ray.train and
    starting one actor.

    The yardstick is `import torch, ray.train; ray.init()`, then one actor that imports torch and has answered; once as
    anybody types it, once without Ray's dashboard. Each start is a process of its own; files are in the page cache
    after the first round.
    """
    config = read_settings(options)
    with tempfile.TemporaryDirectory(prefix="distgan-benchmark-") as place:
        env = {"DISTGAN_CACHE": f"{place}/cache", "RAY_USAGE_STATS_ENABLED": "0"}
        made: dict[str, Callable[[], dict[str, Any]]] = {
            "yardstick": lambda: start([sys.executable, "-c", YARDSTICKS["yardstick"].format(more="")], env),
            "yardstick, no dashboard": lambda: start(
                [sys.executable, "-c", YARDSTICKS["yardstick"].format(more=", include_dashboard=False")], env
            ),
            "distgan on Ray": lambda: first_step(config, "ray", Path(place), env),
            "distgan alone": lambda: first_step(config, "local", Path(place), env),
            "import torch": lambda: start([sys.executable, "-c", YARDSTICKS["import torch"]], env),
        }
        made = {name: made[name] for name in CONTENDERS if name in options.only}
        found = in_turn(made, options.rounds, lambda sample: f"{sample['seconds']:.2f} s")
    show(found)
    write_found(options, "startup", found)
    return 0


def start(command: list[str], env: dict[str, str]) -> dict[str, Any]:
    """Wall and processor seconds of a command, to the end of its last line of work: it is not waited for while it shuts
    down.
    """
    with tempfile.NamedTemporaryFile("r") as marks:
        command = [*command[:-1], command[-1] + f"\nimport time; open({marks.name!r}, 'w').write(str(time.time()))"]
        seconds, cpu = _run(command, env, lambda: float(marks.read() or 0))
    return {"seconds": seconds, "cpu_s": cpu}


def first_step(config: Any, engine: str, place: Path, env: dict[str, str]) -> dict[str, Any]:
    """One start of a run of a few steps: seconds to the end of its first step, and what was reached when."""
    import yaml

    from distgan.config import load_config

    name = f"start-{time.time_ns()}"
    short = {
        "engine": engine,
        "storage": str(place),
        "name": name,
        "kimg": 4 * config.batch_size / 1000,
        "metrics.samples": 100,
        "metrics.final_samples": 100,
    }
    settings, marks = place / f"{name}.yaml", place / f"{name}.marks"
    settings.write_text(
        yaml.safe_dump(load_config(base=config.model_dump(mode="json"), overrides=short).model_dump(mode="json"))
    )
    marks.touch()
    env = env | {MARKS: str(marks), "PYTHONPATH": str(Path(__file__).parent.parent)}
    begun: dict[str, float] = {}

    def reached() -> float:
        begun.update(read_marks(marks))
        return begun.get("stepped", 0.0)

    words = ["train", "--config", str(settings)]
    seconds, cpu = _run([sys.executable, "-m", "benchmarks.startup", *words], env, reached, begun)
    return {"seconds": seconds, "cpu_s": cpu, "stages": stages(begun)}


def _run(
    command: list[str], env: dict[str, str], reached: Callable[[], float], begun: dict[str, float] | None = None
) -> tuple[float, float | None]:
    """(wall, processor) seconds from starting a command to the time that `reached` tells. A run (it has `begun`) is
    stopped then, as what it would do next, measuring and saving, is not asked for; another command ends by itself.
    """
    stopped = False
    with tempfile.TemporaryFile("w+") as said:
        start = time.time()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **env})
        with CPUMeter(process.pid, 0.1) as meter:
            try:
                while process.poll() is None:
                    if time.time() - start > 300:
                        raise SystemExit(f"{' '.join(command[:6])}: no end after 300 s")
                    if begun is not None and not stopped and reached():
                        process.terminate()
                        stopped = True
                    time.sleep(0.05)
            except BaseException:
                process.terminate()
                process.wait(timeout=60)
                raise
        stop = reached()
        if not stop or (process.returncode and not stopped):
            said.seek(0)
            raise SystemExit(f"{' '.join(command[:6])} failed with status {process.returncode}:\n{said.read()[-3000:]}")
    if begun is not None:
        begun["start"] = start
    return stop - start, meter.between(start, stop)


def read_marks(file: Path) -> dict[str, float]:
    """Mark -> time. Of several workers' marks the last counts: all must have got there."""
    found: dict[str, float] = {}
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        found[entry["mark"]] = max(entry["time"], found.get(entry["mark"], 0.0))
    return found


def stages(marks: dict[str, float]) -> dict[str, float]:
    """Stage -> seconds, from the times of all marks and of "start"; they add up to the way from start to the last
    mark.
    """
    result, last = {}, marks["start"]
    for text, mark in STAGES:
        if mark in marks:
            result[text] = marks[mark] - last
            last = marks[mark]
    return result


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    for name, samples in found.items():
        if "stages" in samples[0]:
            rows = [
                [stage, spread([s["stages"].get(stage, 0.0) for s in samples], 2)] for stage in samples[0]["stages"]
            ]
            print(f"\n{name}: seconds of each stage, medians (lowest - highest) of {len(samples)}")
            print_table(["", "s"], rows)
    references = [name for name in found if name.startswith("yardstick")]
    rows = []
    for name, samples in found.items():
        cpu = [s["cpu_s"] for s in samples if s["cpu_s"] is not None]
        own = [s["seconds"] for s in samples]
        ratios = [
            spread([a / b["seconds"] for a, b in zip(own, found[r], strict=True)], 2) if r != name else "1"
            for r in references
        ]
        rows.append([name, spread(own, 2), spread(cpu, 2) if cpu else "-", *ratios])
    print("\nto the end of the first step, or until the actor has answered")
    print_table(["", "s", "CPU s", *(f"of {r}" for r in references)], rows)


def medians(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Stage -> median seconds."""
    return {stage: statistics.median(s["stages"][stage] for s in samples) for stage in samples[0]["stages"]}


# ---------------------------------------------------------------------------------------------------------------------
# In the run's own processes: `distgan` with marks where the stages end


def mark(name: str) -> None:
    """Write down that this process got so far; only the first time counts."""
    if name in _marked or MARKS not in os.environ:
        return
    _marked.add(name)
    with open(os.environ[MARKS], "a") as file:
        file.write(json.dumps({"mark": name, "time": time.time()}) + "\n")


_marked: set[str] = set()


def marked(function: Callable[..., Any], name: str, *, before: bool = False) -> Callable[..., Any]:
    """The function, with a mark when it has returned (or is called)."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if before:
            mark(name)
        result = function(*args, **kwargs)
        if not before:
            mark(name)
        return result

    return call


def worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What Ray runs in a worker: distgan's own, with marks."""
    mark("worker")
    from distgan.orchestration import train

    train.share_cores()
    train.keep_memory()
    import torch  # noqa: F401 - what the worker imports first

    mark("torch")
    mark_loop()
    return _worker(settings)


def mark_loop() -> None:
    """Put marks into the loop: data, nets, first step."""
    from distgan.training import loop

    mark("loop")
    loop.open_samples = marked(loop.open_samples, "data")
    loop.TrainState = marked(loop.TrainState, "nets")  # type: ignore[misc, assignment]

    class Marked(loop.Alternation):
        def __call__(self, **kwargs: Any) -> Any:
            mark("stepping")
            stats = super().__call__(**kwargs)
            {name: float(value) for name, value in stats.items()}  # on a GPU the step has ended only now
            mark("stepped")
            return stats

    loop.Alternation = Marked  # type: ignore[misc]


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    from distgan.orchestration import train

    return train.worker(settings)


def main() -> int:
    """`distgan` as typed, with marks."""
    mark("driver")
    from distgan import cli
    from distgan.runs import prepare

    mark("command")
    prepare.prepare = marked(prepare.prepare, "prepared")
    import importlib.abc
    import importlib.machinery

    class AtRay(importlib.abc.MetaPathFinder):
        """Marks when the import of `ray` ends: distgan imports it where it needs it first."""

        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
            if fullname != "ray":
                return None
            sys.meta_path.remove(self)
            spec = importlib.machinery.PathFinder.find_spec(fullname, path)
            if spec is None or spec.loader is None:
                return spec
            spec.loader.exec_module = marked(spec.loader.exec_module, "ray imported")  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, AtRay())
    if "local" in _engine(sys.argv):
        from distgan.runs import local  # noqa: F401 - as the command does next

        _mark_alone()
    else:
        from distgan.orchestration import train

        train.place = marked(train.place, "ray up")
        own = train._trainer_class

        def trainer_class() -> Any:
            kind = own()

            class Marked(kind):  # type: ignore[misc, valid-type]
                def __init__(self, function: Any, **options: Any) -> None:
                    from benchmarks import startup

                    super().__init__(startup.worker, **options)  # pickled by name: the worker imports this module

                def fit(self) -> Any:
                    mark("fit")
                    return super().fit()

            return Marked

        train._trainer_class = trainer_class
    return cli.main(sys.argv[1:])


def _engine(words: list[str]) -> str:
    import yaml

    return str(yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())["engine"])


def _mark_alone() -> None:
    """In one process the loop is imported by `local.run`, after torch."""
    from distgan.runs import local

    own = local.run

    def run(prepared: Any) -> int:
        import torch  # noqa: F401 - what the run imports first

        mark("torch")
        mark_loop()
        return own(prepared)

    local.run = run


if __name__ == "__main__":
    from benchmarks import startup

    sys.exit(startup.main())  # under its own name, which a worker can import
