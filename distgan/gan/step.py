"""One step of each player: what a GAN is, on one page.

    D step:   loss, stats = d_step_loss(G, D, ...);  loss.backward();  optimiser of D
    G step:   with frozen(D):  loss, stats = g_step_loss(G, D, ...);  loss.backward();  optimiser of G

G and D are called, and D may say what it is penalised in (`penalised`); nothing more, so either may be wrapped. Under
DistributedDataParallel: in the D step pass the raw G and the wrapped D, in the G step the wrapped G and the raw, frozen
D; then nothing but the player's own gradients is communicated. Losses are means over the given samples. Statistics are
detached tensors on the device; reading them is up to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import _SpectralNorm

from distgan.config import LossConfig
from distgan.gan.penalties import gradient_gap, input_gradients, mix, squared_norm
from distgan.registry import LOSSES
from distgan.second_order import first_order

Augmentation = Callable[[Tensor, str], Tensor]
"""(samples, "real" | "fake" | "mixed") -> samples; draws and probability are bound by the caller."""
Stats = dict[str, Tensor]


def d_step_loss(
    G: Callable[..., Tensor],
    D: nn.Module,
    x_real: Tensor,
    c_real: Tensor | None,
    z: Tensor,
    c_fake: Tensor | None,
    loss: LossConfig,
    *,
    penalty_scale: float | Tensor = 1.0,
    augment: Augmentation | None = None,
    with_penalty: bool = True,
    alpha: Tensor | None = None,
) -> tuple[Tensor, Stats]:
    """What the discriminator minimises, and how it is doing.

    x_real: (N, *shape) in the range of the data; z: (N, latent_dim); c_real, c_fake: int64 (N,) or None. penalty_scale:
    the present factor of loss.r1_gamma and loss.r2_gamma, a number or a scalar tensor. with_penalty: whether this is
    one of every loss.penalty_every steps. alpha: (N,) from U[0, 1), where loss.gp_lambda > 0 mixes real and generated
    samples. A D with an attribute `penalised` is penalised in what it reads there, tensors (M, ...) for all M samples
    of its pass, and not in the images. Stats: d_loss, d_real, d_fake (mean sigmoid), logit_gap, and where they apply
    r1, r2, gp (mean squared gradient, mean squared gap; unweighted), d_aux_loss, aux_accuracy (on real samples).
    """
    c_fake = fake_labels(c_real, c_fake, loss)
    with torch.no_grad(), _derivatives(loss):
        x_fake = G(z, c_fake).to(x_real.dtype)  # autocast may have made it bf16; penalties want float32

    # Images of which the input gradient is penalised. Weights are of the penalties' means; a step in n carries n times
    # the weight.
    samples, labels, names = [x_real, x_fake], [c_real, c_fake], ["real", "fake"]
    factors = [gamma / 2 for gamma in loss.gammas]
    at_all = isinstance(penalty_scale, Tensor) or penalty_scale > 0  # a tensor's value is the device's to know
    weights = [penalty_scale * (f * loss.penalty_every) if f and at_all and with_penalty else 0.0 for f in factors]
    if loss.gp_lambda > 0 and with_penalty:
        if alpha is None:
            raise ValueError("loss.gp_lambda > 0 needs alpha, (N,) from U[0, 1)")
        samples, labels, names = [*samples, mix(x_real, x_fake, alpha)], [*labels, c_real], [*names, "mixed"]
        weights = [*weights, loss.gp_lambda * loss.penalty_every]
    penalised = [i for i, w in enumerate(weights) if isinstance(w, Tensor) or w > 0]
    # Where D says with an attribute `penalised` what it reads in place of the images, it is penalised there
    network: Any = getattr(D, "module", D)  # of DistributedDataParallel
    outer = not hasattr(network, "penalised")
    samples = [x.detach().requires_grad_(outer and i in penalised) for i, x in enumerate(samples)]

    seen = [augment(x, name) if augment else x for x, name in zip(samples, names, strict=True)]
    with _derivatives(loss):
        logits, class_logits = _discriminate(D, seen, labels)
    real, fake = logits[0], logits[1]

    adversarial = LOSSES[loss.name].d(real, fake)
    total, stats = adversarial, _d_stats(adversarial, real, fake)
    if penalised:
        points = [samples[i] for i in penalised] if outer else network.penalised
        gradients = input_gradients(torch.cat([logits[i] for i in penalised]), points)
        if not outer:  # a long row for each sample of all that was read, as one pass has seen all samples
            rows = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
            parts = torch.split(rows, [len(x) for x in samples])
            gradients, network.penalised = [parts[i] for i in penalised], []
        for i, gradient in zip(penalised, gradients, strict=True):
            size = (squared_norm(gradient) if i < 2 else gradient_gap(gradient, loss.gp_target)).mean()
            total = total + weights[i] * size
            stats[("r1", "r2", "gp")[i]] = size.detach()
    if class_logits is not None and c_real is not None and c_fake is not None:
        # AC-GAN, Odena et al., 2017, eq. 2: D names the class of real and of generated samples.
        auxiliary = cross_entropy(class_logits[0], c_real) + cross_entropy(class_logits[1], c_fake)
        total = total + loss.auxiliary_weight * auxiliary
        stats |= {
            "d_aux_loss": auxiliary.detach(),
            "aux_accuracy": (class_logits[0].argmax(1) == c_real).float().mean(),
        }
    return total, stats


def g_step_loss(
    G: Callable[..., Tensor],
    D: nn.Module,
    x_real: Tensor | None,
    c_real: Tensor | None,
    z: Tensor,
    c_fake: Tensor | None,
    loss: LossConfig,
    *,
    augment: Augmentation | None = None,
) -> tuple[Tensor, Stats]:
    """What the generator minimises, and how it is doing; D is frozen by the caller (`with frozen(D)`).

    Shapes as for `d_step_loss`; only a loss of pairs looks at x_real. Stats: g_loss and, with an auxiliary
    classifier, g_aux_loss.
    """
    c_fake = fake_labels(c_real, c_fake, loss)
    with _derivatives(loss):
        x_fake = G(z, c_fake).to(z.dtype)
        (fake,), class_logits = _discriminate(D, [augment(x_fake, "fake") if augment else x_fake], [c_fake])
    real = fake.detach()  # for the losses that do not look at it
    if LOSSES[loss.name].pairs:
        if x_real is None:
            raise ValueError(f"loss.name = {loss.name!r} needs x_real in the G step too")
        with torch.no_grad():  # D is frozen and x_real is data: no gradient to keep
            (real,), _ = _discriminate(D, [augment(x_real, "real") if augment else x_real], [c_real])

    total = LOSSES[loss.name].g(real, fake)
    stats = {"g_loss": total.detach()}
    if class_logits is not None and c_fake is not None:
        auxiliary = cross_entropy(class_logits[0], c_fake)
        total = total + loss.auxiliary_weight * auxiliary
        stats["g_aux_loss"] = auxiliary.detach()
    return total, stats


def fake_labels(c_real: Tensor | None, c_fake: Tensor | None, loss: LossConfig) -> Tensor | None:
    """The labels of a step's generated samples: c_fake, but a loss of pairs compares a real sample with a generated
    one, and a pair has one label.
    """
    return c_real if LOSSES[loss.name].pairs else c_fake


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, the module's parameters ask for no gradient and its spectral norms do not iterate."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    spectral = [m for m in module.modules() if isinstance(m, _SpectralNorm) and m.training]
    for p in parameters:
        p.requires_grad_(False)
    for m in spectral:
        m.eval()
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
        for m in spectral:
            m.train()


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether a sample's output depends on the other samples of its batch: batch norm, or a layer that says so with an
    attribute `batch_statistics = True` (minibatch standard deviation, say).
    """
    return any(isinstance(m, _BatchNorm) or getattr(m, "batch_statistics", False) is True for m in module.modules())


