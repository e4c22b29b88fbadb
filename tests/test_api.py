"""The Python interface: the same runs, checks and samples as the command's, as objects."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import TINY

import distgan
from distgan.cli import main
from distgan.config import ModelConfig, dump_config
from distgan.export.generator import save_generator
from distgan.kinds import SampleSpec
from distgan.models import build_generator
from distgan.storage import Folder

CLASSES = {"model.conditioning": "projection", "data.limit": 300}
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("api") / "runs"


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    """A finished run with classes, trained by Ray Train's local mode."""
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        patch.setenv("DISTGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return distgan.train({**TINY, **CLASSES}, storage=place, name="tiny", engine="ray", log={"tensorboard": True})


def python(code, *, cwd, **env):
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


# -- importing --------------------------------------------------------------------------------------------------------


def test_importing_costs_nothing_and_shows_every_name(tmp_path):
    code = (
        "import sys, time; start = time.process_time(); import distgan; took = time.process_time() - start\n"
        "assert not {'torch', 'ray', 'pydantic', 'numpy'} & sys.modules.keys()\n"
        "assert set(dir(distgan)) >= {'train', 'tune', 'load', 'evaluate', 'open_run', 'Run', 'Search', 'Generator'}\n"
        "print(took)"
    )
    assert float(python(code, cwd=tmp_path)) < 0.1


def test_each_name_is_what_it_says():
    for name in distgan.__all__:
        found = getattr(distgan, name)
        assert name == "__version__" or (found.__doc__ and found.__name__ == name)
    assert dir(distgan) == sorted(distgan.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        distgan.tain  # noqa: B018


def test_settings_and_errors_need_neither_torch_nor_ray(tmp_path):
    code = (
        "import sys; sys.modules['ray'] = sys.modules['torch'] = None; import distgan\n"
        "try: distgan.train(optm={'g': {'lr': 1}})\n"
        "except distgan.ConfigError as error: print(error)"
    )
    assert python(code, cwd=tmp_path).startswith("optm.g.lr: no such setting (value 1); did you mean optim.g.lr")


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_tells_what_lies_in_its_folder(run, place):
    assert (run.name, run.folder) == ("tiny", str(place / "tiny"))
    assert run.config.model.conditioning == "projection"
    assert run.status["state"] == "complete"
    assert [line["kimg"] for line in run.metrics] == [0.128 * i for i in range(1, 9)]
    assert all("event" in line for line in run.events)
    assert run.best["metric"] == "fid"
    assert run.best["value"] == min(line["fid"] for line in run.metrics if "fid" in line)
    assert run.samples().size == Image.open(place / "tiny/samples/000001.png").size
    assert [Path(found).name for found in run.checkpoints] == sorted(os.listdir(place / "tiny/checkpoints"))
    assert Path(run.report()).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "complete, 1.024 of 1.024 kimg, best FID" in repr(run)
    assert "<img" in run._repr_html_()
    frame = run.metrics_frame()
    assert list(frame.index) == [line["kimg"] for line in run.metrics]
    assert frame["fid"].min() == run.best["value"]


def test_python_trains_what_the_command_trains(run, tmp_path):
    settings = {**TINY, **CLASSES, "engine": "ray", "log.tensorboard": True, "storage": tmp_path, "name": "typed"}
    assert main(["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]) == 0
    typed = distgan.open_run("typed", storage=tmp_path)
    same = [{k: v for k, v in line.items() if k not in ("time", "images_per_s")} for line in typed.metrics]
    assert same == [{k: v for k, v in line.items() if k not in ("time", "images_per_s")} for line in run.metrics]
    assert torch.equal(typed.generator().sample(4), run.generator().sample(4))


def test_settings_are_given_as_people_write_them(tmp_path):
    from distgan.config.keywords import config_from

    def dumped(config=None, **settings):
        return dump_config(config_from(config, settings))

    rate = dumped({"optim.g.lr": 1e-4})
    assert "lr: 0.0001" in rate
    assert (
        rate
        == dumped(optim={"g": {"lr": 1e-4}})
        == dumped({"optim": {"g.lr": "1e-4"}})
        == dumped(**{"optim.g.lr": 1e-4})
    )
    assert dumped(data="./photos") == dumped(data=Path("./photos")) == dumped(data={"name": "./photos"})
    assert dumped(loss="hinge", kimg=np.float32(8)) == dumped({"loss.name": "hinge", "kimg": 8})
    file = tmp_path / "run.yaml"
    file.write_text("minutes: 5\noptim: {g: {lr: 1.0e-4}}\n")
    read = config_from(file, {"kimg": 3})
    assert (read.kimg, read.minutes, read.optim.g.lr) == (3, None, 1e-4)
    again = config_from(read, {"seed": 4})
    assert again == read.model_copy(update={"seed": 4})
    assert again.optim.g.model_fields_set == {"lr"}  # a recipe may still change what nobody gave
    space = {"optim.g.lr": {"loguniform": [1e-5, 1e-3]}}
    assert config_from(None, {"tune": {"space": space}}).tune.space == space


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        (None, {"kimgs": 3}, "kimgs: no such setting (value 3); did you mean kimg"),
        (None, {"optim": {"g": {"rate": 3}}}, "optim.g.rate: no such setting (value 3)"),
        (None, {"kimg": -1}, "kimg = -1: allowed: a number > 0"),
        ({"loss": {"name": "hing"}}, {}, "did you mean hinge?"),
        ("no.yaml", {}, "config no.yaml: no such file"),
        (".", {}, "is no YAML file of settings; data='.' takes it for samples"),
        (5, {}, "config = 5: allowed: the path of a YAML file, a mapping of settings, or a RunConfig"),
        (None, {"data": 5}, "data = int: allowed: a known set, a path, or samples in memory"),
        (None, {"data": "nowhere/photos"}, "data.name = 'nowhere/photos': no such file or folder"),
    ],
)
def test_what_cannot_be_used_is_refused_as_by_the_command(config, settings, said, tmp_path):
    with pytest.raises(distgan.ConfigError) as found:
        distgan.train(config, storage=tmp_path, **settings)
    assert said in str(found.value)
    assert not str(found.value).startswith("-")
    assert os.listdir(tmp_path) == []


def test_a_run_goes_on(place, run):
    longer = run.resume(kimg=1.28)
    assert longer.status["kimg"] == 1.28
    assert [line["kimg"] for line in run.metrics][-1] == 1.28
    with pytest.raises(distgan.ConfigError, match=r"^optim.g.lr = 0.1: run .* was started with 0.0002"):
        run.resume(optim={"g": {"lr": 0.1}})
    assert distgan.open_run("tiny", storage=place).status == longer.status


def test_a_run_that_is_not_there(place, run):
    with pytest.raises(distgan.ConfigError, match=r"tinny: no such run; runs in .*: tiny"):
        distgan.open_run("tinny", storage=place)
    with pytest.raises(distgan.ConfigError, match="source = 5: allowed: a name, a path, a URI"):
        distgan.open_run(5, storage=place)


def test_a_run_in_an_object_store(tmp_path):
    uri = f"memory://{uuid.uuid4().hex}/runs"
    made = distgan.train(TINY, storage=uri, name="far")
    run = distgan.open_run(f"{uri}/far")
    assert (run.name, run.folder, made.folder) == ("far", f"{uri}/far", f"{uri}/far")
    assert run.status["state"] == "complete"
    assert len(run.metrics) == 8
    assert run.checkpoints[-1].startswith(f"{uri}/far/checkpoints/")
    assert run.report() == f"{uri}/far/report.html"
    assert run.samples().size[0] > 28
    assert torch.equal(distgan.load("far", storage=uri).sample(3), run.generator().sample(3))
    assert distgan.evaluate(run, metrics="fid", n=64)["samples"] == 64


def test_a_failed_run_raises(tmp_path):
    (tmp_path / "odd.py").write_text(
        "from torch import nn\n"
        "from itertools import count\n"
        "calls = count()\n"
        "class G(nn.Module):\n"
        "    def __init__(self, latent_dim, channels, resolution, **_):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(latent_dim, channels * resolution**2)\n"
        "        self.shape = (channels, resolution, resolution)\n"
        "    def forward(self, z, c=None):\n"
        "        x = self.layer(z).view(-1, *self.shape).tanh()\n"
        "        return x if next(calls) < 20 else x * float('nan')\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "from tiny_run import TINY; import distgan\n"
        "own = {'model.generator': 'odd:G', 'training.on_divergence': 'stop'}\n"
        "try: distgan.train({**TINY, **own}, storage='runs', name='odd')\n"
        "except distgan.RunError as error: print('RunError', error)\n"
        "print(distgan.open_run('odd').status['state'])"
    )
    said = python(code, cwd=tmp_path)
    assert "RunError" in said
    assert "not finite" in said


def test_ctrl_c_ends_with_a_checkpoint_and_the_same_call_goes_on(tmp_path):
    """In the main thread, where the handler of before is there again afterwards."""

    def interrupt():
        lines = tmp_path / "cut" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (lines.exists() and '"nimg": 2' in lines.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    before, threads = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    how = {**TINY, "engine": "ray", "checkpoint.every_kimg": 2000, "log.every_kimg": 1, "metrics.every_kimg": 9000}
    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt, match="nothing is lost, the same call goes on"):
        distgan.train(how, storage=tmp_path, name="cut", kimg=4000)
    helper.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.get_num_threads() == threads
    stopped = distgan.open_run("cut", storage=tmp_path)
    assert stopped.status["state"] == "stopped"
    assert stopped.checkpoints
    done = distgan.train(how, storage=tmp_path, name="cut", kimg=stopped.status["kimg"] + 1)
    assert done.status["state"] == "complete"


@pytest.mark.parametrize("engine", ["ray", "local"])
def test_a_thread_trains_too(engine, tmp_path):
    """Where no handler of signals can be set: a server, a notebook's widget."""
    found = []

    def work():
        try:
            found.append(distgan.train(TINY, storage=tmp_path, name=engine, engine=engine))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert [run.status["state"] for run in found] == ["complete"]


def test_a_session_that_has_imported_ray_leaves_the_token_to_ray(tmp_path):
    """Ray reads the mode when it is imported; a cluster with a token that came later would refuse its own driver."""
    code = (
        "import os, sys; os.environ.pop('RAY_AUTH_MODE', None)\n"
        "from distgan.orchestration.cluster import _private_environment as begin\n"
        "assert 'ray' not in sys.modules; sys.modules['ray'] = sys\n"
        "begin(); print(os.environ.get('RAY_AUTH_MODE'))\n"
        "del sys.modules['ray']; begin(); print(os.environ['RAY_AUTH_MODE'])"
    )
    assert python(code, cwd=tmp_path).split() == ["None", "token"]


# -- samples in memory ------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("distgan.runs.given_arrays.user_cache", lambda: tmp_path / "cache")


def test_arrays_tensors_and_data_sets_are_trained_on(digits, tmp_path, own_cache):
    images, labels = digits[0][:256], digits[1][:256]

    class Set(torch.utils.data.Dataset):
        classes = tuple(f"digit {i}" for i in range(10))

        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            return Image.fromarray(images[index, 0].numpy()), int(labels[index])

    how = {**TINY, "kimg": 0.256, "storage": tmp_path / "runs"}
    plain = distgan.train(how, data=images[:, 0].numpy())
    assert plain.name.startswith("array-")
    assert distgan.train(how, data=images[:, 0]).folder == plain.folder  # the same samples are the same run
    pair = distgan.train({**how, "name": "pair", "model.conditioning": "projection"}, data=(images, labels))
    assert pair.generator().classes == tuple("0123456789")
    named = distgan.train({**how, "name": "set", "model.conditioning": "projection"}, data=Set())
    assert set(named.generator().classes) == set(Set.classes)
    assert json.loads(Path(plain.folder, "data.json").read_text(encoding="utf-8"))["shape"] == [1, 28, 28]
    assert distgan.evaluate(images[:128], against=images[128:], metrics="fid")["samples"] == 128


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (iter([1]), "data = list_iterator: allowed: a known set, a path, or samples in memory"),
        ([np.zeros((4, 4)), np.zeros((5, 5)), np.zeros((4, 4))], "of shape 4 x 4, 5 x 5; allowed: one shape for all"),
        ([], "of shape none; allowed"),
        (["a", "b"], "of shape a number"),
    ],
)
def test_what_is_no_sample_is_refused(data, said, tmp_path, own_cache):
    with pytest.raises(distgan.ConfigError) as found:
        distgan.train(data=data, storage=tmp_path / "runs")
    assert said in str(found.value)


