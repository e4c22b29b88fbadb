"""The Python interface with a real Ray, one cluster for all: searches, and Ray scripts of one's own."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray import tune
from ray.train import DataConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from tiny_run import TINY

import distgan
from distgan.cli import main
from distgan.config import RayConfig
from distgan.orchestration.own_script import _placed as placed
from distgan.orchestration.ray_rows import merged

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
CLASSES = {**TINY, "model.conditioning": "projection"}


@pytest.fixture(scope="module", autouse=True)
def ray_here(caches):
    """One private cluster of two CPUs; whoever needs one finds it running and leaves it so."""
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


# -- searches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    place = tmp_path_factory.mktemp("search") / "runs"
    return distgan.tune(
        TINY,
        {"g_lr": {"loguniform": [1e-5, 1e-2]}, "confirm_top": 0},
        storage=place,
        name="small",
        tune={"num_samples": 3},
        ray={"cpus_per_worker": 1},
    )


def test_a_search_has_trials_and_a_best_one(search):
    assert [trial["trial"] for trial in search.trials] == [0, 1, 2]
    assert [trial["baseline"] for trial in search.trials] == [True, False, False]
    assert {trial["state"] for trial in search.trials} <= {"done", "stopped"}
    best = min(search.trials, key=lambda trial: trial["fid"])
    assert search.best.folder == best["folder"]
    assert search.best_config.optim.g.lr == pytest.approx(best["g_lr"])
    assert search.best_config.name == "small-best"
    assert list(search.trials_frame().index) == [0, 1, 2]
    assert "<table>" in search._repr_html_()
    assert "3 trials" in repr(search)
    assert distgan.open_search("small", storage=Path(search.folder).parent).trials == search.trials


def test_a_search_stands_for_its_best_trial(search, tmp_path, capsys):
    """Wherever a run or a generator is wanted."""
    storage = str(Path(search.folder).parent)
    expected = search.best.generator().sample(3)
    for source in (search, search.folder, Path(search.folder)):
        assert torch.equal(distgan.load(source).sample(3), expected)
        assert distgan.open_run(source).folder == search.best.folder
    assert torch.equal(distgan.load("small", storage=storage).sample(3), expected)
    assert main(["sample", "small", "-n", "3", "--out", str(tmp_path / "x.npy"), "--storage", storage]) == 0
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected[:, 0].numpy())
    assert main(["export", "small", "--out", str(tmp_path / "made"), "--storage", storage]) == 0
    assert main(["evaluate", "small", "--metrics", "fid", "-n", "64", "--storage", storage]) == 0
    assert distgan.evaluate(search, metrics="fid", n=64)["samples"] == 64
    assert Path(search.best.report()).parent == Path(search.best.folder)


def test_a_search_goes_on_with_more_trials(search):
    more = search.resume(tune={"num_samples": 4})
    assert len(more.trials) == 4
    with pytest.raises(distgan.ConfigError, match="was started with"):
        search.resume(optim={"g": {"lr": 0.1}})


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"g_lrr": {"loguniform": [1e-5, 1e-2]}}, "g_lrr"),
        ({"space": 3}, "search: space must map settings to distributions"),
        ("no.yaml", "search no.yaml: no such file"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(space, said, tmp_path):
    with pytest.raises(distgan.ConfigError) as found:
        distgan.tune(TINY, space, storage=tmp_path)
    assert said in str(found.value)


def test_what_has_no_best_trial_is_refused(tmp_path):
    folder = tmp_path / "young"
    folder.mkdir()
    (folder / "search.yaml").write_text("tune: {}\n")
    for wanted in (distgan.load, distgan.open_run, lambda where: distgan.open_search(where).best, distgan.evaluate):
        with pytest.raises(
            distgan.ConfigError, match="this search has no best trial yet; `distgan tune --resume young"
        ):
            wanted(folder)


# -- a script of one's own --------------------------------------------------------------------------------------------


def fit(place, settings, workers=2, datasets=None, **how):
    trainer = TorchTrainer(
        distgan.train_loop_per_worker,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1} if workers else None),
        run_config=RunConfig(name="own", storage_path=str(place)),
        datasets=datasets,
        **how,
    )
    return trainer.fit()


def test_a_trainer_of_ones_own_trains_what_distgan_does(tmp_path):
    result = fit(tmp_path / "ray", {**TINY, "kimg": 0.512})
    run = distgan.open_run(result.path)
    assert run.folder == str(tmp_path / "ray" / "own")
    assert (run.status["state"], run.status["workers"]) == ("complete", 2)
    assert result.metrics["fid"] == run.metrics[-1]["fid"]
    assert result.checkpoint.path == run.checkpoints[-1]
    plain = distgan.train({**TINY, "kimg": 0.512}, storage=tmp_path / "plain", name="own", engine="ray", workers=2)
    assert torch.equal(run.generator().sample(4), plain.generator().sample(4))
    longer = fit(tmp_path / "ray", TINY)  # every start is a resume
    assert longer.metrics["kimg"] == 1.024
    assert run.metrics[0]["kimg"] == 0.128
    again = fit(tmp_path / "ray", TINY)  # and there is nothing left to do
    assert again.metrics["kimg"] == 1.024


@pytest.fixture
def rows(digits):
    """240 digits with their classes as a Ray data set of several blocks."""
    images, labels = digits[0][:240, 0].numpy(), digits[1][:240].tolist()
    items = [{"image": image, "label": f"digit {label}"} for image, label in zip(images, labels, strict=True)]
    return ray.data.from_items(items, override_num_blocks=4)


def test_a_ray_data_set_is_trained_on_whole_and_in_one_order(rows, digits, tmp_path):
    how = {**CLASSES, "kimg": 0.256, "metrics.final_samples": 32}
    result = fit(tmp_path / "two", how, datasets={"train": rows})
    run = distgan.open_run(result.path)
    assert run.status["state"] == "complete"
    assert set(run.generator().classes) == {f"digit {i}" for i in range(10)}
    with np.load(f"{run.folder}/data/samples.npz") as made:
        images, labels = made["images"], made["labels"]
    truth = {digits[0][i].numpy().tobytes(): f"digit {int(digits[1][i])}" for i in range(240)}
    assert {image.tobytes(): label for image, label in zip(images, labels, strict=True)} == truth


@pytest.mark.slow
def test_a_ray_data_set_that_is_not_split_is_read_once(rows, tmp_path):
    how = {**CLASSES, "kimg": 0.256, "metrics.final_samples": 32}
    found = []
    for name, config in (("split", None), ("whole", DataConfig(datasets_to_split=[]))):
        result = fit(tmp_path / name, how, datasets={"train": rows}, dataset_config=config)
        with np.load(f"{result.path}/data/samples.npz") as made:
            found.append((made["images"], made["labels"]))
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


def test_local_mode_reads_a_data_set_too(rows, tmp_path):
    result = fit(tmp_path, {**CLASSES, "kimg": 0.128, "storage": str(tmp_path)}, workers=0, datasets={"train": rows})
    assert result.metrics["kimg"] == 0.128
    assert distgan.open_run("own", storage=tmp_path).status["state"] == "complete"


def test_equal_parts_are_one_and_others_are_joined():
    a, b = np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.arange(20, 28, dtype=np.uint8).reshape(2, 2, 2)
    labels = np.array(["x", "y", "z"])
    joined = merged([(a, labels), (b, np.array(["x", "z"]))])
    turned = merged([(b[::-1], np.array(["z", "x"])), (a[::-1], labels[::-1])])
    assert len(joined[0]) == 5
    assert all(np.array_equal(one, other) for one, other in zip(joined, turned, strict=True))
    assert len(merged([(a, labels), (a[::-1], labels[::-1])])[0]) == 3
    assert merged([(a, None)])[1] is None
    with pytest.raises(distgan.ConfigError, match="of shape 2 x 2, 3 x 3; allowed: one shape for all"):
        merged([(a, None), (np.zeros((1, 3, 3), np.uint8), None)])


@pytest.mark.parametrize(
    ("settings", "folder", "said"),
    [
        ({"kimgs": 1}, "/ray/own", "kimgs: no such setting"),
        ({"storage": "runs"}, "/ray/own", "storage = 'runs': a worker has a working folder of its own"),
        ({"name": "other"}, "/ray/own", "name = 'other': the run's folder is Ray's, /ray/own"),
        ({}, None, "storage: is not given, and Ray does not tell the URI of its own"),
    ],
)
def test_where_a_run_cannot_lie_is_said(settings, folder, said):
    with pytest.raises(distgan.ConfigError) as found:
        placed(settings, folder, "own")
    assert said in str(found.value)


def test_where_a_run_lies():
    def where(settings, folder):
        config = placed(settings, folder, "own")
        return config.storage, config.run_name

    assert where({}, "/ray/own") == ("/ray", "own")
    assert where({"storage": "s3://bucket/runs"}, None) == ("s3://bucket/runs", "own")
    assert where({"storage": "/mine", "name": "x"}, "/ray/own") == ("/mine", "x")
    assert where({}, "") == ("./runs", "own")  # local mode


def test_a_mistake_ends_a_script_with_the_reason(tmp_path):
    with pytest.raises(ray.train.TrainingFailedError) as found:
        fit(tmp_path, {**TINY, "data": "/nowhere/photos"}, workers=1)
    assert "data.name = '/nowhere/photos': no such file or folder" in str(found.value)


def test_a_tuner_of_ones_own_stops_and_compares_trials(tmp_path, rows):
    space = {**TINY, "optim.g.lr": tune.grid_search([1e-5, 1e-3]), "data.limit": 200}
    tuner = tune.Tuner(
        tune.with_parameters(distgan.trainable, datasets={"train": rows}),
        param_space=space,
        tune_config=tune.TuneConfig(metric="fid", mode="min"),
        run_config=tune.RunConfig(name="own", storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors
    runs = [distgan.open_run(result.path) for result in results]
    assert sorted(run.config.optim.g.lr for run in runs) == [1e-5, 1e-3]
    for run, result in zip(runs, results, strict=True):
        assert run.status["state"] == "complete"
        assert result.metrics["kimg"] == 1.024
        assert result.metrics["fid"] == run.metrics[-1]["fid"]
    assert distgan.load(results.get_best_result().path).sample(2).shape == (2, 1, 28, 28)


# -- what the pages show ----------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
PAGES = [page for page in sorted(ROOT.rglob("*.md")) if not {"venv", ".venv", "build"} & set(page.parts)]
SNIPPETS = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M))
]
EXAMPLE = "\n".join(line.strip() for line in (distgan.__doc__ or "").splitlines() if line.startswith("    "))
SNIPPETS.append(pytest.param(EXAMPLE, id="distgan"))


def test_there_are_snippets():
    assert len(SNIPPETS) >= 5


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippets_run(code, tmp_path, monkeypatch, digits):
    """As they stand, but for their places, and budgets of a second. `./photos` holds cats and dogs."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for i in range(96):
        (tmp_path / "photos" / ("cat", "dog")[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[0][i, 0].numpy()).save(tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i}.png")
    small = {**TINY, "model.conditioning": "auto", "kimg": 0.256, "data.limit": 90, "metrics.extractor": "random-conv"}
    small |= {"metrics.samples": 32, "metrics.final_samples": 32}
    if 'load("photos")' in code and "train(" not in code:
        distgan.train(small, data="./photos")
    given = distgan.config.keywords.nested

    def tiny(config):
        """The tiny run below what a snippet gives first."""
        return {**given(small), **{key: value for key, value in given(config).items() if key in ("data", "optim")}}

    for module in ("config.keywords", "api.tuning"):
        monkeypatch.setattr(f"distgan.{module}.nested", tiny)
    code = (
        re.sub(r"\bkimg=\d+", "kimg=0.256", code)
        .replace("n=1000", "n=50")
        .replace('"num_samples": 8', '"num_samples": 2, "confirm_top": 0')
    )
    code = code.replace("num_samples=4", "num_samples=2").replace("num_workers=2", "num_workers=1")
    code = re.sub(r'"kimg": \d+', lambda _: f"**{small!r}", code)
    code = code.replace("/data/photos", f"{tmp_path}/photos").replace("/shared/runs", f"{tmp_path}/runs")
    code = code.replace(
        "    tune_config=", f"    run_config=tune.RunConfig(storage_path='{tmp_path}/runs'), tune_config="
    )
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