def _derivatives(loss: LossConfig) -> AbstractContextManager[None]:
    """For the networks' forward passes: without penalties nothing is differentiated twice. With them torch's operations
    gain nothing even where that holds (measured), so that all steps of a run are alike.
    """
    return nullcontext() if loss.has_penalty else first_order()


def _discriminate(
    D: nn.Module, samples: Sequence[Tensor], labels: Sequence[Tensor | None]
) -> tuple[Sequence[Tensor], Sequence[Tensor] | None]:
    """Logits, and class logits if D has them, of each group of samples; float32.

    One pass over all groups where samples do not see each other. Otherwise one pass a group: statistics of a mixed
    batch would tell D which kind a sample's neighbours are.
    """
    if len(samples) == 1 or has_batch_statistics(D):
        outputs = [_split(D(x, c)) for x, c in zip(samples, labels, strict=True)]
        classes = [k for _, k in outputs if k is not None]
        return [logits for logits, _ in outputs], classes or None
    known = [c for c in labels if c is not None]
    logits, class_logits = _split(D(torch.cat(list(samples)), torch.cat(known) if known else None))
    sizes = [len(x) for x in samples]
    return torch.split(logits, sizes), torch.split(class_logits, sizes) if class_logits is not None else None


def _split(output: Any) -> tuple[Tensor, Tensor | None]:
    logits, class_logits = output if isinstance(output, tuple) else (output, None)
    return logits.float(), class_logits.float() if class_logits is not None else None


def _d_stats(loss: Tensor, real: Tensor, fake: Tensor) -> Stats:
    with torch.no_grad():
        return {
            "d_loss": loss.detach(),
            "d_real": real.sigmoid().mean(),
            "d_fake": fake.sigmoid().mean(),
            "logit_gap": real.mean() - fake.mean(),
        }
