"""One path for every setting: what is wrong is named, with what is allowed and the nearest right name."""

import pytest
import torch
import yaml

from distgan.config import (
    ConfigError,
    DataConfig,
    RunConfig,
    WorkerRange,
    allowed_text,
    dump_config,
    find_field,
    get_dotted,
    load_config,
    merge,
    shipped_configs,
    validate,
    walk_fields,
)
from distgan.models import build_discriminator, build_generator, check_models
from distgan.registry import DATA_SETS as KNOWN_SETS

CONFIGS = [file for name, file in shipped_configs().items() if not name.startswith("search-")]
"""Those of searches: test_space.py."""

# (setting, value) -> what the message must hold beside the setting's name and the value
BAD = [
    ("optim.g.lr", "0", ["> 0"]),
    ("optim.g.lr", "-1e-4", ["> 0"]),
    ("optim.d.lr", "fast", ["a number", "> 0"]),
    ("optim.g.beta1", "1", [">= 0", "< 1"]),
    ("optim.d.beta2", "-0.1", [">= 0", "< 1"]),
    ("batch_size", "0", ["a whole number", ">= 1"]),
    ("batch_size", "64.5", ["a whole number"]),
    ("kimg", "nan", ["a number", "> 0"]),
    ("kimg", "inf", ["a number", "> 0"]),
    ("kimg", "true", ["a number", "not true or false"]),
    ("seed", "-1", [">= 0"]),
    ("metrics.extractor", "inceptoin", ["inception", "torchvision:NAME", "did you mean inception?"]),
    ("workers", "0", ["auto", "a whole number", "min", "max", ">= 1"]),
    ("workers", "many", ["auto", "a whole number"]),
    ("engine", "rey", ["ray", "local", "did you mean ray?"]),
    ("model.name", "dcgn", ["mlp", "dcgan", "resnet", "r3gan", "style", "did you mean dcgan?"]),
    ("model.generator", "mymodule", ["package.module:Class"]),
    ("loss.name", "hing", ["hinge", "wasserstein", "did you mean hinge?"]),
    ("loss.name", "non_saturating", ["did you mean non-saturating?"]),
    ("loss.gp_target", "2", ["0, 1"]),
    ("data.resolution", "2", [">= 4", "<= 1024"]),
    ("data.resolution", "28.5", ["a whole number"]),
    ("data.resolution", "48x", ["HEIGHTxWIDTH", "48x64"]),
    ("data.resolution", "48x64x3", ["HEIGHTxWIDTH", "48x64"]),
    ("data.resolution", "48x2000", [">= 4", "<= 1024"]),
    ("data.resolution", "-48x64", [">= 4", "<= 1024"]),
    ("data.channels", "2", ["1, 3, 4"]),
    ("data.fit", "stretch", ["crop", "pad"]),
    ("data.background", "white", ["#ffffff"]),
    ("data.mirror", "perhaps", ["true or false"]),
    ("data.max_bad_share", "5", [">= 0", "<= 1"]),
    ("augment.policy", "[flipp]", ["flip", "cutout", "did you mean flip?"]),
    ("training.n_dis", "0", [">= 1"]),
    ("training.ema_half_life_kimg", "[-1]", [">= 0"]),
    ("training.ema_half_life_kimg", "[5, 5]", ["different"]),
    ("checkpoint.keep", "1", [">= 2"]),
    ("metrics.names", "[fid, kad]", ["fid", "kid", "did you mean kid?"]),
    ("ray.poll_s", "100", ["> 0", "<= 60"]),
    ("tune.quantile", "0.9", ["> 0", "<= 0.5"]),
    ("name", "a/b", ["folder name", "--storage"]),
    ("name", "..", ["folder name"]),
    ("model.g_args", "3", ["a mapping"]),
    ("optim.g", "3", ["lr", "beta1", "beta2"]),
]


def refused(**given):
    with pytest.raises(ConfigError) as caught:
        load_config(**given)
    return str(caught.value)