# -- generators -------------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_command(run, place, tmp_path):
    generator = distgan.load("tiny", storage=place)
    assert isinstance(generator, torch.nn.Module)
    for words, how in (([], {}), (["--label", "7"], {"label": 7}), (["--label", "each"], {"label": "each"})):
        out = tmp_path / f"{len(words)}{how.get('label', '')}.npy"
        assert (
            main(["sample", "tiny", "-n", "20", "--seed", "3", *words, "--out", str(out), "--storage", str(place)]) == 0
        )
        made = generator.sample(20, seed=3, **how)
        assert (made.dtype, made.shape) == (torch.uint8, (20, 1, 28, 28))
        assert np.array_equal(made[:, 0].numpy(), np.load(out))
    assert torch.equal(generator.sample(5, seed=3), generator.sample(20, seed=3)[:5])
    assert generator.labels(12, label="each") == [str(i % 10) for i in range(12)]


def test_samples_with_opacity_are_those_of_the_command_too(tmp_path):
    """RGBA as usual: in the networks the colours are multiplied by the opacity."""
    model = ModelConfig(name="dcgan", latent_dim=8, g_width=8, d_width=8)
    G = build_generator(model, channels=4, resolution=16, n_classes=0, seed=3)
    spec = SampleSpec("tiny", (4, 16, 16), (-1.0, 1.0))
    info = {"run": "tiny", "kimg": 1.5}
    save_generator(Folder(tmp_path / "made"), G.state_dict(), model, kind="image", spec=spec, info=info)
    generator = distgan.load(tmp_path / "made")
    generator.write(tmp_path / "x.npy", 6)
    made = generator.sample(6)
    assert np.array_equal(made.permute(0, 2, 3, 1).numpy(), np.load(tmp_path / "x.npy"))
    assert (made[:, :3] > made[:, 3:]).any()  # colours that are not multiplied by it


