"""Settings of older versions: what became of them. A run that an older version began goes on with the new names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "tune.trials": "tune.num_samples",
    "tune.concurrent": "tune.max_concurrent_trials",
    "metrics.holdout": "data.holdout",
}

GONE = {
    "training.compile": "CUDA graphs are training.cuda_graphs (auto, on, off); torch.compile gained nothing",
    "warm_start": "--finetune RUN_OR_TRIAL begins a run with the weights of another, counting from 0",
    "training.channels_last": "images always lie with their channels side by side",
}


def hint(dotted: str) -> str:
    """What to say of a name that was a setting once, "" of others."""
    if dotted in RENAMED:
        return f"; did you mean {RENAMED[dotted]}?"
    return f"; it is gone: {GONE[dotted]}" if dotted in GONE else ""


def modernise(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a version before wrote down (a run's config.yaml, a search's search.yaml), by their names of
    now.
    """
    found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for old, new in RENAMED.items():
        section, name = old.split(".")
        now, renamed = new.split(".")
        inner = found.get(section)
        if isinstance(inner, dict) and name in inner:
            value, target = inner.pop(name), found.setdefault(now, {})
            if isinstance(target, dict):
                target.setdefault(renamed, value)
    training = found.get("training")
    if isinstance(training, dict):
        training.pop("channels_last", None)
        how = training.pop("compile", None)
        if how in ("off", False, "cuda-graphs"):
            training.setdefault("cuda_graphs", "on" if how == "cuda-graphs" else "off")
    return found
