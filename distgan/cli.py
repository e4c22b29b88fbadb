"""The `distgan` command: reads what was typed, calls the library, prints the outcome. No logic of its own.

Nothing heavy is imported before a command needs it: `distgan --help` answers without torch and ray.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from distgan import __version__
from distgan.config import ConfigError, RunConfig, RunError, dump_config, load_config
from distgan.config.command_line import parse_overrides, print_settings
from distgan.registry import METRICS
from distgan.terminal import prepare_streams
from distgan.text import did_you_mean, duration, table

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
    prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"distgan {__version__}")
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        hint = did_you_mean(arguments[0], COMMANDS)
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
    usage = "usage: distgan train [--config FILE.yaml] [--finetune RUN_OR_GENERATOR] [--SETTING VALUE ...]"
    if _helped(arguments, usage):
        return 0
    return _train(load_config(*parse_overrides(arguments)))


def _train(config: RunConfig) -> int:
    from distgan.runs.prepare import already_complete, prepare, taken_back

    if config.engine == "ray":
        from distgan.orchestration.cluster import check_early

        check_early(config)
    prepared = prepare(config)
    if prepared.state == "complete":
        print(already_complete(prepared))
        return 0
    with taken_back(prepared):
        if config.engine == "local":
            from distgan.runs.local import run

            return run(prepared)
        from distgan.orchestration.train import run as run_on_ray

        return run_on_ray(prepared)


def tune(arguments: list[str]) -> int:
    usage = (
        "usage: distgan tune [--config FILE.yaml] [--search SPACE.yaml] [--SETTING VALUE ...]\n       distgan "
        "tune --resume NAME [--storage STORAGE]      go on with a search\n       distgan tune --replay NAME "
        "--name NEW               run the schedule that pbt found, from the start"
    )
    if _helped(arguments, usage):
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
    storage, name = folder.split()
    place = {"storage": storage, "name": name}
    return _train(load_config(base=config.model_dump(mode="json") | place, overrides=parse_overrides(rest)[1]))


def config(arguments: list[str]) -> int:
    usage = "usage: distgan config [--config FILE.yaml] [--SETTING VALUE ...]   prints the resolved settings as YAML"
    if _helped(arguments, usage):
        return 0
    print(dump_config(_resolved(arguments)), end="")
    return 0


def sample(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("distgan sample", description="Make samples with the generator of a run.")
    parser.add_argument(
        "source", metavar="RUN_OR_GENERATOR", help="a run's name, its folder or URI, or a generator's folder"
    )
    parser.add_argument("-n", type=int, default=64, help="number of samples (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="sample i of a seed is always the same (default: %(default)s)"
    )
    parser.add_argument("--label", help="a class, or each: all classes in turn (default: as often as in the data)")
    parser.add_argument(
        "--out",
        required=True,
        help="a file in a format of the kind of sample; images: FILE.png (a grid), FILE.npy (uint8, N x H x W or "
        "N x H x W x C), FILE.npz (that and the classes), or a folder of PNGs",
    )
    parser.add_argument(
        "--walk",
        type=int,
        metavar="STEPS",
        help="each sample turns into another in so many steps: FILE.gif, FILE.png (one walk a row), FILE.npy (N x "
        "STEPS x H x W [x C]), or a folder of frames",
    )
    parser.add_argument("--storage", default="./runs", help="where runs lie (default: %(default)s)")
    told = "below 1: styles nearer to their mean, samples more regular and less varied; for model.name style"
    parser.add_argument("--truncation", type=float, default=1.0, metavar="SHARE", help=told)
    options = parser.parse_args(arguments)
    from distgan.export.sample import write_samples

    where = {"storage": options.storage, "walk": options.walk, "truncation": options.truncation}
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
        help="FILE.onnx (needs distgan[onnx]), FILE.pt2 (torch.export), or a folder for generator.safetensors and "
        "generator.json",
    )
    parser.add_argument("--storage", default="./runs", help="where runs lie (default: %(default)s)")
    options = parser.parse_args(arguments)
    from distgan.export.portable import export_generator

    print(export_generator(options.source, options.out, storage=options.storage))
    return 0


def evaluate(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "distgan evaluate", description="Measure the generator of a run, or files of samples, against real ones."
    )
    parser.add_argument("source", metavar="RUN_OR_GENERATOR_OR_FOLDER")
    parser.add_argument(
        "--against", help="real samples: a known set or a path (default: the data that the run was trained on)"
    )
    parser.add_argument("--metrics", default="fid,kid", help=f"comma-separated: {', '.join(METRICS)}")
    parser.add_argument("-n", type=int, default=10000, help="generated samples to measure (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated samples (default: %(default)s)")
    parser.add_argument(
        "--extractor", default="auto", help="feature extractor (see metrics.extractor in `distgan train --help`)"
    )
    parser.add_argument("--weights", help="file with the extractor's weights")
    parser.add_argument(
        "--linear-probe",
        action="store_true",
        help=(
            "also fit a linear classifier to the features of the run's discriminator, and tell its accuracy on "
            "held-out real samples"
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
        heard = f"{duration(run.heartbeat_s)} ago" if run.heartbeat_s is not None else "-"
        rows.append((run.name, run.state, run.progress, run.best, heard))
    if len(rows) == 1:
        print(f"no runs in {storage}")
        return 0
    print(table(rows))
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
    from distgan.orchestration.jobs.request import check_settings, read_request
    from distgan.orchestration.jobs.submit import run

    request = read_request(arguments, [name for name in COMMANDS if name not in ("submit", "config", "runs")])
    if request.action in ("train", "tune"):
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for option in ("--search", "--resume", "--replay"):
            parser.add_argument(option)
        options, rest = parser.parse_known_args(request.settings)
        file, values = parse_overrides(rest)
        place = Path(request.working_dir or ".")
        file, space = (str(place / path) if path else None for path in (file, options.search))
        if request.action == "tune" and not (options.resume or options.replay):
            from distgan.orchestration.tune.settings_files import read_settings
            from distgan.orchestration.tune.space import open_space

            check_settings(open_space(read_settings(file, space, values)).config)
        else:
            check_settings(load_config(file, values))
    return run(request)


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


def _resolved(arguments: list[str]) -> RunConfig:
    """The settings that a command would use."""
    from distgan.kinds import with_recipe
    from distgan.runs.beginning import inherited

    config = load_config(*parse_overrides(arguments))
    with contextlib.suppress(ConfigError):  # the data is not here, or not yet: then without what follows from it
        config = with_recipe(inherited(config, None)[0])
    return config


def _helped(arguments: list[str], usage: str) -> bool:
    """Whether help was asked for, which then is printed: the settings."""
    asked = any(a in ("-h", "--help") for a in arguments)
    if asked:
        print_settings(usage, _resolved([]))
    return asked


if __name__ == "__main__":
    sys.exit(main())
