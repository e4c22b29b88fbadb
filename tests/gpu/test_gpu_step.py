"""Single steps on a GPU: recorded equals eager, nothing waits for the device, bf16 points the way float32 does."""

import pytest
import torch
from tiny_run import TINY

from distgan.config import ConfigError, RunError, load_config
from distgan.kinds import open_samples
from distgan.kinds.image import KIND
from distgan.kinds.loader import Loader
from distgan.randomness import DataOrder
from distgan.training.context import Context
from distgan.training.meter import Meter
from distgan.training.state import TrainState, choose_kernels
from distgan.training.train_step import TrainStep

pytestmark = pytest.mark.gpu

SMALL = {"model.g_width": 8, "model.d_width": 8, "model.g_norm": "none", "model.d_norm": "none", "model.latent_dim": 8}
PENALISED = {"loss.name": "relativistic", "loss.r1_gamma": 0.5, "loss.r2_gamma": 0.5}
CASES = {
    "mlp, batch norm": {},
    "dcgan": SMALL | PENALISED | {"model.name": "dcgan", "model.conditioning": "projection"},
    "dcgan, batch norm": {"model.name": "dcgan"},
    "auxiliary": SMALL | {"model.name": "dcgan", "model.conditioning": "auxiliary", "loss.gp_lambda": 1},
    "spectral": SMALL | {"model.name": "dcgan", "model.d_norm": "spectral", "loss.name": "hinge", "training.n_dis": 2},
    "r3gan": SMALL | PENALISED | {"model.name": "r3gan", "data.resolution": 32},
    "style": SMALL | PENALISED | {"model.name": "style", "data.resolution": 32},
    "resnet": {"model.name": "resnet", "data.resolution": 32, "model.d_norm": "spectral", "loss.name": "hinge"},
    "lazy penalties": SMALL
    | PENALISED
    | {"loss.penalty_every": 2, "loss.gamma_schedule.kind": "cosine", "loss.gamma_schedule.final": 0.1},
    "parts": SMALL | PENALISED | {"model.name": "dcgan", "training.accumulate": 2},
    "reused": SMALL
    | PENALISED
    | {
        "model.name": "dcgan",
        "training.reuse_fakes": True,
        "model.conditioning": "projection",
        "loss.penalty_every": 2,
    },
    "reused, batch norm": {"model.name": "dcgan", "training.reuse_fakes": True},
    "ada": SMALL
    | PENALISED
    | {
        "model.name": "dcgan",
        "augment.kind": "ada",
        "augment.p": 0.6,
        "augment.target": 0.6,
        "augment.ramp_kimg": 0.5,
        "augment.policy": "[flip, rotate90, translate, rotate, scale, colour, cutout]",
        "data.mirror": True,
    },
    "diffaugment": SMALL
    | PENALISED
    | {"model.name": "dcgan", "augment.kind": "diffaugment", "augment.p_schedule.warmup_kimg": 1},
}


@pytest.fixture
def build(device, caches):
    """build(**changes): (state, step) on the GPU, float32 and eager unless told otherwise."""

    def make(**changes):
        config = load_config(overrides={**TINY, "training.precision": "fp32", "training.cuda_graphs": "off", **changes})
        images = open_samples(config.data)
        config = config.for_classes(len(images.classes))
        order = DataOrder(len(images), 0)
        feed = Loader(images, KIND, device, order, device_mib=config.data.device_mib, config=config.data)
        n_classes = len(images.classes) if config.model.conditioning != "none" else 0
        state = TrainState(config, **KIND.network_arguments(images.spec), n_classes=n_classes, device=device)
        return state, TrainStep(config, Context(device), state, feed)

    return make


