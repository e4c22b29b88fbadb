"""`distgan.load`: the generator of a run as a PyTorch module. Needs no Ray."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distgan.config import ConfigError
from distgan.config.keywords import in_words_of_python
from distgan.export.generator import EACH, GRID_CLASSES, find_generator, load_generator
from distgan.export.generator import Generator as Exported
from distgan.export.sample import check_numbers, check_styles, find_label, write_samples
from distgan.kinds import as_written
from distgan.kinds.picture import png
from distgan.randomness import latents

if TYPE_CHECKING:
    from PIL.Image import Image

    from distgan.api.run import Run
    from distgan.api.tuning import Search

SHOWN = 64
"""Samples in the picture that a notebook shows; of a generator with few classes 8 of each."""


def load(
    source: str | os.PathLike[str] | Run | Search,
    *,
    storage: str | os.PathLike[str] = "./runs",
    device: torch.device | str | None = None,
) -> Generator:
    """The generator of a run, ready to make samples.

    source: a run's name in `storage`, its folder or URI, or a Run; a search, of which the best trial is taken; or the
    folder of an exported generator (generator.json and generator.safetensors). device: where it computes; None is the
    GPU if there is one, else the CPU. Of a run it is the best generator by `checkpoint.best_metric`; while the run
    trains the one of the newest checkpoint. Nothing is unpickled. Raises ConfigError, which says what is allowed, where
    there is no generator.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with in_words_of_python():
        place = find_generator(place_of(source), os.fspath(storage))
        return Generator(load_generator(place, torch.device(where)), place.read("generator.json").decode(), place.uri)


def place_of(source: Any) -> str:
    """A path or URI of what the interface takes for a source. Raises ConfigError."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    folder = getattr(source, "folder", None)
    if isinstance(folder, str):
        return folder
    raise ConfigError(
        f"source = {source!r}: allowed: a name, a path, a URI, or what distgan.train, tune, load, open_run and "
        "open_search return"
    )


class Generator(nn.Module):
    """A trained generator: noise z and classes c to samples x. In eval mode, its parameters without gradients.

    Made by `load` and `Run.generator`. `G` is the network; everything that a module can (`.to(device)`, weights, hooks)
    it can too.
    """

    def __init__(self, exported: Exported, meta: str, folder: str) -> None:
        """meta: the text of generator.json. folder: where both lie."""
        super().__init__()
        self.G = exported.G
        self._exported, self._meta, self.folder = exported, meta, folder
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that samples can be made of, in the order of their numbers; () without labels."""
        return self._exported.classes if self._exported.conditional else ()

    @property
    def latent_dim(self) -> int:
        """Numbers in z."""
        return self._exported.model.latent_dim

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (C, H, W) of images."""
        return self._exported.spec.shape

    @property
    def info(self) -> dict[str, Any]:
        """Where it comes from: run, data, kimg, seed, ema_half_life_kimg, best."""
        return dict(self._exported.info)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples as the network makes them, float (N, *shape), images in [-1, 1]; differentiable in z.

        z: float (N, latent_dim), see `latents`. labels: int64 (N,), places in `classes`; needed if there are classes.
        """
        if self.classes and labels is None:
            raise ConfigError(
                f"labels: this generator has {len(self.classes)} classes; give int64 (N,), numbers from 0 to "
                f"{len(self.classes) - 1}"
            )
        x: Tensor = self.G(z, labels if self.classes else None)
        return x

    def latents(self, n: int, seed: int = 0) -> Tensor:
        """z float32 (n, latent_dim), as `sample` draws it: row i of a seed is always the same, whatever n."""
        model = self._exported.model
        return latents(seed, "sample/z", torch.arange(n, device=self._device), model.latent_dim, model.latent)

    def sample(self, n: int = 1, seed: int = 0, label: int | str | None = None, truncation: float = 1.0) -> Tensor:
        """n samples on the CPU, as `distgan sample` writes them: images uint8 (n, C, H, W), 1, 3 or 4 channels (RGBA).

        They are those of `distgan sample` with the same seed: sample i of a seed is always the same one, whatever n.
        label: the name or number of a class, "each" for all in turn, None for classes as often as in the data.
        truncation: 0 (the mean sample) to 1, for networks with styles. Raises ConfigError.
        """
        stored = self._stored(n, seed, label, truncation).numpy()
        return torch.from_numpy(as_written(self._exported.kind, stored))

    def labels(self, n: int, seed: int = 0, label: int | str | None = None) -> list[str]:
        """The classes of what `sample` makes with the same arguments, by name; [] without classes."""
        found = self._exported.labels(torch.arange(n), seed, self._label(n, seed, label, 1.0))
        return [] if found is None else [self.classes[number] for number in found.tolist()]

    def picture(
        self, n: int | None = None, seed: int = 0, label: int | str | None = None, truncation: float = 1.0
    ) -> Image:
        """n samples in one picture (PIL.Image). Without n and label: 64, or where there are up to 20 classes a column
        of 8 for each.
        """
        from PIL import Image

        columns = None
        if n is None and label is None and 0 < len(self.classes) <= GRID_CLASSES:
            columns, label = len(self.classes), EACH
            n = 8 * columns
        stored = self._stored(SHOWN if n is None else n, seed, label, truncation)
        return Image.fromarray(self._exported.kind.preview(stored.numpy(), columns))

    def write(
        self,
        target: str | os.PathLike[str],
        n: int = 64,
        seed: int = 0,
        label: int | str | None = None,
        *,
        truncation: float = 1.0,
        walk: int | None = None,
    ) -> str:
        """Write n samples as `distgan sample --out` does, and return what was written in words.

        target: images: FILE.png (a grid), FILE.npy, FILE.npz, or a new folder; with `walk` steps between samples
        FILE.gif too. Raises ConfigError.
        """
        name = None if label is None else str(label)
        with in_words_of_python():
            how = {"seed": seed, "label": name, "walk": walk, "truncation": truncation}
            return write_samples(self._exported, n, os.fspath(target), **how)  # type: ignore[arg-type]

    def save(self, target: str | os.PathLike[str]) -> str:
        """Write the generator, with its weights as they are now, as `distgan export` does, and return what was written
        in words.

        target: a folder, which `load` reads again, FILE.onnx, or FILE.pt2 (torch.export). What was written is read back
        and compared. Raises ConfigError, and RunError where the file gives other samples.
        """
        from distgan.export.portable import write_generator

        with in_words_of_python():
            return write_generator(self._exported, self._meta, os.fspath(target))

    def extra_repr(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"{self.info.get('run', '')} at {self.info.get('kimg', 0):g} kimg, shape={self.shape}{classes}"

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        import numpy as np

        return png(np.asarray(self.picture()))

    @property
    def _device(self) -> torch.device:
        return next(self.G.parameters()).device

    def _stored(self, n: int, seed: int, label: int | str | None, truncation: float) -> Tensor:
        chosen = self._label(n, seed, label, truncation)
        return torch.cat(list(self._exported.batches(n, seed, chosen, truncation=truncation)))

    def _label(self, n: int, seed: int, label: int | str | None, truncation: float) -> Any:
        with in_words_of_python():
            check_numbers(n, seed, truncation)
            check_styles(self._exported, truncation)
            return find_label(self._exported, None if label is None else str(label))
