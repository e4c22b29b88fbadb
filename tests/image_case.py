"""A random set on disk and what it must be read as, for the tests that compare with a slow reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distgan.config import ConfigError, DataConfig
from distgan.kinds import SampleSet, describe, open_samples

SIDE = 12


@dataclass
class Case:
    """`refused`: a pattern of the error in the place of images."""

    path: Path
    images: list[np.ndarray] = field(default_factory=list)  # uint8 (C, H, W), SIDE x SIDE unless settings say so
    names: list[str | None] = field(default_factory=list)  # of their classes
    tolerances: list[int] = field(default_factory=list)  # 0 where none is given
    skipped: int = 0
    refused: str = ""
    said: list[str] = field(default_factory=list)  # parts of the remarks
    settings: dict[str, Any] = field(default_factory=dict)


def check(case: Case) -> None:
    """The product reads the set as the case says, or refuses it as it says."""
    config = DataConfig(**{"name": str(case.path), "resolution": SIDE, **case.settings})
    if case.refused:
        with pytest.raises(ConfigError, match=f"(?s)data.name.*({case.refused})"):
            open_samples(config)
        return
    found = open_samples(config)
    _agree(found, case)
    assert describe(config).classes == found.classes
    for words in case.said:
        assert any(words in note for note in found.notes), f"{words!r} is not in {found.notes}"


def _agree(found: SampleSet, case: Case) -> None:
    """Each expected image is there once, with its class; no other one is."""
    assert len(found) == len(case.images), (len(found), len(case.images), found.skipped)
    assert len(found.skipped) == case.skipped, found.skipped
    classes = sorted({name for name in case.names if name is not None})
    named = len(classes) > 1 or (len(classes) == 1 and case.path.suffix in (".npz",))
    assert sorted(found.classes) == (classes if named else []), (found.classes, classes)
    left = set(range(len(found)))
    tolerances = case.tolerances or [0] * len(case.images)
    for expected, name, tolerance in zip(case.images, case.names, tolerances, strict=True):
        gaps = {i: int(np.abs(found.samples[i].astype(int) - expected).max()) for i in left}
        near = min(gaps, key=lambda i: gaps[i])
        assert gaps[near] <= tolerance, f"nearest image is {gaps[near]} away"
        if named:
            assert found.labels is not None
            assert found.classes[found.labels[near]] == name, (found.classes[found.labels[near]], name)
        left.remove(near)
