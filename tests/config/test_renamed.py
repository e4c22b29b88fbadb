"""What an older version wrote down is read with the names of now, and an old name that is typed is answered with the
new one.
"""

import pytest
from tiny_run import TINY

from distgan.config import ConfigError, find_field, load_config
from distgan.config.renamed import GONE, RENAMED, modernise
from distgan.runs.prepare import read_run_config
from distgan.storage import Folder


def test_a_run_of_an_older_version_is_read(tmp_path):
    lines = "kimg: 3\ntraining: {compile: cuda-graphs, channels_last: auto, n_dis: 2}\n"
    Folder(tmp_path).write("config.yaml", lines)
    config = read_run_config(Folder(tmp_path))
    assert (config.kimg, config.training.n_dis, config.training.cuda_graphs) == (3, 2, "on")


@pytest.mark.parametrize(("how", "now"), [("off", "off"), ("on", "auto"), ("auto", "auto"), ("cuda-graphs", "on")])
def test_compile_becomes_cuda_graphs(how, now):
    values = modernise({"training": {"compile": how}})
    assert values["training"].get("cuda_graphs", "auto") == now


@pytest.mark.parametrize("name", [*RENAMED, *GONE])
def test_an_old_name_is_answered(name):
    assert find_field(name) is None
    with pytest.raises(ConfigError, match=r"did you mean (tune|data)\.|it is gone: "):
        load_config(overrides=TINY | {name: 3})


def test_a_run_of_before_has_its_share_of_held_out_samples_in_the_new_place():
    assert modernise({"metrics": {"holdout": 0.2, "samples": 9}}) == {
        "metrics": {"samples": 9},
        "data": {"holdout": 0.2},
    }
    assert modernise({"metrics": {"holdout": 0.2}, "data": {"holdout": 0.3}})["data"] == {"holdout": 0.3}
