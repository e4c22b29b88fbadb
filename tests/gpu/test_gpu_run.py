"""Whole runs on a GPU: resumed equals uninterrupted, the GPU's results equal the CPU's, workers that share a GPU equal
one.
"""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from two_processes import free_port, run_two

from distgan.config import DataConfig, load_config, validate
from distgan.export.generator import load_generator
from distgan.kinds import open_samples
from distgan.kinds.image import KIND
from distgan.kinds.image.extractors import get_extractor
from distgan.kinds.loader import Loader
from distgan.metrics.evaluator import evaluate_samples
from distgan.randomness import DataOrder, bits, normal
from distgan.runs.prepare import prepare
from distgan.storage import Folder
from distgan.training import loop
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context
from distgan.training.ddp import wrap

pytestmark = pytest.mark.gpu

PLAIN = {
    "model.g_norm": "none",
    "model.d_norm": "none",
    "optim.g.eps": 1e-3,
    "optim.d.eps": 1e-3,
    "training.precision": "fp32",
}
CONVOLUTIONAL = {
    "model.name": "dcgan",
    "model.conditioning": "projection",
    "loss.name": "relativistic",
    "loss.r1_gamma": 0.1,
    "loss.r2_gamma": 0.1,
    "model.g_norm": "none",
    "model.d_norm": "none",
}
CASES = {
    "classic": {"training.precision": "auto"},
    "fp32": {"training.precision": "fp32"},
    "convolutional": CONVOLUTIONAL,
    "everything": CONVOLUTIONAL
    | {
        "batch_size": 16,
        "training.n_dis": 2,
        "loss.penalty_every": 3,
        "data.mirror": True,
        "augment.kind": "ada",
        "augment.p": 0.1,
        "augment.policy": "[translate, rotate, colour, cutout]",
        "augment.target": 0.6,
        "augment.ramp_kimg": 1,
        "optim.g.lr_schedule.kind": "cosine",
        "optim.g.lr_schedule.final": 0.1,
        "loss.gamma_schedule.kind": "cosine",
        "loss.gamma_schedule.final": 0.1,
        "optim.d.beta2_schedule.kind": "linear",
        "optim.d.beta2_schedule.final": 0.5,
    },
    "off the device": {"data.device_mib": 0, "training.cuda_graphs": "off"},
}


def run(config, device, on_tick=None):
    """Train as `distgan train --engine local` does; returns (status, folder)."""
    prepared = prepare(config)
    context = Context(device)
    return loop.train(
        prepared.config, context, prepared.folder, on_tick=lambda s: on_tick and on_tick(s, context)
    ), prepared.folder


def newest(folder):
    return CheckpointStore(folder).newest()


def distance(a, b):
    """The largest difference of two states' G and D."""
    return max(
        float((a[part][name].double() - b[part][name].double()).abs().max()) for part in "GD" for name in a[part]
    )


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_is_uninterrupted(tiny, device, case):
    whole = newest(run(tiny(**CASES[case], name="whole"), device)[1])[1]

    def stop(status, context):
        if 300 < status["nimg"] < 500:
            context.request_stop()

    config = tiny(**CASES[case], name="halves")
    assert run(config, device, stop)[0]["state"] == "stopped"
    status, folder = run(config, device)
    assert status["state"] == "complete"
    halves = newest(folder)[1]
    # Where images are moved, the GPU adds in no fixed order; a run without interruption would not repeat itself either
    assert distance(whole, halves) <= (5e-3 if case == "everything" else 0)


@pytest.mark.parametrize("case", ["plain", "conditional"])
def test_the_gpu_learns_what_the_cpu_learns(tiny, device, case):
    changes = PLAIN | (CONVOLUTIONAL if case == "conditional" else {}) | {"kimg": 0.512}
    states = {}
    for name, place in (("cpu", torch.device("cpu")), ("gpu", device)):
        status, folder = run(tiny(**changes, name=name), place)
        states[name] = newest(folder)[1], status
    assert distance(states["cpu"][0], states["gpu"][0]) < 1e-4
    assert states["gpu"][1]["best"]["value"] == pytest.approx(states["cpu"][1]["best"]["value"], rel=1e-2)


def test_what_the_gpu_made_is_read_without_one(tiny, device):
    _, folder = run(tiny(**CONVOLUTIONAL), device)
    on_cpu, on_gpu = (load_generator(folder.child("generator"), place) for place in (torch.device("cpu"), device))
    index = torch.arange(16)
    a, b = (g.sample(index, 0, None).cpu().int() for g in (on_cpu, on_gpu))
    assert (a - b).abs().max() <= 1


