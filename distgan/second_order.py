"""Operations whose second derivative is as fast as their first: what a discriminator with a gradient penalty spends its
time on.

**Convolutions.** F(x, w) is linear in the images and in the weight, and so are its two gradients: that in the images,
X(g, w), and that in the weight, W(g, x). Each one's derivatives are the other two:

    F(x, w):   in x  X(g, w),   in w  W(g, x)
    X(g, w):   in g  F(v, w),   in w  W(g, v)
    W(g, x):   in g  F(x, v),   in x  X(g, v)

so that derivatives of any order need these three, for each of which the libraries have a kernel. torch (2.14) takes
another way for the second one: the weight's part is a convolution with kernels as large as the feature maps, one group
of channels after the other, and is computed even for a kernel that is not trained. A layer in groups is then hundreds
of small kernels.

**Leaky ReLU** and the **mean over 2 x 2** pixels: where torch has a second derivative that is 0 everywhere, it makes
zeros and adds them. Here there is none. What the leaky ReLU keeps for its derivative is its output, which the next
convolution keeps anyway: half the memory of an activation.

Where a network is compiled or exported, and inside `first_order`, all of them are torch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Shape(NamedTuple):
    """What a convolution is beside its weight."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    groups: int = 1


class Conv2d(nn.Conv2d):
    """nn.Conv2d with the derivatives of this file."""

    def forward(self, x: Tensor) -> Tensor:
        shape = Shape(self.stride, self.padding, self.groups)  # type: ignore[arg-type]
        return conv2d(x, self.weight, self.bias, shape)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    """What torch.nn.functional.conv2d returns: x (N, C, H, W), weight (K, C / groups, h, w), bias (K,) -> (N, K, H',
    W').

    Where no image needs a gradient there is no second one, and it is torch's.
    """
    if not _differentiated(x):
        return F.conv2d(x, weight, bias, shape.stride, shape.padding, 1, shape.groups)
    if autocasts(x):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _apply(_Forward, x, weight, bias, shape)


@contextmanager
def images_only() -> Iterator[None]:
    """Inside, backward passes through this file's convolutions leave out the gradients in weights: for an inner
    gradient in images.

    torch prunes what nobody asked for in its own operations, but does not tell those that are written in Python. For
    the process, not the thread, as torch's threads for a device's backward pass are others than the caller's.
    """
    global _images_only
    before, _images_only = _images_only, True
    try:
        yield
    finally:
        _images_only = before


_images_only = False


@contextmanager
def first_order() -> Iterator[None]:
    """Inside, operations are torch's own, which take Python less time: for what nobody differentiates twice. For the
    process.
    """
    global _twice
    before, _twice = _twice, False
    try:
        yield
    finally:
        _twice = before


_twice = True


def leaky_relu(x: Tensor, slope: float, *, inplace: bool = False) -> Tensor:
    """What torch.nn.functional.leaky_relu returns; any shape, 0 <= slope. inplace: nobody else wants x, which may be
    overwritten.
    """
    if _differentiated(x):
        return _apply(_LeakyRelu, x, slope)
    # A view's gradient would be copied into that of its base; a compiler finds by itself what can be overwritten
    return F.leaky_relu(x, slope, inplace and not torch.compiler.is_compiling() and not x._is_view())