@pytest.mark.parametrize(("name", "text", "allowed"), BAD, ids=[f"{n}={v}" for n, v, _ in BAD])
def test_a_bad_value_is_named_with_what_is_allowed_wherever_it_stands(tmp_path, name, text, allowed):
    typed = refused(overrides={name: text})
    assert typed.startswith(f"{name} = ")
    assert "\n" not in typed
    shown = yaml.safe_load(text)
    assert str(shown[-1] if isinstance(shown, list) else shown) in typed.partition(":")[0]
    for part in allowed:
        assert part in typed, part

    file = tmp_path / "run.yaml"
    value = text if name in ("name", "data.background", "model.generator") else yaml.safe_load(text)
    for part in reversed(name.split(".")):
        value = {part: value}
    file.write_text(yaml.safe_dump(value))
    assert refused(file=file) == typed
    assert refused(overrides={f"--{name.replace('_', '-')}": text}) == typed


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("batch_sise", "batch_size"),
        ("optim.g.learning_rate", None),
        ("optim.g.betas", "optim.g.beta2"),
        ("optim.lr", "optim.g.lr or optim.d.lr"),
        ("data.resolutoin", "data.resolution"),
        ("resolution", "data.resolution"),
        ("r1_gamma", "loss.r1_gamma"),
        ("model.data.name", "name"),
        ("storage.kind", None),
        ("kimg.x", None),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(tmp_path, name, nearest):
    typed = refused(overrides={name: "3"})
    assert typed.startswith(f"--{name}: no such setting (value 3)")
    assert (f"did you mean {nearest}" in typed) if nearest else ("did you mean" in typed or "--help" in typed)
    value = 3
    for part in reversed(name.split(".")):
        value = {part: value}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(value))
    written = refused(file=file)
    if name not in ("storage.kind", "kimg.x", "model.data.name"):  # in YAML these are values of known keys
        assert written == typed.removeprefix("--")


def test_all_mistakes_are_told_at_once():
    lines = refused(overrides={"optim.g.lr": "-1", "batch_size": "0", "loss.name": "hing"}).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["batch_size", "loss.name", "optim.g.lr"]
    lines = refused(overrides={"optim.g.lrr": "1", "batch_sice": "1"}).splitlines()
    assert [line.split(":")[0] for line in lines] == ["--optim.g.lrr", "--batch_sice"]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("{mn: 3}", "workers.mn: no such setting (value 3); did you mean workers.min?"),
        ("{min: 3, max: 2}", "workers = {'min': 3, 'max': 2}: min 3 is above max 2"),
        ("{min: 0, max: 2}", "workers.min = 0: allowed: a whole number >= 1"),
        ("true", "workers = True: allowed: auto, a whole number, {min, max} >= 1"),
        ("[1, 2]", "workers = [1, 2]: allowed: auto, a whole number, {min, max} >= 1"),
    ],
)
def test_a_setting_of_several_kinds_is_told_once_and_without_the_library_s_words(typed, says):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides={"workers": typed})
    assert str(caught.value) == says


def test_several_mistakes_in_one_section_are_all_told():
    with pytest.raises(ConfigError) as caught:
        load_config(overrides={"optim.g": "{lrr: 3, beta1: 2, lr: {a: 1}}"})
    lines = sorted(str(caught.value).splitlines())
    assert [line.split(" ")[0].rstrip(":") for line in lines] == ["optim.g.beta1", "optim.g.lr", "optim.g.lrr"]


def test_settings_that_do_not_agree():
    assert "64 is not divisible by workers = 3" in refused(overrides={"batch_size": 64, "workers": 3})
    assert "63 or 66" in refused(overrides={"batch_size": 64, "workers": 3})
    assert "at least 8" in refused(overrides={"batch_size": 4, "workers": 8})
    assert "cannot be shared by 8" in refused(overrides={"batch_size": 4, "workers": "{min: 1, max: 8}"})
    assert "at least 0.064" in refused(overrides={"kimg": 0.01, "batch_size": 64})
    assert "min 3 is above max 2" in refused(overrides={"workers": "{min: 3, max: 2}"})
    for many in ("n_dis", "accumulate"):
        more = {f"training.{many}": 2}
        assert "training.reuse_fakes = True: needs" in refused(overrides=more | {"training.reuse_fakes": "true"})
        assert not load_config(overrides=more).training.reuses_fakes
    assert load_config().training.reuses_fakes
    assert not load_config(overrides={"training.reuse_fakes": "false"}).training.reuses_fakes
    moving = {"training.deterministic": True, "augment.kind": "ada", "augment.policy": "[colour, rotate]"}
    assert "training.deterministic = True: augment.policy = rotate moves pixels" in refused(overrides=moving)
    assert load_config(overrides=moving | {"augment.policy": "[colour]"}).training.deterministic


