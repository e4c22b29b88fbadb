"""Pictures of a search: the metric against images seen, and parallel coordinates. Drawn without a display, as PNG
bytes.

optuna.visualization.matplotlib colours by value on a linear scale, on which the good trials look alike, and takes no
baseline from outside the space. So the drawing is ours; the importances are optuna's.
"""

from __future__ import annotations

import io
import math
from typing import Any

from distgan.orchestration.tune.domain import Domain
from distgan.orchestration.tune.progress_table import short
from distgan.orchestration.tune.space import Space
from distgan.orchestration.tune.trial_records import Row
from distgan.registry import objectives


def curves(rows: list[Row], trials: dict[int, list[dict[str, Any]]], metric: str) -> bytes:
    """One line a trial; the best is emphasised, the baseline is dashed."""
    figure, axes = _figure(7, 4.5)
    best = min(row.objective for row in rows)
    for row in sorted(rows, key=lambda row: -row.objective):
        points = [(line["kimg"], line[metric]) for line in trials[row.number] if line.get(metric) is not None]
        if not points:
            continue
        is_best = row.objective == best
        colour, width = ("C3", 2.2) if is_best else ("C0" if row.baseline else "0.65", 1.0)
        label = (
            f"trial {row.number}{', baseline' if row.baseline else ''}, best"
            if is_best
            else "baseline"
            if row.baseline
            else None
        )
        style = "--" if row.baseline else "-"
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            markersize=3,
            linewidth=width,
            color=colour,
            linestyle=style,
            label=label,
        )
    if metric in objectives("lower"):
        from matplotlib.ticker import FuncFormatter, LogLocator

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        axes.grid(axis="y", color="0.92")
    axes.set_xlabel("kimg")
    axes.set_ylabel(metric.upper())
    axes.legend(frameon=False)
    return _png(figure)


def parallel(space: Space, rows: list[Row], metric: str) -> bytes:
    """Each trial a line through its values, coloured by its rank: dark is good. The metric's axis is logarithmic where
    it can be.
    """
    figure, axes = _figure(1.6 * (len(space.domains) + 2), 4.5)
    measured = sorted((row for row in rows if row.measured), key=lambda row: -row.objective)
    names = [*space.domains, metric]
    ends = [row.objective for row in measured]
    scale = math.log if min(ends) > 0 else float
    low, high = scale(min(ends)), scale(max(ends))
    for rank, row in enumerate(measured):
        heights = [_height(domain, row.values[key]) for key, domain in space.domains.items()]
        heights.append((scale(row.objective) - low) / (high - low) if high > low else 0.5)
        share = rank / max(1, len(measured) - 1)
        style = "--" if row.baseline else "-"
        axes.plot(
            range(len(names)), heights, color=str(0.85 - 0.85 * share), linewidth=0.8 + 1.6 * share, linestyle=style
        )
    words = {"fontsize": 8, "color": "C0", "xytext": (4, 3), "textcoords": "offset points"}
    words["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    for place, domain in enumerate(space.domains.values()):
        for value in domain.ends():
            axes.annotate(short(value), (place, _height(domain, value)), **words)
        axes.axvline(place, color="0.8", linewidth=0.8)
    axes.axvline(len(names) - 1, color="0.8", linewidth=0.8)
    sign = -1 if metric in objectives("higher") else 1
    for height, value in ((0.0, min(ends)), (1.0, max(ends))):
        axes.annotate(f"{sign * value:.4g}", (len(names) - 1, height), **words)
    axes.set_xticks(range(len(names)), names, rotation=20)
    axes.set_yticks([])
    axes.set_xlim(-0.3, len(names) - 0.4)
    return _png(figure)


def _height(domain: Domain, value: Any) -> float:
    """Where on its axis, 0 to 1, a value lies; what the baseline has beyond the domain lies at its end."""
    if domain.choices:
        numbers = all(isinstance(choice, int | float) for choice in domain.choices)
        choices = sorted(domain.choices) if numbers else list(domain.choices)
        return (choices.index(value) if value in choices else 0) / max(1, len(choices) - 1)
    if domain.log:
        value = math.log(max(value, domain.low) / domain.low) / math.log(domain.high / domain.low)
    else:
        value = (value - domain.low) / max(domain.high - domain.low, 1e-300)
    return float(min(max(value, 0.0), 1.0))


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
