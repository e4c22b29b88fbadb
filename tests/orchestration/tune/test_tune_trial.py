"""One trial at a time, without a search: pausing changes nothing, exploits are exact, divergence ends well. No
cluster.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from distgan.config import ConfigError, RunConfig
from distgan.orchestration.placement import Placement
from distgan.orchestration.tune.search import _resources, place_trials
from distgan.orchestration.tune.trial import OBJECTIVE, WORST, Trial, interval_kimg, trial_config
from distgan.orchestration.tune.trial_checkpoints import (
    measurements,
    read_ancestry,
    stage_exploit,
    take_exploit,
    transplant,
)
from distgan.runs.beginning import copy_source, find_source, inherited
from distgan.storage import Folder
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context
from distgan.training.loop import train


def trial_class(config: RunConfig, home: Folder, source: Folder | None = None) -> type[Trial]:
    base = trial_config(config).model_dump(mode="json")
    place = source.uri if source is not None else ""

    class Here(Trial):
        def setup(self, config):
            super().setup(config, base=base, home=home.uri, placement=Placement(1, 1, 1, 0.0), source=place)

    return Here


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def stage(home: Folder, donor: int, taker: int, nimg: int, values: dict) -> bool:
    """Lay a donor's checkpoint ready for a taker, as an exchange does."""
    source, target = home.child(f"{donor:03d}"), home.child(f"{taker:03d}")
    begun = [{"kimg": 0.0, "values": {"g_lr": 1e-3}, "trial": donor}]
    return stage_exploit(source, target, nimg, taker, values, begun)


def run_out(trial: Trial) -> list[dict]:
    results = [trial.train()]
    while not results[-1]["done"]:
        results.append(trial.train())
    return results


@pytest.fixture
def searched(tiny):
    return lambda **changes: tiny(
        **{"tune.grace_share": 0.25, "tune.interval_share": 0.25, "checkpoint.keep": 9, **changes}
    )


def test_a_trial_that_stops_at_measurements_ends_as_one_that_does_not(searched, tmp_path):
    config, home = searched(), Folder(tmp_path / "s")
    trial = trial_class(config, home)({"number": 0, "values": {"g_lr": 3e-4}})
    results = run_out(trial)
    trial.stop()
    assert [r["kimg"] for r in results] == [0.256, 0.512, 0.768, 1.024]
    assert [r["interval"] for r in results] == [1, 2, 3, 4]
    assert [r[OBJECTIVE] for r in results] == [r["fid"] for r in results]
    own = trial_config(config)
    straight = own.model_copy(
        update={"optim": own.optim.model_copy(update={"g": own.optim.g.model_copy(update={"lr": 3e-4})})}
    )
    status = train(straight, Context(torch.device("cpu")), Folder(tmp_path / "straight"))
    assert status["values"]["fid"] == results[-1]["fid"]
    a, b = (
        CheckpointStore(home.child("000")).load(1024)[1],
        CheckpointStore(Folder(tmp_path / "straight")).load(1024)[1],
    )
    assert equal(a, b)


def test_a_reused_process_starts_the_next_trial_afresh_and_leaves_the_old_one_alone(searched, tmp_path):
    home = Folder(tmp_path / "s")
    trial = trial_class(searched(), home)({"number": 0, "values": {"g_lr": 3e-4}})
    trial.train()
    names, status = CheckpointStore(home.child("000")).names(), home.child("000").read("status.json")
    assert trial.reset({"number": 1, "values": {"g_lr": 3e-4}})
    assert (CheckpointStore(home.child("000")).names(), home.child("000").read("status.json")) == (names, status)
    first = trial.train()
    trial.stop()
    assert first["kimg"] == 0.256
    assert equal(CheckpointStore(home.child("000")).load(256)[1], CheckpointStore(home.child("001")).load(256)[1])


