"""Runs as objects: `distgan.train`, `open_run` and `evaluate`. Importing this imports neither torch nor Ray."""

from __future__ import annotations

import base64
import html
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distgan.config import RunConfig, load_config
from distgan.config.keywords import Config, config_from, flat, in_words_of_python
from distgan.storage import Folder
from distgan.text import printable

if TYPE_CHECKING:
    from pandas import DataFrame
    from PIL.Image import Image

    from distgan.api.trained_generator import Generator
    from distgan.api.tuning import Search


def train(config: Config = None, **settings: Any) -> Run:
    """Train a generator, or go on with the run of this name, as `distgan train` does; returns when the run is complete.

    config: the path of a YAML file, a mapping of settings, a RunConfig, or None for the defaults. settings: those of
    `distgan train --help`, over it: train(data="./photos", kimg=100, optim={"g": {"lr": 1e-4}}). Names may be dotted,
    in a mapping: train({"optim.g.lr": 1e-4}). `data` takes samples in memory too: an array or tensor N x H x W,
    N x H x W x C or N x C x H x W, a pair (samples, labels), or a data set of torch's or torchvision's.

    Every start is a resume: the same call goes on from the newest checkpoint. Ctrl-C (in a notebook: interrupt) ends
    with a checkpoint and raises KeyboardInterrupt. Raises ConfigError before anything starts where a setting cannot be
    used, RunError if the run failed.
    """
    return _started(config_from(config, with_arrays(settings)))


def open_run(run: str | os.PathLike[str] | Search, *, storage: str | os.PathLike[str] = "./runs") -> Run:
    """The run of this name in `storage`, or in this folder or at this URI; of a search its best trial. It may still be
    training. Raises ConfigError with the runs that there are.
    """
    from distgan.api.trained_generator import place_of
    from distgan.runs.prepare import find_run_or_best

    with in_words_of_python():
        return Run(find_run_or_best(place_of(run), os.fspath(storage)))


