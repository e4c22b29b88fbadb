"""The `distgan` command: reads what was typed, calls the library, prints the outcome. No logic of its own.

Nothing heavy is imported before a command needs it: `distgan --help` answers without torch and ray.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distgan import __version__
from distgan.config import (
    ConfigError,
    RunConfig,
    RunError,
    allowed_text,
    dump_config,
    find_field,
    load_config,
    walk_fields,
)

OVERVIEW = """\
usage: distgan COMMAND ...

  train     train a generator, or go on with a run        distgan train --config jobs/configs/mnist.yaml --kimg 100
  tune      search rates, betas and more                  distgan tune --search jobs/configs/search-rates.yaml --kimg 20
  sample    images from a run or a generator              distgan sample mnist10k -n 64 --seed 0 --out grid.png
  export    the generator for other programs              distgan export mnist10k --out generator.onnx
  evaluate  measure a run, a generator or a folder        distgan evaluate mnist10k --metrics fid,kid
  report    one HTML page about a run                     distgan report mnist10k
  runs      list the runs in a storage                    distgan runs --storage s3://bucket/runs
  resume    go on with a run by its name                  distgan resume mnist10k
  submit    run a command as a job on a Ray cluster       distgan submit train --address http://head:8265 --kimg 100
  doctor    check a cluster, or this machine              distgan doctor --storage s3://bucket/runs
  config    print the settings that a command would use   distgan config --optim.g.lr 1e-4

