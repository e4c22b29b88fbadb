"""The generator for other programs: ONNX, or PyTorch's own exported program (torch.export). What is written is read
back and compared.

Inputs are `z` float32 (N, latent_dim) and, for a generator with classes, `label` int64 (N,); the output, named as the
kind of sample calls several of them (`images`), is float32 (N, *shape): images (N, C, H, W) in [-1, 1]; the fourth
channel, if any, is opacity, and multiplies the others. N is free. What else one must know (distribution of z, shape
and range, classes, origin) travels inside the file, as the text of generator.json: in ONNX as the metadata entry
`generator.json`, in a .pt2 as the extra file of that name.
"""

from __future__ import annotations

import io
import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config import ConfigError, RunError
from distgan.export.generator import Generator, find_generator, load_generator
from distgan.storage import Folder
from distgan.text import first_line

META = "generator.json"
TOLERANCE = 1e-3
"""Largest difference, as a share of half the range of values, that is taken for rounding: half a grey level is 4e-3."""
CHECKED = 5  # samples compared; another number than the one that the network was traced with


class Portable(nn.Module):
    """A generator whose second input is named as users know it."""

    def __init__(self, G: nn.Module, conditional: bool) -> None:
        super().__init__()
        self.G, self.conditional = G, conditional

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x: Tensor = self.G(z, label)
        return x


def export_generator(source: str, out: str, *, storage: str = "./runs") -> str:
    """Write the generator at `source` (see `find_generator`) in the form that `out` asks for, and say what was written.
    See `write_generator`.
    """
    check_target(out)
    place = find_generator(source, storage)
    return write_generator(load_generator(place), place.read(META).decode(), out)


def write_generator(generator: Generator, meta: str, out: str) -> str:
    """Write a generator, its weights as they are now, in the form that `out` asks for, and say what was written.

    meta: the text of its generator.json. out: FILE.onnx, FILE.pt2 (torch.export), or a folder, for
    generator.safetensors and generator.json. Raises ConfigError for a bad place, missing packages or a network that
    cannot be traced, RunError if the written file gives other samples.
    """
    target, kind = check_target(out)
    try:
        (target.parent if kind else target).mkdir(parents=True, exist_ok=True)
        if not kind:
            from safetensors.torch import save

            weights = {
                name: tensor.detach().cpu().contiguous().clone() for name, tensor in generator.G.state_dict().items()
            }
            (target / "generator.safetensors").write_bytes(save(weights, {"format": "pt"}))
            (target / META).write_text(meta, encoding="utf-8")
            check = "rebuilds with distgan.load"
            load_generator(Folder(target))
        else:
            data = to_onnx(generator, meta) if kind == ".onnx" else to_program(generator, meta)
            difference = onnx_difference(generator, data) if kind == ".onnx" else program_difference(generator, data)
            if not difference <= TOLERANCE:
                raise RunError(
                    f"--out {out}: the exported network gives other {generator.kind.noun} (off by up to "
                    f"{difference:.2g}); nothing was written"
                )
            _replace(target, data)
            check = f"{CHECKED} {generator.kind.noun} compared with the original: off by at most {difference:.1g}"
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error})") from None
    return f"generator of {generator.info['run']} at {generator.info['kimg']:g} kimg: {target} ({check})"


def check_target(out: str) -> tuple[Path, str]:
    """(the path, its suffix) of what `write_generator` shall write. Raises ConfigError for what it cannot."""
    target = Path(os.path.expanduser(out))
    kind = target.suffix.lower()
    if (
        "://" in out
        or kind not in (".onnx", ".pt2", "")
        or (not kind and target.is_file())
        or (kind and target.is_dir())
    ):
        raise ConfigError(
            f"--out {out}: allowed: FILE.onnx, FILE.pt2 (torch.export), or a folder for the safetensors and JSON, on "
            "this machine"
        )
    if kind == ".onnx":
        _need_onnx()
    return target, kind


def to_program(generator: Generator, meta: str) -> bytes:
    """A .pt2 file's bytes; `torch.export.load(FILE, extra_files={"generator.json": ""})` reads it without this
    package.
    """
    buffer = io.BytesIO()
    torch.export.save(_trace(generator), buffer, extra_files={META: meta})
    return buffer.getvalue()


def to_onnx(generator: Generator, meta: str) -> bytes:
    """An ONNX file's bytes: weights inside, N free, `generator.json` in its metadata."""
    with _quiet():
        made = torch.onnx.export(
            _trace(generator), (), dynamo=True, external_data=False, verbose=False, output_names=[generator.kind.noun]
        )
    assert made is not None
    model = made.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = META, meta
    return bytes(model.SerializeToString())


def program_difference(generator: Generator, data: bytes) -> float:
    """The largest difference between samples of the generator and of a .pt2 file, as TOLERANCE counts."""
    inputs = _inputs(generator, CHECKED, seed=1)
    with _quiet():
        found = torch.export.load(io.BytesIO(data)).module()(*inputs)
    return _difference(generator, inputs, found)


def onnx_difference(generator: Generator, data: bytes) -> float:
    """The largest difference between samples of the generator and of an ONNX file, run by onnxruntime."""
    import onnxruntime

    inputs = _inputs(generator, CHECKED, seed=1)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    feed = {node.name: value.numpy() for node, value in zip(session.get_inputs(), inputs, strict=True)}
    return _difference(generator, inputs, torch.from_numpy(session.run(None, feed)[0]))


def _trace(generator: Generator) -> Any:
    module = Portable(generator.G, generator.conditional).eval()
    inputs = _inputs(generator, 2, seed=0)
    n = torch.export.Dim("N")
    shapes = {"z": {0: n}} | ({"label": {0: n}} if generator.conditional else {})
    try:
        with _quiet():
            return torch.export.export(module, inputs, dynamic_shapes=shapes)
    except Exception as error:  # own networks may do what cannot be traced, and every kind has its own error
        raise ConfigError(
            f"model.generator = {generator.model.generator or generator.model.name!r}: cannot be traced by "
            f"torch.export ({type(error).__name__}: {first_line(error)[:300]}); its forward(z, c) must not branch on "
            "values, nor fix the number of samples"
        ) from None


def _inputs(generator: Generator, n: int, seed: int) -> tuple[Tensor, ...]:
    from distgan.randomness import latents

    index = torch.arange(n)
    z = latents(seed, "export/z", index, generator.model.latent_dim, generator.model.latent)
    return (z, index % len(generator.classes)) if generator.conditional else (z,)


@torch.no_grad()
def _difference(generator: Generator, inputs: tuple[Tensor, ...], found: Tensor) -> float:
    expected = generator.G(*inputs, *([] if generator.conditional else [None]))
    if found.shape != expected.shape:
        return float("inf")
    low, high = generator.spec.value_range
    unit = (high - low) / 2 if math.isfinite(high - low) else 1.0
    return float((found - expected).abs().max()) / unit


def _replace(target: Path, data: bytes) -> None:
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(data)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _need_onnx() -> None:
    import importlib.util

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--out FILE.onnx: {', '.join(missing)} missing; `pip install 'distgan[onnx]'` brings what is needed, or "
            "write FILE.pt2"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters log and warn of their own affairs; what a person must know is raised or compared."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
