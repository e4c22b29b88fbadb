"""Two workers do what one does: the same samples, the same latents, the same weights at the end of the whole loop."""

import json

import fake_graph
import pytest
import torch
import torch.distributed as dist
from two_processes import run_two

from distgan.config import ConfigError, RunError, validate
from distgan.kinds.loader import Loader
from distgan.runs.prepare import prepare
from distgan.training import loop
from distgan.training import train_step as step_module
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context
from distgan.training.inputs import DrawBuffer

# Networks without batch statistics; eps keeps Adam from turning rounding errors of tiny gradients into whole steps.
PLAIN = {
    "kimg": 0.512,
    "model.g_norm": "none",
    "model.d_norm": "none",
    "optim.g.eps": 1e-3,
    "optim.d.eps": 1e-3,
    "metrics.every_kimg": 0.256,
    "data.mirror": True,
}
CASES = {
    "classic": {},
    "conditional": {
        "model.conditioning": "projection",
        "loss.name": "relativistic",
        "loss.r1_gamma": 0.5,
        "loss.r2_gamma": 0.5,
        "augment.kind": "ada",
        "augment.policy": "[translate, colour]",
        "augment.p": 0.5,
        "augment.target": 0.6,
        "augment.ramp_kimg": 1,
    },
    "wasserstein": {"loss.name": "wasserstein", "loss.gp_lambda": 10, "training.n_dis": 2},
    "uneven": {"batch_size": 33},
    "parts": {"training.accumulate": 3, "loss.name": "relativistic", "loss.r1_gamma": 0.5, "loss.r2_gamma": 0.5},
    "reused": {"training.reuse_fakes": True, "loss.r1_gamma": 0.5},
    "recorded": {
        "loss.name": "relativistic",
        "loss.r1_gamma": 0.5,
        "loss.r2_gamma": 0.5,
        "batch_size": 33,
        "training.accumulate": 2,
    },
}


class Seen:
    """Everything that the loop draws: rows of real images and of noise, in the order of the steps."""

    def __init__(self, patch):
        self.images, self.noise = [], []
        batch, draw = Loader.batch, DrawBuffer.__call__

        def seen_batch(feed, start, stop):
            x, c = batch(feed, start, stop)
            self.images.append(x)
            return x, c

        def seen_draw(draws, stream, *a):
            values = draw(draws, stream, *a)
            if values.is_floating_point():
                self.noise.append(values)
            return values

        patch(Loader, "batch", seen_batch)
        patch(DrawBuffer, "__call__", seen_draw)

    def as_lists(self):
        return {"images": self.images, "noise": self.noise}


