"""Writers of image files of 16 bits a channel, which Pillow cannot write."""

from __future__ import annotations

import struct
import zlib

import numpy as np

ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def png16(
    values: np.ndarray, transparent: tuple[int, ...] = (), orientation: int = 1, interlaced: bool = False
) -> bytes:
    """A PNG of uint16 (H, W) or (H, W, 2 to 4). `transparent`: the grey value or colour that is."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced)
    parts = [_part(b"IHDR", head)]
    if orientation > 1:
        parts.append(_part(b"eXIf", b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, orientation, 0, 0)))
    if transparent:
        parts.append(_part(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    passes = [values[row::down, column::right] for row, column, down, right in ADAM7] if interlaced else [values]
    rows = b"".join(_filtered(part) for part in passes if part.size)
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, _part(b"IDAT", zlib.compress(rows)), _part(b"IEND", b"")])


def _part(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _filtered(values: np.ndarray) -> bytes:
    """Rows as they are, less their left, and less their upper neighbours (types 0, 1 and 2) in turn."""
    stored = np.frombuffer(values.astype(">u2").tobytes(), np.uint8).reshape(len(values), values.shape[1], -1)
    rows = []
    for i, row in enumerate(stored):
        kind = i % 3
        before = [np.zeros_like(row), np.concatenate([np.zeros_like(row[:1]), row[:-1]]), stored[i - 1]][kind]
        rows.append(bytes([kind]) + (row - before).astype(np.uint8).tobytes())
    return b"".join(rows)


def tiff16(
    values: np.ndarray, order: str = "<", orientation: int = 1, packed: bool = False, white_is_0: bool = False
) -> bytes:
    """A TIFF of uint16 (H, W) or (H, W, 3 or 4), the fourth being opacity."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    content = values.astype(f"{order}u2").tobytes()
    content = zlib.compress(content) if packed else content
    tags: list[tuple[int, str, list[int]]] = [
        (256, "H", [width]),
        (257, "H", [height]),
        (258, "H", [16] * channels),
        (259, "H", [8 if packed else 1]),
        (262, "H", [2 if channels > 2 else int(not white_is_0)]),
        (273, "I", [8]),
        (274, "H", [orientation]),
        (277, "H", [channels]),
        (278, "H", [height]),
        (279, "I", [len(content)]),
        (284, "H", [1]),
        *([(338, "H", [2])] if channels == 4 else []),
    ]
    content += b"\0" * (len(content) % 2)
    start = 8 + len(content)
    behind, entries = b"", b""
    for number, kind, numbers in tags:
        stored = struct.pack(f"{order}{len(numbers)}{kind}", *numbers).ljust(4, b"\0")
        if len(stored) > 4:
            place = start + 2 + 12 * len(tags) + 4 + len(behind)
            stored, behind = struct.pack(f"{order}I", place), behind + stored
        entries += struct.pack(f"{order}HHI", number, {"H": 3, "I": 4}[kind], len(numbers)) + stored
    mark = b"II*\0" if order == "<" else b"MM\0*"
    table = struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0" + behind
    return mark + struct.pack(f"{order}I", start) + content + table
