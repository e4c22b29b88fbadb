"""The two steps: what reaches whom, and that two workers with half a batch each do what one does with the whole."""

import itertools
import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distgan.config import AugmentConfig, LossConfig, ModelConfig
from distgan.gan.step import d_step_loss, frozen, g_step_loss, has_batch_statistics
from distgan.kinds.image.augment import Augment
from distgan.models import build_discriminator, build_generator
from distgan.registry import LOSSES

SIZE = {"channels": 1, "resolution": 16, "n_classes": 3}
PENALTIES = {
    "none": {},
    "r1": {"r1_gamma": 0.5},
    "r1r2": {"r1_gamma": 0.5, "r2_gamma": 0.25, "penalty_every": 2},
    "gp": {"gp_lambda": 10.0},
    "gp0": {"gp_lambda": 1.0, "gp_target": 0},
}


def small_model(name, **changes):
    """Small networks of a family, without norms and labels but for what a test changes."""
    small = {"latent_dim": 4, "g_width": 4, "d_width": 4, "g_norm": "none", "d_norm": "none", "conditioning": "none"}
    return ModelConfig(name=name, **{**small, **changes})


def plain_loss(**changes):
    """The non-saturating loss without any penalty, and what a test changes of it."""
    return LossConfig(**{"name": "non-saturating", "r1_gamma": 0, "r2_gamma": 0, "gp_lambda": 0, **changes})


MODELS = {
    "mlp": small_model("mlp"),
    "projection": small_model("dcgan", conditioning="projection"),
    "auxiliary": small_model("mlp", conditioning="auxiliary"),
    "spectral": small_model("dcgan", d_norm="spectral"),
    "r3gan": small_model("r3gan", conditioning="projection"),
    "style": small_model("style", conditioning="projection"),
    "pretrained": small_model("dcgan", pretrained="efficientnet-lite0", conditioning="projection"),
}
BATCH_NORM = small_model("dcgan", g_norm="batch", d_norm="batch")
CASES = [("mlp", loss, penalty, False) for loss, penalty in itertools.product(LOSSES, PENALTIES)]
CASES += [(model, "relativistic", "r1r2", False) for model in MODELS if model != "mlp"]
CASES += [
    ("auxiliary", "hinge", "gp", False),
    ("projection", "non-saturating", "r1", True),
    ("mlp", "relativistic", "r1r2", True),
]


def build(model):
    return build_generator(model, seed=1, **SIZE), build_discriminator(model, seed=1, **SIZE)


def batch(n=8):
    draw = torch.Generator().manual_seed(3)
    x = torch.rand(n, 1, 16, 16, generator=draw) * 2 - 1
    c_real, c_fake = torch.arange(n) % 3, (torch.arange(n) + 1) % 3
    return x, c_real, torch.randn(n, 4, generator=draw), c_fake, torch.rand(n, generator=draw), torch.arange(n)


def gradients(G, D, D_wrapped, G_wrapped, part, loss, augmented):
    """Gradients of D in its step and of G in its own, on a part of the batch."""
    x, c_real, z, c_fake, alpha, index = (t[part] for t in batch())
    pipeline = Augment(AugmentConfig(kind="diffaugment"), seed=0)
    augment = (lambda x, kind: pipeline(x, index, 0.9, f"d/{kind}")) if augmented else None
    d_loss, d_stats = d_step_loss(G, D_wrapped, x, c_real, z, c_fake, loss, augment=augment, alpha=alpha)
    d_loss.backward()
    d_grads = [p.grad.clone() for p in D.parameters()]
    with frozen(D):
        g_loss, g_stats = g_step_loss(G_wrapped, D, x, c_real, z, c_fake, loss, augment=augment)
        g_loss.backward()
    assert not any(t.requires_grad for t in (d_stats | g_stats).values())
    return d_grads + [p.grad.clone() for p in G.parameters()]


def ddp(module):
    return DistributedDataParallel(module, broadcast_buffers=False)


