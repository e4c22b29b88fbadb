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


def world_size() -> int:
    """Processes that train together here; 1 outside torchrun."""
    return int(os.environ["WORLD_SIZE"]) if is_torchrun() else 1
