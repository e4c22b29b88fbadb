"""A run's figures on Ray's Prometheus endpoint, beside Ray's own: every node serves them at --metrics-export-port.

    ray_distgan_kimg{run="mnist"}            thousands of images seen          ray_distgan_total_kimg    ... of so many
    ray_distgan_images_per_s{run=...}        over the last log interval        ray_distgan_fid, ..._kid  of the averaged
    generator
    ray_distgan_healthy{run=...}             1; 0 if a figure is not finite    ray_distgan_workers       processes that
    train together
    ray_distgan_reported_at_seconds{run=...} Unix time of the report: silence shows here
    ray_distgan_value{run=...,name="d_loss"} everything else that is logged

Rank 0 alone exports. The dashboard in jobs/grafana.json draws them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

NAMED = {
    "kimg": "thousands of real images shown to the discriminator",
    "total_kimg": "the budget, in thousands of images",
    "images_per_s": "images seen in a second, all workers together",
    "fid": "FID of the averaged generator",
    "kid": "KID of the averaged generator",
}
"""Figures with a metric of their own; others share `distgan_value`."""

Report = Callable[[dict[str, Any]], None]


def run_gauges(run: str, *, total_kimg: float, rank: int = 0, workers: int = 1) -> Report | None:
    """What sets the gauges of run `run` from a report's metrics, on rank 0; None on other ranks."""
    if rank != 0:
        return None
    from ray.util.metrics import Gauge

    def gauge(name: str, text: str, *further: str) -> Any:
        return Gauge(f"distgan_{name}", description=text, tag_keys=("run", *further))

    gauges = {name: gauge(name, text) for name, text in NAMED.items()}
    others = gauge("value", "whatever else is logged, by name", "name")
    healthy = gauge("healthy", "1 if all figures of the last report are finite, else 0")
    count = gauge("workers", "processes that train together")
    reported_at = gauge("reported_at_seconds", "Unix time of the last report")

    def set_gauges(metrics: dict[str, Any]) -> None:
        tags = {"run": run}
        numbers = finite_numbers(metrics) | {"total_kimg": float(total_kimg)}
        for name, value in numbers.items():
            if name in gauges:
                gauges[name].set(value, tags)
            else:
                others.set(value, {**tags, "name": name})
        healthy.set(float(all(math.isfinite(v) for v in metrics.values() if _is_number(v))), tags)
        count.set(float(workers), tags)
        reported_at.set(time.time(), tags)

    return set_gauges


def finite_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures that can be drawn."""
    return {name: float(value) for name, value in metrics.items() if _is_number(value) and math.isfinite(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