def worker(rank, port, plans, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    seen = Seen(setattr)
    for name, plan in plans.items():
        config = validate(plan)
        seen.images.clear()
        seen.noise.clear()
        with pytest.MonkeyPatch.context() as patch:
            if name == "recorded":
                fake_graph.install(patch.setattr)
                patch.setattr(step_module, "uses_cuda_graphs", lambda *a: True)
            status = loop.train(config, Context(torch.device("cpu")), prepare_folder(config))
        torch.save({**seen.as_lists(), "best": status["best"], "nimg": status["nimg"]}, f"{out}/{name}-{rank}.pt")

    # a mistake on one rank only is told by both, in words
    context = Context(torch.device("cpu"))

    def broken():
        if rank == 1:
            raise ConfigError("data.name = 'x': not on this node")

    told = []
    try:
        context.together(broken)
    except ConfigError as error:
        told.append(str(error))

    config = validate(
        plans["classic"] | {"name": "other", "data": plans["classic"]["data"] | {"limit": 256 - 32 * rank}}
    )
    try:
        loop.train(config, context, prepare_folder(config))
    except ConfigError as error:
        told.append(str(error))

    # batch norm: statistics are each worker's own, and yet both hold the same network all the time
    held = []
    restore = loop.restore
    loop.restore = lambda state, *a: (held.append(state), restore(state, *a))
    loop.train(
        validate(plans["classic"] | with_batch_norm(plans["classic"])),
        context,
        prepare_folder(validate(with_batch_norm(plans["classic"]))),
    )
    state = held[-1].state_dict()

    # rank 1 sees NaN: both go back together, then both end together
    step = loop.TrainStep.__call__

    def poisoned(self, **how):
        stats = step(self, **how)
        return stats | ({"d_loss": stats["d_loss"] * float("nan")} if rank == 1 else {})

    loop.TrainStep.__call__ = poisoned
    config = validate(
        plans["classic"] | {"name": "nan", "training": plans["classic"]["training"] | {"max_rollbacks": 1}}
    )
    try:
        loop.train(config, context, prepare_folder(config))
    except RunError as error:
        told.append(str(error))
    loop.TrainStep.__call__ = step

    # one rank is asked to stop: both stop at the same image
    if rank == 1:
        context.request_stop()
    config = validate(plans["classic"] | {"name": "stop"})
    stopped = loop.train(config, context, prepare_folder(config))
    torch.save({"told": told, "state": state, "stopped": stopped}, f"{out}/rest-{rank}.pt")
    dist.destroy_process_group()


def with_batch_norm(plan):
    return plan | {"name": "batchnorm", "model": plan["model"] | {"g_norm": "batch", "d_norm": "batch"}}


def prepare_folder(config):
    from distgan.storage import Folder

    return Folder(config.storage).child(config.run_name)


@pytest.fixture(scope="module")
def two(tmp_path_factory, caches):
    """(plans of the runs, where two spawned processes left what they saw)."""
    from tiny_run import TINY

    from distgan.config import load_config

    storage = tmp_path_factory.mktemp("two")
    plans = {
        name: load_config(overrides=TINY | PLAIN | case | {"name": name, "storage": str(storage / "runs")}).model_dump(
            mode="json"
        )
        for name, case in CASES.items()
    }
    run_two(worker, caches, plans, str(storage))
    return plans, storage


@pytest.mark.parametrize("case", CASES)
def test_two_workers_see_and_learn_what_one_does(two, case, monkeypatch, tmp_path):
    plans, storage = two
    config = validate(plans[case] | {"storage": str(tmp_path)})
    seen = Seen(monkeypatch.setattr)
    status = loop.train(config, Context(torch.device("cpu")), prepare(config).folder)
    ranks = [torch.load(storage / f"{case}-{rank}.pt") for rank in range(2)]

    for kind in ("images", "noise"):
        ours = getattr(seen, kind)
        theirs = [torch.cat(parts) for parts in zip(*(r[kind] for r in ranks), strict=True)]
        assert len(ours) == len(theirs) > 10
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    assert ranks[0]["nimg"] == ranks[1]["nimg"] == status["nimg"]
    assert ranks[0]["best"]["value"] == pytest.approx(status["best"]["value"], rel=1e-3)
    one = CheckpointStore(prepare_folder(config)).newest()[1]
    both = CheckpointStore(prepare_folder(validate(plans[case]))).newest()[1]
    start = loop.TrainState(
        config, channels=1, resolution=28, n_classes=10 if case == "conditional" else 0, device=torch.device("cpu")
    )
    for part, fresh in (("G", start.G), ("D", start.D)):
        for name, weight in one[part].items():
            torch.testing.assert_close(both[part][name], weight, atol=1e-5, rtol=0)
        assert not all(torch.equal(w, f) for w, f in zip(one[part].values(), fresh.state_dict().values(), strict=True))
    assert float(both["augment_p"]) == pytest.approx(float(one["augment_p"]), abs=1e-5)
    logs = [
        [json.loads(line) for line in folder.read("metrics.jsonl").decode().splitlines()]
        for folder in map(prepare_folder, (config, validate(plans[case])))
    ]
    for a, b in zip(*logs, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"time", "images_per_s"}:
            # the deviation within a worker's share of a batch is no mean over its images
            assert b[name] == pytest.approx(a[name], rel=0.1 if name == "diversity" else 5e-3, abs=1e-3), name


def test_decisions_are_taken_together(two):
    _, storage = two
    a, b = (torch.load(storage / f"rest-{rank}.pt") for rank in range(2))
    assert a["told"] == b["told"]
    assert a["told"][0] == "data.name = 'x': not on this node"
    assert "the workers read different samples of mnist10k (224 here, 256 at the first worker)" in a["told"][1]
    assert "not finite at 0.128 kimg (rollbacks so far: 1)" in a["told"][2]
    assert a["stopped"]["state"] == b["stopped"]["state"] == "stopped"
    assert a["stopped"]["nimg"] == b["stopped"]["nimg"] == 0  # before the first step, which may take minutes


def test_workers_with_batch_norm_hold_the_same_network(two):
    _, storage = two
    a, b = (torch.load(storage / f"rest-{rank}.pt")["state"] for rank in range(2))
    for part in ("G", "D", "ema"):
        assert any("running_var" in name for name in a["G"])
        for name, tensor in a[part].items():
            assert torch.equal(tensor, b[part][name]), name
