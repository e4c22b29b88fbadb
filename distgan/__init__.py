"""distgan: distributed GAN training, search and export on PyTorch and Ray.

    import distgan

    run = distgan.train(data="./photos", kimg=100)         # what `distgan train` does; returns when it is complete
    run.samples()                                          # the newest grid; run.metrics, run.report(), run.resume()
    generator = distgan.load("photos")                     # a torch.nn.Module, also without Ray
    generator.sample(16, seed=0)                           # uint8 (16, C, H, W)
    distgan.evaluate("photos", metrics=["fid"], n=1000)    # {"fid": ..., "floor_fid": ..., ...}
    search = distgan.tune(data="./photos", kimg=20, tune={"num_samples": 8})
    distgan.train(search.best_config, name="best")         # search.best is a run, search.trials a list

Importing this imports neither PyTorch nor Ray; each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from distgan.api.run import Run, evaluate, open_run, train
    from distgan.api.trained_generator import Generator, load
    from distgan.api.tuning import Search, open_search, tune
    from distgan.config import ConfigError, RunConfig, RunError
    from distgan.orchestration.own_script import train_loop_per_worker, trainable

__all__ = [
    "ConfigError",
    "Generator",
    "Run",
    "RunConfig",
    "RunError",
    "Search",
    "__version__",
    "evaluate",
    "load",
    "open_run",
    "open_search",
    "train",
    "train_loop_per_worker",
    "trainable",
    "tune",
]

_MODULES = {
    "distgan.api.run": ("Run", "evaluate", "open_run", "train"),
    "distgan.api.trained_generator": ("Generator", "load"),
    "distgan.api.tuning": ("Search", "open_search", "tune"),
    "distgan.config": ("ConfigError", "RunConfig", "RunError"),
    "distgan.orchestration.own_script": ("train_loop_per_worker", "trainable"),
}

if not TYPE_CHECKING:  # to a type checker a name that is not there is an error

    def __getattr__(name: str) -> object:
        for module, names in _MODULES.items():
            if name in names:
                import importlib

                value = globals()[name] = getattr(importlib.import_module(module), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(__all__)