def test_what_was_measured_is_told_again_and_not_trained_again(searched, tmp_path):
    config, home = searched(), Folder(tmp_path / "s")
    trial = trial_class(config, home)({"number": 0, "values": {"g_lr": 3e-4}})
    told = [trial.train(), trial.train()]
    trial.stop()
    lines = home.child("000").read("metrics.jsonl")
    again = trial_class(config, home)({"number": 0, "values": {"g_lr": 3e-4}})  # a new driver that knows nothing of it
    assert [again.train()["fid"], again.train()["fid"]] == [r["fid"] for r in told]
    assert home.child("000").read("metrics.jsonl") == lines
    assert again.train()["kimg"] == 0.768
    again.stop()


def test_an_exploit_copies_to_the_last_bit_and_trains_with_the_new_rates(searched, tmp_path):
    config, home = searched(**{"tune.scheduler": "pbt"}), Folder(tmp_path / "s")
    kind = trial_class(config, home)
    good, bad = kind({"number": 0, "values": {"g_lr": 1e-3}}), kind({"number": 1, "values": {"g_lr": 1e-9}})
    for trial in (good, bad):
        trial.train()
        trial.train()
    stage(home, 0, 1, 512, {"g_lr": 8e-4})
    good.train()  # the donor goes on
    assert bad.reset({"number": 1, "values": {"g_lr": 8e-4}, "baseline": False})
    a, b = CheckpointStore(home.child("000")).load(512)[1], CheckpointStore(home.child("001")).load(512)[1]
    assert CheckpointStore(home.child("001")).names() == ["000000000512"]
    assert equal({**a, "best": {}}, b)
    assert equal(a["g_opt"], b["g_opt"])
    result = bad.train()
    bad.stop()
    good.stop()
    assert result["kimg"] == 0.768
    assert result["g_lr"] == 8e-4  # what the optimiser used, not what the config says
    # It trained from the copied weights with the new rates: the same done by hand gives the same to the last bit
    transplant(home.child("000"), Folder(tmp_path / "by-hand"), 512)
    own = bad._space.apply({"g_lr": 8e-4})
    hand = own.model_copy(update={"kimg": 0.768})
    train(hand, Context(torch.device("cpu")), Folder(tmp_path / "by-hand"))
    hand_state, state = (CheckpointStore(f).load(768)[1] for f in (Folder(tmp_path / "by-hand"), home.child("001")))
    assert equal(hand_state["G"], state["G"])
    assert equal(hand_state["ema"], state["ema"])
    assert not equal(CheckpointStore(home.child("000")).load(768)[1]["G"], state["G"])
    assert [e["trial"] for e in read_ancestry(home.child("001"))["schedule"]] == [0, 1]
    assert read_ancestry(home.child("001"))["schedule"][1] == {"kimg": 0.512, "values": {"g_lr": 8e-4}, "trial": 1}


def test_taking_twice_is_taking_once_and_a_pause_is_no_exploit(searched, tmp_path):
    config, home = searched(**{"tune.scheduler": "pbt"}), Folder(tmp_path / "s")
    kind = trial_class(config, home)
    donor, taker = kind({"number": 0, "values": {"g_lr": 1e-3}}), kind({"number": 1, "values": {"g_lr": 1e-5}})
    donor.train()
    changed = {"number": 1, "values": {"g_lr": 2e-3}}
    stage(home, 0, 1, 256, changed["values"])
    given = home.child("001/exploit").read("ancestry.json")
    taker.reset(changed)
    taker.train()
    newest = CheckpointStore(home.child("001")).names()[-1]
    # The driver died before it knew that the copy was taken over
    home.write("001/exploit/ancestry.json", given)
    taker.reset(changed)
    assert CheckpointStore(home.child("001")).names()[-1] == newest
    assert read_ancestry(home.child("001"))["exploits"] == 1
    assert not home.exists("001/exploit")
    assert taker.train()["kimg"] == 0.512
    # A pause: the donor goes on from where Tune knows it
    donor.reset({"number": 0, "values": {"g_lr": 1e-3}, "told": 256})
    assert donor.train()["kimg"] == 0.512
    donor.load_checkpoint(donor.save_checkpoint(""))
    assert donor.train()["kimg"] == 0.768
    donor.stop()
    taker.stop()