def test_values_as_they_are_typed():
    config = load_config(
        overrides={
            "--optim.g.lr": "1e-4",
            "--batch-size": "32",
            "data.root": "/data/2024",
            "data.labels": "false",
            "name": "7",
            "data.limit": "null",
            "training.ema_half_life_kimg": "10, 30",
            "metrics.names": "fid,kid",
            "loss.name": "non-saturating",
            "model.conditioning": "none",
            "workers": "{min: 1, max: 2}",
            "tune.space.optim.g.lr": "{loguniform: [1e-5, 1e-2]}",
            "model.g_args.depth": "3",
            "data.device_mib": "0",
        }
    )
    assert config.optim.g.lr == 1e-4
    assert config.batch_size == 32
    assert config.data.root == "/data/2024"
    assert config.data.labels is False
    assert config.name == "7"
    assert config.data.limit is None
    assert config.training.ema_half_life_kimg == [10, 30]
    assert config.metrics.names == ["fid", "kid"]
    assert config.model.conditioning == "none"
    assert config.workers == WorkerRange(min=1, max=2)
    assert list(config.tune.space) == ["optim.g.lr"]
    assert config.model.g_args == {"depth": 3}
    assert config.data.device_mib == 0


def test_top_level_names_under_training():
    config = load_config(
        overrides={"training.batch_size": "32", "training.kimg": "7", "training.seed": "3", "training.workers": "2"}
    )
    assert (config.batch_size, config.kimg, config.seed, config.workers) == (32, 7, 3, 2)
    assert validate({"training": {"batch_size": 16, "n_dis": 2}}).batch_size == 16


