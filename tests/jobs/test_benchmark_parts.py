"""The cores of the benchmarks on a tiny run: every table comes out, its parts add up, and what was changed for it is
put back.
"""

import argparse
import json
import os
import subprocess
import sys

import pytest
import torch
from benchmarks import busy, data, evaluate, measuring, memory, profiles, startup, steps
from benchmarks.parts import build
from benchmarks.workers import Group

from distgan import second_order


def test_the_command_knows_all_of_them(capsys, monkeypatch):
    import benchmark

    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--help"])
    with pytest.raises(SystemExit):
        benchmark.main()
    said = capsys.readouterr().out
    for name in (
        "throughput",
        "scaling",
        "busy",
        "startup",
        "checkpoint",
        "evaluate",
        "tune",
        "data",
        "memory",
        "profile",
        "step",
    ):
        assert f"benchmark.py {name}" in said


def test_rounds_are_interleaved():
    seen = []
    found = measuring.in_turn({name: lambda name=name: seen.append(name) or len(seen) for name in "abc"}, 3)
    assert "".join(seen) == "abccbaabc"
    assert found == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_json_has_the_options_and_the_machine(tmp_path):
    options = argparse.Namespace(json=str(tmp_path / "out.json"), rounds=3, run=print)
    measuring.write_found(options, "some", {"a": 1}, more=2)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["found"] == {"a": 1}
    assert content["options"]["rounds"] == 3
    assert content["machine"]["torch"]
    assert content["more"] == 2


def test_processes_below_are_this_one_and_its_children():
    import subprocess

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = measuring.processes_below(os.getpid())
        assert {os.getpid(), child.pid} <= set(found)
        assert os.getppid() not in found
    finally:
        child.communicate(b"\n")


# profile


def test_a_profile_finds_the_parts_of_a_step_and_leaves_no_trace_of_itself(tiny, capsys):
    import torch

    parts = build(tiny())
    backward, own = torch.autograd.backward, dict(vars(parts.step))
    found = profiles.measure(parts, steps=2)
    assert found["not_marked"] == []
    for name in ("D: backward", "G: backward", "D: forward, losses", "D: optimiser", "EMA of G", "real images"):
        assert found["parts_s"][name] > 0
    assert sum(found["parts_s"].values()) <= found["traced_step_s"] * 1.01
    assert sum(found["kinds_s"].values()) <= found["traced_step_s"] * 1.01
    assert found["kinds_s"]["matrix product"] > 0
    assert torch.autograd.backward is backward
    assert vars(parts.step) == own
    profiles.show("tiny", found)
    assert "no operation: Python" in capsys.readouterr().out


def test_a_profile_counts_the_penalties_apart(tiny):
    found = profiles.measure(build(tiny(**{"loss.r1_gamma": 1, "loss.r2_gamma": 1, "model.d_norm": "none"})), steps=1)
    assert found["parts_s"]["D: penalties' inner gradient"] > 0


# step