def evaluate(
    source: Any,
    *,
    against: Any = None,
    metrics: str | Sequence[str] = ("fid", "kid"),
    n: int = 10000,
    seed: int = 0,
    extractor: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    storage: str | os.PathLike[str] = "./runs",
    linear_probe: bool = False,
    data: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a generator, or samples, against real ones, as `distgan evaluate` does; returns a flat dict.

    source: a run, a search (its best trial) or a generator, as object, name, path or URI; or samples: a folder, .zip,
    .npy, .npz, or an array. against: real samples, a known set, a path or an array; None is the data of the run.
    n: generated samples. extractor, weights: see `metrics` in `distgan train --help`. linear_probe: also judge the
    discriminator's features. data: settings of the real samples, like {"split": "test"}. Raises ConfigError.
    """
    from distgan.api.trained_generator import place_of
    from distgan.runs.evaluate import evaluate_source
    from distgan.runs.given_arrays import is_array, keep_arrays

    with in_words_of_python():
        return evaluate_source(
            keep_arrays(source) if is_array(source) else place_of(source),
            against=keep_arrays(against) if is_array(against) else None if against is None else os.fspath(against),
            metrics=metrics if isinstance(metrics, str) else ",".join(metrics),
            n=n,
            seed=seed,
            extractor=extractor,
            weights=None if weights is None else os.fspath(weights),
            storage=os.fspath(storage),
            overrides=flat({} if data is None else {"data": data}),
            linear_probe=linear_probe,
        )


class Run:
    """A run, as it lies in its folder: settings, curves, samples, generator. The folder is read at each access, so that
    a run that still trains can be watched. Made by `train`, `open_run` and `Search.best`.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @property
    def folder(self) -> str:
        """Where it lies: a path, or a URI."""
        return self._folder.uri

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self._folder.split()[1]

    @property
    def config(self) -> RunConfig:
        """Its settings, all of them. Raises ConfigError where config.yaml is damaged."""
        from distgan.runs.prepare import read_run_config

        return read_run_config(self._folder)

    @property
    def status(self) -> dict[str, Any]:
        """The last status: state (training, stopped, failed, complete), nimg, kimg, total_kimg, best, workers, values
        (of the last line), events, heartbeat (s since 1970). {} before the first.
        """
        from distgan.training.logs import read_status

        return read_status(self._folder)

    @property
    def best(self) -> dict[str, Any]:
        """Where the generator was best: metric (`checkpoint.best_metric`), value, kimg. {} before the first
        measurement.
        """
        found = self.status.get("best") or {}
        return {"metric": found["metric"], "value": found["value"], "kimg": found["nimg"] / 1000} if found else {}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The curves, oldest first: one dict a log line, with kimg, losses, D(x), D(G(z)), gradient norms and
        images_per_s, and FID, KID and so on where they were measured.
        """
        return [line for line in self._lines() if "event" not in line]

    @property
    def events(self) -> list[dict[str, Any]]:
        """What happened on the way, oldest first: kimg, and event, a text."""
        return [line for line in self._lines() if "event" in line]

    def metrics_frame(self) -> DataFrame:
        """The curves as a pandas DataFrame, a row a log line, indexed by kimg. Raises ImportError without pandas."""
        return frame(self.metrics, "kimg")

    @property
    def checkpoints(self) -> list[str]:
        """The folders of its complete checkpoints, oldest first, named by images seen."""
        from distgan.training.checkpoint import CHECKPOINTS, CheckpointStore

        return [self._folder.child(f"{CHECKPOINTS}/{name}").uri for name in CheckpointStore(self._folder).names()]

    def samples(self) -> Image:
        """The newest sample grid (PIL.Image): what the averaged generator makes of the run's fixed noise."""
        from PIL import Image

        grids = [name for name in self._folder.list("samples") if name[:1].isdigit() and name.endswith(".png")]
        if not grids:
            from distgan.config import ConfigError

            raise ConfigError(f"{self.folder}: no samples there yet; the first grid is made when the training begins")
        return Image.open(io.BytesIO(self._folder.read(f"samples/{grids[-1]}")))

    def generator(self, device: Any = None) -> Generator:
        """The best generator so far, see `distgan.load`. Raises ConfigError before the first checkpoint."""
        from distgan.api.trained_generator import load

        return load(self, device=device)

    def report(self) -> str:
        """Write report.html, one page about the run, into its folder; returns where it lies. Raises ConfigError."""
        from distgan.runs.report import report_of

        return report_of(self.folder)

    def evaluate(self, **how: Any) -> dict[str, Any]:
        """Measure the generator; the arguments are those of `distgan.evaluate`."""
        return evaluate(self, **how)

    def resume(self, **settings: Any) -> Run:
        """Go on from the newest checkpoint, with these settings changed: run.resume(kimg=200) trains longer. Settings
        that would make it another run are refused. See `train`.
        """
        storage, name = self._folder.split()
        before = self.config.model_dump(mode="json") | {"storage": storage, "name": name}
        with in_words_of_python():
            config = load_config(base=before, overrides=flat(with_arrays(settings)))
        return _started(config)

    def _lines(self) -> list[dict[str, Any]]:
        from distgan.runs.report import read_lines

        return read_lines(self._folder) if self._folder.exists("metrics.jsonl") else []

    def __repr__(self) -> str:
        return f"<distgan.Run {self._in_words()}>"

    def _in_words(self) -> str:
        status, best = self.status, self.best
        score = f", best {best['metric'].upper()} {best['value']:.4g}" if best else ""
        done = f"{status.get('kimg', 0):g} of {status.get('total_kimg', 0):g} kimg"
        return f"{printable(self.folder)}: {status.get('state', 'new')}, {done}{score}"

    def _repr_html_(self) -> str:
        """What a notebook shows: how far it is, and the newest samples."""
        text = f"<p>{html.escape(self._in_words())}</p>"
        grids = [name for name in self._folder.list("samples") if name[:1].isdigit()]
        if not grids:
            return text
        data = base64.b64encode(self._folder.read(f"samples/{grids[-1]}")).decode()
        return f"{text}<img alt='samples' src='data:image/png;base64,{data}'>"


def frame(rows: list[dict[str, Any]], index: str) -> DataFrame:
    """Rows as a pandas DataFrame with a column as its index. Raises ImportError without pandas."""
    try:
        import pandas
    except ImportError:
        raise ImportError("a DataFrame needs pandas: `pip install pandas`; the same rows are there as a list") from None
    found = pandas.DataFrame(rows)
    return found.set_index(index) if index in found else found


@contextmanager
def as_a_guest() -> Iterator[None]:
    """Inside, the process is the training's; afterwards the caller's threads of torch and handlers of signals are what
    they were.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else None
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        with in_words_of_python():
            yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        if torch is not None and threads is not None:
            torch.set_num_threads(threads)


def _started(config: RunConfig) -> Run:
    from distgan.orchestration.start import start

    with as_a_guest():
        status = start(config)
    run = Run(Folder(config.storage).child(config.run_name))
    if status != 0:
        raise KeyboardInterrupt(f"{run._in_words()}; nothing is lost, the same call goes on")
    return run


def with_arrays(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with a file in place of samples in memory."""
    from distgan.runs.given_arrays import is_given, keep_arrays

    found = dict(settings)
    if is_given(found.get("data")):
        found["data"] = keep_arrays(found["data"])
    return found