`distgan COMMAND --help` tells more; `distgan train --help` lists every setting.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"distgan {__version__}")
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        import difflib

        near = difflib.get_close_matches(arguments[0], COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return _refuse(f"{arguments[0]}: no such command; allowed: {', '.join(COMMANDS)}{hint}")
    try:
        return command(arguments[1:])
    except ConfigError as error:
        return _refuse(str(error))
    except RunError as error:
        _refuse(str(error))
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a disk, a network file system or an object store that is full, away or not permitted
        if os.environ.get("DISTGAN_TRACEBACK"):
            raise
        _refuse(f"a file or a storage cannot be used: {' '.join(str(error).split())} (DISTGAN_TRACEBACK=1 shows where)")
        return 1


def _refuse(text: str) -> int:
    for line in text.splitlines():
        print(f"distgan: {line}", file=sys.stderr)
    return 2


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def train(arguments: list[str]) -> int:
    if _wants_help(arguments):
        _print_settings("usage: distgan train [--config FILE.yaml] [--warm-start RUN_OR_TRIAL] [--SETTING VALUE ...]")
        return 0
    parser = argparse.ArgumentParser("distgan train", add_help=False, allow_abbrev=False)
    parser.add_argument("--warm-start")
    options, rest = parser.parse_known_args(arguments)
    return _train(_read_config(rest), options.warm_start)


def _train(config: RunConfig, warm_start: str | None = None) -> int:
    from distgan.runs.prepare import prepare

    if config.engine == "ray":
        from distgan.orchestration.cluster import check_early

        check_early(config)
    if warm_start is not None:
        from distgan.orchestration.tune.trial_checkpoints import check_warm_start

        check_warm_start(warm_start, config)
    prepared = prepare(config)
    if warm_start is not None and prepared.state == "new":
        from distgan.orchestration.tune.trial_checkpoints import begin_warm

        print(begin_warm(warm_start, prepared.config, prepared.folder))
    if prepared.state == "complete":
        print(
            f"already complete: {prepared.folder} (--kimg {2 * config.kimg:g} would train on, --name NAME starts "
            "another run)"
        )
        return 0
    for note in prepared.notes:
        print(note)
    if config.engine == "local":
        from distgan.runs.local import run
    else:
        from distgan.orchestration.train import run
    return run(prepared)


def tune(arguments: list[str]) -> int:
    if _wants_help(arguments):
        _print_settings(
            "usage: distgan tune [--config FILE.yaml] [--search SPACE.yaml] [--SETTING VALUE ...]\n       distgan "
            "tune --resume NAME [--storage STORAGE]      go on with a search\n       distgan tune --replay NAME "
            "--name NEW               run the schedule that pbt found, from the start"
        )
        return 0
    parser = argparse.ArgumentParser("distgan tune", add_help=False, allow_abbrev=False)
    for option in ("--search", "--resume", "--replay"):
        parser.add_argument(option)
    options, rest = parser.parse_known_args(arguments)
    from distgan.orchestration.tune.settings_files import read_replay, read_search, read_settings

    file, values = parse_overrides(rest)
    storage = values.get("storage", "./runs")
    replay = None
    if options.resume:
        found = read_search(options.resume, storage)
        kept = {key: value for key, value in values.items() if key != "storage"}
        config = load_config(base=found.model_dump(mode="json"), overrides=kept)
    elif options.replay:
        found, replay = read_replay(options.replay, storage, str(values.get("name", "")))
        config = load_config(base=found.model_dump(mode="json"), overrides=values)
    else:
        config = read_settings(file, options.search, values)
    from distgan.orchestration.tune.search import search

    return search(config, replay=replay)


def resume(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "distgan resume", description="Go on with a run from its newest checkpoint, with the settings saved beside it."
    )
    parser.add_argument("run", help="the run's name, folder or URI")
    parser.add_argument("--storage", default="./runs", help="where runs lie (default: %(default)s)")
    options, rest = parser.parse_known_args(arguments)
    from distgan.runs.prepare import find_run, read_run_config

    folder = find_run(options.run, options.storage)
    config = read_run_config(folder)
    head, mark, query = folder.uri.partition("?")
    above, _, name = head.rstrip("/").rpartition("/")
    place = {"storage": above + mark + query, "name": name}
    return _train(load_config(base=config.model_dump(mode="json") | place, overrides=parse_overrides(rest)[1]))


def config(arguments: list[str]) -> int:
    if _wants_help(arguments):
        _print_settings(
            "usage: distgan config [--config FILE.yaml] [--SETTING VALUE ...]   prints the resolved settings as YAML"
        )
        return 0
    print(dump_config(_read_config(arguments)), end="")
    return 0


def sample(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("distgan sample", description="Make images with the generator of a run.")
    parser.add_argument(
        "source", metavar="RUN_OR_GENERATOR", help="a run's name, its folder or URI, or a generator's folder"
    )
    parser.add_argument("-n", type=int, default=64, help="number of images (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="image i of a seed is always the same (default: %(default)s)"
    )
    parser.add_argument("--label", help="class, by name or number, for conditional generators (default: all classes)")
    parser.add_argument(
        "--out",
        required=True,
        help="FILE.png (a grid), FILE.npy (uint8, N x H x W or N x H x W x C), or a folder of PNGs",
    )
    parser.add_argument(
        "--walk",
        type=int,
        metavar="STEPS",
        help="each image turns into another in so many steps: FILE.gif, FILE.png (one walk a row), FILE.npy (N x "
        "STEPS x H x W [x C]), "
        "or a folder of frames",
    )
    parser.add_argument("--storage", default="./runs", help="where runs lie (default: %(default)s)")
    options = parser.parse_args(arguments)
    from distgan.export.sample import write_samples

    where = {"storage": options.storage, "walk": options.walk}
    print(write_samples(options.source, options.n, options.out, seed=options.seed, label=options.label, **where))
    return 0


def export(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "distgan export", description="Write the generator of a run for other programs, and compare it."
    )
    parser.add_argument(
        "source", metavar="RUN_OR_GENERATOR", help="a run's name, its folder or URI, or a generator's folder"
    )
    parser.add_argument(
        "--out",
        required=True,
        help=(
            "FILE.onnx (needs distgan[onnx]), FILE.pt2 (torch.export), or a folder for generator.safetensors and "
            "generator.json"
        ),
    )
    parser.add_argument("--storage", default="./runs", help="where runs lie (default: %(default)s)")
    options = parser.parse_args(arguments)
    from distgan.export.portable import export_generator

    print(export_generator(options.source, options.out, storage=options.storage))
    return 0


def evaluate(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "distgan evaluate",
        description="Measure the generator of a run, or a folder or array of images, against real ones.",
    )
    parser.add_argument("source", metavar="RUN_OR_GENERATOR_OR_FOLDER")
    parser.add_argument(
        "--against", help="real images: a known set or a path (default: the data that the run was trained on)"
    )
    parser.add_argument(
        "--metrics",
        default="fid,kid",
        help="comma-separated: fid, kid, precision-recall, density-coverage, inception-score, modes",
    )
    parser.add_argument("-n", type=int, default=10000, help="generated images to measure (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated images (default: %(default)s)")
    parser.add_argument(
        "--extractor", default="auto", help="feature extractor (see metrics.extractor in `distgan train --help`)"
    )
    parser.add_argument("--weights", help="file with the extractor's weights")
    parser.add_argument(
        "--linear-probe",
        action="store_true",
        help=(
            "also fit a linear classifier to the features of the run's discriminator, and tell its accuracy on "
            "held-out real images"
        ),
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--storage", default="./runs", help="where runs lie (default: %(default)s)")
    options, rest = parser.parse_known_args(arguments)
    if options.n < 2:
        raise ConfigError(f"-n {options.n}: allowed: at least 2")
    from distgan.runs.evaluate import as_json, as_table, evaluate_source

    found = evaluate_source(
        options.source,
        against=options.against,
        metrics=options.metrics,
        n=options.n,
        seed=options.seed,
        extractor=options.extractor,
        weights=options.weights,
        storage=options.storage,
        overrides=parse_overrides(rest)[1],
        linear_probe=options.linear_probe,
    )
    print(as_json(found) if options.json else as_table(found))
    return 0


def runs(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("distgan runs", description="List the runs and searches in a storage.")
    parser.add_argument("--storage", default="./runs", help="folder or URI (default: %(default)s)")
    options = parser.parse_args(arguments)
    from distgan.runs.listing import list_runs
    from distgan.storage import Folder

    storage = Folder(options.storage)
    if storage.is_local and os.path.isfile(storage.path()):
        raise ConfigError(f"--storage {options.storage}: is a file; allowed: the folder or URI that holds the runs")
    rows = [("RUN", "STATE", "KIMG", "BEST", "HEARTBEAT")]
    for run in list_runs(storage):
        heard = f"{_span(run.heartbeat_s)} ago" if run.heartbeat_s is not None else "-"
        rows.append((run.name, run.state, run.progress, run.best, heard))
    if len(rows) == 1:
        print(f"no runs in {storage}")
        return 0
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def report(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "distgan report", description="Write report.html, one page about a run, into its folder."
    )
    parser.add_argument("run", help="the run's name, folder or URI")
    parser.add_argument("--storage", default="./runs", help="where runs lie (default: %(default)s)")
    options = parser.parse_args(arguments)
    from distgan.runs.prepare import find_run
    from distgan.runs.report import write_report

    folder = find_run(options.run, options.storage)
    if not folder.exists("metrics.jsonl"):
        raise ConfigError(f"{folder}: nothing is logged there yet")
    write_report(folder)
    print(f"{folder}/report.html")
    return 0


def submit(arguments: list[str]) -> int:
    from distgan.orchestration.jobs import submit as jobs

    request = jobs.read_request(arguments, [name for name in COMMANDS if name not in ("submit", "config", "runs")])
    if request.action in ("train", "tune"):
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for option in ("--warm-start", "--search", "--resume", "--replay"):
            parser.add_argument(option)
        options, rest = parser.parse_known_args(request.settings)
        file, values = parse_overrides(rest)
        place = Path(request.working_dir or ".")
        file, space = (str(place / path) if path else None for path in (file, options.search))
        if request.action == "tune" and not (options.resume or options.replay):
            from distgan.orchestration.tune.settings_files import read_settings
            from distgan.orchestration.tune.space import open_space

            jobs.check_settings(open_space(read_settings(file, space, values)).config)
        else:
            jobs.check_settings(load_config(file, values))
    return jobs.run(request)


def doctor(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "distgan doctor", description="Check a cluster, or this machine, before a run needs it."
    )
    parser.add_argument("--address", help="the cluster (default: $RAY_ADDRESS, else a private one on this machine)")
    parser.add_argument(
        "--storage",
        default="./runs",
        help="where runs shall lie: every node writes and reads there (default: %(default)s)",
    )
    parser.add_argument(
        "--mib", type=float, default=32, help="size of the tensor that workers exchange (default: %(default)s MiB)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    from distgan.orchestration.doctor import examine

    return examine(options.address, options.storage, mib=options.mib, as_json=options.json)


COMMANDS = {
    "train": train,
    "tune": tune,
    "sample": sample,
    "export": export,
    "evaluate": evaluate,
    "report": report,
    "runs": runs,
    "resume": resume,
    "submit": submit,
    "doctor": doctor,
    "config": config,
}


# ---------------------------------------------------------------------------------------------------------------------
# Reading what was typed


def parse_overrides(arguments: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """(config file, settings by dotted name) from `--key value`, `--key=value`, `--key a b` (a list) and `--flag`
    (true).
    """
    file: str | None = None
    values: dict[str, Any] = {}
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"{word}: settings are typed as --name value, for example --kimg 100")
        key, equals, value = word[2:].partition("=")
        words = [value] if equals else []
        while not equals and position < len(arguments) and not arguments[position].startswith("--"):
            words.append(arguments[position])
            position += 1
        if key == "config":
            if len(words) != 1:
                raise ConfigError("--config: needs one FILE.yaml")
            file = words[0]
        elif key.replace("-", "_") in values:
            raise ConfigError(f"--{key}: given twice")
        elif len(words) > 1 and not _takes_several(key.replace("-", "_")):
            raise ConfigError(f"--{key}: takes one value, not {' '.join(words)!r}; settings are typed as --name value")
        elif not words and not _is_flag(key.replace("-", "_")):
            raise ConfigError(
                f"--{key}: needs a value, as in --{key} VALUE; `distgan train --help` says which are allowed"
            )
        else:
            values[key.replace("-", "_")] = (
                "true" if not words else words[0] if len(words) == 1 else f"[{', '.join(words)}]"
            )
    return file, values


def _takes_several(name: str) -> bool:
    """False where a list would be taken for text: `--storage PATH kimg=1` must not make a folder of that name."""
    info = find_field(name)
    return info is None or any(word in str(info.annotation) for word in ("list", "dict", "Any"))


def _is_flag(name: str) -> bool:
    """Whether a setting may be typed without a value, which then is true. What is no setting is refused for that,
    later.
    """
    info = find_field(name)
    return info is None or "bool" in str(info.annotation)


def _read_config(arguments: list[str]) -> RunConfig:
    file, values = parse_overrides(arguments)
    return load_config(file, values)


def _wants_help(arguments: list[str]) -> bool:
    return any(a in ("-h", "--help") for a in arguments)


def _print_settings(usage: str) -> None:
    """Every setting with default, unit, what is allowed and meaning, section by section."""
    print(f"{usage}\n\nSettings (in YAML: sections; here: dotted names; the command line wins over the file):")
    section = None
    for name, info in walk_fields():
        head = name.rpartition(".")[0]
        if head != section:
            section = head
            print(f"\n{head or 'run'}")
        extra = info.json_schema_extra
        unit = f" {extra['unit']}" if isinstance(extra, dict) and "unit" in extra else ""
        default = info.get_default(call_default_factory=True)  # type: ignore[call-arg]
        shown = "none" if default is None else f"{default}{unit}"
        text = f"{info.description}  [default: {shown}; allowed: {allowed_text(info)}]"
        print(textwrap.fill(text, 118, initial_indent=f"  --{name.replace('_', '-'):<34} ", subsequent_indent=" " * 39))


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def default_config_path(name: str) -> Path:
    """jobs/configs/NAME.yaml of a source checkout, for messages."""
    return Path("jobs/configs") / f"{name}.yaml"


if __name__ == "__main__":
    sys.exit(main())
