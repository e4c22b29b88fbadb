"""The exported generator: generator.safetensors and generator.json, all that is needed to make samples.

The JSON names the network, the kind of sample and everything that the network's constructor needs, so that neither the
run's config nor the training code is read to rebuild it, and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from distgan import __version__
from distgan.config import ConfigError, ModelConfig
from distgan.export.best_trial import best_trial
from distgan.kinds import Kind, SampleSpec, find_kind
from distgan.randomness import integers, latents
from distgan.storage import Folder

FORMAT = 2
"""1 was for images alone: channels and resolution in place of kind and spec."""
EACH: Literal["each"] = "each"
Label = int | Literal["each"] | None
MEAN_OF = 4096
"""Styles that the mean one is taken of."""
GRID_CLASSES = 20
"""Up to so many classes a preview has a column for each."""


@dataclass
class Generator:
    """A generator with what belongs to it: how its noise is drawn, what its samples are, where it comes from."""

    G: nn.Module
    model: ModelConfig
    kind: Kind
    spec: SampleSpec
    """Of a sample; its classes are those that G takes labels of."""
    info: dict[str, Any]
    _means: dict[int | None, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.classes

    @property
    def conditional(self) -> bool:
        return bool(self.classes) and self.model.conditioning != "none"

    @property
    def class_counts(self) -> tuple[int, ...]:
        """How often the classes are drawn: as often as in the data. Generators of before do not know that."""
        return self.spec.class_counts or (1,) * len(self.classes)

    def labels(self, index: Tensor, seed: int, label: Label = None) -> Tensor | None:
        """Labels int64 (N,) for sample indices: None draws classes as often as they are in the data, a number takes
        that class for all, EACH all classes in turn.
        """
        if not self.conditional:
            return None
        if label == EACH:
            return index % len(self.classes)
        if label is not None:
            return torch.full_like(index, label)
        ends = torch.tensor(self.class_counts, device=index.device).cumsum(0)
        return torch.searchsorted(ends, integers(seed, "sample/label", index, int(ends[-1])), right=True)

    @property
    def has_styles(self) -> bool:
        """Whether G is in two parts, w = G.map(z, c) of shape (N, F) and x = G.synthesize(w), as model.name "style" is,
        and a class of one's own may be.
        """
        return all(callable(getattr(self.G, name, None)) for name in ("map", "synthesize"))

    def decoded(self, z: Tensor, c: Tensor | None, truncation: float = 1.0) -> Tensor:
        """Samples as stored (N, ...), from noise z (N, latent_dim) and classes c int64 (N,).

        truncation below 1 moves styles towards the mean one of their class: 1 - truncation of the way (Karras et al., A
        style-based generator architecture, 2019, appendix B). Only where `has_styles`.
        """
        if truncation == 1:
            return self.kind.decode(self.G(z, c))
        G: Any = self.G
        w = G.map(z, c)
        labels = [None] if c is None else c.tolist()
        mean = torch.cat([self._mean_style(label, z.device) for label in labels])
        return self.kind.decode(G.synthesize(mean + truncation * (w - mean)))

    def _mean_style(self, label: int | None, device: torch.device) -> Tensor:
        """(1, F), of one class. Always from the same noise: nothing has to be kept while training, and an exported
        generator of any age has it.
        """
        if label not in self._means:
            index, G = torch.arange(MEAN_OF, device=device), cast("Any", self.G)
            z = latents(0, "truncation/z", index, self.model.latent_dim, self.model.latent)
            c = None if label is None else torch.full_like(index, label)
            self._means[label] = G.map(z, c).double().mean(0, keepdim=True).float()
        return self._means[label].to(device)

    @torch.inference_mode()
    def sample(self, index: Tensor, seed: int = 0, label: Label = None, truncation: float = 1.0) -> Tensor:
        """Samples as stored (N, ...), for sample indices int64 (N,): sample i of a seed is always the same one.
        truncation: see `decoded`.
        """
        device = next(self.G.parameters()).device
        index = index.to(device)
        z = latents(seed, "sample/z", index, self.model.latent_dim, self.model.latent)
        return self.decoded(z, self.labels(index, seed, label), truncation)

    def batches(
        self, n: int, seed: int = 0, label: Label = None, batch_size: int = 250, truncation: float = 1.0
    ) -> Iterator[Tensor]:
        """Samples 0..n-1 as stored, (<= batch_size, ...) at a time, on the CPU."""
        for start in range(0, n, batch_size):
            yield self.sample(torch.arange(start, min(n, start + batch_size)), seed, label, truncation).cpu()


def save_generator(
    folder: Folder, weights: dict[str, Tensor], model: ModelConfig, *, kind: str, spec: SampleSpec, info: dict[str, Any]
) -> None:
    """Write generator.safetensors and generator.json into `folder`.

    weights: the generator's state_dict; kind: what `find_kind` finds the kind of sample by; spec: of a sample, without
    classes where the generator takes no labels; info: for people (data, kimg, metrics).
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    folder.write("generator.safetensors", save(tensors, {"format": "pt"}))
    folder.write(
        "generator.json",
        json.dumps(
            {
                "format": FORMAT,
                "distgan": __version__,
                "model": model.model_dump(mode="json"),
                "kind": kind,
                "spec": {
                    "name": spec.name,
                    "shape": list(spec.shape),
                    "value_range": list(spec.value_range),
                    "classes": list(spec.classes),
                    "class_counts": list(spec.class_counts),
                    **({"meaning": spec.meaning} if spec.meaning else {}),
                },
                "input": {
                    "z": [model.latent_dim],
                    "latent": model.latent,
                    "label": bool(spec.classes) and model.conditioning != "none",
                },
                "info": info,
            },
            indent=1,
        ),
    )


