"""What only the real samples tell: settings that are `auto` get their values once, before the first step.

They are recipe.json in the run's folder, so that a resumed run has the same ones, whatever version of this package
goes on with it.
"""

from __future__ import annotations

import json
from typing import Any

from distgan.config import RunConfig
from distgan.kinds import SampleSet, settled, undecided, with_values
from distgan.storage import Folder
from distgan.training.context import Context

RECIPE = "recipe.json"


def decide(config: RunConfig, samples: SampleSet, context: Context, folder: Folder) -> tuple[RunConfig, str]:
    """The run with nothing left to decide, and in words what was decided now ("" where nothing was).

    All workers call this together. Rank 0 decides, as sums differ in the last bits between machines.
    """
    if not undecided(config):
        return config, ""
    found, text = None, ""
    if context.is_main:
        found = read_decisions(folder)
        if found is None:
            _, found = settled(config, samples)
            if found:
                folder.write(RECIPE, json.dumps(found).encode())
                text = "by the data: " + ", ".join(f"{name} = {_shown(value)}" for name, value in found.items())
    return with_values(config, context.broadcast(found)), text


def read_decisions(folder: Folder) -> dict[str, Any] | None:
    """What a run decided when it began, dotted name -> value; None where it decided nothing."""
    try:
        found = json.loads(folder.read(RECIPE))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
