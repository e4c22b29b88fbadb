"""Whether this process is one of torchrun's, as torch's and Ray Train's own code decide it."""

from __future__ import annotations

import os

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets. One of them alone is a leftover of something else and means nothing."""


def is_torchrun() -> bool:
    numbers = (os.environ.get(name, "") for name in VARIABLES if name != "MASTER_ADDR")
    return bool(os.environ.get("MASTER_ADDR")) and all(number.isdigit() for number in numbers)


def rank() -> int:
    """This process's rank; 0 outside torchrun."""
    return int(os.environ["RANK"]) if is_torchrun() else 0


def local_rank() -> int:
    """This process's rank on its machine, whoever has set it; 0 if nobody has."""
    number = os.environ.get("LOCAL_RANK", "")
    return int(number) if number.isdigit() else 0


def world_size() -> int:
    """Processes that train together here; 1 outside torchrun."""
    return int(os.environ["WORLD_SIZE"]) if is_torchrun() else 1


def drop_leftovers() -> None:
    """Outside torchrun its variables go: Ray Train's local mode and torch look at their names alone, and would wait for
    processes that nobody has started, or fail at values that are no numbers.
    """
    if not is_torchrun():
        for name in VARIABLES:
            os.environ.pop(name, None)
