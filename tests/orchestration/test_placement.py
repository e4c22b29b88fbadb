"""How many workers with what: decided, and refused, before anything is asked of Ray."""

import pytest

from distgan.config import ConfigError, load_config
from distgan.orchestration.placement import Placement, place

CPU2 = {"CPU": 2.0, "memory": 4e9}
GPU8 = {"CPU": 64.0, "GPU": 8.0}


def placed(nodes, **settings):
    return place(load_config(overrides=settings), nodes)


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([CPU2], {}, Placement(1, 1, 2, 0.0)),  # one process with all cores
        ([{"CPU": 1.0}], {}, Placement(1, 1, 1, 0.0)),
        ([CPU2, CPU2], {}, Placement(2, 2, 2, 0.0)),  # one a node
        ([{"CPU": 0.0}, CPU2, CPU2], {}, Placement(2, 2, 2, 0.0)),  # a head without CPUs
        ([CPU2], {"workers": 2}, Placement(2, 2, 1, 0.0)),
        ([{"CPU": 8.0}], {"workers": 3, "batch_size": 66}, Placement(3, 3, 2, 0.0)),
        ([{"CPU": 8.0}, CPU2], {"workers": 2}, Placement(2, 2, 4, 0.0)),
        ([CPU2], {"ray.cpus_per_worker": 1}, Placement(1, 1, 1, 0.0)),
        ([GPU8], {"batch_size": 512}, Placement(8, 8, 8, 1.0)),
        ([GPU8, GPU8, CPU2], {"batch_size": 512}, Placement(16, 16, 8, 1.0)),
        ([GPU8], {"batch_size": 12}, Placement(6, 6, 10, 1.0)),  # a batch that eight cannot share evenly
        ([GPU8], {"workers": 4, "batch_size": 64}, Placement(4, 4, 16, 1.0)),
        ([GPU8], {"workers": 2, "ray.gpus_per_worker": 0}, Placement(2, 2, 32, 0.0)),
        ([{"CPU": 4.0, "GPU": 1.0}], {"workers": 2, "ray.gpus_per_worker": 0.5}, Placement(2, 2, 2, 0.5)),
        ([CPU2], {"workers": "{min: 1, max: 2}"}, Placement(1, 2, 1, 0.0)),
        ([CPU2], {"workers": "{min: 1, max: 8}"}, Placement(1, 8, 1, 0.0)),  # more nodes may come
    ],
)
def test_placements(nodes, settings, expected):
    assert placed(nodes, **settings) == expected


@pytest.mark.parametrize(
    ("nodes", "settings", "says"),
    [
        (
            [CPU2],
            {"workers": 4},
            r"workers = 4: there are 2 CPUs and 0 GPUs on 1 node, room for 2 workers of 1 CPU; "
            r"allowed: auto, or 1 to 2",
        ),
        ([CPU2], {"workers": 2, "ray.cpus_per_worker": 2}, r"room for 1 worker of 2 CPUs; allowed: auto, or 1 to 1"),
        (
            [CPU2, {"CPU": 3.0}],
            {"workers": 2, "ray.cpus_per_worker": 4},
            r"ray\.cpus_per_worker = 4: no node has room for a worker of 4 CPUs "
            r"\(there are 5 CPUs .* on 2 nodes\); allowed: 1 to 3",
        ),
        (
            [GPU8],
            {"workers": 16, "batch_size": 64},
            r"64 CPUs and 8 GPUs on 1 node, room for 8 workers of \d+ CPUs? and 1 GPU",
        ),
        ([CPU2], {"ray.gpus_per_worker": 1}, r"ray\.gpus_per_worker = 1: no node .* allowed: 0 to 0"),
        ([{"CPU": 0.0}], {}, "no node of the cluster has that and a CPU"),
        ([], {}, "no node"),
        (
            [CPU2],
            {"training.cuda_graphs": "on"},
            r"training\.cuda_graphs = 'on': needs a GPU, and the workers have none",
        ),
        ([CPU2], {"workers": "{min: 3, max: 8}"}, r"workers = 3: .*room for 2"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(nodes, settings, says):
    with pytest.raises(ConfigError, match=says) as caught:
        placed(nodes, **settings)
    assert "\n" not in str(caught.value)


def test_in_words():
    assert str(Placement(1, 1, 2, 0.0)) == "1 worker with 2 CPUs each"
    assert str(Placement(2, 4, 1, 1.0)) == "2 to 4 workers with 1 GPU and 1 CPU each"
    assert Placement(1, 1, 2, 0.5).resources == {"CPU": 2, "GPU": 0.5}
    assert Placement(1, 1, 2, 0.0).resources == {"CPU": 2}
