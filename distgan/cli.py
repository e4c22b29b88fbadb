"""The `distgan` command: reads what was typed, calls the library, prints the outcome. No logic of its own.

Nothing heavy is imported before a command needs it: `distgan --help` answers without pydantic, torch and ray.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

from distgan import __version__
from distgan.registry import METRICS
from distgan.shell import HELP, Group, RunName, SettingsCommand, WordsCommand
from distgan.terminal import prepare_streams
from distgan.text import clipped, duration, table

if TYPE_CHECKING:
    from distgan.config import RunConfig

OVERVIEW = """\
Usage: distgan COMMAND ...

  train       train a generator, or go on with a run       distgan train ./photos --minutes 10
  tune        search rates, betas and more                 distgan tune ./photos --kimg 20 --tune.num-samples 16
  sample      new samples from a run or a generator        distgan sample photos -n 64 --seed 0
  export      the generator for other programs             distgan export photos --out generator.onnx
  evaluate    measure a run, a generator or a folder       distgan evaluate photos --metrics fid,kid
  report      one HTML page about a run                    distgan report photos
  runs        list the runs in a storage                   distgan runs --storage s3://bucket/runs
  resume      go on with a run by its name                 distgan resume photos
  submit      run a command as a job on a Ray cluster      distgan submit train --address http://head:8265 --kimg 100
  doctor      check a cluster, or this machine             distgan doctor --storage s3://bucket/runs
  config      print the settings that would be used        distgan config ./photos --optim.g.lr 1e-4
  completion  make the shell complete what is typed        eval "$(distgan completion bash)"
  help        about a command, a section, a setting        distgan help train optim

