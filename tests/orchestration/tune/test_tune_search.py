"""Whole searches with Ray Tune, on one cluster for all: results, resuming, and a population that really exploits."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from tiny_run import TINY

from distgan.config import RayConfig, RunError, load_config
from distgan.orchestration.tune.population import JOURNAL, Population
from distgan.orchestration.tune.progress_table import Budget, ProgressTable, Watch
from distgan.orchestration.tune.schedulers import scheduler_of
from distgan.orchestration.tune.search import search
from distgan.orchestration.tune.search_algorithm import GANSearch
from distgan.orchestration.tune.space import Space, open_space
from distgan.orchestration.tune.trial import trial_config
from distgan.orchestration.tune.trial_checkpoints import read_ancestry, transplant
from distgan.orchestration.tune.trial_records import TrialRecords
from distgan.runs.prepare import prepare
from distgan.storage import Folder
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context
from distgan.training.loop import train

pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
SEARCH = TINY | {
    "tune.grace_share": 0.25,
    "tune.interval_share": 0.25,
    "tune.confirm_top": 0,
    "checkpoint.keep": 9,
    "ray.cpus_per_worker": 1,
}

# Small networks that do learn in so few images: an untrained one is measurably worse
LEARNS = {
    "model.latent_dim": 16,
    "model.g_width": 32,
    "model.d_width": 32,
    "model.g_norm": "none",
    "model.d_norm": "none",
    "data.limit": 500,
    "model.conditioning": "projection",
    "loss.name": "relativistic",
    "loss.r1_gamma": 0.3,
    "loss.r2_gamma": 0.3,
    "optim.g.lr": 3e-3,
    "optim.d.lr": 3e-3,
    "optim.g.beta1": 0,
    "optim.d.beta1": 0,
    "optim.g.beta2": 0.99,
    "optim.d.beta2": 0.99,
    "batch_size": 50,
    "kimg": 1.2,
    "metrics.samples": 200,
    "metrics.final_samples": 200,
    "training.ema_half_life_kimg": "[0.1]",
}


@pytest.fixture(scope="module")
def ray_here(caches):
    """One private cluster; searches find it running and leave it so."""
    from distgan.orchestration.cluster import cluster
    from distgan.orchestration.tune.search import _environment

    before = dict(os.environ)
    os.environ |= {"DISTGAN_CACHE": str(caches / "decoded"), "OMP_NUM_THREADS": "1"}
    for variable in [v for v in os.environ if v.startswith(("RAY_ADDRESS", "RAY_AUTH"))]:
        del os.environ[variable]
    os.environ["RAY_AUTH_MODE"] = "disabled"  # a token would have to be there before ray was imported
    _environment()
    with cluster(RayConfig()):
        yield
    os.environ.clear()
    os.environ |= before


def settings(tmp_path, space, **changes):
    words = SEARCH | {"storage": str(tmp_path), "name": "s"} | changes
    return load_config(overrides=words, base={"tune": {"space": space}})


def table(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stamps(home):
    return {str(p): p.stat().st_mtime_ns for p in Path(home).glob("trials/*/checkpoints/*/state.pt")}


def test_a_search_ends_with_a_winner_that_trains(ray_here, tmp_path, capsys):
    config = settings(
        tmp_path,
        {"g_lr": {"loguniform": [1e-6, 1e-3]}, "beta1": {"choice": [0.0, 0.5]}},
        **{"tune.num_samples": 8, "tune.metric": "fid,kid", "tune.confirm_top": 1, "tune.confirm_seeds": 2},
    )
    assert search(config) == 0
    said = capsys.readouterr().out
    assert "trials at once, of 1 worker with 1 CPU each" in said
    home = tmp_path / "s"
    rows = table(home / "trials.csv")
    assert [row["trial"] for row in rows] == [str(i) for i in range(8)]
    assert {row["state"] for row in rows} <= {"done", "stopped"}
    assert (rows[0]["baseline"], float(rows[0]["g_lr"]), float(rows[0]["beta1"])) == ("1", 2e-4, 0.5)
    assert any(row["state"] == "stopped" for row in rows)  # asha stopped some
    assert rows[0]["state"] == "done"  # but never that one
    again = table(home / "confirm.csv")
    confirmed = {row["trial"] for row in again}
    assert "0" in confirmed  # beside the best one, unless it is that
    assert len(confirmed) <= 2
    assert sorted((row["trial"], row["seed"]) for row in again) == sorted((t, s) for t in confirmed for s in ("1", "2"))
    best, winner = load_config(home / "best.yaml"), yaml.safe_load((home / "winner.yaml").read_text())
    assert best.optim.g.lr == winner["values"]["g_lr"]
    assert best.tune == load_config().tune
    assert (best.kimg, config.kimg) == (160, load_config(home / "search.yaml").kimg)  # a run's budget, not a trial's
    assert best.storage == str(tmp_path)
    for name in ("curves.png", "parallel.png"):
        assert (home / name).read_bytes().startswith(b"\x89PNG")
    assert len(table(home / "importance.csv")) == 2
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(home / "tensorboard/000")).Reload()
    assert "fid" in events.Tags()["scalars"]
    assert "_hparams_/session_start_info" in events.summary_metadata
    # The same again is done already: nothing is trained
    before = stamps(home)
    assert search(config) == 0
    assert stamps(home) == before
    # and with more trials it goes on where it was
    assert (
        search(config.model_copy(update={"tune": config.tune.model_copy(update={"num_samples": 9, "confirm_top": 0})}))
        == 0
    )
    assert len(table(home / "trials.csv")) == 9
    assert {k: v for k, v in stamps(home).items() if k in before} == before


def test_a_search_fine_tunes_with_samples_beside_it(ray_here, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    for number in range(64):
        Image.effect_noise((16, 16), 40 + number).save(f"own/{number}.png")
    own = {"data.name": "own", "data.limit": "null", "tune.scheduler": "none", "storage": str(tmp_path / "runs")}
    first = prepare(load_config(overrides=TINY | own | {"name": "first", "kimg": 0.064}))
    train(first.config, Context(torch.device("cpu")), first.folder)
    space = {"g_lr": {"choice": [1e-4, 1e-3]}}
    config = settings(tmp_path, space, **own, **{"finetune": "first", "tune.num_samples": 2, "kimg": 0.512})
    assert search(config) == 0
    first.folder.remove("")
    assert "train on    distgan train" in capsys.readouterr().out
    told = json.loads((tmp_path / "runs/s/trials/000/finetuned.json").read_text())["event"]
    assert told == f"fine-tuning from {first.folder} at 0.064 kimg: all weights"
    again = settings(tmp_path, space, **own, **{"finetune": "first", "tune.num_samples": 3, "kimg": 0.512})
    assert search(again) == 0  # goes on, with the weights that it kept
    lines = table(tmp_path / "runs/s/trials.csv")
    assert [(line["trial"], line["state"]) for line in lines] == [(n, "done") for n in "012"]
    assert (tmp_path / "runs/s/trials/002/finetuned.json").exists()


def test_a_population_exploits_for_real(ray_here, tmp_path):
    # With this seed trial 1 draws a rate of nearly nothing
    words = LEARNS | {
        "tune.scheduler": "pbt",
        "tune.num_samples": 2,
        "tune.quantile": 0.5,
        "checkpoint.keep": 99,
    }  # to look at all of them
    config = settings(tmp_path, {"g_lr": {"loguniform": [1e-12, 1e-2]}}, **words)
    config = next(c for c in (config.model_copy(update={"seed": s}) for s in range(99)) if drawn_rate(c) < 1e-9)
    assert search(config) == 0
    # Whichever of the two took over last has its checkpoints since then, and the other one those that it gave
    home, step = Folder(tmp_path / "s/trials"), 300
    number, ancestry = max(
        ((n, read_ancestry(home.child(n))) for n in ("000", "001")), key=lambda f: f[1].get("nimg", 0)
    )
    before, after = (entry["values"] for entry in ancestry["schedule"][-2:])
    assert ancestry["exploits"] >= 1
    assert ancestry["schedule"][-1]["trial"] == int(number)
    assert before["g_lr"] != after["g_lr"]
    assert 1e-12 <= after["g_lr"] <= 1e-2
    nimg, taker = ancestry["nimg"], CheckpointStore(home.child(number))
    given = home.child("001" if number == "000" else "000")
    weights = CheckpointStore(given).load(nimg)[1]
    for part in ("G", "D", "ema", "g_opt", "d_opt"):
        assert flat(weights[part]).equal(flat(taker.load(nimg)[1][part]))
    # What the trial did next is what those weights and its rates give, to the last bit
    ends = {}
    for name, values in (("own", after), ("giver's", before)):
        transplant(given, Folder(tmp_path / name), nimg)
        hand = Space(trial_config(config)).apply(values).model_copy(update={"kimg": (nimg + step) / 1000})
        train(hand, Context(torch.device("cpu")), Folder(tmp_path / name))
        ends[name] = flat(CheckpointStore(Folder(tmp_path / name)).load(nimg + step)[1]["G"])
    next_one = flat(taker.load(nimg + step)[1]["G"])
    assert ends["own"].equal(next_one)
    assert not ends["giver's"].equal(next_one)


def schedule(tmp_path, scheduler, ended=0, **changes):
    """A scheduler as a search makes it, after `ended` trials that ended with objective 1 in an earlier start."""
    space = open_space(
        settings(tmp_path, {"g_lr": {"uniform": [1e-4, 1e-3]}}, **{"tune.scheduler": scheduler} | changes)
    )
    records = TrialRecords(space.config, Folder(tmp_path / "s"))
    for number in range(1, ended + 1):
        records.write({"number": number, "values": {"g_lr": 5e-4}})
        lines = [{"nimg": nimg, "kimg": nimg / 1000, "fid": 1.0} for nimg in (256, 512, 768, 1024)]
        records.home.write(f"{number:03d}/metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        records.end(number, {"kimg": 1.024, "objective": 1.0})
    return space, records, scheduler_of(space, records, space.config.tune.num_samples, 2)


def stub(number, **changes):
    return TuneTrial("t", config={"number": number, "values": {"g_lr": 5e-4}, **changes}, stub=True)


def tell(chosen, trials, trial, kimg, objective, **more):
    result = {"kimg": kimg, "objective": objective, "trial_id": trial.trial_id, **more}
    return chosen.on_trial_result(Controller(*trials), trial, result)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_the_baseline_is_trained_to_the_end_however_bad(tmp_path, scheduler):
    chosen = schedule(tmp_path, scheduler)[2]
    good, bad, baseline = [stub(i) for i in range(1, 5)], stub(9), stub(0, baseline=True)
    trials = [*good, bad, baseline]
    for trial in trials:
        chosen.on_trial_add(Controller(), trial)
    ended = False
    for kimg in (0.256, 0.512, 0.768):
        for trial in good:
            tell(chosen, trials, trial, kimg, 1.0)
        ended = ended or tell(chosen, trials, bad, kimg, 100.0) == TrialScheduler.STOP
        assert tell(chosen, trials, baseline, kimg, 200.0) == TrialScheduler.CONTINUE
    assert ended


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_what_ended_before_counts_and_what_is_told_again_stops_nothing(tmp_path, scheduler):
    chosen = schedule(tmp_path, scheduler, ended=4)[2]
    bad, good = stub(5), stub(6)
    for trial in (bad, good):
        chosen.on_trial_add(Controller(), trial)
    for kimg in (0.256, 0.512):
        assert tell(chosen, [bad, good], bad, kimg, 100.0, retold=1.0) == TrialScheduler.CONTINUE
        assert tell(chosen, [bad, good], good, kimg, 0.5) == TrialScheduler.CONTINUE
    assert tell(chosen, [bad, good], bad, 0.768, 100.0) == TrialScheduler.STOP
    assert tell(chosen, [bad, good], good, 0.768, 0.5) == TrialScheduler.CONTINUE


class Controller:
    """What a scheduler sees of Tune: trials, and the wish to pause one."""

    def __init__(self, *trials):
        self.trials = list(trials)

    def get_trials(self):
        return self.trials

    get_live_trials = get_trials

    def pause_trial(self, trial, should_checkpoint):
        assert not should_checkpoint
        trial.status = TuneTrial.PAUSED


def member(records, number, kimg=0.256):
    """A trial under way, which has a checkpoint."""
    trial = stub(number, baseline=number == 0)
    trial.status = TuneTrial.RUNNING
    records.write(trial.config)
    store = CheckpointStore(records.home.child(f"{number:03d}"), keep=9)
    store.save(round(kimg * 1000), {"G": {"w": torch.full((2,), float(number))}, "best": {}})
    store.wait()
    return trial


def test_a_population_meets_and_its_worst_takes_over_from_its_best(tmp_path):
    space, records, population = schedule(tmp_path, "pbt", **{"tune.num_samples": 4})
    assert isinstance(population, Population)
    trials = [member(records, number) for number in range(4)]
    controller = Controller(*trials)
    for trial in trials:
        population.on_trial_add(controller, trial)
    for trial, objective in zip(trials[:3], (3.0, 1.0, 9.0), strict=True):
        assert population.on_trial_result(controller, trial, {"kimg": 0.256, "objective": objective}) == "NOOP"
        assert trial.status == TuneTrial.PAUSED
        assert population.choose_trial_to_run(controller) is None
    # The last one to come does not even pause, as nobody takes its place
    assert population.on_trial_result(controller, trials[3], {"kimg": 0.256, "objective": 2.0}) == "CONTINUE"
    assert [t.config["told"] for t in trials[:3]] == [256, 256, 256]
    changed = trials[2].config["values"]["g_lr"]
    assert changed != 5e-4
    assert [t.config["values"]["g_lr"] for t in (trials[0], trials[1], trials[3])] == [5e-4] * 3
    assert population.choose_trial_to_run(controller) is trials[0]  # two at once, and one is running
    trials[0].status = TuneTrial.RUNNING
    assert population.choose_trial_to_run(controller) is None
    # A driver that dies now, or dies before it has carried out what it wrote down, finds the same population again
    journal = json.loads(records.folder.read(JOURNAL))
    assert [(e["taker"], e["donor"], e["nimg"]) for e in journal["exploits"]] == [(2, 1, 256)]
    for begun in (True, False):
        if not begun:
            records.home.remove("002/exploit")
            records.write({"number": 2, "values": {"g_lr": 5e-4}})
        again = TrialRecords(space.config, records.folder)
        scheduler_of(space, again, 4, 2)
        assert again.proposed[2]["values"] == {"g_lr": changed}
        assert records.home.exists("002/exploit/ancestry.json")


def test_a_population_goes_on_when_one_that_all_wait_for_is_lost_and_copies_no_diverged_one(tmp_path):
    _, records, population = schedule(tmp_path, "pbt", **{"tune.num_samples": 3, "tune.quantile": 0.5})
    trials = [member(records, number) for number in range(3)]
    controller = Controller(*trials)
    for trial in trials:
        population.on_trial_add(controller, trial)
    for trial in trials[:2]:
        population.on_trial_result(controller, trial, {"kimg": 0.256, "objective": 1e6})
    assert population.choose_trial_to_run(controller) is None
    trials[2].status = TuneTrial.ERROR
    population.on_trial_error(controller, trials[2])
    assert population.choose_trial_to_run(controller) is trials[0]
    assert not json.loads(records.folder.read(JOURNAL))["exploits"]


def drawn_rate(config):
    from distgan.orchestration.tune.space import open_space

    return open_space(config).draw(1, config.seed)["g_lr"]


def flat(values):
    """All tensors below, in order, as one."""
    found, todo = [], [values]
    while todo:
        value = todo.pop()
        if isinstance(value, torch.Tensor):
            found.append(value.double().flatten())
        elif isinstance(value, dict):
            todo += [value[k] for k in sorted(value, key=str)]
        elif isinstance(value, list | tuple):
            todo += list(value)
    return torch.cat(found)


def test_diverged_trials_never_win_nor_end_the_search(ray_here, tmp_path):
    space = {"optim.d.weight_decay": {"choice": [1e30]}, "g_lr": {"uniform": [1e-5, 1e-3]}}
    assert (
        search(
            settings(tmp_path, space, **{"tune.num_samples": 5, "tune.searcher": "random", "tune.scheduler": "median"})
        )
        == 0
    )
    rows = table(tmp_path / "s/trials.csv")
    lost = [row for row in rows if float(row["optim.d.weight_decay"])]
    assert lost
    assert {row["state"] for row in lost} == {"diverged"}
    assert {row["fid"] for row in lost} == {""}
    assert yaml.safe_load((tmp_path / "s/winner.yaml").read_text())["values"]["optim.d.weight_decay"] == 0.0


@pytest.mark.parametrize("scheduler", ["hyperband", "pbt", "none"])
def test_other_schedulers_end(ray_here, tmp_path, scheduler):
    config = settings(
        tmp_path,
        {"g_lr": {"loguniform": [1e-5, 1e-3]}},
        **{"tune.num_samples": 4, "tune.scheduler": scheduler, "tune.searcher": "random"},
    )
    assert search(config) == 0
    rows = table(tmp_path / "s/trials.csv")
    assert len(rows) == 4
    if scheduler in ("none", "pbt"):
        assert {row["state"] for row in rows} == {"done"}
        assert {row["kimg"] for row in rows} == {"1.024"}


def test_budgets_end_a_search(ray_here, tmp_path):
    words = {"tune.num_samples": 50, "tune.total_kimg": 3, "tune.scheduler": "none"}
    config = settings(tmp_path, {"g_lr": {"loguniform": [1e-5, 1e-3]}}, **words)
    assert search(config) == 0
    rows = table(tmp_path / "s/trials.csv")
    assert 3 <= sum(float(row["kimg"]) for row in rows) < 7
    # The same again finds the budget spent, and the best ones not confirmed yet
    words |= {"tune.confirm_top": 1, "tune.confirm_seeds": 1}
    assert search(settings(tmp_path, {"g_lr": {"loguniform": [1e-5, 1e-3]}}, **words)) == 0
    assert len(table(tmp_path / "s/trials.csv")) == len(rows)
    assert table(tmp_path / "s/confirm.csv")


def test_what_an_interruption_ends_is_not_over(tmp_path):
    config = settings(tmp_path, {})
    records = TrialRecords(config, Folder(tmp_path / "s"))
    trials = [stub(i) for i in range(2)]
    for trial in trials:
        records.write(trial.config)
        trial.status = TuneTrial.RUNNING
    table = ProgressTable(config, records, "search", 2, Budget(records.folder, None, None))
    with table:
        Watch(table).on_step_end(1, trials)
        trials[0].status = TuneTrial.TERMINATED
        Watch(table).on_trial_complete(1, trials, trials[0])
        trials[1].status = TuneTrial.TERMINATED  # as Tune does at its end
    assert [row.state for row in table.rows] == ["stopped", "interrupted"]
    assert not table.over
    Watch(table).on_trial_complete(2, trials, trials[1])
    assert table.over


def test_an_interruption_changes_nothing_of_what_is_proposed(tmp_path):
    space = open_space(settings(tmp_path, {"g_lr": {"loguniform": [1e-5, 1e-3]}, "beta1": {"choice": [0.0, 0.5]}}))

    def proposals(name, *starts):
        """What is proposed if the search starts anew before these numbers; the last trial of a start never ends."""
        found = []
        for first, last in zip(starts, [*starts[1:], 16], strict=True):
            records = TrialRecords(space.config, Folder(tmp_path / name))
            numbers = [n for n in range(16) if records.ended(n) is None]
            assert numbers[0] == max(0, first - 1)
            search = GANSearch(space, records, numbers, set)
            for number in range(numbers[0], last):
                values = search.suggest(str(number))["values"]
                if number == last - 1 < 15:
                    break
                found.append(values)
                result = {"kimg": 1.024, "objective": abs(values["g_lr"] - 3e-4) * 1e4 + values["beta1"]}
                search.on_trial_complete(str(number), result)
                records.end(number, result)
        return found

    assert proposals("whole", 0) == proposals("broken", 0, 5, 13)


def test_paused_trials_leave_room_for_others(tmp_path):
    space, paused = open_space(settings(tmp_path, {"g_lr": {"uniform": [1e-4, 1e-3]}})), set()
    search = GANSearch(space, TrialRecords(space.config, Folder(tmp_path / "s")), [0, 1, 2, 3], lambda: paused)
    assert search.set_max_concurrency(2)
    assert search.suggest("a")["number"] == 0
    assert search.suggest("b")["number"] == 1
    assert search.suggest("c") is None
    paused.add("a")
    assert search.suggest("c")["number"] == 2
    assert search.suggest("d") is None
    search.on_trial_complete("b", {"objective": 1.0})
    assert search.suggest("d")["number"] == 3
    assert search.suggest("e") == "FINISHED"


def test_the_time_of_all_starts_counts(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    config, folder = settings(tmp_path, {}), Folder(tmp_path / "s")
    for start in range(3):
        budget = Budget(folder, 20.0, None)
        budget.table = ProgressTable(config, TrialRecords(config, folder), "search", 2, budget)
        assert budget.elapsed == 8 * start
        for _ in range(5):
            spent = budget.stop_all()
            now[0] += 2
        budget.close()
        assert spent == (start == 2)


def test_a_search_that_measured_nothing_says_why(ray_here, tmp_path):
    words = {"tune.num_samples": 2, "tune.metric": "modes", "metrics.extractor": "random-conv"}
    config = settings(tmp_path, {"g_lr": {"uniform": [1e-5, 1e-3]}}, **words)
    with pytest.raises(RunError, match="needs an extractor that classifies"):
        search(config)


def test_what_tune_leaves_behind_is_not_needed(ray_here, tmp_path):
    config = settings(
        tmp_path, {"g_lr": {"loguniform": [1e-5, 1e-3]}}, **{"tune.num_samples": 3, "tune.scheduler": "none"}
    )
    assert search(config) == 0
    before, rows = stamps(tmp_path / "s"), table(tmp_path / "s/trials.csv")
    Folder(tmp_path / "s").remove("ray")
    record = tmp_path / "s/trials/001/trial.json"  # as if the driver had died before it heard of this one's end
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "ended"}))
    assert search(config) == 0
    assert stamps(tmp_path / "s") == before
    after = table(tmp_path / "s/trials.csv")
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in after] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in rows
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Drivers that die, and trials of several workers: slow, in processes of their own


@pytest.fixture
def driver_of(tmp_path, caches):
    """`driver_of(**changes)`: the command with these settings. It and its Ray are gone after the test."""
    made = []

    def make(**changes):
        made.append(Driver(tmp_path, caches, **changes))
        return made[-1]

    yield make
    for driver in made:
        driver.leave_nothing()


class Driver:
    process = None

    def __init__(self, tmp_path, caches, **changes):
        words = SEARCH | {"storage": str(tmp_path), "name": "s", "engine": "ray"} | changes
        self.words = [w for k, v in words.items() for w in (f"--{k}", str(v))]
        self.home = tmp_path / "s"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}
        self.env |= {
            "DISTGAN_CACHE": str(caches / "decoded"),
            "OMP_NUM_THREADS": "1",
            "DISTGAN_SEARCH_UNDER_TEST": str(self.home),
        }

    def start(self, *words):
        words = words or ("tune", *self.words)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distgan", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
            start_new_session=True,
        )
        return self.process

    def finish(self, timeout):
        """What the process printed; it has to end well by itself, and in time."""
        try:
            said, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"still going on after {timeout} s: {self.process.communicate()[0]}")
        assert self.process.returncode == 0, said
        return said

    def leave_nothing(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        until = time.monotonic() + 30
        while time.monotonic() < until and rays_processes(self.home):
            time.sleep(0.2)
        for pid in rays_processes(self.home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def rays_processes(home):
    """Id and command of the processes whose environment names this search: Ray's, and its workers."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            marked = entry.name.isdigit() and f"DISTGAN_SEARCH_UNDER_TEST={home}".encode() in (
                entry / "environ"
            ).read_bytes().split(b"\0")
            if marked and (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found[int(entry.name)] = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
                )
        except OSError:
            continue
    return found