def test_a_diverged_trial_ends_with_a_large_finite_value_and_its_flag(searched, tmp_path):
    config = searched(**{"loss.name": "wasserstein", "optim.g.lr": 10, "optim.d.lr": 10, "kimg": 4.096})
    trial = trial_class(config, Folder(tmp_path / "s"))({"number": 0, "values": {"optim.d.weight_decay": 1e30}})
    results = run_out(trial)
    trial.stop()
    assert (results[-1][OBJECTIVE], results[-1]["diverged"], results[-1]["done"]) == (WORST, 1.0, True)


def test_a_diverged_member_of_a_population_waits_for_other_weights(searched, tmp_path):
    config, home = searched(**{"tune.scheduler": "pbt"}), Folder(tmp_path / "s")
    kind = trial_class(config, home)
    lost = kind({"number": 0, "values": {"optim.d.weight_decay": 1e30}})
    first = lost.train()
    while not first["diverged"]:
        first = lost.train()
    assert (first[OBJECTIVE], first["done"]) == (WORST, False)
    other = kind({"number": 1, "values": {"optim.d.weight_decay": 0.0}})
    other.train()
    stage(home, 1, 0, 256, {"optim.d.weight_decay": 0.0})
    lost.reset({"number": 0, "values": {"optim.d.weight_decay": 0.0}})
    assert lost.train()["diverged"] == 0.0
    other.stop()
    lost.stop()


def test_a_replay_changes_values_where_the_schedule_says(searched, tmp_path):
    config, home = searched(**{"tune.scheduler": "pbt"}), Folder(tmp_path / "s")
    schedule = [
        {"kimg": 0.0, "values": {"g_lr": 1e-3}, "trial": 0},
        {"kimg": 0.512, "values": {"g_lr": 5e-4}, "trial": 1},
    ]
    trial = trial_class(config, home)({"number": 0, "values": schedule[-1]["values"], "schedule": schedule})
    results = run_out(trial)
    trial.stop()
    assert [r["g_lr"] for r in results] == [1e-3, 1e-3, 5e-4, 5e-4]


def test_damaged_copies_and_missing_ones_are_told_apart(searched, tmp_path):
    home = Folder(tmp_path / "s")
    assert not stage(home, 0, 1, 0, {})
    trial = trial_class(searched(), home)({"number": 0, "values": {}})
    trial.train()
    assert not stage(home, 0, 1, 257, {})
    assert stage(home, 0, 1, 256, {})
    trial.stop()
    file = tmp_path / "s/001/exploit/checkpoints/000000000256/state.pt"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Exception, match="damaged"):
        take_exploit(home.child("001"))
    assert not Path(tmp_path / "s/001/ancestry.json").exists()