def test_variants_of_the_step_take_turns_beside_the_textbook_loop(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(steps, "VARIANTS", {"step": (), "new images": ("new images",)})
    made, textbook = [], steps.textbook_steps
    monkeypatch.setattr(steps, "textbook_steps", lambda *a: made.append(a) or textbook(*a))
    settings = ["--data.limit", "64", "--model.g-width", "4", "--model.d-width", "4", "--batch-size", "8"]
    how = {"recipe": "classic", "threads": 1, "rounds": 2, "seconds": 0.05, "without": None}
    options = argparse.Namespace(**how, json=str(tmp_path / "step.json"), settings=settings)
    assert steps.run(options) == 0
    content = json.loads((tmp_path / "step.json").read_text())
    assert list(content["found"]) == ["textbook", "bare steps", "step", "new images", steps.TORCHS]
    assert all(len(rates) == 2 and min(rates) > 0 for rates in content["found"].values())
    assert content["median_ratios"]["textbook"] == 1
    assert made[0][0].model.g_width == 4
    assert "dcgan (widths 4, 4), non-saturating, 1 x 32 x 32" in capsys.readouterr().out

    options.recipe, options.settings = (
        "default",
        [*settings, "--augment.kind", "ada"],
    )  # which the textbook loop does not know
    assert list(steps.prepare(options)[0]) == ["bare steps", "step", "new images", steps.TORCHS]
    with steps.torchs_own():
        assert not second_order._differentiated(torch.ones(1, requires_grad=True))
    assert second_order._differentiated(torch.ones(1, requires_grad=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss.name": "relativistic", "loss.r1_gamma": 0.5, "loss.r2_gamma": 0.5, "model.conditioning": "projection"}
        | {"loss.penalty_every": 2},
        {"loss.name": "hinge", "loss.gp_lambda": 1, "training.n_dis": 2, "data.channels": 3, "data.resolution": 32},
    ],
)
def test_the_textbook_loop_trains_every_kind_of_loss(tiny, changes):
    from benchmarks import throughput

    config = tiny(**changes)
    assert throughput.has_textbook(config.model_dump())
    loop = throughput.textbook_steps(config.for_classes(10), 0)
    assert [next(loop) for _ in range(4)] == [32] * 4


def test_turns_are_compared_with_the_turns_beside_them(tmp_path, monkeypatch, capsys):
    """Two programs that count: one as fast as it says, the other twice as fast. Stopped ones stand still."""
    from benchmarks import slices

    monkeypatch.setattr(slices, "WARMUP_S", 0.2)
    monkeypatch.setattr(slices, "SETTLE_S", 0.1)
    script = (
        "import sys, time\nn = 0\nwith open(sys.argv[1], 'w', buffering=1) as f:\n    while True:\n        "
        "time.sleep(0.01)\n        n += int(sys.argv[2])\n        print(time.time(), n, file=f)\n"
    )

    def make(name, speed):
        file = tmp_path / name
        command = [sys.executable, "-c", script, str(file), str(speed)]
        return lambda: slices.Program(name, command, {}, lambda: slices.points_of_a_loop(file))

    with slices.started({"slow": make("slow", 1), "fast": make("fast", 2)}) as programs:
        found = slices.in_slices(programs, "slow", 3, 0.6)
        before = programs["fast"].points()[-1]
        programs["slow"].turn(0.5)
        assert programs["fast"].points()[-1] == before
        processes = [program._process for program in programs.values()]
    assert all(process.poll() is not None for process in processes)
    assert (len(found["slow"]), len(found["fast"])) == (4, 3)
    slices.report(argparse.Namespace(json=str(tmp_path / "x.json"), rounds=3, seconds=0.6), "some", found, "slow")
    assert json.loads((tmp_path / "x.json").read_text())["median_ratios"]["fast"] == pytest.approx(2, rel=0.25)
    assert "of slow" in capsys.readouterr().out


def test_a_second_program_to_compare_with_is_met_round_by_round(tmp_path, capsys):
    """The machine is twice as fast in the second round, for all alike."""
    from benchmarks.slices import Slice, report

    def found(*rates):
        return [Slice(rate, 1.0, beside) for rate, beside in zip(rates, (100.0, 200.0), strict=True)]

    made = {"limit": [Slice(100.0, 1.0)] * 3, "ours": found(90.0, 180.0), "theirs": found(60.0, 120.0)}
    options = argparse.Namespace(json=str(tmp_path / "x.json"), rounds=2, seconds=1)
    report(options, "some", made, "limit", also="theirs")
    rows = {
        line.split()[0]: line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("limit", "ours", "theirs"))
    }
    assert "1.50 (1.50 - 1.50)" in rows["ours"]
    assert "1.67 (1.67 - 1.67)" in rows["limit"]
    report(options, "some", {k: v for k, v in made.items() if k != "theirs"}, "limit", also="theirs")
    assert "of theirs" not in capsys.readouterr().out


def test_a_program_that_ends_says_why(tmp_path):
    from benchmarks import slices

    with (
        pytest.raises(SystemExit, match=r"broken: ended with status 3\nno such thing"),
        slices.started(
            {
                "broken": lambda: slices.Program(
                    "broken", [sys.executable, "-c", "print('no such thing'); exit(3)"], {}, list
                )
            }
        ),
    ):
        pass


def test_kinds_of_operations():
    assert profiles.kind_of("aten::convolution_backward") == "convolution, backward"
    assert profiles.kind_of("aten::mkldnn_convolution") == "convolution"
    assert profiles.kind_of("aten::_fused_adam_") == "optimiser and averages"
    assert profiles.kind_of("aten::leaky_relu_backward") == "element by element, other"


# evaluate


def test_a_measurement_is_taken_apart(tiny, capsys):
    parts = build(tiny(**{"metrics.names": "[fid, kid]"}))
    found = evaluate.measure(parts, rounds=1, seconds=0.05)
    (sample,) = found["samples"]
    assert sum(sample["parts_s"].values()) == pytest.approx(sample["seconds"])
    for name in ("images made", "features", "fid", "kid, kid_std"):
        assert sample["parts_s"][name] > 0
    evaluate.show(parts, found)
    assert "% of the time" in capsys.readouterr().out