`distgan train --help` tells the settings that people change first, `distgan train --help all` every one.
"""
SETTINGS = "[OPTIONS] [--SETTING VALUE]..."
STORAGE = click.option(
    "--storage", default="./runs", show_default=True, metavar="PLACE", help="folder or URI that holds the runs"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return distgan.main(arguments or ["--help"], "distgan", standalone_mode=False) or 0
    except click.UsageError as error:
        from distgan.config.command_line import in_words

        return _refuse(in_words(error))
    except click.Abort:  # Ctrl-C, after which click has ended the line
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from distgan.config import ConfigError, RunError  # takes a while, and most commands do without

        if isinstance(error, ConfigError):
            return _refuse(str(error))
        if isinstance(error, RunError):
            _refuse(str(error))
            return 1
        # a disk, a network file system or an object store that is full, away or not permitted
        if isinstance(error, OSError) and not os.environ.get("DISTGAN_TRACEBACK"):
            said = " ".join(str(error).split())
            _refuse(f"a file or a storage cannot be used: {said} (DISTGAN_TRACEBACK=1 shows where)")
            return 1
        raise


def _refuse(text: str) -> int:
    for line in text.splitlines():
        print(f"distgan: {line}", file=sys.stderr)
    return 2


@click.group(cls=Group, help=OVERVIEW, context_settings={"help_option_names": list(HELP), "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="distgan", message="%(prog)s %(version)s")
def distgan() -> None:
    pass


def _resolved(file: str | None, settings: dict[str, Any]) -> RunConfig:
    """The settings that a command would use."""
    from distgan.config import ConfigError, load_config
    from distgan.kinds import with_recipe
    from distgan.runs.beginning import inherited

    config = load_config(file, settings)
    with contextlib.suppress(ConfigError):  # the data is not here, or not yet: then without what follows from it
        config = with_recipe(inherited(config, None)[0])
    return config


# ---------------------------------------------------------------------------------------------------------------------
# Commands


@distgan.command(cls=SettingsCommand, resolved=_resolved, data=True, files=["config"], options_metavar=SETTINGS)
def train(config: str | None, settings: dict[str, Any]) -> int:
    """Train a generator on DATA, or go on with the run of that name from its newest checkpoint.

    DATA is a folder or .zip of images (sub-folders are classes), an .npy or .npz, or a known set: digits that ship with
    distgan where it is left out.
    """
    from distgan.config import load_config
    from distgan.orchestration.start import start

    return start(load_config(config, settings))


@distgan.command(
    cls=SettingsCommand, resolved=_resolved, data=True, files=["config", "search"], options_metavar=SETTINGS
)
@click.option("--resume", metavar="NAME", help="go on with a search")
@click.option("--replay", metavar="NAME", help="run the schedule that pbt found from the start, as a new --name")
def tune(
    config: str | None, search: str | None, resume: str | None, replay: str | None, settings: dict[str, Any]
) -> int:
    """Search learning rates, betas and more with Ray Tune, and confirm the best with new seeds."""
    from distgan.config import load_config
    from distgan.orchestration.tune.search import search as run_search
    from distgan.orchestration.tune.settings_files import read_replay, read_search, read_settings

    storage, schedule = settings.get("storage", "./runs"), None
    if resume:
        base = read_search(resume, storage).model_dump(mode="json")
        found = load_config(base=base, overrides={key: value for key, value in settings.items() if key != "storage"})
    elif replay:
        replayed, schedule = read_replay(replay, storage, str(settings.get("name", "")))
        found = load_config(base=replayed.model_dump(mode="json"), overrides=settings)
    else:
        found = read_settings(config, search, settings)
    return run_search(found, replay=schedule)


@distgan.command(cls=SettingsCommand, resolved=_resolved, options_metavar=SETTINGS)
@click.argument("run", type=RunName())
def resume(run: str, settings: dict[str, Any]) -> int:
    """Go on with a run from its newest checkpoint, with the settings saved beside it."""
    from distgan.config import load_config
    from distgan.orchestration.start import start
    from distgan.runs.prepare import find_run, read_run_config

    folder = find_run(run, settings.pop("storage", "./runs"))
    config = read_run_config(folder)
    storage, name = folder.split()
    place = {"storage": storage, "name": name}
    return start(load_config(base=config.model_dump(mode="json") | place, overrides=settings))


@distgan.command(cls=SettingsCommand, resolved=_resolved, data=True, files=["config"], options_metavar=SETTINGS)
@click.option(
    "--list", "listed", is_flag=True, help="the configs and search spaces that ship, for --config and --search"
)
def config(config: str | None, listed: bool, settings: dict[str, Any]) -> int:
    """Print the settings that `train` would use, as YAML."""
    from distgan.config import dump_config, shipped_configs

    if listed:
        about = [
            (name, file.read_text(encoding="utf-8").partition("\n")[0]) for name, file in shipped_configs().items()
        ]
        print(table([("NAME", "WHAT IT IS"), *((name, clipped(line.lstrip("# "), 90)) for name, line in about)]))
    else:
        print(dump_config(_resolved(config, settings)), end="")
    return 0


@distgan.command()
@click.argument("source", metavar="RUN_OR_GENERATOR", type=RunName())
@click.option("-n", type=int, default=64, show_default=True, help="number of samples")
@click.option("--seed", type=int, default=0, show_default=True, help="sample i of a seed is always the same")
@click.option("--label", help="a class, or each: all classes in turn  [default: as often as in the data]")
@click.option(
    "--out",
    type=click.Path(),
    help="a file in a format of the kind of sample; images: FILE.png, .jpg or .webp (a grid), FILE.npy (uint8, N x H x "
    "W or N x H x W x C), FILE.npz (that and the classes), or a folder of PNGs  [default: RUN-seed0.png and the like]",
)
@click.option(
    "--walk",
    type=int,
    metavar="STEPS",
    help="each sample turns into another in so many steps (24 for FILE.gif and FILE.mp4): these, FILE.png (one walk a "
    "row), FILE.npy (N x STEPS x H x W [x C]), or a folder of frames",
)
@click.option(
    "--truncation",
    type=float,
    default=1.0,
    metavar="SHARE",
    help="below 1: styles nearer to their mean, samples more regular and less varied; for model.name style",
)
@STORAGE
def sample(source: str, n: int, out: str | None, **how: Any) -> int:
    """Make samples with the generator of a run, or of a search's best trial."""
    from distgan.export.sample import write_samples

    print(write_samples(source, n, out, **how))
    return 0


@distgan.command()
@click.argument("source", metavar="RUN_OR_GENERATOR", type=RunName())
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    help="FILE.onnx (needs distgan[onnx]), FILE.pt2 (torch.export), or a folder for generator.safetensors and "
    "generator.json",
)
@STORAGE
def export(source: str, out: str, storage: str) -> int:
    """Write the generator of a run, or of a search's best trial, for other programs, and compare it."""
    from distgan.export.portable import export_generator

    print(export_generator(source, out, storage=storage))
    return 0


