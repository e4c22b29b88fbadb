"""The operations for gradient penalties: torch's values and derivatives of all orders, in fewer and no needless calls;
and that no operation by elements meets two memory layouts.
"""

from collections import Counter
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from distgan.config import LossConfig, ModelConfig
from distgan.gan import step
from distgan.gan.penalties import input_gradients
from distgan.gan.step import d_step_loss, frozen, g_step_loss
from distgan.models import build_discriminator, build_generator
from distgan.registry import NETWORKS as MODELS
from distgan.second_order import Conv2d, Shape, conv2d, first_order, halve, images_only, leaky_relu
from distgan.training.train_step import CachedGenerator

SHAPES = [  # channels, outputs, kernel, and the rest
    (3, 4, 4, Shape((2, 2), (1, 1))),
    (3, 4, 1, Shape()),
    (8, 12, 3, Shape((1, 1), (1, 1), 4)),
    (6, 6, 3, Shape((2, 2), (1, 1), 6)),
    (1, 5, 3, Shape((2, 1), (0, 2))),
]


def tensors(channels, outputs, kernel, shape, bias=True):
    g = torch.Generator().manual_seed(0)
    sizes = [(2, channels, 7, 6), (outputs, channels // shape.groups, kernel, kernel), (outputs,)]
    x, weight, b = (torch.randn(size, generator=g, dtype=torch.float64).requires_grad_() for size in sizes)
    return x, weight, b if bias else None


def plain(x, weight, bias, shape):
    return F.conv2d(x, weight, bias, shape.stride, shape.padding, 1, shape.groups)


class Calls(TorchDispatchMode):
    """The operations that run inside, and their tensors."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append((func.__name__.split(".")[0], args))
        return func(*args, **(kwargs or {}))

    def count(self):
        return Counter(name for name, _ in self.calls)

    def weight_gradients(self):
        return sum(name == "convolution_backward" and args[-1][1] for name, args in self.calls)


@contextmanager
def calls():
    with Calls() as found:
        yield found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", SHAPES)
def test_values_and_gradients_of_loss_and_penalty_are_those_of_torch(case, bias):
    *sizes, shape = case
    found = []
    for function in (conv2d, plain):
        inputs = tensors(*sizes, shape, bias)
        x, asked = inputs[0], [t for t in inputs if t is not None]
        y = function(*inputs, shape)
        logits = F.leaky_relu(y, 0.2).square().sum((1, 2, 3))
        (inner,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        total = logits.mean() + inner.square().sum()
        found.append([y, inner, *torch.autograd.grad(total, asked)])
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", SHAPES)
def test_derivatives_of_any_order(case):
    """Against finite differences, up to the third: the derivatives of the gradient's gradient."""
    *sizes, shape = case
    inputs = tensors(*sizes, shape)
    assert torch.autograd.gradcheck(lambda *t: conv2d(*t, shape), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: conv2d(*t, shape), inputs)

    def penalty(x, weight, bias):
        return torch.autograd.grad(conv2d(x, weight, bias, shape).pow(3).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(penalty, inputs, atol=1e-4, rtol=1e-3)


def test_a_second_derivative_takes_as_many_calls_whatever_the_groups():
    """torch's own: one for each group, and for a filter that is not trained too."""

    def counted(function, groups, trained=True):
        x = torch.randn(2, 16, 8, 8, requires_grad=True)
        weight = torch.randn(16, 16 // groups, 3, 3, requires_grad=trained)
        with calls() as found:
            y = function(x, weight, None, Shape((2, 2), (1, 1), groups))
            (g,) = input_gradients(y.square().sum((1, 2, 3)), [x])
            (g.square().mean() + y.mean()).backward()
        return found.count()["convolution"] + found.count()["convolution_backward"]

    assert counted(conv2d, 1) == counted(conv2d, 16) < 8
    assert counted(plain, 16) > 16
    assert counted(conv2d, 16, trained=False) <= counted(conv2d, 16)


def test_an_inner_gradient_leaves_the_weights_alone():
    layers = nn.Sequential(Conv2d(2, 4, 3), nn.LeakyReLU(0.2), Conv2d(4, 1, 3))
    x = torch.randn(3, 2, 8, 8, requires_grad=True)
    logits = layers(x).square().mean((1, 2, 3))
    with calls() as inner:
        (g,) = input_gradients(logits, [x])
    assert inner.weight_gradients() == 0
    with calls() as outer:
        (g.square().sum() + logits.sum()).backward()
    assert outer.weight_gradients() == 4  # two layers: a part from the loss and one from the penalty each
    assert all(p.grad is not None for p in layers.parameters())
    with pytest.raises(ZeroDivisionError), images_only():
        raise ZeroDivisionError
    conv2d(x, layers[0].weight, layers[0].bias, Shape()).sum().backward()  # the switch is back


def test_without_images_that_need_a_gradient_it_is_torchs():
    layer, x = Conv2d(2, 4, 3), torch.randn(3, 2, 8, 8)
    assert "Forward" not in type(layer(x).grad_fn).__name__
    assert "Forward" in type(layer(x.requires_grad_()).grad_fn).__name__
    with torch.no_grad():
        assert layer(x).grad_fn is None


def test_under_autocast_it_computes_in_bf16_and_gradients_are_float32():
    layer, x = Conv2d(2, 4, 3), torch.randn(3, 2, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        torch.testing.assert_close(y, F.conv2d(x, layer.weight, layer.bias))
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert {t.grad.dtype for t in (x, layer.weight, layer.bias)} == {torch.float32}


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (lambda x: leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, 0.2)),
        (lambda x: leaky_relu(x, 0.0), F.relu),
        (halve, lambda x: F.avg_pool2d(x, 2)),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_elementwise_derivatives_are_torchs_without_tensors_of_zeros(ours, torchs, layout):
    seen, zeros = [], []
    for function in (ours, torchs):
        x = (
            torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
            .contiguous(memory_format=layout)
            .requires_grad_()
        )
        with calls() as found:
            y = function(x)
            (g,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
            seen.append([y, g, *torch.autograd.grad(g.pow(2).sum() + y.sum(), x)])
        zeros.append(sum(n for name, n in found.count().items() if "zeros" in name))
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(a, b)
    assert all(t.is_contiguous(memory_format=layout) for t in seen[0])
    assert zeros[0] == 0 < zeros[1]
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: ours(x).pow(3), x)


def test_a_leaky_relu_keeps_what_the_next_layer_keeps():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        Conv2d(4, 4, 3)(leaky_relu(torch.randn(2, 4, 8, 8, requires_grad=True) * 1, 0.2))
    assert len(kept) == 3  # by the ReLU, and by the convolution its images and its weight
    assert len(set(kept)) == 2


def test_a_layer_outside_of_autocast_stays_float32_backwards(monkeypatch):
    """Its second derivative is computed in the backward pass, which may run under autocast. That of GPUs casts what a
    bare convolution meets, that of CPUs does not: what is seen here is that none is on.
    """
    layer, x = Conv2d(2, 4, 3), torch.randn(3, 2, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            logits = layer(x).square().sum((1, 2, 3))
        (g,) = input_gradients(logits, [x])
        on, convolve = [], torch.ops.aten.convolution
        with monkeypatch.context() as patch:
            seen = lambda *args: on.append(torch.is_autocast_enabled("cpu")) or convolve(*args)  # noqa: E731
            patch.setattr(torch.ops.aten, "convolution", seen)
            (g.square().sum() + logits.sum()).backward()
    assert on == [False]
    assert x.grad.dtype == layer.weight.grad.dtype == torch.float32


NORMLESS = ("r3gan", "style")
NETS = [
    (n, channels, norm)
    for n in sorted(set(MODELS) - {"mlp"})
    for channels in (1, 3)
    for norm in ("batch", "none")[n in NORMLESS :]
]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("name", "channels", "norm"), NETS)
def test_no_operation_meets_two_layouts(name, channels, norm, bf16):
    """Such a one is 20 to 40 times slower on CPUs."""
    model = ModelConfig(name=name, g_width=8, d_width=8, g_norm=norm, d_norm=norm, latent_dim=8, conditioning="none")
    size = {"channels": channels, "resolution": 32, "n_classes": 0}
    G, D = build_generator(model, **size), build_discriminator(model, **size)
    for network in (G, D):
        network.to(memory_format=torch.channels_last)
    x, z = torch.rand(4, channels, 32, 32).contiguous(memory_format=torch.channels_last), torch.randn(4, 8)
    penalty = 1.0 if norm == "none" else 0.0  # torch's second derivative of batch norm has a layout of its own
    loss = LossConfig(name="relativistic", r1_gamma=penalty, r2_gamma=penalty)
    # One region a step, as in the loop: torch 2.9 keeps what was cast under no_grad to its end
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    with calls() as found:
        with autocast:
            d_step_loss(G, D, x, None, z, None, loss)[0].backward()
        with frozen(D), autocast:
            g_step_loss(G, D, x, None, z, None, loss)[0].backward()
    mixed = [
        (op, [tuple(t.shape) for t in args if isinstance(t, torch.Tensor)])
        for op, args in found.calls
        if _is_mixed(op, args)
    ]
    assert not mixed, mixed


def _is_mixed(name, args):
    if "convolution" in name:  # these bring what they meet into one layout by a copy, and can do so
        return False
    maps = [
        t
        for t in args
        if isinstance(t, torch.Tensor) and t.ndim == 4 and t.shape[1] > 3 and t.shape[2] * t.shape[3] > 1
    ]
    maps = [t for t in maps if 0 not in t.stride()]  # one for all images or pixels has no layout
    return len({t.stride(1) == 1 for t in maps}) > 1


def kinds(output):
    """Names of the functions behind a tensor."""
    found, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {type(node).__name__ for node in found}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norms", [("none", "none"), ("batch", "batch"), ("none", "spectral")])
@pytest.mark.parametrize("name", MODELS)
def test_steps_without_penalties_are_of_torchs_operations_and_have_the_same_gradients(
    name, norms, channels, monkeypatch
):
    if name in NORMLESS and norms != ("none", "none"):
        pytest.skip("has no such norms")
    model = ModelConfig(
        name=name, latent_dim=8, g_width=8, d_width=8, g_norm=norms[0], d_norm=norms[1], conditioning="projection"
    )
    shape = {"channels": channels, "resolution": 32, "n_classes": 3}
    x, z = torch.rand(4, channels, 32, 32) * 2 - 1, torch.randn(4, 8)
    c = torch.tensor([0, 1, 2, 1])
    loss = LossConfig(name="non-saturating", r1_gamma=0, r2_gamma=0)
    found, named = [], []
    for own in (False, True):
        if own:
            monkeypatch.setattr(step, "first_order", nullcontext)
        G, D = build_generator(model, **shape, seed=1), build_discriminator(model, **shape, seed=1)
        shown = CachedGenerator(G, keep_graph=True)
        total, _ = d_step_loss(shown, D, x, c, z, c, loss)
        named.append(kinds(total))
        total.backward()
        with frozen(D):
            total, _ = g_step_loss(shown.again, D, x, c, z, c, loss)
            named[-1] |= kinds(total)
            total.backward()
        found.append([p.grad for p in (*G.parameters(), *D.parameters())])
    mine = {"_ForwardBackward", "_LeakyReluBackward", "_HalveBackward"}
    assert not named[0] & mine
    assert "_LeakyReluBackward" in named[1]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_a_leaky_relu_overwrites_only_what_nobody_needs(slope):
    found = []
    for inside in (nullcontext(), first_order()):
        base = torch.linspace(-1, 1, 12).requires_grad_()
        x = base * 2
        with inside:
            y = leaky_relu(x, slope, inplace=True)
        found.append((x.data_ptr() == y.data_ptr(), y.detach().clone()))
        y.square().sum().backward()
        found[-1] = (*found[-1], base.grad)
    assert [f[0] for f in found] == [False, True]
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize("name", MODELS)
def test_networks_are_compiled_in_one_piece(name):
    """A graph for a network; what the compiler cannot see into would cut it in many."""
    model = ModelConfig(
        name=name, latent_dim=8, g_width=8, d_width=8, g_norm="none", d_norm="none", conditioning="none"
    )
    shape = {"channels": 1, "resolution": 32, "n_classes": 0}
    G, D = build_generator(model, **shape), build_discriminator(model, **shape)
    images = G(torch.randn(2, 8))
    expected = D(images)
    G_compiled, D_compiled = (torch.compile(n, backend="eager", fullgraph=True, dynamic=False) for n in (G, D))
    with first_order():
        assert G_compiled(torch.randn(2, 8)).shape == images.shape
        torch.testing.assert_close(D_compiled(images), expected)