def saved_lines(home):
    """Trial -> the lines of its log up to its newest checkpoint, which nothing may train again."""
    found = {}
    for place in sorted((home / "trials").glob("*")):
        names = CheckpointStore(Folder(place)).names()
        if names and (place / "metrics.jsonl").exists():
            lines = (place / "metrics.jsonl").read_text().splitlines()
            whole = [line for line in lines if line.startswith('{"nimg"') and line.endswith("}")]
            found[place.name] = [line for line in whole if json.loads(line)["nimg"] <= int(names[-1])]
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scheduler", ["asha", "pbt"])
def test_a_driver_killed_five_times_loses_no_trial_and_trains_nothing_twice(tmp_path, driver_of, scheduler):
    (tmp_path / "space.yaml").write_text("g_lr: {loguniform: [1.0e-5, 1.0e-3]}\nbeta1: {uniform: [0.0, 0.9]}\n")
    driver = driver_of(
        **{"search": tmp_path / "space.yaml", "tune.num_samples": 6, "tune.scheduler": scheduler, "kimg": 20}
    )
    seed = random.randrange(10**6)
    moments, before, hit = random.Random(seed), {}, 0
    for _ in range(5):
        process = driver.start()
        until, seen = time.monotonic() + 120, newest_log(driver.home)
        while time.monotonic() < until and process.poll() is None and newest_log(driver.home) == seen:
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):  # from the first new line of a trial on, at any moment
            process.wait(moments.uniform(0, 12))
        hit += process.poll() is None
        process.kill()  # this process alone: Ray's are on their own then
        process.wait()
        until = time.monotonic() + 120
        while time.monotonic() < until and rays_processes(driver.home):
            time.sleep(0.2)
        assert rays_processes(driver.home) == {}, seed
        now = saved_lines(driver.home)
        if scheduler == "asha":  # a population's member drops its own past when it takes over another's weights
            for name, lines in before.items():
                assert now[name][: len(lines)] == lines, (seed, name)  # with their times of day: not written again
        before = now
    assert hit >= 3, f"seed {seed}: the search ended too soon for a test"
    driver.start("tune", "--resume", "s", "--storage", str(tmp_path))
    said = driver.finish(900)
    rows = table(driver.home / "trials.csv")
    assert [row["trial"] for row in rows] == [str(i) for i in range(6)], said
    assert {row["state"] for row in rows} <= {"done", "stopped"}
    assert len(list((driver.home / "trials").iterdir())) == 6
    for row in rows:
        lines = [
            json.loads(line)
            for line in (driver.home / f"trials/{int(row['trial']):03d}/metrics.jsonl").read_text().splitlines()
        ]
        counts = [line["nimg"] for line in lines if "event" not in line]
        assert counts == sorted(set(counts)), seed  # each point of a curve once
    if scheduler == "asha":
        for name, lines in before.items():
            assert saved_lines(driver.home)[name][: len(lines)] == lines, (seed, name)