@distgan.command(cls=SettingsCommand, resolved=_resolved)
@click.argument("source", metavar="RUN_OR_GENERATOR_OR_FOLDER", type=RunName())
@click.option("--against", help="real samples: a known set or a path  [default: what the run was trained on]")
@click.option("--metrics", default="fid,kid", show_default=True, help=f"comma-separated: {', '.join(METRICS)}")
@click.option("-n", type=click.IntRange(min=2), default=10000, show_default=True, help="samples to measure")
@click.option("--seed", type=int, default=0, show_default=True, help="seed of the generated samples")
@click.option("--extractor", default="auto", show_default=True, help="feature extractor: see metrics.extractor")
@click.option("--weights", help="file with the extractor's weights")
@click.option(
    "--linear-probe",
    is_flag=True,
    help="also fit a linear classifier to the features of the run's discriminator, and tell its accuracy on held-out "
    "real samples",
)
@click.option("--json", "as_object", is_flag=True, help="print one JSON object")
@STORAGE
def evaluate(source: str, as_object: bool, settings: dict[str, Any], **how: Any) -> int:
    """Measure a generator (of a run, of a search's best trial), or files of samples, against real ones.

    --data.SETTING says how the real ones are read.
    """
    from distgan.runs.evaluate import as_json, as_table, evaluate_source

    found = evaluate_source(source, overrides=settings, **how)
    print(as_json(found) if as_object else as_table(found))
    return 0


@distgan.command()
@STORAGE
def runs(storage: str) -> int:
    """List the runs and searches in a storage."""
    from distgan.config import ConfigError
    from distgan.runs.listing import list_runs
    from distgan.storage import Folder

    place = Folder(storage)
    if place.is_local and os.path.isfile(place.path()):
        raise ConfigError(f"--storage {storage}: is a file; allowed: the folder or URI that holds the runs")
    rows = [("RUN", "STATE", "KIMG", "BEST", "HEARTBEAT")]
    for run in list_runs(place):
        heard = f"{duration(run.heartbeat_s)} ago" if run.heartbeat_s is not None else "-"
        rows.append((run.name, run.state, run.progress, run.best, heard))
    print(table(rows) if len(rows) > 1 else f"no runs in {place}")
    return 0


@distgan.command()
@click.argument("run", type=RunName())
@STORAGE
def report(run: str, storage: str) -> int:
    """Write report.html, one page about a run (of a search its best trial), into its folder."""
    from distgan.runs.report import report_of

    print(report_of(run, storage))
    return 0


@distgan.command(cls=WordsCommand)
def submit(words: list[str]) -> int:
    """Run a command as a job on a Ray cluster."""
    from distgan.config import load_config, shipped_configs
    from distgan.orchestration.jobs.request import check_settings, read_request
    from distgan.orchestration.jobs.submit import run

    local = ("submit", "config", "runs", "help", "completion")
    request = read_request(words, [name for name in COMMANDS if name not in local])
    if request.action in ("train", "tune"):
        typed = COMMANDS[request.action].make_context(request.action, list(request.settings)).params
        sent = Path(request.working_dir or ".")
        file, space = (
            str(sent / name) if name and name not in shipped_configs() else name
            for name in (typed["config"], typed.get("search"))
        )
        if request.action == "tune" and not (typed["resume"] or typed["replay"]):
            from distgan.orchestration.tune.settings_files import read_settings
            from distgan.orchestration.tune.space import open_space

            check_settings(open_space(read_settings(file, space, typed["settings"])).config)
        else:
            check_settings(load_config(file, typed["settings"]))
    return run(request)


@distgan.command()
@click.option("--address", help="the cluster  [default: $RAY_ADDRESS, else a private one on this machine]")
@click.option(
    "--storage",
    default="./runs",
    show_default=True,
    metavar="PLACE",
    help="where runs shall lie: every node writes and reads there",
)
@click.option("--mib", type=float, default=32, show_default=True, help="size of the tensor that workers exchange")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def doctor(address: str | None, storage: str, mib: float, as_json: bool) -> int:
    """Check a cluster, or this machine, before a run needs it."""
    from distgan.orchestration.doctor import examine

    return examine(address, storage, mib=mib, as_json=as_json)


@distgan.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes a shell complete commands, settings and values.

    Try it with eval "$(distgan completion bash)", and keep that line in ~/.bashrc or ~/.zshrc; for fish: pipe it to
    source.
    """
    complete = get_completion_class(shell)
    assert complete is not None, "click knows the three"
    print(complete(distgan, {}, "distgan", "_DISTGAN_COMPLETE").source())
    return 0


@distgan.command("help", cls=WordsCommand)
def show_help(words: list[str]) -> int:
    """Tell about a command; about a section of the settings or a setting; or about all of them."""
    command, *topic = [word for word in words if word not in HELP] or ["help"]
    if command == "help":
        return main(["--help"])
    return main([command, "--help", *topic] if command in COMMANDS else ["train", "--help", command])


COMMANDS = distgan.commands


if __name__ == "__main__":
    sys.exit(main())