def test_a_generator_is_a_module(run):
    generator = run.generator("cpu")
    assert generator.classes == tuple("0123456789")
    z, labels = generator.latents(6, seed=2), torch.arange(6)
    assert z.shape == (6, generator.latent_dim)
    x = generator(z.requires_grad_(), labels)
    assert (x.dtype, x.shape) == (torch.float32, (6, *generator.shape))
    x.sum().backward()  # z can be optimised, the weights are fixed
    assert z.grad is not None
    assert not any(weight.requires_grad for weight in generator.parameters())
    expected = ((x.detach() * 127.5 + 128).clamp(0, 255)).to(torch.uint8)
    seventh = generator.sample(6, seed=2, label="each")
    assert torch.equal(seventh, expected)
    with pytest.raises(distgan.ConfigError, match="labels: this generator has 10 classes"):
        generator(z)
    width, height = generator.picture().size
    assert abs(width / height - 10 / 8) < 0.02  # a column a class
    assert generator._repr_png_().startswith(b"\x89PNG")
    assert "tiny at" in repr(generator)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"n": 0}, "n 0: allowed: at least 1"),
        ({"seed": -1}, "seed -1: allowed"),
        ({"label": "eleven"}, "label eleven: no such class; allowed: 0, 1"),
        ({"truncation": 0.5}, "truncation 0.5: the generator of mlp has no styles"),
    ],
)
def test_what_a_generator_cannot_do_is_said(run, how, said):
    with pytest.raises(distgan.ConfigError) as found:
        run.generator().sample(**how)
    assert str(found.value).startswith(said)