def test_the_share_of_measuring(tiny):
    assert evaluate.share(1.0, every_kimg=10, images_per_s=1000) == pytest.approx(1 / 11)
    config = tiny(**{"kimg": 100, "metrics.every_kimg": 40, "metrics.samples": 500, "metrics.final_samples": 1000})
    # two measurements on the way, at 40 and 80 kimg, and the last one: 2000 images, of a ms each, beside 100 s of
    # training
    assert evaluate.over_a_run(1e-3, config, images_per_s=1000) == pytest.approx(2 / 102, rel=1e-3)


# data


def test_a_folder_is_decoded_opened_and_read_beside_torchvision(tmp_path, capsys):
    folder = tmp_path / "pictures"
    data.make_folder(folder, 48, 16)
    found = data.measure(folder, tmp_path, batch=16, rounds=1, seconds=0.05, loader_workers=[0])
    assert found["entries"]["decoded into the cache"][0]["images"] == 48
    assert found["cache_bytes"] == 48 * 3 * 16 * 16 + 128
    assert set(found["batches"]) == {
        "gathered ahead by a thread",
        "gathered when asked for",
        "held on the device",
        "ImageFolder, 0 loader processes",
    }
    data.show(found, argparse.Namespace(images=48, side=16, batch=16))
    assert "x 0 loader processes" in capsys.readouterr().out


# memory


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="reads Linux's smaps_rollup")
def test_memory_of_two_workers_by_stage_and_the_mapped_file_shared(tiny, tmp_path, capsys, caches):
    import numpy as np

    images = 12_000
    file = memory.make_set(tmp_path, images)
    assert np.load(file, mmap_mode="r").shape == (images, 3, 32, 32)
    config = tiny(**{"data.name": file, "data.limit": None, "data.resolution": 32})
    with Group(config.model_dump(mode="json"), 2, 1, env={"DISTGAN_CACHE": str(caches)}) as group:
        found = memory.by_stage(group, steps=2)
    assert list(found["stages"]) == ["imports", "data open", "all images read", "nets", "training", "checkpoint"]
    for footprints in found["stages"].values():
        assert len(footprints) == 2
        assert all(0 < f["uss"] <= f["pss"] <= f["rss"] for f in footprints)
    assert found["data"]["bytes"] == images * 3 * 32 * 32
    memory.show({"2": found}, config)
    assert "proportional" in capsys.readouterr().out


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="reads Linux's smaps_rollup")
def test_what_of_a_file_is_mapped_is_found(tmp_path):
    import numpy as np

    array = np.load(memory.make_set(tmp_path, 1000), mmap_mode="r")
    assert int(array.sum()) > 0
    found = memory.mapping(os.getpid(), str(tmp_path / "images.npy"))
    assert array.nbytes <= found["rss"] <= array.nbytes + 2**16
    assert memory.mapping(os.getpid(), str(tmp_path / "none.npy")) == {"rss": 0, "pss": 0, "uss": 0}


def test_a_watch_sees_a_short_peak():
    """In a process of its own: this one may have memory of others' to reuse."""
    program = "import time; input(); block = bytearray(b'1') * 64 * 2**20; time.sleep(0.3); del block; print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        with memory.Watch(child.pid, every_s=0.001) as watch:
            before = watch.highest["uss"]
            print(file=child.stdin, flush=True)
            child.stdout.readline()
        print(file=child.stdin, flush=True)
    assert watch.highest["uss"] >= before + 48 * 2**20


# startup, busy


def test_a_start_is_measured_to_its_first_step_and_beside_its_reference(tiny, tmp_path, capsys):
    found = startup.first_step(tiny(), tmp_path, {"engine": "local"})
    assert 0.5 < found["seconds"] < 60
    startup.show({startup.IMPORTS: [{"seconds": 2.5, "cpu_s": None}], "one worker": [{"seconds": 5.0, "cpu_s": 4.0}]})
    assert f"2.00 (2.00 - 2.00) of {startup.IMPORTS}" in capsys.readouterr().out


def test_a_command_that_ends_before_its_first_step_is_told(tmp_path):
    with pytest.raises(SystemExit, match="never got to its first step:\nno step"):
        startup.timed([sys.executable, "-c", "print('no step')"], lambda: 0.0)


@pytest.mark.slow
def test_a_busy_core_costs_speed(tiny):
    assert busy.measure(tiny(), 3, {}, busy=True) < busy.measure(tiny(), 3, {}, busy=False) * 1.1