def test_the_command_line_wins_over_the_file_and_the_file_over_the_base(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("kimg: 5\noptim: {g: {lr: 3e-4}}\n")
    config = load_config(file, {"optim.g.lr": 1e-3}, {"kimg": 9, "seed": 4, "optim": {"g": {"beta1": 0.1}}})
    assert (config.kimg, config.seed, config.optim.g.lr, config.optim.g.beta1) == (5, 4, 1e-3, 0.1)


def test_reading_changes_nothing_that_was_given():
    base = {"optim": {"g": {"lr": 1e-3}}}
    load_config(base=base, overrides={"optim.g.lr": "1e-4", "optim.d.lr": "1e-4"})
    assert base == {"optim": {"g": {"lr": 1e-3}}}
    assert merge({"a": {"b": 1}}, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file; did you mean"),
        ("kimg: [1", "not valid YAML"),
        ("- kimg", "not a list"),
        ("5", "not a int"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, text, says):
    file = tmp_path / "mnist.yaml"
    if text is None:
        file.write_text("")
        file = tmp_path / "mnits.yaml"
    elif isinstance(text, bytes):
        file.write_bytes(text)
    else:
        file.write_text(text)
    message = refused(file=file)
    assert message.startswith(f"--config {file}: ")
    assert says in message
    assert "\n" not in message


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "e.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "e.yaml") == RunConfig() == load_config()


@pytest.mark.parametrize(
    "changes", [{}, {"workers": "{min: 1, max: 4}", "data.root": "/a", "tune.space.batch_size": "{choice: [32, 64]}"}]
)
def test_what_is_written_reads_back_equal(tmp_path, changes):
    config = load_config(overrides=changes)
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config
    assert validate(config.model_dump(mode="json")) == config


def test_every_setting_has_a_meaning_and_says_what_is_allowed():
    names = [name for name, _ in walk_fields()]
    assert len(names) == len(set(names)) > 80
    for name, info in walk_fields():
        assert info.description, name
        assert allowed_text(info), name
        assert find_field(name) is info
        get_dotted(RunConfig(), name)


def test_allowed_text():
    def allowed(name):
        return allowed_text(find_field(name))

    assert allowed("optim.g.lr") == "a number > 0 and <= 10"
    assert allowed("optim.g.beta1") == "a number >= 0 and < 1"
    assert allowed("data.fit") == "crop, pad"
    assert allowed("data.mirror") == "true or false"
    assert allowed("data.root") == "text, or null"
    assert allowed("data.resolution") == "HEIGHTxWIDTH, a whole number >= 4 and <= 1024, or null"
    assert allowed("workers") == "auto, a whole number, {min, max} >= 1"
    assert allowed("metrics.names").startswith("a list of class-kl, density-coverage, fid")
    assert allowed("training.ema_half_life_kimg") == "a list of numbers"


@pytest.mark.parametrize(
    ("typed", "kept", "size"),
    [
        ("64", 64, 64),
        (64, 64, 64),
        (64.0, 64, 64),
        ("64x64", 64, 64),
        ("48x64", "48x64", (48, 64)),
        (" 48 X 64 ", "48x64", (48, 64)),
        ("48\N{MULTIPLICATION SIGN}64", "48x64", (48, 64)),
        ([48, 64], "48x64", (48, 64)),
        ("none", None, None),
    ],
)
def test_sizes_have_one_spelling(tmp_path, typed, kept, size):
    config = load_config(overrides={"data.resolution": typed})
    assert (config.data.resolution, config.data.size) == (kept, size)
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config
    file.write_text(f"data: {{resolution: {typed}}}" if typed != "none" else "data: {resolution: null}")
    assert load_config(file).data.size == size


def test_sections_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().optim.g.lr = 1.0
    a, b = RunConfig(), RunConfig()
    assert a.metrics.names is not b.metrics.names


def test_run_name_and_budget():
    assert load_config(overrides={"data.name": "/x/cats/"}).run_name == "cats"
    assert load_config(overrides={"data.name": "a/faces.zip"}).run_name == "faces"
    assert load_config(overrides={"name": "n"}).run_name == "n"
    config = load_config(overrides={"kimg": "1", "batch_size": "64", "training.n_dis": "3"})
    assert config.total_images == 1152  # six steps of 3 x 64 images: the first whole step past 1,000


# what the data of each config is like; none of it is needed here
SHAPES = {
    "mnist": (1, 28, 10),
    "dcgan-mnist": (1, 28, 10),
    "fashion-mnist": (1, 28, 10),
    "stacked-mnist": (3, 28, 1000),
    "cifar10": (3, 32, 10),
    "r3gan-cifar10": (3, 32, 10),
    "sngan-cifar10": (3, 32, 10),
    "folder": (3, 64, 0),
    "r3gan-ffhq64": (3, 64, 0),
    **{f"r3gan-{side}": (3, side, 0) for side in (128, 256, 512, 1024)},
    "r3gan-ffhq256": (3, 256, 0),
    "style-256": (3, 256, 0),
}
PRESETS = {
    "r3gan-cifar10": "1.96",
    "r3gan-ffhq64": "1.95",
    "r3gan-ffhq256": "2.75",
    "sngan-cifar10": "16.77",
    "dcgan-mnist": "6.8",
}
PRESETS |= {"stacked-mnist": "1,000 / 0.029"}  # and the published figure that each aims at


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_every_run_config_that_ships_can_start(file):
    config = load_config(file)
    channels, resolution, n_classes = SHAPES[file.stem]
    assert config.data.resolution in (None, resolution)
    check_models(config.model, channels=channels, resolution=resolution, n_classes=n_classes)
    assert file.read_text().startswith("# "), "says what to expect"
    assert f"--config {file.stem}" in file.read_text(), "says how to start"
    if config.data.name in KNOWN_SETS:
        from distgan.kinds import describe

        spec = describe(DataConfig(name=config.data.name))
        assert (*spec.shape[:2], spec.n_classes) == SHAPES[file.stem]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_state_source_and_figure_and_build(name):
    text, config = shipped_configs()[name].read_text(), load_config(name)
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert "et al." in comments or "Radford" in comments
    assert "Published" in comments
    assert PRESETS[name] in comments
    assert config.run_name == name
    channels, resolution, n_classes = SHAPES[name]
    size = {"channels": channels, "resolution": resolution, "n_classes": n_classes}
    G, D = build_generator(config.model, **size), build_discriminator(config.model, **size)
    c = torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        x = G(torch.zeros(2, config.model.latent_dim), c)
        assert x.shape == (2, channels, resolution, resolution)
        assert D(x, c).shape == (2,)
    widths = config.model.g_args.get("widths")
    if config.model.name == "r3gan":
        assert G.basis.shape[0] == widths[0] == 768  # three quarters of 1024, the paper's
        assert G.output.in_channels == D.body[0].out_channels == widths[-1]
        assert {m.weight.shape[1] for m in G.modules() if getattr(m, "kernel_size", 0) == (3, 3)} == {
            16
        }  # channels a group


def test_the_configs_are_those_that_the_documents_name():
    assert {f.stem for f in CONFIGS} == set(SHAPES)


def test_a_config_that_ships_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("mnist").kimg == load_config("jobs/configs/mnist.yaml").kimg == 400  # where it lay once
    (tmp_path / "mnist").write_text("kimg: 3")
    assert load_config("mnist").kimg == 3, "a file of one's own comes first"
    with pytest.raises(ConfigError, match=r"--config minst: no such file; did you mean mnist\?.*config --list"):
        load_config("minst")
