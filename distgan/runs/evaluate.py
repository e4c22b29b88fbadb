"""`distgan evaluate`: metrics of a finished generator, or of any samples, against real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distgan.config import ConfigError, DataConfig, MetricsConfig, RunConfig, load_config
from distgan.export.best_trial import SEARCH
from distgan.export.generator import Generator, find_generator, load_generator
from distgan.kinds import Kind, SampleSet, get_kind
from distgan.registry import METRICS
from distgan.runs.prepare import read_run_config
from distgan.storage import Folder
from distgan.training.identity import check_same_data


def evaluate_source(
    source: str,
    *,
    against: str | None = None,
    metrics: str = "fid,kid",
    n: int = 10000,
    seed: int = 0,
    extractor: str = "auto",
    weights: str | None = None,
    storage: str = "./runs",
    overrides: dict[str, Any] | None = None,
    linear_probe: bool = False,
) -> dict[str, Any]:
    """The metrics of `source` as a flat dict, with the names of what was compared.

    source: a run, a search (its best trial), a generator, or files of samples (images: a folder, .zip, .npy or .npz).
    against: a known set or a path; without it the data of the run. overrides: dotted `data.` settings of the real
    samples. linear_probe: judge the discriminator's features too (a run's only, see `linear_probe`). Raises
    ConfigError.
    """
    from distgan.metrics.evaluator import Evaluator, evaluate_samples, statistics_dir

    names = [name for name in metrics.replace(" ", "").split(",") if name]
    load_config(overrides={"metrics.names": f"[{', '.join(names)}]"})  # refuses what is no metric
    if not names:
        raise ConfigError(f"--metrics {metrics!r}: allowed: one or more of {', '.join(METRICS)}, with commas between")
    generated: SampleSet | None = None
    generator: Generator | None = None
    try:
        place = find_generator(source, storage)
    except ConfigError:
        path = Path(os.path.expanduser(source))
        if not path.exists() or (path / "config.yaml").exists() or (path / SEARCH).exists():
            raise  # the grids in the folder of a run that has no generator yet are no samples to be measured
        if linear_probe:
            raise ConfigError(
                f"--linear-probe: {source} is no run, and only a run's checkpoint has a discriminator"
            ) from None
        data = load_config(overrides={"data.name": _required(against), **(overrides or {})}).data
        kind: Kind = get_kind(data)
        data = kind.like(data, None)
        real = kind.open(data)
        stored = DataConfig(name=source, labels=False, kind=data.kind, split="all", channels=data.channels)
        spec = kind.describe(kind.like(stored, None))
        generated = kind.open(kind.like(stored, real.spec))
    else:
        generator = load_generator(place, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        kind, spec = generator.kind, generator.spec
        data = _data_of(place, against, overrides)
        if against is not None and get_kind(data).name != kind.name:
            raise ConfigError(f"--against {against}: {get_kind(data).noun}, and {source} makes {kind.noun}")
        data = data if against is None else kind.like(data, None)
        real = kind.open(data)
        if against is None and not overrides:
            check_same_data(_run_of(place), real, "--against PATH measures against other samples")
    device = next(generator.G.parameters()).device if generator else torch.device("cpu")
    measuring = RunConfig(data=data, metrics=MetricsConfig(extractor=extractor, weights=weights))
    network = kind.extractor(measuring, real.spec, device)

    found: dict[str, Any] = {}
    if generated is not None:
        made_by_others = np.asarray(generated.samples[: min(n, len(generated))])
        found |= evaluate_samples(made_by_others, real, names, network, cache_dir=statistics_dir())
    else:
        assert generator is not None
        made, same = generator, spec.shape == real.spec.shape

        def sample(index: torch.Tensor) -> torch.Tensor:
            stored = made.sample(index, seed)
            return stored if same else torch.as_tensor(kind.convert(stored.cpu().numpy(), real.spec)).to(stored.device)

        # A run has its own data's statistics beside it
        known = _run_of(place).child("statistics") if against is None and not overrides else None
        evaluator = Evaluator(
            real.samples, real.labels, real.fingerprint, network, names, cache_dir=statistics_dir(), store=known
        )
        found |= evaluator.evaluate(sample, n)
        if "fid" in found:
            found["floor_fid"] = evaluator.floor_fid()
        if linear_probe:
            from distgan.runs.linear_probe import probe_run

            run = _run_of(place)
            labelled = kind.like(data, made.spec).model_copy(update={"labels": True})
            found |= probe_run(run, read_run_config(run), labelled, classes=len(made.classes), device=device)
        if made.conditional and not made.spec.class_counts:
            found["classes"] = "drawn equally often: this generator does not know how often they are in its data"
    if spec.shape != real.spec.shape:
        found["converted"] = f"the measured {kind.noun}, from {spec.shape} to {real.spec.shape}, as the real ones are"
    return {"source": source, "against": f"{real.spec.name} ({data.split})", "extractor": network.name, **found}


def _required(against: str | None) -> str:
    if against is None:
        raise ConfigError(
            "--against: needed when samples are measured that no run made; give a known set or a path, for example "
            "--against mnist10k"
        )
    return against


def _data_of(place: Folder, against: str | None, overrides: dict[str, Any] | None) -> DataConfig:
    base: dict[str, Any] = {}
    if against is not None:
        base = {"data": {"name": against}}
    else:
        run = _run_of(place)
        if not run.exists("config.yaml"):
            raise ConfigError(
                "--against: needed for a generator outside its run's folder; give a known set or a path, for example "
                "--against mnist10k"
            )
        base = {"data": read_run_config(run).data.model_dump(mode="json")}
    return load_config(base=base, overrides=overrides).data


def _run_of(place: Folder) -> Folder:
    """The folder that a generator's folder lies in."""
    head, mark, query = place.uri.partition("?")
    return Folder(head.rstrip("/").rpartition("/")[0] + mark + query)


def as_table(found: dict[str, Any]) -> str:
    """The metrics for a person: what was compared, then one line each."""
    counts = f"{found['samples']:,.0f} and {found['real_samples']:,.0f} samples"
    head = f"{found['source']} against {found['against']}, {counts}, extractor {found['extractor']}"
    rest = {k: v for k, v in found.items() if k not in ("source", "against", "samples", "real_samples", "extractor")}
    width = max(map(len, rest), default=0)
    return "\n".join(
        [head, *(f"  {k.ljust(width)}  {v if isinstance(v, str) else format(v, '.5g')}" for k, v in rest.items())]
    )


def as_json(found: dict[str, Any]) -> str:
    return json.dumps(found)