def autocasts(x: Tensor) -> bool:
    """Whether operations on x are under autocast. PyTorch's meta device, which sizes are computed on, knows none."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A region without autocast for operations on x."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def halve(x: Tensor) -> Tensor:
    """The mean over 2 x 2 pixels: (N, C, H, W) -> (N, C, H / 2, W / 2), for even H and W."""
    return _apply(_Halve, x) if _differentiated(x) else F.avg_pool2d(x, 2)


def _differentiated(x: Tensor) -> bool:
    return not torch.compiler.is_compiling() and _twice and x.requires_grad and torch.is_grad_enabled()


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
    output: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]
    return output


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    stride, padding, groups = shape
    if autocasts(x):  # `conv2d` has converted what is to be converted; float32 layers stay it backwards too
        with no_autocast(x):
            return _forward(x, weight, bias, shape)
    y: Tensor = torch.ops.aten.convolution(x, weight, bias, stride, padding, (1, 1), False, (0, 0), groups)
    return y


def _backward(g: Tensor, x: Tensor, weight: Tensor, shape: Shape, *wanted: bool) -> list[Any]:
    """The gradients of sum(g F(x, weight)) in x, weight and bias, those that are wanted; of what is not needed only the
    shape is read.
    """
    stride, padding, groups = shape
    sizes = (weight.shape[0],) if wanted[2] else None
    found = torch.ops.aten.convolution_backward(
        g, x, weight, sizes, stride, padding, (1, 1), False, (0, 0), groups, wanted
    )
    return [gradient if want else None for gradient, want in zip(found, wanted, strict=True)]


def _laid_out_as(g: Tensor, y: Tensor) -> Tensor:
    """y in the layout of g: images of one channel, and what is made of them, may have lost it."""
    return y.contiguous(memory_format=torch.channels_last) if g.stride(1) == 1 != y.stride(1) else y


class _Forward(torch.autograd.Function):
    """F(x, w), plus the bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape = shape
        return _forward(x, weight, bias, shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        in_x, in_weight, in_bias = (
            want and (i == 0 or not _images_only) for i, want in enumerate(ctx.needs_input_grad[:3])
        )
        if not torch.is_grad_enabled():  # no further derivative: one call for all
            return *_backward(g, x, weight, ctx.shape, in_x, in_weight, in_bias), None
        return (
            _apply(_InImages, g, weight, x, ctx.shape) if in_x else None,
            _apply(_InWeight, g, x, weight, ctx.shape) if in_weight else None,
            g.sum((0, 2, 3)) if in_bias else None,
            None,
        )


class _InImages(torch.autograd.Function):
    """X(g, w); `like` has the shape of what is returned."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, like: Tensor, shape: Shape) -> Any:
        ctx.save_for_backward(g, weight)
        ctx.shape = shape
        return _backward(g, like, weight, shape, True, False, False)[0]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        g, weight = ctx.saved_tensors
        in_g, in_weight = ctx.needs_input_grad[:2]
        return (
            _laid_out_as(g, _apply(_Forward, v, weight, None, ctx.shape)) if in_g else None,
            _apply(_InWeight, g, v, weight, ctx.shape) if in_weight and not _images_only else None,
            None,
            None,
        )


class _InWeight(torch.autograd.Function):
    """W(g, x); `like` has the shape of what is returned."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, like: Tensor, shape: Shape) -> Any:
        ctx.save_for_backward(g, x)
        ctx.shape = shape
        return _backward(g, x, like, shape, False, True, False)[1]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        g, x = ctx.saved_tensors
        in_g, in_x = ctx.needs_input_grad[:2]
        return (
            _apply(_Forward, x, v, None, ctx.shape) if in_g else None,
            _apply(_InImages, g, v, x, ctx.shape) if in_x else None,
            None,
            None,
        )


class _LeakyRelu(torch.autograd.Function):
    """y = x where x > 0, else slope x. The sign of y is that of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        y = F.leaky_relu(x, slope)
        ctx.save_for_backward(y)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _apply(_LeakyReluGradient, g, ctx.saved_tensors[0], ctx.slope), None


class _LeakyReluGradient(torch.autograd.Function):
    """g where y > 0, else slope g: linear in g, and constant in y wherever it has a derivative."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor, slope: float) -> Any:
        ctx.save_for_backward(y)
        ctx.slope = slope
        return torch.ops.aten.leaky_relu_backward(g, y, slope, True)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        return _apply(_LeakyReluGradient, v, ctx.saved_tensors[0], ctx.slope), None, None


class _Halve(torch.autograd.Function):
    """The mean over 2 x 2 pixels, which is linear; its derivative's is itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _apply(_HalveGradient, g)


class _HalveGradient(torch.autograd.Function):
    """A quarter of g for each of 2 x 2 pixels."""

    @staticmethod
    def forward(ctx: Any, g: Tensor) -> Tensor:
        return F.interpolate(g / 4, scale_factor=2)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        return _apply(_Halve, v)
