"""What users of other projects type: taken as what it means, or answered with what to type. Never taken for another."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest

from distgan.config import ConfigError, find_field, load_config, walk_fields
from distgan.config.command_line import parse_overrides
from distgan.config.synonyms import ANSWERED, MEANT, OF_TUNE, meant

TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("./photos", {"data.name": "./photos"}),
    ("./photos --kimg 5", {"data.name": "./photos", "kimg": "5"}),
    ("--data ./photos", {"data.name": "./photos"}),
    ("--dataset fashion-mnist", {"data.name": "fashion-mnist"}),
    ("--data-dir ./photos", {"data.name": "./photos"}),
    ("--dataroot ./photos", {"data.name": "./photos"}),
    ("--dataset cifar10 --dataroot ./sets", {"data.name": "cifar10", "data.root": "./sets"}),
    ("--data_root ./sets --data.name cifar10", {"data.name": "cifar10", "data.root": "./sets"}),
    ("cifar10 --data-root ./sets", {"data.name": "cifar10", "data.root": "./sets"}),
    ("--imgsz 64", {"data.resolution": "64"}),
    ("--image_size=64", {"data.resolution": "64"}),
    ("--imageSize 64", {"data.resolution": "64"}),
    ("--resolution 48x64", {"data.resolution": "48x64"}),
    ("--lr 2e-4", {"optim.g.lr": "2e-4", "optim.d.lr": "2e-4"}),
    ("--learning-rate 2e-4", {"optim.g.lr": "2e-4", "optim.d.lr": "2e-4"}),
    ("--lr 2e-4 --optim.g.lr 1e-4", {"optim.g.lr": "1e-4", "optim.d.lr": "2e-4"}),
    ("--lr-g 1e-4 --lr_d 4e-4", {"optim.g.lr": "1e-4", "optim.d.lr": "4e-4"}),
    ("--beta1 .5", {"optim.g.beta1": ".5", "optim.d.beta1": ".5"}),
    ("--b2 .999", {"optim.g.beta2": ".999", "optim.d.beta2": ".999"}),
    ("--batch 64", {"batch_size": "64"}),
    ("--batchSize 64", {"batch_size": "64"}),
    ("--bs=64 ./photos", {"batch_size": "64", "data.name": "./photos"}),
    ("--outdir ./out", {"storage": "./out"}),
    ("--save_dir ./out", {"storage": "./out"}),
    ("--exp-name first", {"name": "first"}),
    ("--manualSeed 3", {"seed": "3"}),
    ("--nz 100", {"model.latent_dim": "100"}),
    ("--ngf 64 --ndf 48", {"model.g_width": "64", "model.d_width": "48"}),
    ("--n_critic 5", {"training.n_dis": "5"}),
    ("--lambda_gp 10", {"loss.gp_lambda": "10"}),
    ("--model r3gan", {"model.name": "r3gan"}),
    ("--loss hinge", {"loss.name": "hinge"}),
    ("--mirror", {"data.mirror": "true"}),
    ("--data.mirror ./photos", {"data.mirror": "true", "data.name": "./photos"}),
    ("--data.mirror false ./photos", {"data.mirror": "false", "data.name": "./photos"}),
    ("--hflip ./photos", {"data.mirror": "true", "data.name": "./photos"}),
    ("--metrics fid kid", {"metrics.names": "[fid, kid]"}),
    ("--precision bf16", {"training.precision": "bf16"}),
    ("--r1_gamma 1", {"loss.r1_gamma": "1"}),
    ("--max-samples 500", {"data.limit": "500"}),
    ("--aug ada", {"augment.kind": "ada"}),
    ("--address ray://head:10001", {"ray.address": "ray://head:10001"}),
    ("--gradient_accumulation_steps 4", {"training.accumulate": "4"}),
]
ANSWERS = [
    ("--epochs 100", "--kimg"),
    ("--n-epochs 100", "--minutes"),
    ("--max_steps 1000", "--kimg"),
    ("--gpus 2", "--workers N"),
    ("--device cuda", "CUDA_VISIBLE_DEVICES"),
    ("--amp", "--training.precision bf16"),
    ("--fp16", "--training.precision bf16"),
    ("--wandb", "--log.writers"),
    ("--resume", "distgan resume NAME"),
    ("--pretrained model.pkl", "--finetune"),
    ("--ckpt last.pt", "--finetune"),
    ("--num-samples 64", "-n of `distgan sample`"),
    ("--num_workers 8", "decoded once"),
    ("--ema-decay .999", "--training.ema-half-life-kimg"),
    ("--scheduler cosine", "--optim.g.lr-schedule.kind"),
    ("--max-concurrent-trials 2", "distgan tune"),
    ("--snap 10", "--checkpoint.every-kimg"),
    ("--sample-interval 400", "--log.samples-every-kimg"),
    ("--gamma 10", "--loss.r1-gamma"),
    ("--betas 0.5 0.999", "--optim.g.beta1"),
    ("--optimizer adam", "Adam"),
    ("--num-classes 10", "those of the data"),
    ("--cond 1", "--model.conditioning"),
    ("--label-smoothing .9", "--loss.r1-gamma"),
    ("--cfg stylegan2", "--config"),
]
IN_TUNE = [
    ("--num-samples 20", {"tune.num_samples": "20"}),
    ("--n-trials 20", {"tune.num_samples": "20"}),
    ("--max-concurrent-trials 2", {"tune.max_concurrent_trials": "2"}),
    ("--scheduler pbt", {"tune.scheduler": "pbt"}),
    ("--time-budget-s 600", {"tune.time_s": "600"}),
    ("--metric kid", {"tune.metric": "kid"}),
]


@pytest.mark.parametrize(("words", "settings"), TAKEN, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_meant_without_doubt_is_taken_and_told(words: str, settings: dict[str, Any], capsys) -> None:
    assert parse_overrides(words.split()) == (None, settings)
    err = capsys.readouterr().err
    for word in words.split():
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and find_field(name) is None:
            assert f"distgan: {word.partition('=')[0]} is taken as --" in err
    load_config(overrides={key: value for key, value in settings.items() if key != "data.name"})


@pytest.mark.parametrize(("words", "says"), ANSWERS, ids=lambda v: v)
def test_what_is_another_thing_here_is_answered_with_what_to_type(words: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["./photos", *words.split()])
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{words.split()[0]}: no such setting")
    assert says in line
    with pytest.raises(ConfigError, match=says.replace("`", ".")):  # in a file and in Python too
        load_config(overrides={words.split()[0].removeprefix("--"): 1})


@pytest.mark.parametrize(("words", "settings"), IN_TUNE, ids=lambda v: v if isinstance(v, str) else "")
def test_a_search_has_short_names_too(words: str, settings: dict[str, Any]) -> None:
    assert parse_overrides(words.split(), "tune") == (None, settings)
    with contextlib.suppress(ConfigError):
        assert parse_overrides(words.split())[1].keys().isdisjoint(settings)


def test_all_mistakes_are_told_at_once_and_none_is_taken_for_another() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["--epochs", "3", "--lr", "1", "--optm.g.lr", "1", "--kimg", "4"])
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["--epochs", "--optm.g.lr"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--lr 1 --learning-rate 2", "--lr and --learning-rate: given twice"),
        ("--batch 1 --batch 2", "--batch: given twice"),
        ("--batch", "--batch: needs a value, as in --batch VALUE"),
        ("./a --data ./b ./c", "settings are typed as --name value"),
        ("./a --dataset ./b", "leave one of them out"),
    ],
)
def test_synonyms_that_cannot_be_read(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_overrides(words.split())


def test_the_tables_fit_the_settings() -> None:
    """Synonyms mean settings that there are; no name is both taken and answered; no setting's own name is taken for
    another; answers name settings that there are.
    """
    names = {name for name, _ in walk_fields()}
    for table in (MEANT, OF_TUNE):
        assert {name for targets in table.values() for name in targets} <= names
        for name in names:
            assert table.get(name.replace("_", ""), (name,)) == (name,)
    assert not MEANT.keys() & ANSWERED.keys()
    for text in ANSWERED.values():
        for word in re.findall(r"--([\w.-]*\w)", text):
            assert word in ("config", "list", "truncation") or find_field(word.replace("-", "_")) is not None, word
    for name in names:
        assert meant(name, names) in ((name,), ("data.name",)) or name.startswith("tune."), name


@pytest.mark.parametrize(
    ("name", "says"),
    [("imgsz", "data.resolution"), ("batch", "batch_size"), ("lr", "optim.g.lr or optim.d.lr"), ("epochs", "kimg")],
)
def test_python_and_files_are_answered_with_the_settings_name(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: no such setting .*{says}"):
        load_config(base={name: 1})
