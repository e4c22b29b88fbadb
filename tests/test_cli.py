"""What users type, and what they are told."""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import yaml

from distgan import __version__
from distgan.cli import COMMANDS, main
from distgan.config import ConfigError, load_config, walk_fields
from distgan.config.command_line import parse_overrides

ENV = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))}


def cli(*words, timeout=100, **env):
    """`python -m distgan WORDS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "distgan", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**ENV, **env},
        check=False,
    )


def refused(capsys, *words):
    """The one line that bad input is answered with."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


# -- help and start-up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["config", "--optim.g.lr", "1e-4"], ["train", "--optim.g.lr", "-1"]]
)
def test_the_answer_comes_in_under_a_second_without_torch_or_ray(words):
    looks = words[0] == "config" or words[1:] == ["--help"]  # at the data, whose recipe tells some defaults
    code = (
        f"import sys; from distgan.cli import main; main({words!r});"
        "heavy = {'torch', 'ray', 'numpy', 'torchvision', 'PIL', 'pyarrow'} & set(sys.modules);"
        f"heavy -= {{'numpy'}} if {looks} else set(); assert not heavy, heavy"
    )
    costs = []
    for _ in range(3):  # processor time, and the least of three: the machine may be busy
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60, env=ENV)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < 1.0


def test_help_names_every_command_and_every_setting(capsys):
    assert main([]) == main(["--help"]) == main(["-h"]) == 0
    overview = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in overview
    assert main(["train", "--help", "all"]) == 0
    text = capsys.readouterr().out
    for name, _ in walk_fields():
        assert f"--{name.replace('_', '-')} " in text, name
    lr = text[text.index("--optim.g.lr ") :].split("--optim.g.beta1")[0]
    assert "learning rate" in lr
    assert "[default: " in lr
    assert "allowed: a number > 0 and <= 10" in " ".join(lr.split())
    assert " kimg; allowed: " in " ".join(text[text.index("--kimg ") :].split("--batch-size")[0].split())
    assert max(map(len, text.splitlines())) <= 120


