"""Every loss with every penalty on every kind of networks: 200 steps of the real loop on two workers, which must not
drift apart.
"""

import itertools
import socket

import pytest
import torch
import torch.distributed as dist

from distgan.config import load_config
from distgan.kinds import open_samples
from distgan.kinds.image import KIND
from distgan.kinds.loader import Loader
from distgan.randomness import DataOrder
from distgan.registry import LOSSES
from distgan.training.context import Context
from distgan.training.state import TrainState
from distgan.training.train_step import TrainStep

STEPS, BATCH = 200, 8
BASE = {
    "batch_size": BATCH,
    "kimg": STEPS * BATCH / 1000,
    "data.limit": 64,
    "data.resolution": 16,
    "model.latent_dim": 4,
    "model.g_width": 4,
    "model.d_width": 4,
    "model.g_norm": "none",
    "model.d_norm": "none",
    "model.conditioning": "none",
    "loss.r1_gamma": 0,
    "loss.r2_gamma": 0,
    "optim.g.lr": 1e-3,
    "optim.d.lr": 1e-3,
    "training.ema_half_life_kimg": "[0.1]",
}
PENALTIES = {
    "none": {},
    "r1": {"loss.r1_gamma": 1},
    "r1r2": {"loss.r1_gamma": 1, "loss.r2_gamma": 1},
    "lazy": {"loss.r1_gamma": 1, "loss.r2_gamma": 1, "loss.penalty_every": 4},
    "gp": {"loss.gp_lambda": 10},
    "gp0": {"loss.gp_lambda": 1, "loss.gp_target": 0},
    "decay": {"optim.d.weight_decay": 0.1, "optim.g.weight_decay": 0.1},
}
NETS = {
    "mlp": {"model.name": "mlp", "model.conditioning": "auxiliary"},
    "dcgan-batchnorm": {
        "model.name": "dcgan",
        "model.g_norm": "batch",
        "model.d_norm": "batch",
        "model.conditioning": "projection",
    },
    "dcgan-spectral": {"model.name": "dcgan", "model.d_norm": "spectral"},
    "resnet": {
        "model.name": "resnet",
        "model.g_norm": "batch",
        "model.d_norm": "spectral",
        "model.conditioning": "projection",
    },
    "r3gan": {"model.name": "r3gan", "model.conditioning": "projection"},
    "style": {"model.name": "style", "model.conditioning": "projection"},
}
STATISTICS = (
    "dcgan-batchnorm",
    "resnet",
)  # batch norm sees a worker's own images, so that gradients are not those of one worker
ALL = list(itertools.product(NETS, LOSSES, PENALTIES))
# Each network, loss and penalty at least once, and what is most used together
SOME = [
    ("mlp", "minimax", "gp0"),
    ("mlp", "least-squares", "decay"),
    ("dcgan-batchnorm", "non-saturating", "none"),
    ("dcgan-spectral", "wasserstein", "gp"),
    ("resnet", "hinge", "r1"),
    ("r3gan", "relativistic", "r1r2"),
    ("style", "non-saturating", "r1"),
    ("mlp", "relativistic", "lazy"),
]


def run(case, context, steps):
    """The state after so many steps, and the gradients of the first."""
    net, loss, penalty = case
    config = load_config(overrides=BASE | NETS[net] | PENALTIES[penalty] | {"loss.name": loss})
    images = open_samples(config.data)
    n_classes = len(images.classes) if config.model.conditioning != "none" else 0
    state = TrainState(config, channels=1, resolution=16, n_classes=n_classes, device=context.device)
    order = DataOrder(len(images), config.seed)
    feed = Loader(images, KIND, context.device, order, device_mib=64, config=config.data, seed=config.seed)
    step = TrainStep(config, context, state, feed)
    first, problems = {}, []
    for number in range(steps):
        stats = step()
        if number == 0:
            first = {f"{part}.{k}": p.grad.clone() for part in "GD" for k, p in getattr(state, part).named_parameters()}
        if number % 50 == 49 and not all(bool(value.isfinite().all()) for value in stats.values()):
            problems.append(number)
    return {"first": first, "state": state.state_dict(), "not finite after": problems}


def worker(rank, port, cases, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    context = Context(torch.device("cpu"))
    for number, case in enumerate(cases):
        torch.save(run(case, context, STEPS), f"{out}/{number}-{rank}.pt")
    dist.barrier()  # what the broadcasts held is let go of before the interpreter ends (Context.leave)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory, caches):
    """two_workers(case, cases): what both ranks have after 200 steps; all `cases` are trained the first time one of
    them is asked for.
    """
    done = {}

    def results(case, cases):
        if case not in done:
            out = tmp_path_factory.mktemp("matrix")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DISTGAN_CACHE", str(caches / "decoded"))
                torch.multiprocessing.spawn(worker, (port, cases, str(out)), nprocs=2)
            done.update({c: [f"{out}/{number}-{rank}.pt" for rank in range(2)] for number, c in enumerate(cases)})
        return [torch.load(file) for file in done[case]]

    return results


def check(case, ranks):
    net = case[0]
    a, b = ranks
    assert a["not finite after"] == b["not finite after"] == []
    fresh = run(case, Context(torch.device("cpu")), 1)
    for part in ("G", "D", "ema"):
        for name, tensor in a["state"][part].items():
            assert torch.equal(tensor, b["state"][part][name]), f"{part}.{name}: the workers hold different values"
            assert bool(tensor.float().isfinite().all()), f"{part}.{name}"
    for part in ("G", "D"):
        moved = [
            not torch.equal(tensor, fresh["state"][part][name])
            for name, tensor in a["state"][part].items()
            if tensor.ndim > 1
        ]
        assert all(moved)
    assert a["state"]["nimg"] == STEPS * BATCH
    assert a["first"].keys() == fresh["first"].keys()
    for name, gradient in fresh["first"].items():
        assert torch.equal(a["first"][name], b["first"][name]), name
        if net not in STATISTICS:  # G's first gradient comes after D's first update
            torch.testing.assert_close(
                a["first"][name], gradient, atol=2e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.parametrize("case", SOME, ids="-".join)
def test_two_workers_train_200_steps_and_stay_the_same(two_workers, case):
    check(case, two_workers(case, SOME))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", ALL, ids="-".join)
def test_every_loss_penalty_and_network(two_workers, case):
    check(case, two_workers(case, [c for c in ALL if c[0] == case[0]]))


def test_some_are_of_every_kind():
    for kinds, index in ((NETS, 0), (LOSSES, 1), (PENALTIES, 2)):
        assert {case[index] for case in SOME} == set(kinds)