def load_generator(folder: Folder | str | os.PathLike[str], device: torch.device | None = None) -> Generator:
    """The generator in `folder`, in eval mode; a path or URI may be what `find_generator` takes. ConfigError tells what
    is missing or does not fit.
    """
    if not isinstance(folder, Folder):
        folder = find_generator(os.fspath(folder))
    from safetensors.torch import load

    from distgan.models import build_generator

    try:
        meta = json.loads(folder.read("generator.json"))
        weights = load(folder.read("generator.safetensors"))
        kind, spec = _read_spec(meta)
        model = ModelConfig.model_validate(meta["model"])
        n_classes = spec.n_classes if model.conditioning != "none" else 0
        G = build_generator(model, **kind.network_arguments(spec), n_classes=n_classes, seed=0)
        G.load_state_dict(weights)
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: no generator there (generator.json and generator.safetensors are expected)"
        ) from None
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{folder}: the generator cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from None
    G.to(device or torch.device("cpu")).eval().requires_grad_(False)
    return Generator(G, model, kind, spec, meta["info"])


def _read_spec(meta: dict[str, Any]) -> tuple[Kind, SampleSpec]:
    """The kind of sample, and what one is, from generator.json."""
    if meta["format"] == 1:
        shape = (meta["channels"], meta["resolution"], meta["resolution"])
        name = str(meta["info"].get("data", ""))
        return find_kind("image"), SampleSpec(name, shape, (-1.0, 1.0), tuple(meta["classes"]))
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']}, this version reads 1 to {FORMAT}")
    spec = meta["spec"]
    low, high = spec["value_range"]
    shape, classes, counts = (tuple(spec.get(key, ())) for key in ("shape", "classes", "class_counts"))
    if counts and (len(counts) != len(classes) or min(counts) < 0 or not sum(counts)):
        raise ValueError(f"{len(classes)} classes with the counts {counts}")
    meaning = str(spec.get("meaning", ""))
    return find_kind(meta["kind"]), SampleSpec(spec["name"], shape, (low, high), classes, None, counts, meaning)


def find_generator(where: str, storage: str = "./runs") -> Folder:
    """The folder of a generator, given that folder, a run's folder or URI, a run's name in `storage`, or the same of a
    search, of which the best trial is taken.

    ConfigError lists what was looked for, and the runs that there are.
    """
    plain = where.removesuffix("/generator.json").removesuffix("/generator.safetensors")
    candidates = [Folder(plain)]  # what begins like a path is a place, and no name
    if "://" not in where and not where.startswith(("/", "~", ".")):
        candidates.append(Folder(storage).child(plain))
    for folder in candidates:
        for place in (folder, folder.child("generator")):
            if place.exists("generator.json"):
                return place
    for folder in candidates:
        if folder.exists("config.yaml"):
            raise ConfigError(
                f"{where}: this run has no generator yet; it is written at the first checkpoint. `distgan train` "
                "continues the run"
            )
        if (best := best_trial(folder)) is not None:
            return find_generator(best.uri)
    runs = [name for name in Folder(storage).list() if Folder(storage).child(name).exists("config.yaml")]
    known = (
        f"; runs in {storage}: {', '.join(runs)}"
        if runs
        else f"; there are no runs in {storage} (--storage says where to look)"
    )
    raise ConfigError(
        f"{where}: no run or generator there (looked for generator.json in {', '.join(map(str, candidates))} and "
        "generator/ below); allowed: a run, a search, or the folder of an exported generator, which holds "
        f"generator.json and generator.safetensors{known}"
    )
