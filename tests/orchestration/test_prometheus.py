"""A run's figures as Prometheus gauges."""

from __future__ import annotations

import math

import pytest

from distgan.orchestration.prometheus import finite_numbers, run_gauges


@pytest.fixture
def gauges(monkeypatch):
    """What was set, by name and tags; Ray's own gauge would need a cluster to be read back (tests/cluster does)."""
    seen: dict[tuple, float] = {}

    class Gauge:
        def __init__(self, name, description="", tag_keys=()):
            assert description
            self.name, self.keys = name, tag_keys

        def set(self, value, tags):
            assert set(tags) == set(self.keys)
            seen[(self.name, *sorted(tags.values()))] = value

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    return seen


def test_every_figure_is_exported(gauges):
    export = run_gauges("mnist", total_kimg=50, workers=2)
    export({"kimg": 3.2, "images_per_s": 900.0, "fid": 17.5, "d_loss": 1.2, "note": "text", "flag": True})
    assert gauges.pop(("distgan_reported_at_seconds", "mnist")) > 1.7e9
    assert gauges == {
        ("distgan_kimg", "mnist"): 3.2,
        ("distgan_total_kimg", "mnist"): 50,
        ("distgan_images_per_s", "mnist"): 900.0,
        ("distgan_fid", "mnist"): 17.5,
        ("distgan_value", "d_loss", "mnist"): 1.2,
        ("distgan_healthy", "mnist"): 1,
        ("distgan_workers", "mnist"): 2,
    }


def test_what_is_not_finite_is_unhealthy_and_not_drawn(gauges):
    run_gauges("mnist", total_kimg=50)({"fid": math.nan, "kid": 0.1})
    assert gauges[("distgan_healthy", "mnist")] == 0
    assert ("distgan_fid", "mnist") not in gauges
    assert finite_numbers({"a": math.inf, "b": 1}) == {"b": 1.0}


def test_other_ranks_export_nothing():
    assert run_gauges("mnist", total_kimg=1, rank=1) is None
