"""What Ray will pack and send of a folder, known before it is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pathspec import PathSpec

from distgan.config import ConfigError

LIMIT_MIB = 256
"""Largest upload. The head node keeps it in memory, and every node fetches it."""
IGNORE_FILES = (".gitignore", ".rayignore")


def check_size(folder: Path) -> int:
    """Bytes that will be sent of a folder; ConfigError names the largest parts if they are more than LIMIT_MIB."""
    parts: dict[str, int] = {}
    for path in packed_files(folder):
        head = path.relative_to(folder).parts[0]
        parts[head] = parts.get(head, 0) + path.stat().st_size
    total = sum(parts.values())
    if total > LIMIT_MIB * 2**20:
        largest = sorted(parts.items(), key=lambda part: -part[1])[:3]
        named = ", ".join(f"{name} ({size / 2**20:.0f} MiB)" for name, size in largest)
        raise ConfigError(
            f"--working-dir {folder}: {total / 2**20:.0f} MiB would be sent, most of it in {named}; allowed: "
            f"{LIMIT_MIB} MiB. Name what the job does not need in .gitignore or .rayignore; data belongs into storage "
            "that the nodes share"
        )
    return total


def packed_files(folder: Path) -> list[Path]:
    """The files that Ray packs: all but those that .gitignore and .rayignore files in it name, .git, and virtual
    environments.
    """
    always = os.environ.get("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", ".git,.venv,venv,__pycache__")  # Ray's own
    return list(_walk(folder, [(folder, PathSpec.from_lines("gitignore", always.split(",")))]))


def _walk(path: Path, excludes: list[tuple[Path, PathSpec[Any]]]) -> Iterator[Path]:
    """The files at and below `path`. Patterns hold relative to the folder that they come with, and below it."""
    if path.is_dir():
        found = [path / name for name in IGNORE_FILES if (path / name).is_file()]
        excludes = excludes + [
            (path, PathSpec.from_lines("gitignore", f.read_text(encoding="utf-8").splitlines())) for f in found
        ]
    if any(spec.match_file(str(path.relative_to(root))) for root, spec in excludes):
        return
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            yield from _walk(inner, excludes)
    elif path.is_file():
        yield path