def newest_log(home):
    return max((file.stat().st_mtime_ns for file in home.glob("trials/*/metrics.jsonl")), default=0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_a_search_that_can_go_on(tmp_path, driver_of, signal_):
    driver = driver_of(**{"tune.num_samples": 2, "tune.scheduler": "none", "kimg": 60})  # both of them under way
    process = driver.start()
    while process.poll() is None and not any(driver.home.glob("trials/*/metrics.jsonl")):
        time.sleep(0.2)
    time.sleep(3)
    process.send_signal(signal_)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert re.search(r"continue    distgan tune --resume s --storage", said)
    assert "interrupted" in {row["state"] for row in table(driver.home / "trials.csv")}
    driver.start("tune", "--resume", "s", "--storage", str(tmp_path))
    driver.finish(300)
    assert [row["state"] for row in table(driver.home / "trials.csv")] == ["done", "done"]


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two trials at once need two CPUs")
def test_trials_share_a_gpu(tmp_path, driver_of):
    # Ray believes in a GPU that is not there; trials then train on the CPU, but are placed as with one
    driver = driver_of(**{"tune.num_samples": 3, "tune.trials_per_gpu": 2, "tune.scheduler": "none"})
    code = "import sys, ray; ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False); "
    code += "from distgan.cli import main; sys.exit(main(sys.argv[1:]))"
    env = {**driver.env, "RAY_AUTH_MODE": "disabled", "CUDA_VISIBLE_DEVICES": "0"}
    words = [sys.executable, "-c", code, "tune", *driver.words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials at once, of 1 worker with 0.5 GPU and 1 CPU each" in done.stdout
    assert {row["state"] for row in table(driver.home / "trials.csv")} == {"done"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two CPUs")
def test_a_population_of_two_worker_trials_exploits_for_real(tmp_path, driver_of):
    (tmp_path / "space.yaml").write_text("g_lr: {loguniform: [1.0e-12, 1.0e-2]}\n")
    base = settings(tmp_path, {"g_lr": {"loguniform": [1e-12, 1e-2]}}, **LEARNS)
    seed = next(s for s in range(99) if drawn_rate(base.model_copy(update={"seed": s})) < 1e-9)
    driver = driver_of(
        **{
            "search": tmp_path / "space.yaml",
            "seed": seed,
            "workers": 2,
            "tune.scheduler": "pbt",
            "tune.num_samples": 2,
            "tune.quantile": 0.5,
            **LEARNS,
        }
    )
    driver.start()
    said = driver.finish(800)
    home = Folder(driver.home / "trials")
    ancestry = read_ancestry(home.child("001"))
    assert ancestry.get("exploits", 0) >= 1, said
    nimg = ancestry["nimg"]
    given, taken = (CheckpointStore(home.child(n)).load(nimg)[1] for n in ("000", "001"))
    for part in ("G", "D", "ema", "g_opt", "d_opt"):
        assert flat(given[part]).equal(flat(taken[part]))
    rates = [json.loads(line) for line in (driver.home / "trials/001/metrics.jsonl").read_text().splitlines()]
    after = [line["g_lr"] for line in rates if line["nimg"] > nimg and "g_lr" in line]
    assert set(after) == {ancestry["schedule"][-1]["values"]["g_lr"]}
