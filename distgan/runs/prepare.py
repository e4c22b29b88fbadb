"""What is checked before any worker starts: data, networks, storage, and the run that may already be there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import yaml

from distgan.config import ConfigError, RunConfig, dump_config, get_dotted, validate, walk_fields
from distgan.config.renamed import modernise
from distgan.export.best_trial import SEARCH, best_trial
from distgan.kinds import SETTLED, Kind, SampleSet, get_kind, with_recipe, with_values
from distgan.runs.beginning import check_source, inherited, same_source
from distgan.runs.lease import wait_until_free
from distgan.runs.progress import Countdown
from distgan.storage import Folder, home_cache, user_cache
from distgan.text import command
from distgan.training.budget import read_rate, with_budget
from distgan.training.identity import check_same_data
from distgan.training.logs import STATUS, read_status
from distgan.training.threads import share_cores
from distgan.training.torchrun import rank

# Settings that may change between a run's start and its continuation: none of them alters what a step computes, but for
# rounding.
_FREE = (
    "name",
    "storage",
    "engine",
    "workers",
    "kimg",
    "minutes",
    "training.patience",
    "ray.",
    "log.",
    "checkpoint.",
    "metrics.",
    "tune.",
    "data.root",
    "data.download",
    "data.cache",
    "data.device_mib",
    "data.max_bad_share",
    "model.pretrained_weights",
    "training.on_divergence",
    "training.on_blow_up",
    "training.max_rollbacks",
    "training.cuda_graphs",
    "training.deterministic",
)


@dataclass(frozen=True)
class Prepared:
    """A run that can start: its settings, its folder, and what is there already."""

    config: RunConfig
    folder: Folder
    state: Literal["new", "resume", "complete"]
    images: str
    """The real samples, in words."""
    notes: tuple[str, ...] = ()
    """What a person should know before it starts."""
    kimg: float = 0.0
    """What a complete run has seen."""


def prepare(config: RunConfig) -> Prepared:
    """Check everything that can be checked without starting a worker, and claim the run's folder by writing
    config.yaml.

    Raises ConfigError with one line a mistake. Nothing that exists is changed before all checks have passed.
    """
    share_cores()  # before anything imports torch
    from distgan.runs.local import check_workers

    if config.engine == "local":
        check_workers(config)
    folder = Folder(config.storage).child(config.run_name)
    begun = _begun(folder)
    config, source = inherited(at_home(config), begun)
    kind = get_kind(config.data)
    spec = kind.describe(config.data)
    n_classes = spec.n_classes if config.data.labels else 0
    if begun is not None:  # recipes change from version to version, and a run stays what it was
        config = with_values(config, {name: get_dotted(begun, name) for name in (*kind.recipe(config, spec), *SETTLED)})
    config = with_recipe(config, spec).for_classes(n_classes)
    kind.check(config, spec)
    Folder(config.storage).check_writable()
    if config.minutes is not None and (rate := read_rate(folder)) is not None:
        config = with_budget(config, rate)
    state = _existing(config, folder)
    first = check_source(config, spec, source) if source is not None and state == "new" else None
    decoded = _decode_here(config, kind) if state != "complete" else None
    if decoded is not None and state == "resume":
        check_same_data(folder, decoded)
    if state != "complete":
        if rank() == 0:  # under torchrun the other ranks' driver is this one
            wait_until_free(folder)
        folder.write("config.yaml", dump_config(config.model_copy(update={"name": config.run_name})))
        if first is not None and rank() == 0:
            from distgan.training.finetune import begin

            begin(folder, *first)
    words = kind.describe_in_words(replace(spec, n=len(decoded) if decoded else spec.n))
    notes = decoded.notes if decoded else ()
    if home_cache() is None and not os.environ.get("DISTGAN_CACHE"):
        notes = (f"no home folder to write to: what is kept between runs lies in {user_cache()}", *notes)
    seen = float(read_status(folder).get("kimg", 0)) if state == "complete" else 0.0
    return Prepared(config, folder, state, words, notes, seen)


@contextmanager
def taken_back(prepared: Prepared) -> Iterator[None]:
    """Inside, a new run that is refused before it has trained a step leaves no trace, and its name is free again."""
    try:
        yield
    except ConfigError:
        sign = "checkpoints" if prepared.config.finetune is None else STATUS  # which has a checkpoint from the start
        if prepared.state == "new" and rank() == 0 and not prepared.folder.exists(sign):
            with suppress(OSError):
                for name in prepared.folder.list():
                    prepared.folder.remove(name)
                if prepared.folder.is_local:
                    os.rmdir(prepared.folder.path())
        raise


def _decode_here(config: RunConfig, kind: Kind) -> SampleSet | None:
    """The samples of a person's files, decoded into the cache that workers on this machine read, while a person sees
    how far it is.

    Files that cannot be read, and too many of them, show before Ray starts. None for known sets, which have no such
    files, and on clusters, whose nodes have caches of their own.
    """
    on_cluster = config.engine == "ray" and (config.ray.address or os.environ.get("RAY_ADDRESS"))
    if kind.knows(config.data.name) or on_cluster:
        return None
    shown = Countdown() if rank() == 0 else None
    try:
        return kind.open(config.data, shown)
    finally:
        if shown:
            shown.close()


def in_a_job() -> bool:
    """Whether this process is a job on a Ray cluster, in a working folder that is gone after it."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def at_home(config: RunConfig) -> RunConfig:
    """The same run with absolute paths of data and weights: it is resumed from other working folders, and by workers in
    theirs.

    A job's working folder is a copy with a new name each time, where only the relative path stays the same.
    """
    if in_a_job():
        return config
    known = get_kind(config.data).knows(config.data.name)
    paths = [("data", key) for key in ("name", "root", "cache")]
    for section, key in (*paths, ("model", "pretrained_weights"), ("metrics", "weights")):
        part = getattr(config, section)
        path = getattr(part, key)
        if not path or (key == "name" and known):
            continue
        if key in ("root", "cache") or os.path.exists(os.path.expanduser(path)):
            there = os.path.abspath(os.path.expanduser(path))
            config = config.model_copy(update={section: part.model_copy(update={key: there})})
    return config


