"""A search where a run is wanted: its best trial. The files that tell are named here, where no torch is imported."""

from __future__ import annotations

import yaml

from distgan.config import ConfigError
from distgan.storage import Folder
from distgan.text import command

SEARCH, WINNER = "search.yaml", "winner.yaml"
"""The file that makes a folder a search, and the one that names its best trial."""


def best_trial(folder: Folder) -> Folder | None:
    """The folder of the best trial of the search in `folder`, which is a run's folder; None if no search is there.

    Raises ConfigError if nothing was measured yet, or the file that names it cannot be read.
    """
    try:
        return folder.child(str(yaml.safe_load(folder.read(WINNER))["folder"]))
    except FileNotFoundError:
        if not folder.exists(SEARCH):
            return None
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise ConfigError(
            f"{folder}/{WINNER}: cannot be read; give one of the trials, like {folder}/trials/000"
        ) from None
    storage, name = folder.split()
    again = command("distgan", "tune", "--resume", name, "--storage", storage)
    raise ConfigError(
        f"{folder}: this search has no best trial yet; `{again}` goes on with it, and a trial like "
        f"{folder}/trials/000 can be given too"
    )