def weights(state):
    return [
        *state.G.state_dict().values(),
        *state.D.state_dict().values(),
        *state.ema.state_dict().values(),
        state.augment_p,
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_recorded_steps_are_eager_steps(build, case, precision):
    """Same weights and same statistics. Kernels that add in no fixed order leave rounding errors, which a few steps
    keep small.
    """
    found = []
    for how in ("off", "off", "on"):
        state, step = build(**CASES[case], **{"training.cuda_graphs": how, "training.precision": precision})
        meter = Meter()
        for number in range(12):
            meter.add(step(with_norms=number % 2 == 1))
        found.append((meter.read(Context(torch.device("cuda")))[0], weights(state)))
    means, last = found[0]
    again = max(float((a.double() - b.double()).abs().max()) for a, b in zip(last, found[1][1], strict=True))
    worst = max(float((a.double() - b.double()).abs().max()) for a, b in zip(last, found[2][1], strict=True))
    print(f"{case}, {precision}: eager again {again:.2g}, recorded {worst:.2g}")
    assert worst <= max(5 * again, 1e-4)
    assert found[2][0].keys() == means.keys()
    for name, value in means.items():
        assert found[2][0][name] == pytest.approx(value, rel=2e-2, abs=2e-3), name


def test_a_recording_serves_what_changes_from_step_to_step(build):
    """After a rollback the augmentations' noise is new; rates follow their schedules."""
    changes = CASES["ada"] | {"optim.g.lr_schedule.kind": "cosine"}
    found = []
    for how in ("off", "on"):
        state, step = build(**changes, **{"training.cuda_graphs": how})
        for number in range(16):
            if number == 8:
                state.load_state_dict({**state.state_dict(), "rollbacks": 1})
            step(with_norms=number % 4 == 0)
        found.append(weights(state))
    assert max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) < 1e-3


@pytest.mark.parametrize("how", ["off", "on"])
@pytest.mark.parametrize("case", CASES)
def test_no_step_waits_for_the_device(build, case, how):
    _, step = build(**CASES[case], **{"training.cuda_graphs": how})
    meter = Meter()
    for number in range(10):
        meter.add(step(with_norms=number % 2 == 0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(6):
            meter.add(step(with_norms=number % 2 == 0))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", ["dcgan", "r3gan", "style", "resnet", "dcgan, batch norm"])
def test_bf16_points_the_way_float32_does(build, case):
    gradients = []
    for precision in ("fp32", "bf16"):
        state, step = build(**CASES[case], **{"training.precision": precision})
        step()
        gradients.append(
            [torch.cat([p.grad.flatten() for p in network.parameters()]) for network in (state.D, state.G)]
        )
    for a, b in zip(*gradients, strict=True):
        found = float(torch.nn.functional.cosine_similarity(a, b, dim=0))
        print(case, found)
        assert found > 0.95


def test_what_cannot_be_recorded_is_said(build, monkeypatch):
    state, step = build(**CASES["dcgan"], **{"training.cuda_graphs": "on"})
    forward = type(state.G).forward
    monkeypatch.setattr(
        type(state.G), "forward", lambda self, z, c=None: forward(self, z * float(z.abs().max() > 0), c)
    )
    for _ in range(3):
        step()
    with pytest.raises(RunError, match=r"training.cuda_graphs: this step cannot be captured .*cuda_graphs = off"):
        step()
    torch.cuda.synchronize()


def test_batch_norm_over_several_workers_is_not_recorded(build, monkeypatch):
    monkeypatch.setattr(
        Context, "__init__", lambda self, device=None: vars(self).update(rank=0, world_size=2, device=device)
    )
    with pytest.raises(ConfigError, match=r"on': batch norm over several workers"):
        build(**{"training.cuda_graphs": "on"})


@pytest.mark.parametrize("case", ["r3gan", "resnet", "auxiliary"])
def test_deterministic_steps_give_the_same_bits(build, case):
    found = []
    for how in ("off", "on", "on"):
        state, step = build(**CASES[case], **{"training.cuda_graphs": how, "training.deterministic": True})
        try:
            choose_kernels(state.config, torch.device("cuda"))
            for number in range(12):
                step(with_norms=number % 2 == 0)
        finally:
            choose_kernels(load_config(overrides=TINY), torch.device("cuda"))
        found.append(weights(state))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
