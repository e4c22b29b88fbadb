"""The model of messages recovers what it was made from; groups of workers train, exchange and take turns."""

import argparse
import os

import pytest
from benchmarks import scaling
from benchmarks.workers import Group, gradient_bytes


def test_the_fit_recovers_alpha_and_beta():
    sizes = [float(s) for s in scaling.SIZES]
    alpha, beta = scaling.fit(sizes, [2e-4 + 3e-9 * s for s in sizes])
    assert alpha == pytest.approx(2e-4, rel=1e-6)
    assert beta == pytest.approx(3e-9, rel=1e-6)


def test_the_fit_counts_small_messages_too_and_is_never_negative():
    """A large message 20 % off must not drown the latency; decreasing times must not give a negative one."""
    sizes = [1e3, 1e4, 1e5, 1e8]
    alpha, _ = scaling.fit(sizes, [1e-4 + 1e-9 * s * (1.2 if s == 1e8 else 1) for s in sizes])
    assert alpha == pytest.approx(1e-4, rel=0.1)
    assert all(x >= 0 for x in scaling.fit([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]))
    assert all(x >= 0 for x in scaling.fit([1.0, 2.0, 3.0], [0.9, 2.1, 3.2]))


def test_a_ring_within_a_node_costs_what_its_formula_says():
    cluster = scaling.Cluster(gpus_per_node=8, node_gb_per_s=100, node_latency_us=1, net_gb_per_s=10, net_latency_us=10)
    assert scaling.all_reduce_s(1e9, 1, cluster) == 0
    assert scaling.all_reduce_s(1e9, 4, cluster) == pytest.approx(6e-6 + 2 * 3 / 4 * 1e9 / 1e11)
    across = scaling.all_reduce_s(1e9, 16, cluster) - scaling.all_reduce_s(1e9, 8, cluster)
    assert across == pytest.approx(2 * 10e-6 + 2 * 1 / 2 * (1e9 / 8) / 1e10)


def test_predictions_are_ideal_where_nothing_costs_and_fall_where_it_does():
    free = scaling.Cluster(overlap=1, jitter=0, most_gpus=64)
    rows = scaling.predict_all([10**6], free)
    assert [row["gpus"] for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    assert all(row["efficiency"] == pytest.approx(1) for row in rows)
    costly = scaling.predict_all([10**6], scaling.Cluster(overlap=0, jitter=0.05, most_gpus=64))
    efficiencies = [row["efficiency"] for row in costly]
    assert efficiencies[0] == pytest.approx(1)
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert efficiencies[-1] < 0.9
    assert costly[-1]["strong_images_per_s"] < costly[-1]["images_per_s"]  # launches do not shrink with the batch


def test_messages_hold_all_gradients(tiny):
    from benchmarks.parts import build

    parts = build(tiny())
    for network in (parts.state.G, parts.state.D):
        assert sum(gradient_bytes(network)) == 4 * sum(p.numel() for p in network.parameters())


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two CPUs")
def test_contenders_take_turns_and_tables_come_out(tiny, capsys):
    found = scaling.measure(tiny(), most=2, rounds=2, seconds=0.05, repeats=2)
    assert set(found["windows"]) == {
        "base",
        "weak 2",
        "weak 2: threads",
        "weak 2: apart",
        "strong 2",
        "strong 2: threads",
    }
    for windows in found["windows"].values():
        assert len(windows) == 2
        assert all(value > 0 for w in windows for value in w.values())
    assert set(found["all_reduce_s"]) == {"2"}
    weak, strong = scaling.efficiencies(found)[2]
    assert len(weak["threads"]) == len(strong["threads"]) == 2
    scaling.show("tiny", found)
    scaling.show_prediction("tiny", [1000], scaling.Cluster(), scaling.predict_all([1000], scaling.Cluster()))
    said = capsys.readouterr().out
    assert "2 workers" in said
    assert "1,024 GPUs" in said


def test_a_worker_that_fails_says_why(tiny):
    with Group(tiny().model_dump(mode="json"), 1, 1) as group:
        group.ask("start")
        with pytest.raises(SystemExit, match="`build` comes before"):
            group.ask("train", steps=1)


def test_every_assumption_is_an_option():
    parser = argparse.ArgumentParser()
    scaling.add_arguments(parser)
    options = parser.parse_args(["--net-gb-per-s", "12.5"])
    assert options.net_gb_per_s == 12.5
    assert set(vars(scaling.Cluster())) == set(scaling.HELP)
    assert all(hasattr(options, field) for field in scaling.HELP)