def test_help_shows_the_defaults_that_are_used(capsys, monkeypatch, tmp_path):
    """Of every setting: what `distgan config` prints is what help says."""
    monkeypatch.chdir(tmp_path)
    assert main(["config"]) == 0
    used = yaml.safe_load(capsys.readouterr().out)
    for command in ("train", "tune", "config"):
        assert main([command, "--help", "all"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        for name, info in walk_fields():
            value = used
            for part in name.split("."):
                value = value[part]
            shown = re.search(rf" --{name.replace('_', '-')} .*?\[default: (.*?); allowed: ", text)[1]
            unit = (info.json_schema_extra or {}).get("unit", "") if value is not None else ""
            word = shown.partition(" on mnist10k, by its recipe")[0].removesuffix(unit).strip()
            assert ("null" if word == "none" and value is None else word, yaml.safe_load(word)) == (
                "null" if value is None else word,
                "none" if value is None else value,
            ), name


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command, capsys):
    with contextlib.suppress(SystemExit):  # submit's own way
        assert main([command, "--help"]) == 0
    assert "usage: distgan" in capsys.readouterr().out.lower()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"distgan {__version__}\n"


def test_as_a_module():
    done = cli("--version")
    assert (done.returncode, done.stdout) == (0, f"distgan {__version__}\n")
    done = cli("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


COMPLETE = r"""
eval "$(distgan completion bash)"
compopt() { :; }
for line in "distgan tr" "distgan train --optim.g.beta" "distgan train --loss.name " "distgan tune --search " \
  "distgan report "; do
  COMP_WORDS=($line); [[ $line == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
  _distgan_completion distgan
  echo "${COMPREPLY[*]}"
done
"""


def test_the_shell_completes_commands_settings_and_values(tmp_path):
    """As bash itself does it: its function is called with what was typed so far."""
    (tmp_path / "runs" / "first").mkdir(parents=True)
    env = {**ENV, "PATH": f"{os.path.dirname(sys.executable)}:{ENV['PATH']}"}
    words = ["bash", "--norc", "-c", COMPLETE]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=env, check=False)
    assert done.stdout.splitlines() == [
        "train",
        "--optim.g.beta1 --optim.g.beta2 --optim.g.beta2-schedule.kind --optim.g.beta2-schedule.final "
        "--optim.g.beta2-schedule.over-kimg --optim.g.beta2-schedule.warmup-kimg",
        "hinge least-squares minimax non-saturating relativistic wasserstein",
        "search-population search-rates search-recipe",
        "first",
    ], done.stderr


def test_help_by_topic(capsys):
    """First what people change first; the rest of a section, a setting or all when they are asked for."""
    assert main(["train", "--help"]) == 0
    first = capsys.readouterr().out
    assert len(re.findall(r"^  --[a-z]", first.partition("change first")[2], re.MULTILINE)) == 20
    assert "\n  training     training step" in first
    assert main(["help", "train"]) == 0
    assert capsys.readouterr().out == first
    assert main(["help", "optim.g.lr"]) == 0
    assert "learning rate" in capsys.readouterr().out
    assert main(["train", "--help", "augment"]) == 0
    out = capsys.readouterr().out
    assert "--augment.target" in out
    assert "--kimg" not in out
    assert main(["train", "--help", "mnist", "--kimg", "7"]) == 2  # mnist is no topic
    assert "--help mnist: no such section or setting; allowed: run, data, " in capsys.readouterr().err
    assert main(["train", "fashion-mnist", "--kimg", "7", "--help", "kimg"]) == 0
    assert "[default: 7.0 kimg; allowed" in " ".join(capsys.readouterr().out.split())


def test_configs_that_ship_are_listed_and_taken_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["config", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].split() == ["NAME", "WHAT", "IT", "IS"]
    assert {line.split()[0] for line in listed[1:]} >= {"mnist", "folder", "search-rates", "style-256"}
    assert max(map(len, listed)) <= 120
    assert main(["config", "--config", "mnist"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["name"] == "mlp"


# -- overrides --------------------------------------------------------------------------------------------------------


def test_parse_overrides():
    file, values = parse_overrides(
        [
            "--config",
            "a.yaml",
            "--optim.g.lr",
            "-1e-4",
            "--batch-size=32",
            "--data.mirror",
            "--metrics.names",
            "fid",
            "kid",
            "--data.root",
            "a b",
        ]
    )
    assert file == "a.yaml"
    assert values == {
        "optim.g.lr": "-1e-4",
        "batch_size": "32",
        "data.mirror": "true",
        "metrics.names": "[fid, kid]",
        "data.root": "a b",
    }
    assert parse_overrides([]) == (None, {})
    assert parse_overrides(["--augment.policy", "flip", "scale", "--model.g-args.width", "8", "16"])[1] == {
        "augment.policy": "[flip, scale]",
        "model.g_args.width": "[8, 16]",
    }
    with pytest.raises(ConfigError, match="kimg=1: settings are typed as --name value"):
        parse_overrides(["--storage", "runs", "kimg=1"])
    assert parse_overrides(["--name=a=b"])[1] == {"name": "a=b"}
    assert load_config(overrides=values | {"optim.g.lr": "1e-4"}).metrics.names == ["fid", "kid"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["kimg", "5"], "settings are typed as --name value"),
        (["-kimg", "5"], "settings are typed as --name value"),
        (["--", "5"], "settings are typed as --name value"),
        (["--kimg", "5", "--kimg", "6"], "--kimg: given twice"),
        (["--batch-size", "5", "--batch_size=6"], "given twice"),
        (["--config"], "needs one FILE.yaml"),
        (["--kimg", "--data.mirror"], "--kimg: needs a value, as in --kimg VALUE"),
        (["--config", "a", "--config", "b"], "--config: given twice"),
        (["./a", "./b"], "settings are typed as --name value"),
    ],
)
def test_overrides_that_cannot_be_read(words, says):
    with pytest.raises(ConfigError, match=says):
        parse_overrides(words)


def test_config_prints_what_a_run_would_use(tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_text("kimg: 7\nbatch_size: 32\n")
    assert main(["config", "--config", str(file), "--kimg", "9", "--optim.g.lr", "1e-4"]) == 0
    printed = tmp_path / "b.yaml"
    printed.write_text(capsys.readouterr().out)
    config = load_config(printed)
    assert (config.kimg, config.batch_size, config.optim.g.lr) == (9, 32, 1e-4)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "distgan: trian: no such command; allowed: "),
        (["./photos"], "distgan: ./photos: no such command"),
        ([__file__, "--kimg", "5"], f"did you mean distgan train {__file__} --kimg 5?"),
        (["--kimg", "5"], "--kimg: a command comes first, for example distgan train --kimg 5"),
        (["resume"], "RUN is missing: distgan resume RUN; `distgan resume --help` tells more"),
        (["train", "--loss", "bce"], "; bce is non-saturating (binary cross-entropy) here"),
        (["train", "--training.precision", "fp16"], "allowed: auto, fp32, bf16; fp16 is bf16 here"),
        (["train", "--optim.g.lr", "0"], "distgan: optim.g.lr = 0: allowed: a number > 0 and <= 10"),
        (["train", "--optim.g.betas", "0"], "did you mean optim.g.beta2?"),
        (["train", "--batch-size", "64", "--workers", "3"], "batch_size: 64 is not divisible by workers = 3"),
        (["train", "--config", "nowhere.yaml"], "distgan: --config nowhere.yaml: no such file"),
        (["train", "--data.name", "mnits"], "did you mean mnist?"),
        (["train", "--data.name", "./nowhere"], "no such file or folder"),
        (["train", "--model.name", "dcgan", "--data.resolution", "20"], "data.resolution = 20"),
        (["train", "--model.generator", "nowhere:G"], "cannot import nowhere"),
        (["train", "--storage", "/proc/nowhere"], "storage = /proc/nowhere: cannot write there"),
        (["runs", "--storage", __file__], "is a file; allowed: the folder or URI that holds the runs"),
        (["runs", "--storage", "s3://"], "storage = s3://: names no bucket"),
        (["evaluate", ".", "--against", "mnist10k"], "data.name = .: no image files there"),
        (["train", "--engine", "local", "--workers", "2"], "workers = 2: engine = 'local' runs in 1 process"),
        (["train", "--workers", "4096", "--batch-size", "4096"], "allowed: auto, or 1 to "),
        (
            ["train", "--ray.cpus-per-worker", "4096"],
            "ray.cpus_per_worker = 4096: no node has room for a worker of 4096 CPUs",
        ),
        (["train", "--ray.address", "127.0.0.1:1"], "ray.address = 127.0.0.1:1: nobody answers there"),
        (["train", "--metrics.extractor", "digit"], "did you mean digits?"),
        (["train", "--metrics.extractor", "torchvision:resnet19"], "torchvision has no such classifier"),
        (["train", "--metrics.extractor", "nowhere:Net"], "metrics.extractor = 'nowhere:Net': cannot be made"),
        (["train", "--metrics.weights", "nowhere.pth"], "metrics.weights = 'nowhere.pth': no such file"),
        (["train", "mnits"], "data.name = 'mnits': neither a known set nor a path that exists; did you mean mnist?"),
        (["train", "kimg", "5"], "kimg 5: settings are typed as --name value"),
        (["train", "./a", "--data.name", "./b"], "./a: the data are --data.name ./b already"),
        (["sample", "nowhere", "--out", "x.png"], "there are no runs in"),
        (["sample", "nowhere"], "there are no runs in"),
        (["sample", "nowhere", "-n", "many", "--out", "x.png"], "'many' is not a valid integer"),
        (["sample", "nowhere", "-n", "0", "--out", "x.png"], "-n 0: allowed: at least 1"),
        (["evaluate", "nowhere", "--metrics", "fud"], "did you mean fid?"),
        (
            ["evaluate", "nowhere", "--metrics", ","],
            "--metrics ',': allowed: one or more of class-kl, density-coverage, fid",
        ),
        (["evaluate", "nowhere", "-n", "1"], "1 is not in the range x>=2"),
        (["resume", "nowhere"], "nowhere: no such run"),
        (["report", "nowhere"], "nowhere: no such run"),
        (["runs", "--storge", "x"], "--storge: no such option; did you mean --storage?"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_is_one_line_and_status_2(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *words)
    if "ray" in sys.modules:  # another test's; nothing was started for this
        assert not sys.modules["ray"].is_initialized()
    assert not list(tmp_path.iterdir())  # nothing was begun


# -- a run, from the command line -------------------------------------------------------------------------------------


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The words of a tiny run of the local engine in an empty working folder."""
    from tiny_run import TINY

    monkeypatch.chdir(tmp_path)
    return [
        word
        for name, value in (TINY | {"name": "tiny"}).items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def test_from_training_to_samples_without_ray(words, tmp_path, monkeypatch, capsys):
    from distgan.metrics.evaluator import Evaluator

    assert main(["runs"]) == 0
    assert "no runs in" in capsys.readouterr().out

    assert main(["train", *words]) == 0
    said = capsys.readouterr().out
    assert said.startswith("256 images of ")
    assert "complete: 1.024 kimg, FID " in said
    for part in (
        "config.yaml",
        "metrics.jsonl",
        "status.json",
        "samples/000001.png",
        "generator/generator.safetensors",
    ):
        assert (tmp_path / "runs" / "tiny" / part).is_file()

    assert main(["train", *words]) == 0
    assert " has 1.024 kimg (--kimg 2.048 would train on" in capsys.readouterr().out
    assert main(["resume", "tiny", "--kimg", "0.32"]) == 0  # less than it has
    assert " has 1.024 kimg, 0.32 are asked for (--kimg 2.048 would train on" in capsys.readouterr().out
    assert main(["resume", "tiny"]) == 0
    assert capsys.readouterr().out.startswith("already complete: ")
    assert main(["resume", "tiny", "--kimg", "1.28"]) == 0
    assert "complete: 1.28 kimg" in capsys.readouterr().out

    assert main(["runs"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == ["tiny", "complete", "1.28", "of", "1.28"]

    assert main(["sample", "tiny", "-n", "5", "--out", "five.npy"]) == 0
    assert np.load("five.npy").shape == (5, 28, 28)
    assert main(["sample", "runs/tiny", "--out", "grid.png"]) == 0
    capsys.readouterr()
    passes, pass_over = [], Evaluator._pass
    monkeypatch.setattr(
        Evaluator, "_pass", lambda self, read, n, *rest: (passes.append(n), pass_over(self, read, n, *rest))[1]
    )
    assert main(["evaluate", "tiny", "-n", "64", "--metrics", "fid", "--json"]) == 0
    assert passes == [64]  # the real images were measured by the run
    found = json.loads(capsys.readouterr().out)
    assert found["fid"] > 0
    assert found["samples"] == 64
    assert main(["evaluate", "five.npy", "--against", "mnist10k", "--metrics", "fid"]) == 0
    assert "fid" in capsys.readouterr().out
    assert main(["report", "tiny"]) == 0
    assert "<svg" in (tmp_path / "runs" / "tiny" / "report.html").read_text()

    assert "optim.g.weight_decay = 0.1: run" in "".join(
        refused_lines(capsys, "train", *words, "--optim.g.weight-decay", "0.1")
    )


def test_a_run_goes_on_from_another_working_folder_and_after_a_start_with_another_spelling(
    words, tmp_path, monkeypatch, capsys
):
    from distgan.config import DataConfig
    from distgan.kinds import open_samples

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    np.save("digits.npy", open_samples(DataConfig(limit=256)).samples[:, 0])
    own = ["--data.name", "digits.npy"]
    assert main(["train", *words, *own]) == 0
    assert main(["train", *words, "--data.name", "./digits.npy"]) == 0
    assert "already complete: " in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["resume", "here/runs/tiny", "--kimg", "1.28"]) == 0
    assert "complete: 1.28 kimg" in capsys.readouterr().out
    assert f"name: {tmp_path}/here/digits.npy\n" in (tmp_path / "here" / "runs" / "tiny" / "config.yaml").read_text()
    np.save("digits.npy", np.zeros((256, 28, 28), np.uint8))  # the same name, another place, other images
    words[words.index("--kimg") + 1] = "2"
    assert any(
        "digits is not what" in line for line in refused_lines(capsys, "train", *words, *own, "--storage", "here/runs")
    )


def test_files_that_cannot_be_read_are_counted_and_named_before_anything_starts(words, tmp_path, capsys):
    from distgan.kinds.picture import png

    (tmp_path / "photos").mkdir()
    draw = np.random.default_rng(0)
    for i in range(64):
        (tmp_path / "photos" / f"{i:02d}.png").write_bytes(png(draw.integers(0, 256, (16, 16), dtype=np.uint8)))
    for i in (3, 40):
        (tmp_path / "photos" / f"{i:02d}.png").write_bytes(b"no picture")
    words[words.index("--kimg") + 1] = "0.064"
    own = [*words, "--data.name", "photos", "--data.max-bad-share"]
    on_ray = ["ray" if word == "local" else word for word in own]
    (line,) = refused_lines(capsys, "train", *on_ray, "0.01")
    assert "data.max_bad_share = 0.01: at least 2 of 64 files" in line
    assert not (tmp_path / "runs" / "tiny").exists()
    assert main(["train", *own, "0.05"]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.startswith(
        "photos: 2 of 64 cannot be read and are left out: 03.png (not an image file that Pillow knows), 40.png"
    )
    assert second.startswith("62 images of photos, 16 x 16 x 1")


def refused_lines(capsys, *words):
    assert main(words) == 2
    return capsys.readouterr().err.splitlines()


def test_a_storage_that_fails_is_one_line_and_status_1(monkeypatch, capsys):
    from distgan.storage import Folder

    def away(self, name):
        raise OSError("When listing buckets: AWS Error NETWORK_CONNECTION:\n  could not resolve host")

    monkeypatch.setattr(Folder, "_list", away)
    monkeypatch.setattr("distgan.storage.PAUSES_S", ())
    monkeypatch.setattr(Folder, "_may_pass", lambda *_: False)
    assert main(["runs", "--storage", f"memory://{os.getpid()}/x"]) == 1
    err = capsys.readouterr().err
    assert err == (
        "distgan: a file or a storage cannot be used: When listing buckets: AWS Error NETWORK_CONNECTION: could not "
        "resolve host (DISTGAN_TRACEBACK=1 shows where)\n"
    )
    monkeypatch.setenv("DISTGAN_TRACEBACK", "1")
    with pytest.raises(OSError, match="listing buckets"):
        main(["runs", "--storage", f"memory://{os.getpid()}/x"])


def test_the_grids_of_a_run_without_a_generator_are_not_measured(tmp_path, monkeypatch, capsys):
    from distgan.kinds.picture import png

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "young" / "samples").mkdir(parents=True)
    (tmp_path / "runs" / "young" / "config.yaml").write_text("")
    for i in range(4):
        (tmp_path / "runs" / "young" / "samples" / f"{i}.png").write_bytes(png(np.zeros((32, 32), np.uint8)))
    said = refused(capsys, "evaluate", "runs/young", "--against", "mnist10k", "-n", "4")
    assert "this run has no generator yet" in said


def test_a_run_that_diverges_ends_with_words_and_status_1(words, capsys):
    from distgan.training import loop

    step = loop.TrainStep.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop.TrainStep, "__call__", lambda self, **how: {k: v * float("nan") for k, v in step(self, **how).items()}
        )
        assert main(["train", *words, "--training.on-divergence", "stop"]) == 1
    err = capsys.readouterr().err
    assert "distgan: losses or gradients are not finite" in err
    assert "Traceback" not in err


def test_a_signal_ends_a_run_with_a_checkpoint_and_the_same_command_goes_on(words, tmp_path):
    import signal
    import time

    words[words.index("--kimg") + 1] = "400"
    process = subprocess.Popen(
        [sys.executable, "-m", "distgan", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=ENV,
    )
    try:
        metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
        deadline = time.time() + 90
        while not (metrics.exists() and metrics.stat().st_size) and time.time() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "stopped at " in said
    assert "nothing is lost" in said
    assert "distgan resume tiny" in said
    status = json.loads((tmp_path / "runs" / "tiny" / "status.json").read_text())
    assert status["state"] == "stopped"
    assert (tmp_path / "runs" / "tiny" / "checkpoints" / f"{status['nimg']:012d}" / "manifest.json").exists()
