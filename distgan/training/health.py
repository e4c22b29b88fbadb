"""Does the game go well? A few signals at each log line, and where they say that it does not, a sentence with what to
try.

A sign must last: each rule speaks after it has held for `PATIENCE` of the budget (at least 3 kimg), and again only
after a fifth of the budget. What a rule looks at are numbers of single steps, at moments that depend on the number of
images alone, so that a resumed run says what an uninterrupted one says; the counters are part of the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from distgan.config import RunConfig
from distgan.registry import LOSSES

PATIENCE, REPEAT = 0.03, 0.2  # shares of the budget
SAME_SAMPLE = 0.25  # of the data's diversity
WON = 0.1  # of D's loss at a draw
JUMP = math.log(30)  # of a gradient's norm against its mean over the last tenth of the budget
WORSE, MEASUREMENTS = 2.0, 3  # times the best measurement, so many in a row
RARE = 0.1  # of a class's equal share

STEADIER = "loss.name = relativistic with loss.r1_gamma and loss.r2_gamma of 1 or more"


class Health:
    """The rules of one run. `counters` is theirs, kept in the checkpoint: rule -> [holds since image, told at image],
    -1 = not.
    """

    def __init__(self, config: RunConfig, counters: dict[str, list[float]]) -> None:
        self.config, self.counters = config, counters
        self.total = config.total_images
        zero = torch.zeros(1)
        self.draw = float(LOSSES[config.loss.name].d(zero, zero))  # D's loss when it says the same of all samples

    def look(
        self,
        nimg: int,
        step: Mapping[str, float],
        measured: Mapping[str, float] | None = None,
        best: float | None = None,
        counts: Sequence[float] | None = None,
        classes: Sequence[str] = (),
    ) -> list[str]:
        """What a person should know now, often nothing.

        step: statistics of the last step: diversity, d_loss, logit_gap, d_grad_norm, g_grad_norm. measured: the
        metrics, where this is a moment of measurement, with the best value of checkpoint.best_metric so far and a
        classifier's counts (k,) of the data's classes.
        """
        told = []
        if "diversity" in step and self._lasts("collapse", nimg, step["diversity"] < SAME_SAMPLE):
            told.append(
                f"mode collapse: the generator's samples vary {step['diversity']:.2f} times as much as the data's (1 "
                f"is right). Try {STEADIER}, a lower optim.g.lr, or a larger batch_size"
            )
        if self.draw > 0 and self._lasts("won", nimg, step["d_loss"] < WON * self.draw):
            told.append(
                f"the discriminator wins: its loss is {step['d_loss']:.3f}, and {self.draw:.2f} would be a draw; it "
                f"teaches little. Try a larger loss.r1_gamma (now {self.config.loss.r1_gamma:g}), a lower optim.d.lr, "
                "training.n_dis = 1, or with little data augment.kind = ada"
            )
        if self._lasts("lost", nimg, step["logit_gap"] < 0):
            told.append(
                "the discriminator is wrong: it rates generated samples above real ones (logits apart by "
                f"{step['logit_gap']:.2f}). Try a lower optim.g.lr, a larger model.d_width, or more training.n_dis"
            )
        for player, name in (("d", "discriminator"), ("g", "generator")):
            norm = step[f"{player}_grad_norm"]
            jump = self._jump(f"{player} gradient", nimg, norm)
            if self._lasts(f"{player} jump", nimg, abs(jump) > JUMP):
                how, fix = (
                    ("grown", f"a lower optim.{player}.lr, or {STEADIER}")
                    if jump > 0
                    else ("shrunk", "a lower optim.d.lr")
                )
                told.append(
                    f"the {name}'s gradient has {how} {math.exp(abs(jump)):.0f}-fold, to {norm:.3g}: the balance is "
                    f"lost. Try {fix}"
                )
        if measured:
            told += self._measured(nimg, measured, best, counts, classes)
        return told

    def _measured(
        self,
        nimg: int,
        measured: Mapping[str, float],
        best: float | None,
        counts: Sequence[float] | None,
        classes: Sequence[str],
    ) -> list[str]:
        told = []
        metric = self.config.checkpoint.best_metric
        value = measured.get(metric, 0.0)
        entry = self.counters.setdefault("worse", [0, -1])
        entry[0] = entry[0] + 1 if best is not None and value > WORSE * max(best, 1e-12) else 0
        if entry[0] >= MEASUREMENTS and self._tells(entry, nimg):
            told.append(
                f"getting worse: {metric.upper()} {value:.3g}, and {best:.3g} was the best, which is kept and "
                "exported. Try a lower optim.g.lr and optim.d.lr, or a shorter run (kimg)"
            )
        # Where an equal share is fewer than 30 images, none of a class may be chance
        if counts and sum(counts) >= 30 * len(counts) and nimg >= REPEAT * self.total:
            equal = sum(counts) / len(counts)
            rare = [
                classes[i] if i < len(classes) else str(i) for i, count in enumerate(counts) if count < RARE * equal
            ]
            entry = self.counters.setdefault("rare", [-1, -1])
            if rare and self._tells(entry, nimg):
                names = ", ".join(rare[:10]) + (f" and {len(rare) - 10} more" if len(rare) > 10 else "")
                told.append(
                    f"{len(rare)} of {len(counts)} classes hardly appear: {names}. Try {STEADIER}, model.conditioning "
                    "= projection, or a larger batch_size"
                )
        return told

    def _lasts(self, rule: str, nimg: int, holds: bool) -> bool:
        """Whether the rule has held for long enough to be told, now."""
        entry = self.counters.setdefault(rule, [-1, -1])
        if not holds:
            entry[0] = -1
            return False
        if entry[0] < 0:
            entry[0] = nimg
        return nimg - entry[0] >= max(3000, PATIENCE * self.total) and self._tells(entry, nimg)

    def _tells(self, entry: list[float], nimg: int) -> bool:
        if entry[1] >= 0 and nimg - entry[1] < REPEAT * self.total:
            return False
        entry[1] = nimg
        return True

    def _jump(self, name: str, nimg: int, norm: float) -> float:
        """log(norm / its geometric mean over about the last tenth of the budget), which then takes the norm in."""
        now = math.log(max(norm, 1e-30))
        before, mean = self.counters.setdefault(name, [nimg, now])
        keep = math.exp(-(nimg - before) / (0.1 * self.total))
        known = min(max(now, mean - JUMP), mean + JUMP)  # an outlier must not become what others are measured by
        self.counters[name] = [nimg, keep * mean + (1 - keep) * known]
        return now - mean
