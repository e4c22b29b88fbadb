"""distgan in a Ray script of one's own: a training function for `TorchTrainer`, and a trainable for `Tuner`.

    TorchTrainer(distgan.train_loop_per_worker, train_loop_config={"data": "/data/photos", "kimg": 100}, ...)
    Tuner(distgan.trainable, param_space={"optim.g.lr": tune.loguniform(1e-4, 1e-2), "kimg": 20}, ...)

The run lies where Ray keeps its own files of it, so that `distgan.open_run(result.path)` opens it, and every start is a
resume. Cluster, scaling, failures and schedulers are the script's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from distgan.config import ConfigError, RunConfig, validate
from distgan.config.keywords import config_from
from distgan.storage import Folder
from distgan.training.threads import keep_memory


# Without a default: Ray gives its settings to a function that asks for an argument, and to no other
def train_loop_per_worker(train_loop_config: Mapping[str, Any]) -> dict[str, Any]:
    """Train a generator in a worker of Ray Train: the training function of a TorchTrainer. Returns the last status.

    train_loop_config: settings as `distgan.train` takes them by keyword, and `config`, a YAML file or a mapping.
    Without `storage` and `name` the run's folder is the one of Ray's RunConfig; in an object store both are needed.
    Paths must be absolute, or URIs, as workers have working folders of their own. Of `datasets` "train" is read: rows
    with an `image` (uint8 or float, H x W or H x W x C, one shape for all) and optionally a `label`, a number or text.

    Metrics are reported at measurements and checkpoints; the Result's checkpoint is the last one in the run's folder.
    Raises ConfigError and RunError in the worker.
    """
    import ray.train

    keep_memory()
    from distgan.orchestration.ray_context import REPORT_S, RayContext, device_of_worker

    worker = ray.train.get_context()
    config = _placed(train_loop_config, storage_folder(worker), worker.get_experiment_name())
    folder = Folder(config.storage).child(config.run_name)
    context = RayContext(device_of_worker(True), folder, report_every_s=REPORT_S, watch_preemption=True)
    try:
        rows = ray.train.get_dataset_shard("train")
    except (KeyError, AssertionError):  # the second in local mode
        rows = None
    return _train(config, context, rows)


def trainable(config: Mapping[str, Any], datasets: Mapping[str, Any] | None = None) -> None:
    """Train a generator as a trial of Ray Tune: a trainable of a Tuner. It reports at measurements and checkpoints.

    config: settings as `distgan.train` takes them by keyword, nested or dotted, and `config`, a YAML file or a mapping.
    The run's folder is the trial's in Ray's storage, or `storage` and the trial's id, which is needed where Ray's
    storage is an object store. datasets: {"train": a Ray data set}, as of `train_loop_per_worker`, by
    tune.with_parameters(distgan.trainable, datasets=...). Schedulers may stop trials, but not copy weights between them
    (population-based training), which is `distgan.tune`'s. Raises ConfigError and RunError.
    """
    from ray import tune

    keep_memory()
    from distgan.training.context import Context, default_device

    trial = tune.get_context()
    found = _placed(config, storage_folder(trial), trial.get_trial_id())
    _train(found, Context(default_device(), on_report=tune.report), (datasets or {}).get("train"))


def storage_folder(context: Any) -> str | None:
    """Where Ray keeps a run of Train, or a trial of Tune, for good: a local path; "" in local mode, where it keeps
    nothing; None in an object store, whose URI it does not tell, and in a Ray that does not tell at all.

    context: what `ray.train.get_context` or `ray.tune.get_context` gives, whose `get_storage` is for developers.
    """
    try:
        storage = context.get_storage()
        if storage.storage_filesystem.type_name != "local":
            return None
        return str(getattr(storage, "trial_fs_path", None) or storage.experiment_fs_path)
    except NotImplementedError:
        return ""
    except AttributeError:
        return None


def _placed(settings: Mapping[str, Any], folder: str | None, name: str) -> RunConfig:
    """The run description, with the run's folder: the one that is asked for, or Ray's. folder, name: Ray's, see
    `storage_folder`. Raises ConfigError.
    """
    given = dict(settings)
    config = config_from(given.pop("config", None), {**given, "engine": "ray"})
    if folder == "":  # this process is the script's own
        return config.model_copy(update={"name": config.name or name})
    if "storage" in config.model_fields_set:
        if "://" not in config.storage and not os.path.isabs(os.path.expanduser(config.storage)):
            raise ConfigError(
                f"storage = {config.storage!r}: a worker has a working folder of its own; allowed: an absolute path or "
                "a URI that all nodes reach, or none, for the folder of Ray's RunConfig(storage_path=..., name=...)"
            )
        return config.model_copy(update={"name": config.name or name})
    if folder is None:
        raise ConfigError(
            "storage: is not given, and Ray does not tell the URI of its own; allowed: a URI like s3://bucket/runs, or "
            "an absolute path"
        )
    storage, last = Folder(folder).split()
    if config.name not in (None, last):
        raise ConfigError(
            f"name = {config.name!r}: the run's folder is Ray's, {folder}; leave name out, or give storage too"
        )
    return config.model_copy(update={"storage": storage, "name": last})


def _train(config: RunConfig, context: Any, rows: Any) -> dict[str, Any]:
    """The checks on the first worker, and the loop on all."""
    from distgan.orchestration.ray_rows import keep_rows
    from distgan.runs.lease import Lease
    from distgan.runs.prepare import prepare
    from distgan.training.logs import read_status
    from distgan.training.loop import train

    folder = Folder(config.storage).child(config.run_name)
    path = None if rows is None else keep_rows(rows, folder, context)

    def checked() -> dict[str, Any] | None:
        if not context.is_main:
            return None
        found = prepare(_reading(config, path))
        values = found.config.model_dump(mode="json", exclude_unset=True)
        return {"config": values, "complete": found.state == "complete"}

    found = context.broadcast(context.together(checked))
    if found["complete"]:
        status = read_status(folder)
        context.report({"kimg": status["kimg"], **status["values"]}, last=True)
        return status
    with Lease(folder, on_lost=context.request_stop) if context.is_main else nullcontext():
        context.barrier()
        return train(_reading(validate(found["config"]), path), context, folder)


def _reading(config: RunConfig, path: str | None) -> RunConfig:
    """The same run, with the samples in this file of this machine."""
    if path is None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"name": path})})
