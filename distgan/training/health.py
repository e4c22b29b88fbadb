"""Does the game go well? A few signals at each log line, and where they say that it does not, a sentence with what to
try.

    blow-up        D's loss over a kimg is far above a draw, or it rates generated samples above real ones
    collapse       generated samples (of one class, where there are classes) differ far less than the data's do
    overpowering   D's loss over a kimg is next to nothing, and G's samples do vary: it learns nothing from D
    jump           a gradient is 30 times as large, or as small, as it was on average

A sign must last before it is told, once an episode; what passes before that is told as a spike that has passed, and the
end of what was told is told too. All that is remembered is part of the checkpoint, so that a resumed run says what an
uninterrupted one says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from distgan.config import RunConfig
from distgan.registry import LOSSES

KIMG, LASTS, STEPS = 900, 1900, 30
"""Images of what is called a kimg here (log lines come with whole steps), how long a sign must last, and for large
batches how many steps that is at least.
"""
REPEAT = 0.2  # of the budget, from one episode to the next that is told
BLOWN, CALM = 1.5 / math.log(2), 1.3  # D's loss beside a draw: 1.5 over a kimg marked nine blow-ups of nine
WON, FAIR = 0.1, 0.15
ALIKE, DIVERSE = 0.45, 0.55  # of the data's deviation: below the first is a collapse, above the second is none
SAME, VARIED = 0.28, 0.35  # the same along the data's main directions, where noise counts little
JUMP = math.log(30)  # of a gradient's norm against its mean over the last tenth of the budget
WORSE, MEASUREMENTS = 2.0, 3  # times the best measurement, so many in a row
RARE = 0.1  # of a class's equal share

STEADIER = "loss.name = relativistic with loss.r1_gamma and loss.r2_gamma of 1 or more"


class Health:
    """The rules of one run. `counters` is theirs, kept in the checkpoint: rule -> [holds since image, told at image,
    spike told at image, worst value], -1 = not; and sums.
    """

    def __init__(self, config: RunConfig, counters: dict[str, list[float]], noun: str = "samples") -> None:
        """noun: what a person calls several samples."""
        self.config, self.counters, self.noun = config, counters, noun
        self.total = config.total_images
        self.step = config.batch_size * config.training.n_dis
        self.kimg, self.lasts = max(KIMG, self.step * STEPS // 2), max(LASTS, self.step * STEPS)
        zero = torch.zeros(1)
        self.draw = float(LOSSES[config.loss.name].d(zero, zero))  # D's loss when it says the same of all samples

    def add(self, steps: int, nimg: int, means: Mapping[str, float]) -> None:
        """Take in the means over so many steps up to nimg, d_loss and logit_gap, whenever they are read."""
        window = self.counters.setdefault("window", [nimg - steps * self.step, 0.0, 0.0, 0.0])
        for i, value in enumerate((1.0, means["d_loss"], means["logit_gap"]), 1):
            window[i] += steps * value

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

        step: of this moment: diversity and diversity_main (`Variety`), d_grad_norm, g_grad_norm. measured: the metrics,
        where this is a moment of measurement, with the best value of checkpoint.best_metric so far and a classifier's
        counts (k,) of the data's classes.
        """
        told = [*self._collapse(nimg, step), *self._balance(nimg), *self._jumps(nimg, step)]
        if measured:
            told += self._measured(nimg, measured, best, counts, classes)
        return told

    # -- the rules ----------------------------------------------------------------------------------------------------

    def _collapse(self, nimg: int, step: Mapping[str, float]) -> list[str]:
        if "diversity_main" not in step or nimg <= self.kimg:
            return []
        varies, main = step["diversity"], step["diversity_main"]
        state = self._episode("collapse", nimg, varies < ALIKE and main < SAME, varies > DIVERSE or main > VARIED, main)
        ratio = f"{main:.2f} times as much as the data's along its main directions, {varies:.2f} times over all"
        if state == "told":
            rates, gamma = self._lower("d", "g"), min(self.config.loss.gammas)
            more = f", loss.r1_gamma and loss.r2_gamma of 1 (now {gamma:g})" if gamma < 1 else ""
            fix = rates + more if self._steady else STEADIER
            within = " of a class" if self.config.model.conditioning != "none" else ""
            return [
                f"mode collapse: generated {self.noun}{within} are nearly alike, they vary {ratio} (1 is right). Try "
                f"{fix}, a larger batch_size, or with few {self.noun} augment.kind = diffaugment"
            ]
        return [f"the mode collapse has passed: generated {self.noun} vary {ratio}"] if state == "passed" else []

    def _balance(self, nimg: int) -> list[str]:
        """What the means over a kimg say of D."""
        since, steps, *sums = self.counters.get("window", [nimg, 0, 0, 0])
        if not steps or nimg - since < self.kimg:
            return []
        d_loss, gap = (value / steps for value in sums)
        del self.counters["window"]
        told, draw, first = [], f"{self.draw:.2f} would be a draw", since < self.kimg  # which may look like anything
        limit = BLOWN * self.draw if self.draw > 0 else math.inf
        calm = gap >= 0 and (self.draw <= 0 or d_loss < CALM * self.draw)
        state = self._episode("blow-up", nimg, not first and (d_loss > limit or gap < 0), calm, d_loss, lasts=self.kimg)
        found = f"the discriminator's loss over a kimg is {d_loss:.2f} ({draw}), its logits for real and generated "
        found += f"{self.noun} are apart by {gap:.2f}"
        if state == "told":
            wrong = "rates generated samples above real ones" if gap < 0 else "is worse than chance"
            fix = self._lower("d", "g") if self.config.loss.has_penalty else f"{STEADIER}, {self._lower('d', 'g')}"
            told.append(f"blow-up: the discriminator {wrong}; {found}. Try {fix}, in a new run")
        elif state == "passed":
            told.append(f"the blow-up has passed: {found}")
        elif state == "spike" and self.counters["blow-up"][3] > limit:
            was = f"it was {self.counters['blow-up'][3]:.2f} over a kimg, is {d_loss:.2f} ({draw})"
            told.append(f"a spike of the discriminator's loss has passed: {was}")
        if self.draw <= 0:
            return told
        wins = d_loss < WON * self.draw and not self._suspects("collapse")
        state = self._episode("won", nimg, wins, d_loss > FAIR * self.draw, d_loss)
        if state == "told":
            (r1, r2), n_dis = self.config.loss.gammas, self.config.training.n_dis
            gamma = f"a larger loss.r1_gamma and loss.r2_gamma (now {r1:g} and {r2:g})"
            more = ", training.n_dis = 1" if n_dis > 1 else ""
            told.append(
                f"the discriminator wins: its loss over a kimg is {d_loss:.3f} ({draw}), and it teaches little. Try "
                f"{self._lower('d')}, {gamma}{more}, or with few {self.noun} augment.kind = diffaugment"
            )
        elif state == "passed":
            told.append(f"the discriminator no longer wins: its loss over a kimg is {d_loss:.3f} ({draw})")
        return told

    def _jumps(self, nimg: int, step: Mapping[str, float]) -> list[str]:
        told = []
        for player, name in (("d", "discriminator"), ("g", "generator")):
            norm = step[f"{player}_grad_norm"]
            jump = self._jump(f"{player} gradient", nimg, norm, frozen=self._suspects(f"{player} jump"))
            known = any(map(self._suspects, ("blow-up", "collapse", "won")))  # which says it better
            state = self._episode(f"{player} jump", nimg, abs(jump) > JUMP and not known, abs(jump) < JUMP / 2, jump)
            if state == "told":
                how = f"{'grown' if jump > 0 else 'shrunk'} {min(math.exp(abs(jump)), 1e6):.0f}-fold, to {norm:.3g}"
                fix = self._lower(player if jump > 0 else "d")
                told.append(f"the {name}'s gradient has {how}: the balance is lost. Try {fix}")
            elif state == "passed":
                told.append(f"the {name}'s gradient is as it was again: {norm:.3g}")
            elif state == "spike":
                worst = min(math.exp(abs(self.counters[f"{player} jump"][3])), 1e6)  # a gradient of 0
                told.append(f"a spike of the {name}'s gradient has passed: it was {worst:.0f} times off, is {norm:.3g}")
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
        # Where an equal share is fewer than 30 samples, none of a class may be chance
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

    # -- what they share ----------------------------------------------------------------------------------------------

    @property
    def _steady(self) -> bool:
        loss = self.config.loss
        return loss.name == "relativistic" and min(loss.gammas) > 0

    def _lower(self, *players: str) -> str:
        """Half the learning rates, as settings; of two the one alone that is far above the other."""
        rates = {"d": self.config.optim.d.lr, "g": self.config.optim.g.lr}
        chosen = [p for p in players if rates[p] * 8 >= max(rates.values())]
        return "a lower " + " and ".join(f"optim.{p}.lr ({rates[p] / 2:g}, say)" for p in chosen or players)

    def _suspects(self, rule: str) -> bool:
        return self.counters.get(rule, [-1])[0] >= 0

    def _episode(self, rule: str, nimg: int, bad: bool, good: bool, value: float, lasts: float | None = None) -> str:
        """Where the episode of a rule has come to: "told" (say it now), "passed" (after it was told), "spike" (passed
        before it was), or "". Between bad and good it goes on.
        """
        entry = self.counters.setdefault(rule, [-1, -1])
        entry += [-1.0] * (4 - len(entry))  # checkpoints of before have two numbers
        if bad:
            if entry[0] < 0:
                entry[0], entry[3] = nimg, value
            entry[3] = max(entry[3], value, key=abs)
            long = nimg - entry[0] >= (self.lasts if lasts is None else lasts)
            return "told" if long and entry[1] < entry[0] and self._tells(entry, nimg) else ""
        if not good or entry[0] < 0:
            return ""
        since, entry[0] = entry[0], -1
        if entry[1] >= since:
            return "passed"
        return "spike" if self._tells(entry, nimg, 2) else ""

    def _tells(self, entry: list[float], nimg: int, which: int = 1) -> bool:
        if entry[which] >= 0 and nimg - entry[which] < REPEAT * self.total:
            return False
        entry[which] = nimg
        return True

    def _jump(self, name: str, nimg: int, norm: float, *, frozen: bool) -> float:
        """log(norm / its geometric mean over about the last tenth of the budget), which then takes the norm in, unless
        frozen: what it has jumped from stays what it is measured by.
        """
        now = math.log(max(norm, 1e-30))
        before, mean = self.counters.setdefault(name, [nimg, now])
        keep = math.exp(-(nimg - before) / (0.1 * self.total))
        known = min(max(now, mean - JUMP), mean + JUMP)  # an outlier must not become what others are measured by
        self.counters[name] = [nimg, mean if frozen else keep * mean + (1 - keep) * known]
        return now - mean
