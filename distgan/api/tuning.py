"""Searches as objects: `distgan.tune` and `open_search`. Importing this imports neither torch nor Ray."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distgan.api.run import Run, as_a_guest, frame, with_arrays
from distgan.config import ConfigError, RunConfig, load_config
from distgan.config.keywords import Config, flat, in_words_of_python, nested
from distgan.export.best_trial import best_trial
from distgan.registry import objectives
from distgan.storage import Folder
from distgan.text import printable

if TYPE_CHECKING:
    from pandas import DataFrame

    from distgan.api.trained_generator import Generator


def tune(
    config: Config = None, search: str | os.PathLike[str] | Mapping[str, Any] | None = None, **settings: Any
) -> Search:
    """Search hyperparameters, or go on with the search of this name, as `distgan tune` does; returns when it is over.

    config: as of `distgan.train`. search: the space, a YAML file or a mapping like {"g_lr": {"loguniform": [1e-5,
    1e-3]}}, and settings of tune beside it; None takes the default space. settings: like `kimg`, of one trial, and
    tune={"num_samples": 8}. Trials run on Ray, on this machine unless ray.address or $RAY_ADDRESS names a cluster.

    Raises ConfigError before Ray starts where a setting cannot be used, RunError if no trial could be measured, and
    KeyboardInterrupt if it was stopped; the same call goes on then.
    """
    from distgan.orchestration.tune.settings_files import read_space_file, search_config, space_section

    with in_words_of_python():
        if search is None:
            section: dict[str, Any] = {}
        elif isinstance(search, Mapping):
            section = space_section(search, "search")
        else:
            section = read_space_file(os.fspath(search))
        found = search_config(nested(config), section, flat(with_arrays(settings)))
    return _searched(found)


def open_search(search: str | os.PathLike[str], *, storage: str | os.PathLike[str] = "./runs") -> Search:
    """The search of this name in `storage`, or in this folder or at this URI. Raises ConfigError."""
    from distgan.orchestration.tune.settings_files import find_search

    with in_words_of_python():
        return Search(find_search(os.fspath(search), os.fspath(storage)))


class Search:
    """A search, as it lies in its folder, which is read at each access. Made by `tune` and `open_search`."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @property
    def folder(self) -> str:
        """Where it lies: a path, or a URI."""
        return self._folder.uri

    @property
    def name(self) -> str:
        """The search's name: that of its folder."""
        return self._folder.split()[1]

    @property
    def config(self) -> RunConfig:
        """Its settings; those of the trials are drawn around them."""
        from distgan.orchestration.tune.settings_files import read_search

        return read_search(self.folder)

    @property
    def trials(self) -> list[dict[str, Any]]:
        """A dict a trial, by number: trial, state (done, stopped before its budget, diverged, failed, unfinished),
        kimg, the metrics measured last, seconds, the searched values by their names in the space, baseline (the
        config without changes), folder.
        """
        found = []
        for name in self._folder.list("trials"):
            if not (name.isascii() and name.isdigit()):
                continue
            try:
                trial = json.loads(self._folder.read(f"trials/{name}/trial.json"))
                ended = trial.get("ended") or {}
                result = ended.get("result") or {}
                row = {"trial": int(name), "state": ended.get("state", "unfinished"), "kimg": result.get("kimg", 0.0)}
                row |= {key: value for key, value in result.items() if key in objectives()}
                row |= {"seconds": ended.get("seconds", 0.0), **trial["values"]}
                row["baseline"] = bool(trial.get("baseline", False))
                row["folder"] = self._folder.child(f"trials/{name}").uri
            except (OSError, ValueError, KeyError, TypeError, AttributeError):  # killed while it was written
                continue
            found.append(row)
        return found

    def trials_frame(self) -> DataFrame:
        """The trials as a pandas DataFrame, indexed by number. Raises ImportError without pandas."""
        return frame(self.trials, "trial")

    @property
    def best(self) -> Run:
        """The best trial, a run like others; with `tune.confirm_top` the one that new seeds confirmed. Raises
        ConfigError if nothing was measured yet.
        """
        found = best_trial(self._folder)
        if found is None:
            raise ConfigError(f"{self.folder}: no search there; allowed: what distgan.tune made")
        return Run(found)

    @property
    def best_config(self) -> RunConfig:
        """The settings to train with what was found: distgan.train(search.best_config, kimg=1000). Raises ConfigError
        if nothing was measured yet.
        """
        import yaml

        best = self.best
        try:
            return load_config(base=yaml.safe_load(self._folder.read("best.yaml")))
        except FileNotFoundError:
            return best.config

    def generator(self, device: Any = None) -> Generator:
        """The generator of the best trial, see `distgan.load`."""
        return self.best.generator(device)

    def resume(self, **settings: Any) -> Search:
        """Go on with the search, with these settings changed: search.resume(tune={"num_samples": 20}) adds trials."""
        before = self.config.model_dump(mode="json")
        with in_words_of_python():
            config = load_config(base=before, overrides=flat(settings))
        return _searched(config)

    def __repr__(self) -> str:
        return f"<distgan.Search {printable(self.folder)}: {len(self.trials)} trials>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a table of the trials."""
        rows = self.trials
        names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "folder"]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(_short(row.get(name)))}</td>' for name in names)}</tr>" for row in rows
        )
        return f"<p>{html.escape(printable(self.folder))}</p><table><tr>{head}</tr>{body}</table>"


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _searched(config: RunConfig) -> Search:
    from distgan.orchestration.tune.search import search

    with as_a_guest():
        status = search(config)
    folder = Folder(config.storage).child(config.run_name)
    if status != 0:
        raise KeyboardInterrupt(f"{folder}: stopped; nothing is lost, the same call goes on")
    return Search(folder)