def read_run_config(folder: Folder) -> RunConfig:
    """The settings of a run from its config.yaml; ConfigError if there is none, or it cannot be read."""
    try:
        values = yaml.safe_load(folder.read("config.yaml"))
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no run there (config.yaml is missing)") from None
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{folder}/config.yaml: cannot be read ({' '.join(str(error).split())})") from None
    return validate(modernise(values) if isinstance(values, dict) else values)


def find_run_or_best(run: str, storage: str) -> Folder:
    """As `find_run`; of a search, which it takes too, the folder of the best trial."""
    for folder in _candidates(run, storage):
        if not folder.exists("config.yaml") and (best := best_trial(folder)) is not None:
            return best
    return find_run(run, storage)


def find_run(run: str, storage: str) -> Folder:
    """A run's folder, given itself, its URI, or its name in `storage`; ConfigError lists the runs that there are."""
    for folder in _candidates(run, storage):
        if folder.exists("config.yaml"):
            return folder
        if folder.exists(SEARCH):
            where = [] if storage == "./runs" or "://" in run else ["--storage", storage]
            raise ConfigError(
                f"{run}: is a search; `{command('distgan', 'tune', '--resume', run, *where)}` goes on with it, and "
                f"`{command('distgan', 'train', '--config', f'{folder}/best.yaml')}` trains what it found"
            )
    near = [name for name in Folder(storage).list() if Folder(storage).child(name).exists("config.yaml")]
    known = (
        f"; runs in {storage}: {', '.join(near)}"
        if near
        else f"; there are no runs in {storage} (--storage says where to look)"
    )
    raise ConfigError(f"{run}: no such run{known}")


def _candidates(run: str, storage: str) -> list[Folder]:
    """Where a run may lie: a name in `storage` wins over a path."""
    return [Folder(run)] if "://" in run else [Folder(storage).child(run), Folder(run)]


def differences(a: RunConfig, b: RunConfig) -> list[tuple[str, Any, Any]]:
    """Settings that make two runs different ones: (name, value in a, value in b)."""
    names = [name for name, _ in walk_fields() if not name.startswith(_FREE)]
    found = [(n, get_dotted(a, n), get_dotted(b, n)) for n in names]
    # Where a person's samples lie makes no difference: their content is compared when they are opened
    moved = not any(get_kind(each.data).knows(each.data.name) for each in (a, b))
    equal = {"data.name"} if moved else set()
    if same_source(a.finetune, b.finetune, b.storage):
        equal.add("finetune")
    return [(n, old, new) for n, old, new in found if old != new and n not in equal]


def already_complete(prepared: Prepared) -> str:
    """What is said of a run that has all that is asked for."""
    done, asked = prepared.kimg, prepared.config.total_images / 1000
    if done < asked:
        return (
            f"already complete: {prepared.folder} ended early, at {done:g} of {asked:g} kimg, with training.patience = "
            f"{prepared.config.training.patience} (a larger one, or null, would train on; --name NAME is another run)"
        )
    longer = f", {asked:g} are asked for" if done > asked else ""
    return (
        f"already complete: {prepared.folder} has {done:g} kimg{longer} (--kimg {2 * done:g} would train on, --name "
        "NAME starts another run)"
    )


def _begun(folder: Folder) -> RunConfig | None:
    """The settings of the run that has begun in `folder`, as far as they can be read."""
    with suppress(ConfigError):
        return read_run_config(folder) if folder.exists("checkpoints") else None
    return None


def _existing(config: RunConfig, folder: Folder) -> Literal["new", "resume", "complete"]:
    if not folder.exists("config.yaml"):
        return "new"
    try:
        before = read_run_config(folder)
    except ConfigError as error:
        if not folder.exists("checkpoints"):
            return "new"
        raise ConfigError(f"{error}; move {folder} away, or give another --name") from None
    changed = differences(before, config)
    if changed and folder.exists("checkpoints"):
        lines = [f"{name} = {new!r}: run {folder} was started with {old!r}" for name, old, new in changed]
        raise ConfigError(
            "\n".join(lines) + "\nGive this run another --name, or the same settings to continue the old one"
        )
    status = read_status(folder)
    done = (
        status.get("state") == "complete"
        and (status.get("nimg", 0) >= config.total_images or config.training.has_waited_enough(status.get("waited", 0)))
        and folder.exists("generator/generator.json")
    )
    return "complete" if done else ("resume" if folder.exists("checkpoints") else "new")
