"""Which real samples a run was started on: data.json in its folder, compared whenever the run goes on."""

from __future__ import annotations

import json
from typing import Any

from distgan.config import ConfigError
from distgan.kinds import SampleSet
from distgan.storage import Folder
from distgan.text import some_names

DATA = "data.json"


def check_same_data(folder: Folder, samples: SampleSet, fix: str = "") -> None:
    """ConfigError where the samples are not those that the run in `folder` was started on: other classes, counts,
    shape or content. Where they lie makes no difference, and runs of before, which have no record, agree with all.

    fix: what helps, beside putting the samples back.
    """
    try:
        before = json.loads(folder.read(DATA))
        found = difference(before, record(samples))
    except (OSError, ValueError, KeyError, TypeError):
        return
    if found:
        raise ConfigError(
            f"data.name: {samples.spec.name} is not what {folder} was started on: {found}. Put the samples back as "
            f"they were; {fix or 'or give another --name, which begins anew'}"
        )


def remember_data(folder: Folder, samples: SampleSet) -> None:
    """Write down which samples a run is started on; what is there stays. Raises OSError."""
    if not folder.exists(DATA):
        folder.write(DATA, json.dumps(record(samples), indent=1))


def record(samples: SampleSet) -> dict[str, Any]:
    """What two sets that are the same share."""
    spec = samples.spec
    return {
        "name": spec.name,
        "n": len(samples),
        "shape": list(spec.shape),
        "classes": list(spec.classes),
        "class_counts": list(spec.class_counts),
        "fingerprint": samples.fingerprint,
    }


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What is different, in words; "" where nothing is."""
    if before["classes"] != now["classes"]:
        return (
            f"it has {len(now['classes'])} classes now ({some_names(now['classes'])}), the run "
            f"{len(before['classes'])} ({some_names(before['classes'])})"
        )
    if before["shape"] != now["shape"]:
        return f"its samples are of shape {tuple(now['shape'])}, the run's of {tuple(before['shape'])}"
    if before["n"] != now["n"]:
        return f"it has {now['n']:,} samples now, and had {before['n']:,}"
    if before["class_counts"] != now["class_counts"]:
        pairs = zip(now["classes"], before["class_counts"], now["class_counts"], strict=True)
        changed = [f"{name} {new:,}, was {old:,}" for name, old, new in pairs if old != new]
        return f"its classes have other numbers of samples now ({some_names(changed, 5)})"
    return "" if before["fingerprint"] == now["fingerprint"] else "as many samples of the same classes, but other ones"
