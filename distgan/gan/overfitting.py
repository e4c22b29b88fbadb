"""How far D knows the training samples by heart."""

from __future__ import annotations

from torch import Tensor


def overfitting(train: Tensor, held_out: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The numerator and the denominator of r_v = (E D(train) - E D(held out)) / (E D(train) - E D(fake)), of logits
    (N,): 0 = D sees samples that it was never shown as it sees those it learns from, 1 = as generated ones (Karras et
    al., 2020, ADA, eq. 1).

    A constant that is added to D changes nothing, so that it is defined for losses of pairs too, which leave that
    constant open; the sign of D is not. They come apart, as means over several batches are to be taken of each.
    """
    return train.mean() - held_out.mean(), train.mean() - fake.mean()