def test_trials_begin_with_the_weights_of_the_search_s_source(searched, tmp_path):
    config, home = searched(), Folder(tmp_path / "runs/search/trials")
    trial = trial_class(config, home)({"number": 0, "values": {"g_lr": 1e-3}})
    run_out(trial)
    trial.stop()
    Folder(tmp_path / "runs/search").write("winner.yaml", "folder: trials/000\n")
    for source in ("search", "search/trials/000", str(tmp_path / "runs/search/trials/000")):
        assert find_source(source, config.storage)[1].uri == home.child("000").uri
    later, given = inherited(config.model_copy(update={"finetune": "search"}), None)
    assert (later.finetune, given.kimg) == (str(tmp_path / "runs/search"), 1.024)
    copy = Folder(tmp_path / "later/finetune")
    copy_source(given, later, copy)
    home.remove("000")  # no trial needs it any more
    trial = trial_class(later, Folder(tmp_path / "later/trials"), copy)({"number": 3, "values": {"g_lr": 1e-4}})
    first = trial.train()
    begun = CheckpointStore(Folder(tmp_path / "later/trials/003")).load(0)[1]
    assert first["kimg"] == 0.256
    assert all(torch.equal(weight, begun["G"][name]) for name, weight in given.G.items())
    assert "fine-tuning from" in (tmp_path / "later/trials/003/finetuned.json").read_text()
    trial.stop()
    # The copy does for a search that goes on, whose source is away
    again, kept = inherited(later.model_copy(update={"finetune": "search"}), later, copy)
    assert again.finetune == later.finetune
    assert equal(kept.G, given.G)
    copy_source(kept, again, copy)
    # A trial whose settings do not fit is refused in words
    trial = trial_class(later, Folder(tmp_path / "later/trials"), copy)({"number": 4, "values": {"model.g_width": 16}})
    assert "model.g_width: 16 layers of G are of another width" in trial.train()["refused"]
    trial.stop()


def test_trials_are_measured_at_the_same_counts_on_the_same_samples(searched):
    config = trial_config(searched(**{"metrics.final_samples": 999, "tune.metric": "modes"}))
    assert (config.metrics.final_samples, config.metrics.samples) == (64, 64)
    assert config.metrics.every_kimg == config.checkpoint.every_kimg == interval_kimg(config) == 0.256
    assert config.metrics.names == ["modes", "fid"]
    assert config.training.on_divergence == "stop"


@pytest.mark.parametrize(
    ("nodes", "changes", "expected"),
    [
        ([{"CPU": 2}], {}, (Placement(1, 1, 1, 0.0), 2)),
        ([{"CPU": 8}], {"tune.num_samples": 3}, (Placement(1, 1, 2, 0.0), 3)),
        ([{"CPU": 8}], {"tune.max_concurrent_trials": 1}, (Placement(1, 1, 8, 0.0), 1)),
        ([{"CPU": 2}, {"CPU": 4}], {}, (Placement(1, 1, 1, 0.0), 6)),
        ([{"CPU": 16, "GPU": 1}], {"tune.trials_per_gpu": 3}, (Placement(1, 1, 5, 1 / 3), 3)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 4}], {}, (Placement(1, 1, 4, 1.0), 4)),
        ([{"CPU": 2}], {"workers": 2}, (Placement(2, 2, 1, 0.0), 1)),
        ([{"CPU": 5}], {"workers": 2}, (Placement(2, 2, 1, 0.0), 2)),
        (
            [{"CPU": 16, "GPU": 4}],
            {"workers": 2, "tune.trials_per_gpu": 2, "tune.num_samples": 9},
            (Placement(2, 2, 1, 0.5), 4),
        ),
    ],
)
def test_trials_at_once_always_fit(searched, nodes, changes, expected):
    placement, concurrent = place_trials(searched(**{"tune.num_samples": 16, **changes}), nodes)
    assert (placement, concurrent) == expected
    assert concurrent * placement.most * placement.cpus <= sum(node["CPU"] for node in nodes)


def test_a_trial_of_several_workers_holds_no_cpu_that_they_could_wait_for():
    assert _resources(Placement(1, 1, 3, 0.5)).required_resources == {"CPU": 3, "GPU": 0.5}
    assert not _resources(Placement(2, 2, 1, 0.0)).required_resources.get("CPU")


def test_what_does_not_fit_is_refused(searched):
    with pytest.raises(ConfigError, match="workers = 4"):
        place_trials(searched(workers=4), [{"CPU": 2}])


def test_torn_lines_are_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"nimg": 1, "fid": 3.0}) + '\n{"nimg": 2, "d_loss": 1}\n{"nimg": 3, "fi'
    )
    assert [line["nimg"] for line in measurements(Folder(tmp_path), "fid")] == [1]