def worker(rank, port, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    result = {}
    for case in CASES:
        model, loss, penalty, augmented = case
        G, D = build(MODELS[model])
        half = slice(4 * rank, 4 * rank + 4)
        result[case] = gradients(G, D, ddp(D), ddp(G), half, plain_loss(name=loss, **PENALTIES[penalty]), augmented)
    result["trained"] = train(rank)
    result["buckets"] = count_buckets(rank)
    torch.save(result, f"{out}/{rank}.pt")
    dist.barrier()  # what the broadcasts held is let go of before the interpreter ends (Context.leave)
    dist.destroy_process_group()


def train(rank):
    """Parameters after 20 steps with batch norm in both (two passes of D, one backward) and a lazy penalty."""
    G, D = build(BATCH_NORM)
    G_wrapped, D_wrapped = ddp(G), ddp(D)
    g_adam, d_adam = (torch.optim.Adam(m.parameters(), 1e-3, betas=(0.0, 0.99)) for m in (G, D))
    loss = plain_loss(r1_gamma=0.1, r2_gamma=0.1, penalty_every=4)
    x, _, z, *_ = (t[4 * rank : 4 * rank + 4] for t in batch())
    for step in range(20):
        d_adam.zero_grad()
        d_step_loss(G, D_wrapped, x, None, z + step, None, loss, with_penalty=step % 4 == 0)[0].backward()
        d_adam.step()
        g_adam.zero_grad()
        with frozen(D):
            g_step_loss(G_wrapped, D, x, None, z - step, None, loss)[0].backward()
        g_adam.step()
    return [p.detach() for m in (G, D) for p in m.parameters()]


def count_buckets(rank):
    """(all-reduces of D, of G) in the D step, then in the G step."""
    G, D = build(MODELS["mlp"])
    G_wrapped, D_wrapped = ddp(G), ddp(D)
    calls = {"D": 0, "G": 0}

    def counting(name, bucket):
        calls[name] += 1
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0] / 2)

    D_wrapped.register_comm_hook("D", counting)
    G_wrapped.register_comm_hook("G", counting)
    x, c, z, c_fake, *_ = batch()
    loss, counts = plain_loss(name="relativistic", r1_gamma=1, r2_gamma=1), []
    for _ in range(2):
        d_step_loss(G, D_wrapped, x, c, z, c_fake, loss)[0].backward()
        counts.append((calls["D"], calls["G"]))
        before = [p.grad.clone() for p in D.parameters()]
        with frozen(D):
            g_step_loss(G_wrapped, D, x, c, z, c_fake, loss)[0].backward()
        assert all(torch.equal(a, p.grad) for a, p in zip(before, D.parameters(), strict=True))
        counts.append((calls["D"], calls["G"]))
    return counts


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(out)), nprocs=2)
    return [torch.load(out / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_two_workers_give_the_gradient_of_one(two_ranks, case):
    model, loss, penalty, augmented = case
    G, D = build(MODELS[model])
    whole = gradients(G, D, D, G, slice(None), plain_loss(name=loss, **PENALTIES[penalty]), augmented)
    assert any(float(g.abs().max()) > 1e-4 for g in whole)
    for ranks in two_ranks:
        for got, want in zip(ranks[case], whole, strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_workers_stay_identical(two_ranks):
    fresh = [p.detach() for m in build(BATCH_NORM) for p in m.parameters()]
    for a, b, start in zip(two_ranks[0]["trained"], two_ranks[1]["trained"], fresh, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, start)


def test_each_step_communicates_its_own_player_only(two_ranks):
    (d1, g1), (d2, g2), (d3, g3), (d4, g4) = two_ranks[0]["buckets"]
    assert d1 > 0
    assert g1 == 0  # D step: D only
    assert d2 == d1
    assert g2 > 0  # G step: G only
    assert (d3 - d2, g3 - g2) == (1, 0)  # and with buckets settled, one all-reduce each
    assert (d4 - d3, g4 - g3) == (0, 1)


class Counting(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.sizes = inner, []

    def forward(self, x, c=None):
        self.sizes.append(len(x))
        return self.inner(x, c)


@pytest.mark.parametrize(("norm", "sizes"), [("none", [24]), ("batch", [8, 8, 8])])
def test_one_pass_only_where_samples_do_not_see_each_other(norm, sizes):
    G, D = build(small_model("mlp", g_norm="batch", d_norm=norm))
    assert has_batch_statistics(D) == (norm == "batch")
    D = Counting(D)
    x, c, z, c_fake, alpha, _ = batch()
    d_step_loss(G, D, x, c, z, c_fake, plain_loss(gp_lambda=1), alpha=alpha)
    assert D.sizes == sizes


def test_own_layers_can_declare_batch_statistics():
    layer = nn.Identity()
    layer.batch_statistics = True
    assert has_batch_statistics(nn.Sequential(nn.Linear(1, 1), layer))
    assert not has_batch_statistics(nn.LayerNorm(3))


def test_frozen_stops_gradients_and_power_iteration_and_restores():
    _, D = build(MODELS["spectral"])
    D.head.logit.bias.requires_grad_(False)  # frozen before, must stay so
    before = {k: v.clone() for k, v in D.state_dict().items()}
    with frozen(D):
        assert not any(p.requires_grad for p in D.parameters())
        D(torch.randn(2, 1, 16, 16))
        assert all(torch.equal(v, before[k]) for k, v in D.state_dict().items())
    assert [p.requires_grad for p in D.parameters()].count(False) == 1
    D(torch.randn(2, 1, 16, 16))
    assert not all(torch.equal(v, before[k]) for k, v in D.state_dict().items())


def test_relativistic_pairs_share_their_label():
    G, D = build(MODELS["projection"])
    x, c, z, c_fake, *_ = batch()
    loss = plain_loss(name="relativistic")
    assert torch.equal(d_step_loss(G, D, x, c, z, c_fake, loss)[0], d_step_loss(G, D, x, c, z, c, loss)[0])
    assert torch.equal(g_step_loss(G, D, x, c, z, c_fake, loss)[0], g_step_loss(G, D, x, c, z, c, loss)[0])


def test_missing_inputs_are_named():
    G, D = build(MODELS["mlp"])
    x, c, z, c_fake, *_ = batch()
    with pytest.raises(ValueError, match="alpha"):
        d_step_loss(G, D, x, c, z, c_fake, plain_loss(gp_lambda=1))
    with pytest.raises(ValueError, match="x_real"):
        g_step_loss(G, D, None, c, z, c_fake, plain_loss(name="relativistic"))


def test_statistics():
    class Mean(nn.Module):
        def forward(self, x, c=None):
            return x.mean((1, 2, 3))

    x = torch.tensor([2.0, -1.0, 3.0, 4.0]).view(4, 1, 1, 1)
    _, stats = d_step_loss(
        lambda z, c: torch.full((4, 1, 1, 1), -1.0), Mean(), x, None, torch.zeros(4, 1), None, plain_loss()
    )
    assert float(stats["logit_gap"]) == 3.0
    assert float(stats["d_fake"]) == pytest.approx(0.26894, abs=1e-5)
    assert float(stats["d_real"]) == pytest.approx(float(torch.sigmoid(x).mean()))


def test_a_gan_finds_both_modes():
    torch.manual_seed(0)
    model = small_model("mlp", latent_dim=2, g_width=16, d_width=16)
    size = {"channels": 1, "resolution": 2}
    G, D = build_generator(model, **size), build_discriminator(model, **size)
    g_adam, d_adam = (torch.optim.Adam(m.parameters(), 2e-3, betas=(0.0, 0.9)) for m in (G, D))
    loss = plain_loss(name="relativistic", r1_gamma=0.2, r2_gamma=0.2)
    for _ in range(800):
        x = (torch.randint(2, (64, 1, 1, 1)) - 0.5).expand(64, 1, 2, 2)  # all -0.5 or all 0.5
        for step, adam in ((d_step_loss, d_adam), (g_step_loss, g_adam)):
            adam.zero_grad()
            step(G, D, x, None, torch.randn(64, 2), None, loss)[0].backward()
            adam.step()
    with torch.no_grad():
        made = G(torch.randn(500, 2))
    assert 0.3 < float((made.mean((1, 2, 3)) > 0).float().mean()) < 0.7
    assert float((made.abs() - 0.5).abs().mean()) < 0.12
