"""The whole loop in one process: what it leaves behind, and that interrupted + resumed == uninterrupted."""

import json
import math
import os
import shutil
import threading

import fake_graph
import numpy as np
import pytest
import torch
from PIL import Image

from distgan.config import ConfigError, RunError, load_config
from distgan.export.generator import load_generator
from distgan.runs.prepare import differences, prepare, read_run_config
from distgan.storage import Folder
from distgan.training import context as context_module
from distgan.training import long_steps, loop
from distgan.training import train_step as step_module
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context
from distgan.training.inputs import Inputs
from distgan.training.logs import read_status
from distgan.training.measurement import Measurement

CPU = torch.device("cpu")


def run(config, on_tick=None):
    """Train as `distgan train --engine local` does; returns (status, folder)."""
    prepared = prepare(config)
    context = Context(CPU)
    try:
        status = loop.train(
            prepared.config, context, prepared.folder, on_tick=lambda s: on_tick and on_tick(s, context)
        )
    finally:  # what an interrupted process would not live to see
        for thread in threading.enumerate():
            if thread.name == "checkpoint-writer":
                thread.join()
    return status, prepared.folder


def newest(folder):
    return CheckpointStore(folder).newest()


def assert_same_state(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_state(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def curves(folder, *, all_lines=True):
    """metrics.jsonl without what depends on the clock."""
    found = [json.loads(line) for line in folder.read("metrics.jsonl").decode().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("time", "images_per_s")}
        for line in found
        if all_lines or "fid" in line
    ]


CASES = {
    "batchnorm": {},
    "everything": {
        "batch_size": 16,
        "training.n_dis": 2,
        "model.conditioning": "projection",
        "model.g_norm": "none",
        "model.d_norm": "none",
        "loss.name": "relativistic",
        "loss.r1_gamma": 0.1,
        "loss.r2_gamma": 0.1,
        "loss.penalty_every": 3,
        "augment.kind": "ada",
        "augment.policy": "[translate, colour]",
        "augment.p": 0.1,
        "augment.target": 0.6,
        "augment.ramp_kimg": 1,
        "data.mirror": True,
        "optim.g.lr_schedule.kind": "cosine",
        "optim.g.lr_schedule.final": 0.1,
        "optim.d.beta2_schedule.kind": "linear",
        "optim.d.beta2_schedule.final": 0.5,
        "training.ema_half_life_kimg": "[0.1, 0.5]",
    },
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folders of undisturbed runs, made once each."""
    made = {}

    def get(name, tiny):
        if name not in made:
            made[name] = run(tiny(**CASES[name], storage=str(tmp_path_factory.mktemp(name))))[1]
        return made[name]

    return get


def test_what_a_run_leaves_behind(tiny, uninterrupted):
    folder = uninterrupted("batchnorm", tiny)
    assert folder.list() == [
        "checkpoints",
        "config.yaml",
        "data.json",
        "generator",
        "metrics.jsonl",
        "samples",
        "statistics",
        "status.json",
    ]
    config = read_run_config(folder)
    assert not differences(config, tiny())
    lines = curves(folder)
    assert [line["nimg"] for line in lines] == list(range(128, 1025, 128))
    expected = {"d_loss", "g_loss", "d_real", "d_fake", "logit_gap", "d_grad_norm", "g_grad_norm", "g_lr", "d_lr"}
    for line in lines:
        assert expected <= line.keys()
        assert all(math.isfinite(line[k]) for k in expected)
        assert ("fid" in line) == (line["nimg"] % 512 == 0)
    assert folder.list("samples") == ["000000.png", "000001.png", "reals.png"]
    status = read_status(folder)
    assert (status["state"], status["nimg"], status["total_kimg"]) == ("complete", 1024, 1.024)
    assert status["values"]["images_per_s"] > 0
    best = min((line for line in lines if "fid" in line), key=lambda line: line["fid"])
    assert (status["best"]["nimg"], status["best"]["value"]) == (best["nimg"], best["fid"])
    kept = [int(n) for n in CheckpointStore(folder).names()]
    assert kept == sorted(
        {0, best["nimg"], 768, 1024}
    )  # 0 to go back to: the others are too near to be before a blow-up


def test_losses_are_those_of_the_run_s_own_steps(tiny, uninterrupted):
    first = curves(uninterrupted("batchnorm", tiny))[0]
    assert first["d_real"] == pytest.approx(0.5, abs=0.2)
    assert first["d_loss"] == pytest.approx(2 * math.log(2), abs=0.5)
    assert first["d_lr"] == first["g_lr"] == 2e-4


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["stop", "exception", "both"])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(tiny, uninterrupted, case, how, monkeypatch):
    for module, limit in ((context_module, "SLOW_S"), (long_steps, "LONG_S")):
        monkeypatch.setattr(module, limit, math.inf)  # a stop makes one more step, however busy the machine is

    class PowerCutError(Exception):
        pass

    def stop(status, context):
        if 300 < status["nimg"] < 500:
            context.request_stop()

    def fail(status, context):
        if 600 < status["nimg"] < 800:
            raise PowerCutError

    config = tiny(**CASES[case])
    step = config.batch_size * config.training.n_dis
    if how in ("stop", "both"):
        status, folder = run(config, stop)
        assert status["state"] == "stopped"
        assert status["nimg"] == 384 + step  # noticed at the next step, which is between two cadences
        assert newest(folder)[0] == status["nimg"]
        assert prepare(config).state == "resume"
    if how in ("exception", "both"):
        with pytest.raises(PowerCutError):
            run(config, fail)
        folder = prepare(config).folder
        assert newest(folder)[0] == 512
        assert curves(folder)[-1]["nimg"] == 640  # past the checkpoint: must be taken back
    status, folder = run(config)
    assert status["state"] == "complete"

    whole = uninterrupted(case, tiny)
    assert_same_state(newest(folder)[1], newest(whole)[1])
    assert folder.read("generator/generator.safetensors") == whole.read("generator/generator.safetensors")
    assert folder.read("samples/000001.png") == whole.read("samples/000001.png")
    if how == "exception":
        assert curves(folder) == curves(whole)
    else:  # the window of means that the stop cut in two differs; measurements do not
        assert [(line["nimg"], line["fid"]) for line in curves(folder, all_lines=False)] == [
            (line["nimg"], line["fid"]) for line in curves(whole, all_lines=False)
        ]
        assert len(curves(folder)) == len(curves(whole)) + 1


def test_a_damaged_checkpoint_costs_time_and_nothing_else(tiny, uninterrupted):
    config = tiny(kimg=0.768, **{"metrics.every_kimg": 5})
    _, folder = run(config)
    folder.write(f"checkpoints/{768:012d}/state.pt", b"damaged")
    longer = tiny(**{"metrics.every_kimg": 5})
    with pytest.warns(UserWarning, match="000000000768 is damaged"):
        run(longer)
    assert_same_state(newest(folder)[1]["G"], newest(uninterrupted("batchnorm", tiny))[1]["G"])


def test_the_same_command_again_is_complete_and_a_larger_budget_goes_on(tiny, uninterrupted):
    config = tiny(kimg=0.512)
    run(config)
    assert prepare(config).state == "complete"
    assert prepare(tiny(kimg=0.256)).state == "complete"
    longer = tiny()
    assert prepare(longer).state == "resume"
    status, folder = run(longer)
    assert status["nimg"] == 1024
    ours, theirs = newest(folder)[1], newest(uninterrupted("batchnorm", tiny))[1]
    del ours["health"], theirs["health"]  # what its warnings wait for is a share of the budget
    assert_same_state(ours, theirs)
    assert prepare(longer).state == "complete"


def test_another_run_of_the_same_name_is_refused_and_free_settings_are_free(tiny):
    run(tiny(kimg=0.128))
    with pytest.raises(
        ConfigError, match=r"optim\.g\.lr = 0\.001: run .* was started with 0\.0002\nseed = 3|seed = 3.*\n.*optim"
    ) as caught:
        prepare(tiny(seed=3, **{"optim.g.lr": 1e-3}))
    assert "another --name" in str(caught.value)
    assert read_run_config(prepare(tiny(kimg=0.256, **{"log.every_kimg": 0.5})).folder).kimg == 0.256


def test_seeds_make_different_runs_and_the_same_seed_the_same(tiny, tmp_path):
    finals = [newest(run(tiny(kimg=0.128, seed=s, name=name))[1])[1]["G"] for s, name in ((0, "a"), (0, "b"), (1, "c"))]
    assert_same_state(finals[0], finals[1])
    assert not all(torch.equal(a, b) for a, b in zip(finals[0].values(), finals[2].values(), strict=True))


# -- the best is kept and exported ------------------------------------------------------------------------------------


def test_the_generator_is_the_best_one_not_the_last(tiny, monkeypatch):
    scores = iter([30.0, 10.0, 20.0, 40.0])
    monkeypatch.setattr(Measurement, "__call__", lambda *a: {"fid": next(scores)})
    status, folder = run(tiny(**{"metrics.every_kimg": 0.256}))
    assert status["best"] == {"metric": "fid", "value": 10.0, "nimg": 512, "ema": 0}
    store = CheckpointStore(folder)
    assert [int(n) for n in store.names()] == [0, 512, 768, 1024]
    generator = load_generator(folder.child("generator"))
    assert generator.info["kimg"] == 0.512
    best, last = store.load(512)[1]["ema"], store.load(1024)[1]["ema"]
    weights = generator.G.state_dict()
    assert all(torch.equal(weights[name], best[f"0.2/{name}"]) for name in weights)
    assert not all(torch.equal(weights[name], last[f"0.2/{name}"]) for name in weights)


def test_of_several_averages_the_best_at_the_end_is_exported(tiny, monkeypatch):
    measured = []  # the averages, in the order in which they are measured

    def score(self, G, n):
        if not any(G is other for other in measured):
            measured.append(G)
        return {"fid": [9.0, 3.0, 6.0][next(i for i, other in enumerate(measured) if other is G)]}

    monkeypatch.setattr(Measurement, "__call__", score)
    status, folder = run(tiny(**{"training.ema_half_life_kimg": "[0, 0.1, 0.5]", "metrics.every_kimg": 5}))
    assert status["best"]["ema"] == 1
    generator = load_generator(folder.child("generator"))
    assert generator.info["ema_half_life_kimg"] == 0.1
    averages = newest(folder)[1]["ema"]
    weights = generator.G.state_dict()
    assert all(torch.equal(weights[name], averages[f"0.1/{name}"]) for name in weights)


# -- divergence -------------------------------------------------------------------------------------------------------


def poison(monkeypatch, when):
    """Losses of D become NaN where `when(nimg, rollbacks)` says so."""
    real = loop.TrainStep.__call__

    def step(self, **how):
        stats = real(self, **how)
        if when(self.state.nimg, self.state.rollbacks):
            with torch.no_grad():
                for parameter in self.state.D.parameters():
                    parameter.fill_(math.nan)
            stats["d_loss"] = stats["d_loss"] * math.nan
        return stats

    monkeypatch.setattr(loop.TrainStep, "__call__", step)


def test_after_non_finite_numbers_the_run_goes_back_and_takes_another_way(tiny, uninterrupted, monkeypatch):
    poison(monkeypatch, lambda nimg, rollbacks: nimg == 704 and rollbacks == 0)
    status, folder = run(tiny())
    assert status["state"] == "complete"
    final = newest(folder)[1]
    assert final["rollbacks"] == 1
    assert all(bool(torch.isfinite(t).all()) for part in ("G", "D", "ema") for t in final[part].values())
    events = [line for line in curves(folder) if "event" in line]
    told = "diverged at 0.768 kimg: gone back to the last checkpoint, on with new noise"
    assert [(e["nimg"], e["event"]) for e in events] == [(512, told)]
    seen = [line["nimg"] for line in curves(folder) if "event" not in line]
    assert seen == sorted(set(seen))  # the lines of the way that was given up are gone
    other = newest(uninterrupted("batchnorm", tiny))[1]
    assert not torch.equal(final["G"]["output.weight"], other["G"]["output.weight"])  # new noise after 0.512 kimg


def test_a_restart_after_a_rollback_takes_the_new_way_too(tiny, monkeypatch):
    poison(monkeypatch, lambda nimg, rollbacks: nimg == 704 and rollbacks == 0)
    _, whole = run(tiny(name="whole"))

    def fail(status, context):
        if status["nimg"] >= 640 and newest(prepare(tiny()).folder)[1]["rollbacks"]:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(tiny(), fail)
    _, folder = run(tiny())
    assert_same_state(newest(folder)[1], newest(whole)[1])


def test_a_run_that_goes_on_diverging_ends_with_words(tiny, monkeypatch):
    poison(monkeypatch, lambda nimg, rollbacks: nimg == 704)
    with pytest.raises(
        RunError, match=r"not finite at 0\.768 kimg \(rollbacks so far: 2\).*optim\.d\.lr.*training\.max_rollbacks"
    ):
        run(tiny(**{"training.max_rollbacks": 2}))
    assert newest(prepare(tiny()).folder)[0] == 512  # nothing that diverged was saved


def test_stop_on_divergence(tiny, monkeypatch):
    poison(monkeypatch, lambda nimg, rollbacks: nimg == 64)
    with pytest.raises(RunError, match=r"not finite at 0\.128 kimg \(rollbacks so far: 0\)"):
        run(tiny(**{"training.on_divergence": "stop"}))


# -- other places and other data --------------------------------------------------------------------------------------


def test_the_same_run_in_an_object_store(tiny, uninterrupted):
    _, folder = run(tiny(storage="memory://loop-test/runs"))
    assert not folder.is_local
    whole = uninterrupted("batchnorm", tiny)
    assert folder.list() == whole.list()
    assert_same_state(newest(folder)[1], newest(whole)[1])
    assert curves(folder) == curves(whole)
    assert prepare(tiny(storage="memory://loop-test/runs")).state == "complete"


def test_memory_mapped_data_gives_the_same_run(tiny, uninterrupted):
    _, folder = run(tiny(**{"data.device_mib": 0}))
    assert_same_state(newest(folder)[1]["G"], newest(uninterrupted("batchnorm", tiny))[1]["G"])


def test_a_conditional_run_on_own_arrays(tiny, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=pixels, labels=np.arange(50) % 3)
    config = tiny(
        kimg=0.128,
        **{
            "data.name": str(tmp_path / "own.npz"),
            "data.limit": "null",
            "model.name": "dcgan",
            "model.conditioning": "auxiliary",
        },
        **{
            "model.g_width": 4,
            "model.d_width": 4,
            "metrics.every_kimg": 5,
            "metrics.names": "[kid]",
            "checkpoint.best_metric": "kid",
        },
    )
    status, folder = run(config)
    assert status["best"]["metric"] == "kid"
    generator = load_generator(folder.child("generator"))
    assert (*generator.spec.shape[:2], len(generator.classes)) == (3, 16, 3)


def test_a_run_goes_on_with_its_own_samples_alone(tiny, tmp_path):
    place, elsewhere = tmp_path / "own", tmp_path / "moved"

    def write(counts, seed=0, folder=place):
        draw = np.random.default_rng(seed)
        shutil.rmtree(folder, ignore_errors=True)
        for name, n in counts.items():
            (folder / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(draw.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / name / f"{i}.png")

    how = {"data.limit": "null", "model.name": "dcgan", "metrics.names": "[kid]", "checkpoint.best_metric": "kid"}
    how |= {"model.g_width": 4, "model.d_width": 4, "metrics.every_kimg": 5, "data.name": str(place)}
    write({"cat": 30, "dog": 30})
    folder = run(tiny(kimg=0.128, **how))[1]
    began = folder.read("config.yaml"), folder.read("data.json")
    for changed, seed, says in (
        ({"cat": 30, "dog": 30, "eel": 30}, 0, r"it has 3 classes now \(cat, dog, eel\), the run 2 \(cat, dog\)"),
        ({"cat": 30, "cow": 30}, 0, r"2 classes now \(cat, cow\), the run 2 \(cat, dog\)"),
        ({"cat": 30, "dog": 29}, 0, "59 samples now, and had 60"),
        ({"cat": 29, "dog": 31}, 0, r"other numbers of samples now \(cat 29, was 30, dog 31, was 30\)"),
        ({"cat": 30, "dog": 30}, 1, "as many samples of the same classes, but other ones"),
    ):
        write(changed, seed)
        with pytest.raises(ConfigError, match=f"{says}.*Put the samples back.*another --name"):
            prepare(tiny(kimg=0.256, **how))
        with pytest.raises(ConfigError, match=says):  # and where the driver cannot see them, the workers do
            loop.train(tiny(kimg=0.256, **how), Context(), folder)
        assert (folder.read("config.yaml"), folder.read("data.json")) == began
    write({"cat": 30, "dog": 30})
    shutil.move(place, elsewhere)
    status, _ = run(tiny(kimg=0.256, **how | {"data.name": str(elsewhere)}))
    assert (status["state"], status["nimg"]) == ("complete", 256)
    assert read_run_config(folder).data.name == str(elsewhere)

    folder.remove("data.json")  # a run of before it: its checkpoint still knows
    write({"cat": 30, "dog": 30}, 1, elsewhere)
    with pytest.raises(ConfigError, match=r"is not what .* was started on"):
        loop.train(tiny(kimg=0.384, **how | {"data.name": str(elsewhere)}), Context(), folder)
    write({"cat": 30, "dog": 30}, 0, elsewhere)
    loop.train(tiny(kimg=0.384, **how | {"data.name": str(elsewhere)}), Context(), folder)
    assert json.loads(folder.read("data.json")) == json.loads(began[1]) | {"name": "moved"}


def test_what_cannot_work_is_refused_before_anything_is_written(tiny, tmp_path):
    for changes, says in (
        ({"model.name": "dcgan", "data.resolution": "20"}, r"data\.resolution = 20: .*16, 28, 32"),
        ({"data.name": "mnist11k"}, "did you mean mnist10k"),
        ({"data.labels": "false", "model.conditioning": "projection"}, r"model\.conditioning = 'projection'"),
        ({"model.generator": "nowhere:G"}, "cannot import nowhere"),
    ):
        with pytest.raises(ConfigError, match=says):
            prepare(tiny(**changes))
        assert not os.path.exists(tmp_path / "runs" / "tiny")


def test_a_foreign_folder_is_left_alone(tiny):
    config = tiny()
    folder = Folder(config.storage).child("tiny")
    folder.write("config.yaml", "kimg: -5\n")
    folder.write("checkpoints/x", b"")
    with pytest.raises(ConfigError, match=r"kimg = -5.*another --name"):
        prepare(config)
    assert folder.read("config.yaml") == b"kimg: -5\n"


def test_a_stop_at_the_last_step_is_complete(tiny):
    status, _ = run(tiny(kimg=0.128), lambda s, context: context.request_stop())
    assert status["state"] == "complete"
    assert load_config(base=tiny().model_dump(mode="json")) == tiny()


PLAIN = {"model.g_norm": "none", "model.d_norm": "none", "optim.g.eps": 1e-3, "optim.d.eps": 1e-3, "kimg": 0.256}


@pytest.mark.parametrize("loss", ["non-saturating", "relativistic", "wasserstein"])
def test_a_batch_in_parts_is_the_batch(tiny, loss):
    changes = PLAIN | {
        "loss.name": loss,
        "loss.r1_gamma": 0.5,
        "loss.gp_lambda": 1.0,
        "augment.kind": "ada",
        "augment.p": 0.7,
        "augment.policy": "[translate, colour]",
        "model.conditioning": "auxiliary",
    }
    whole = newest(run(tiny(**changes, name="whole"))[1])[1]
    parts = newest(run(tiny(**changes, name="parts", **{"training.accumulate": 5}))[1])[1]
    for player in "GD":
        for name, weight in whole[player].items():
            torch.testing.assert_close(parts[player][name], weight, atol=1e-5, rtol=0)
    lines = [
        json.loads(run(tiny(**changes, name=n))[1].read("metrics.jsonl").decode().splitlines()[0]) for n in ("whole",)
    ]
    again = json.loads(
        run(tiny(**changes, name="parts", **{"training.accumulate": 5}))[1]
        .read("metrics.jsonl")
        .decode()
        .splitlines()[0]
    )
    for name in ("d_loss", "g_loss", "r1", "gp", "d_aux_loss", "aux_accuracy", "d_grad_norm", "g_grad_norm"):
        assert again[name] == pytest.approx(lines[0][name], rel=1e-3), name


def test_reused_images_train_the_generator_like_the_same_images_made_again(tiny, monkeypatch):
    """With the noise of the D step in the G step too, making the images again gives the same weights as reusing
    them.
    """
    reused = newest(run(tiny(**PLAIN, name="reused", **{"training.reuse_fakes": True}))[1])[1]
    draw = Inputs.noise
    monkeypatch.setattr(Inputs, "noise", lambda self, player, nimg: draw(self, "d", nimg))
    again = newest(run(tiny(**PLAIN, name="again"))[1])[1]
    for player in "GD":
        for name, weight in again[player].items():
            torch.testing.assert_close(reused[player][name], weight, atol=1e-6, rtol=0)


def test_labels_of_generated_images_are_the_data_s_or_balanced(tiny, monkeypatch, tmp_path):
    """Nine images of ten are of class 0."""
    np.savez(tmp_path / "x.npz", images=np.zeros((100, 28, 28), np.uint8), labels=np.repeat([0, 1], [90, 10]))
    seen, draw = [], Inputs.noise
    monkeypatch.setattr(Inputs, "noise", lambda self, *a: (seen.append(draw(self, *a)), seen[-1])[1])
    shares = []
    for how in ("data", "balanced"):
        seen.clear()
        data = {
            "data.name": str(tmp_path / "x.npz"),
            "data.limit": None,
            "model.conditioning": "projection",
            "metrics.names": "[]",
        }
        run(tiny(**data, name=how, **{"training.fake_labels": how, "kimg": 0.512}))
        shares.append(torch.cat([c for _, c in seen]).float().mean().item())
    assert shares[0] == pytest.approx(0.1, abs=0.04)
    assert shares[1] == pytest.approx(0.5, abs=0.07)
    with pytest.raises(ConfigError, match="fake_labels = 'balanced'"):
        tiny(**{"training.fake_labels": "balanced", "loss.name": "relativistic"})


def test_checkpoints_keep_a_pause(tiny, monkeypatch):
    """A run that is through with an interval sooner writes fewer of them; the last and the best are written all the
    same.
    """
    saved, save = [], CheckpointStore.save
    monkeypatch.setattr(
        CheckpointStore, "save", lambda self, nimg, *a, **how: (saved.append(nimg), save(self, nimg, *a, **how))[1]
    )
    _, folder = run(tiny(**{"checkpoint.pause_s": 1000}))
    assert saved == [0, 512, 1024]  # those at 256 and 768 are left out; the first measurement is the best so far
    assert [line["nimg"] for line in curves(folder)] == list(range(128, 1025, 128))


@pytest.mark.parametrize("case", ["batchnorm", "everything", "reused"])
def test_recorded_steps_follow_schedules_labels_and_augmentation(tiny, monkeypatch, case):
    """Whatever changes from step to step reaches a recorded step too, with a stand-in for the graph (tests/gpu has real
    ones).
    """
    reused = {"training.reuse_fakes": True, "loss.r1_gamma": 0.5, "loss.penalty_every": 3}
    changes = CASES.get(case, reused) | {
        "loss.gamma_schedule.kind": "cosine",
        "loss.gamma_schedule.final": 0.1,
        "training.accumulate": 1 if case == "reused" else 2,
        "model.g_norm": "none",
        "model.d_norm": "none",
        "optim.g.eps": 1e-3,
        "optim.d.eps": 1e-3,
    }
    eager, folder = run(tiny(**changes, name="eager"))
    fake_graph.install(monkeypatch.setattr)
    monkeypatch.setattr(step_module, "uses_cuda_graphs", lambda *a: True)
    replayed, replay = [], fake_graph.Graph.replay
    monkeypatch.setattr(fake_graph.Graph, "replay", lambda self: (replayed.append(self), replay(self)))
    recorded, other = run(tiny(**changes, name="recorded"))
    assert len(replayed) >= 40
    # D with and without penalty; G, where it is with images of D's once for each of them
    assert len(set(replayed)) == {"batchnorm": 2, "everything": 3, "reused": 4}[case]
    a, b = newest(folder)[1], newest(other)[1]
    for part in ("G", "D", "ema"):
        for name, weight in a[part].items():
            torch.testing.assert_close(b[part][name], weight, atol=1e-5, rtol=0)
    assert float(b["augment_p"]) == float(a["augment_p"])
    for line, same in zip(curves(folder), curves(other), strict=True):
        assert line.keys() == same.keys()
        for name in line:
            assert same[name] == pytest.approx(line[name], rel=1e-3, abs=1e-4), name
    assert recorded["best"]["value"] == pytest.approx(eager["best"]["value"], rel=1e-3)


def test_how_a_step_is_run_may_change_on_the_way(tiny):
    assert (
        run(tiny(**{"training.cuda_graphs": "off"}), lambda s, context: context.request_stop())[0]["state"] == "stopped"
    )
    status, _ = run(tiny(**{"training.deterministic": True, "checkpoint.pause_s": 5}))
    assert status["state"] == "complete"
    with pytest.raises(ConfigError, match=r"training\.cuda_graphs = 'on': needs a GPU; allowed here: auto, off"):
        run(tiny(**{"training.cuda_graphs": "on", "name": "other"}))
