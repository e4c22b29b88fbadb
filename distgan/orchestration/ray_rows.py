"""Rows of Ray Data as a file that the kinds read: every worker of a run needs every sample, in the same order.

Each worker writes the rows that Ray gives it into the run's folder, and the first one makes one file of them. The order
follows from the content alone. So the samples are the same however many workers read them, and a later start, which
finds the file, asks Ray for nothing.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgan.config import ConfigError
from distgan.runs.given_arrays import keep, stacked
from distgan.storage import Folder, user_cache
from distgan.training.context import Context

SAMPLES = "data/samples.npz"
IMAGE, LABEL = "image", "label"
"""The columns that are read: a sample, uint8 or float H x W or H x W x C, all of one shape; and, optional, its class, a
number or text.
"""


def keep_rows(rows: Any, folder: Folder, context: Context) -> str:
    """The path, on this machine, of a file with all workers' rows; called by all workers.

    rows: this worker's, a `ray.data.DataIterator` or `Dataset`. Raises ConfigError, on all workers, for rows that are
    no samples.
    """
    if not context.broadcast(folder.exists(SAMPLES)):
        part = f"data/part-{context.rank}.npz"
        context.together(lambda: folder.write(part, _packed(*read_rows(rows))))
        context.barrier()
        context.together(lambda: _join(folder, context.world_size) if context.is_main else None)
    if folder.is_local:
        return folder.path(SAMPLES)
    return str(keep(*_unpacked(folder.read(SAMPLES)), user_cache() / "arrays"))


def read_rows(rows: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """(samples (N, ...), labels (N,) or None) of a Ray data set. Raises ConfigError."""
    pairs: list[tuple[Any, ...]] = []
    for batch in rows.iter_batches(batch_size=256, batch_format="numpy"):
        if IMAGE not in batch:
            raise ConfigError(
                f"datasets: the rows have the columns {', '.join(map(str, batch))}; allowed: {IMAGE}, uint8 or float "
                f"H x W or H x W x C, and {LABEL}, if there are classes"
            )
        pairs += zip(batch[IMAGE], *([batch[LABEL]] if LABEL in batch else []), strict=True)
    return stacked(pairs)


def merged(parts: list[tuple[NDArray[Any], NDArray[Any] | None]]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """All rows in the order of their hashes. Parts that are all the same are one: Ray gave each worker the whole set
    (DataConfig(datasets_to_split=[])).
    """
    hashes = [[_hash(*row) for row in _rows(part)] for part in parts]
    if all(sorted(each) == sorted(hashes[0]) for each in hashes):
        parts, hashes = parts[:1], hashes[:1]
    order = np.array(sorted(range(sum(map(len, hashes))), key=[one for each in hashes for one in each].__getitem__))
    shapes = sorted({part[0].shape[1:] for part in parts})
    if len(shapes) > 1:
        shown = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise ConfigError(f"datasets: the samples are of shape {shown}; allowed: one shape for all; resize them before")
    samples = np.concatenate([part[0] for part in parts])[order]
    labels = [part[1] for part in parts if part[1] is not None]
    return samples, np.concatenate(labels)[order] if labels else None


def _join(folder: Folder, workers: int) -> None:
    """Make one file of the workers' parts."""
    names = [f"data/part-{rank}.npz" for rank in range(workers)]
    folder.write(SAMPLES, _packed(*merged([_unpacked(folder.read(name)) for name in names])))
    for name in names:
        folder.remove(name)


def _rows(part: tuple[NDArray[Any], NDArray[Any] | None]) -> list[tuple[NDArray[Any], Any]]:
    samples, labels = part
    return [(sample, None if labels is None else labels[i]) for i, sample in enumerate(samples)]


def _hash(sample: NDArray[Any], label: Any) -> bytes:
    return hashlib.blake2b(sample.tobytes() + str(label).encode(), digest_size=16).digest()


def _packed(samples: NDArray[Any], labels: NDArray[Any] | None) -> bytes:
    file = io.BytesIO()
    arrays: dict[str, Any] = {"images": samples} | ({} if labels is None else {"labels": labels})
    np.savez(file, **arrays)
    return file.getvalue()


def _unpacked(data: bytes) -> tuple[NDArray[Any], NDArray[Any] | None]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return arrays["images"], arrays.get("labels")