def test_the_metrics_are_the_cpu_s(caches):
    real = open_samples(load_config(overrides={"data.name": "mnist10k", "data.limit": 2000}).data)
    noise = np.random.default_rng(0).integers(0, 60, real.samples.shape, dtype=np.uint8)
    made = np.clip(real.samples.astype(np.int32) + noise, 0, 255).astype(np.uint8)
    names = ["fid", "kid", "precision-recall", "density-coverage", "inception-score"]
    found = []
    for place in ("cpu", "cuda"):
        extractor = get_extractor(
            "digits", torch.device(place), None, data_channels=1, resolution=28, data_name="mnist10k"
        )
        found.append(evaluate_samples(made, real, names, extractor))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=2e-3, abs=2e-3), name


def test_draws_are_the_cpu_s(device):
    index = torch.arange(1000)
    assert torch.equal(bits(3, "x", index, 5), bits(3, "x", index.to(device), 5).cpu())
    torch.testing.assert_close(
        normal(3, "x", index, 5), normal(3, "x", index.to(device), 5).cpu(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("device_mib", [0, 512])
def test_batches_are_the_cpu_s(device, caches, device_mib):
    real = open_samples(load_config(overrides={"data.name": "mnist10k", "data.limit": 37}).data)
    here, there = (
        Loader(real, KIND, place, DataOrder(37, 3), device_mib=device_mib, config=DataConfig(mirror=True), seed=3)
        for place in (torch.device("cpu"), device)
    )
    for start in (5, 20, 35, 500, 8190, 20000):
        there.prefetch(start, start + 15)
        (x, c), (y, d) = here.batch(start, start + 15), there.batch(start, start + 15)
        assert y.device.type == d.device.type == "cuda"
        assert torch.equal(x, y.cpu())
        assert torch.equal(c, d.cpu())
    there.close()


# ---------------------------------------------------------------------------------------------------------------------
# Workers


SHARED = {
    "plain": PLAIN | {"kimg": 0.512},
    "eager": PLAIN | {"kimg": 0.512, "training.cuda_graphs": "off"},
    "conditional": PLAIN | CONVOLUTIONAL | {"kimg": 0.512},
    "uneven": PLAIN | {"batch_size": 33, "kimg": 0.512, "loss.gp_lambda": 1},
    "batchnorm": {"kimg": 0.256, "training.precision": "fp32", "optim.g.eps": 1e-3, "optim.d.eps": 1e-3},
}


def worker(rank, port, plans):
    torch.backends.cudnn.allow_tf32 = False
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    for plan in plans.values():
        config = validate(plan)
        loop.train(config, Context(device), Folder(config.storage).child(config.run_name))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory, caches):
    """Plans of the runs that two workers on one GPU have trained."""
    from tiny_run import TINY

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    storage = tmp_path_factory.mktemp("two")
    plans = {
        name: load_config(overrides=TINY | case | {"name": name, "storage": str(storage)}).model_dump(mode="json")
        for name, case in SHARED.items()
    }
    run_two(worker, caches, plans)
    return plans


@pytest.mark.parametrize("case", SHARED)
def test_two_workers_on_a_gpu_learn_what_one_does(two, case, device, tmp_path):
    """By a CUDA graph or not; with batch norm too: on CUDA its statistics are those of the whole batch."""
    config = validate(two[case] | {"storage": str(tmp_path)})
    _, folder = run(config, device)
    both = newest(Folder(two[case]["storage"]).child(case))[1]
    assert distance(newest(folder)[1], both) < 5e-5


def test_gradients_go_through_nccl(device):
    """In a group of one, which is what one GPU allows: the exchange, and batch norm's statistics."""
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    try:
        context = Context(device)
        assert context.broadcast({"a": 1}) == {"a": 1}
        context.world_size = 2  # so that the network is treated as one of several
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1)).to(
            device
        )
        copy = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1)).to(
            device
        )
        copy.load_state_dict(plain.state_dict())
        replica = wrap(copy, context)
        assert any(isinstance(m, nn.SyncBatchNorm) for m in replica.modules())
        for _ in range(3):
            x = torch.randn(16, 3, 8, 8, device=device)
            for network in (plain, replica):
                network.zero_grad()
                network(x).square().mean().backward()
            for a, b in zip(plain.parameters(), replica.parameters(), strict=True):
                torch.testing.assert_close(b.grad, a.grad, atol=1e-5, rtol=1e-4)
        assert context.together(lambda: 3) == 3
    finally:
        dist.destroy_process_group()