def test_a_generator_is_saved_and_loaded(run, tmp_path):
    generator = run.generator()
    generator.save(tmp_path / "made")
    for name in ("generator.json", "generator.safetensors"):
        assert (tmp_path / "made" / name).read_bytes() == Path(generator.folder, name).read_bytes()
    with torch.no_grad():
        for weight in generator.parameters():
            weight.mul_(1.5)
    generator.save(tmp_path / "changed")  # as it is now
    assert torch.equal(distgan.load(tmp_path / "changed").sample(4), generator.sample(4))
    assert not torch.equal(distgan.load(tmp_path / "made").sample(4), generator.sample(4))
    assert "compared with the original" in generator.save(tmp_path / "made.pt2")
    generator.write(tmp_path / "grid.png", 9)
    assert Image.open(tmp_path / "grid.png").size[0] > 84


@pytest.mark.parametrize("where", ["folder", "nowhere"])
def test_what_is_no_generator_is_refused(where, tmp_path, monkeypatch):
    from distgan.export.generator import load_generator

    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for load in (distgan.load, load_generator):
        with pytest.raises(
            distgan.ConfigError, match=r"allowed: a run, a search, or the folder of an exported generator"
        ):
            load(where)


def test_loading_needs_no_ray(run, place, tmp_path):
    code = (
        "import sys; sys.modules['ray'] = None; import distgan\n"
        f"generator = distgan.load('tiny', storage={str(place)!r})\n"
        "print(int(generator.sample(3, seed=1).sum()), generator.picture().size[0] > 0)"
    )
    assert python(code, cwd=tmp_path).split() == [str(int(run.generator().sample(3, seed=1).sum())), "True"]


def test_measuring_is_the_commands(run, place, capsys, tmp_path):
    found = distgan.evaluate(run, metrics=["fid"], n=200)
    assert found == distgan.evaluate(run.generator(), n=200, metrics="fid", against=None) | {"source": found["source"]}
    capsys.readouterr()
    assert main(["evaluate", run.folder, "--metrics", "fid", "-n", "200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    part = run.evaluate(metrics="fid", n=100, data={"limit": 150})
    assert part["real_samples"] == 150
    with pytest.raises(distgan.ConfigError, match="did you mean fid"):
        run.evaluate(metrics="fidd")
