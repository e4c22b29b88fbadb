"""A generator on disk rebuilds without the run it came from, and its samples do not depend on how many are asked
for.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
import uuid

import numpy as np
import pytest
import torch
from PIL import Image

from distgan.config import ConfigError, DataConfig, ModelConfig
from distgan.export.generator import find_generator, load_generator, save_generator
from distgan.export.sample import find_label, write_samples
from distgan.kinds import open_samples
from distgan.kinds.image import KIND
from distgan.kinds.image.image_set import image_spec
from distgan.kinds.image.opacity import straight
from distgan.models import build_generator
from distgan.models.sides import sides
from distgan.storage import Folder

SMALL = {"latent_dim": 4, "g_width": 4, "d_width": 4}
KINDS = {
    "grey": (ModelConfig(name="mlp", **SMALL), 1, 12, ()),
    "colour": (ModelConfig(name="dcgan", **SMALL), 3, 16, ()),
    "classes": (
        ModelConfig(name="dcgan", conditioning="projection", latent="uniform", **SMALL),
        1,
        16,
        ("cat", "dog", "axolotl"),
    ),
    "opacity": (ModelConfig(name="dcgan", **SMALL), 4, (16, 24), ()),
}


def export(folder, kind, counts=()):
    model, channels, resolution, classes = KINDS[kind]
    G = build_generator(model, channels=channels, resolution=resolution, n_classes=len(classes), seed=3)
    for buffer in G.buffers():  # as after training
        if buffer.is_floating_point():
            buffer.add_(0.1)
    save_generator(
        folder,
        G.state_dict(),
        model,
        kind="image",
        spec=dataclasses.replace(image_spec("tiny", channels, resolution, classes), class_counts=counts),
        info={"run": "tiny", "kimg": 1.5},
    )
    return G.eval()


@pytest.fixture(params=KINDS)
def exported(request, tmp_path):
    folder = Folder(tmp_path / "runs" / "tiny" / "generator")
    return export(folder, request.param), folder, request.param


def test_roundtrip(exported):
    G, folder, kind = exported
    model, channels, resolution, classes = KINDS[kind]
    found = load_generator(folder)
    assert (found.model, found.kind, found.classes) == (model, KIND, classes)
    assert found.spec == image_spec("tiny", channels, resolution, classes)
    assert found.info == {"run": "tiny", "kimg": 1.5}
    assert found.conditional == bool(classes)
    assert not found.G.training
    z, c = torch.randn(5, 4), torch.arange(5) % 3 if classes else None
    with torch.no_grad():
        assert torch.equal(found.G(z, c), G(z, c))


def test_the_files_are_enough_elsewhere(exported, tmp_path):
    """In another process, from a copy of the two files, with none of the training code imported."""
    _, folder, kind = exported
    shutil.copytree(folder.path(), tmp_path / "elsewhere")
    assert sorted(folder.list()) == ["generator.json", "generator.safetensors"]
    if kind != "grey":
        return  # one process is enough
    code = (
        "import sys; from distgan.export.sample import write_samples; write_samples(sys.argv[1], 3, "
        "sys.argv[2]);assert not [m for m in sys.modules if m.startswith(('distgan.training', 'distgan.gan', "
        "'ray'))]"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "elsewhere"), str(tmp_path / "o.npy")], check=True, timeout=100
    )
    write_samples(folder.path(), 3, str(tmp_path / "here.npy"))
    assert (np.load(tmp_path / "o.npy") == np.load(tmp_path / "here.npy")).all()


def test_the_json_says_what_goes_in_and_comes_out(exported):
    _, folder, kind = exported
    meta = json.loads(folder.read("generator.json"))
    assert meta["input"] == {
        "z": [4],
        "latent": "uniform" if kind == "classes" else "normal",
        "label": kind == "classes",
    }
    assert meta["kind"] == "image"
    assert meta["spec"]["shape"] == [KINDS[kind][1], *sides(KINDS[kind][2])]
    assert ("multiplied by opacity" in meta["spec"].get("meaning", "")) == (kind == "opacity")
    assert meta["spec"]["value_range"] == [-1, 1]
    assert meta["spec"]["classes"] == list(KINDS[kind][3])


def test_files_of_the_first_format_still_load(exported):
    G, folder, kind = exported
    if kind == "opacity":  # there was none
        return
    _, channels, resolution, classes = KINDS[kind]
    meta = json.loads(folder.read("generator.json"))
    del meta["kind"], meta["spec"]
    old = {"format": 1, "channels": channels, "resolution": resolution, "classes": list(classes)}
    folder.write("generator.json", json.dumps(meta | old))
    found = load_generator(folder)
    assert found.spec == image_spec("", channels, resolution, classes)
    z, c = torch.randn(5, 4), torch.arange(5) % 3 if classes else None
    with torch.no_grad():
        assert torch.equal(found.G(z, c), G(z, c))


@pytest.mark.parametrize("harm", ["weights", "json", "other network", "future", "no weights"])
def test_a_generator_that_cannot_be_read_is_named(tmp_path, harm):
    folder = Folder(tmp_path)
    export(folder, "grey")
    meta = json.loads(folder.read("generator.json"))
    if harm == "weights":
        folder.write("generator.safetensors", folder.read("generator.safetensors")[:-5])
    elif harm == "json":
        folder.write("generator.json", "{")
    elif harm == "other network":
        folder.write("generator.json", json.dumps(meta | {"spec": meta["spec"] | {"shape": [1, 20, 20]}}))
    elif harm == "future":
        folder.write("generator.json", json.dumps(meta | {"format": 99}))
    else:
        folder.remove("generator.safetensors")
    with pytest.raises(ConfigError) as caught:
        load_generator(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pixels_are_rounded_and_clamped():
    assert KIND.decode(torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(KIND.decode(KIND.encode(every)), every)


# -- where generators are looked for ----------------------------------------------------------------------------------


def test_by_name_folder_file_and_uri(tmp_path):
    export(Folder(tmp_path / "runs" / "tiny" / "generator"), "grey")
    expected = str(tmp_path / "runs" / "tiny" / "generator")
    for where in (f"{tmp_path}/runs/tiny", expected, f"{expected}/generator.json", f"{expected}/"):
        assert find_generator(where, "nowhere").path().rstrip("/") == expected
    assert find_generator("tiny", str(tmp_path / "runs")).path() == expected
    uri = f"memory://{uuid.uuid4().hex}/runs"
    export(Folder(uri).child("tiny").child("generator"), "grey")
    assert load_generator(find_generator("tiny", uri)).spec.shape == (1, 12, 12)
    assert load_generator(find_generator(f"{uri}/tiny")).spec.shape == (1, 12, 12)


def test_what_is_not_there_is_told_with_the_runs_that_are(tmp_path):
    storage = Folder(tmp_path / "runs")
    with pytest.raises(ConfigError, match="there are no runs in"):
        find_generator("tiny", storage.uri)
    storage.write("young/config.yaml", "")
    with pytest.raises(ConfigError, match=r"runs in .*: young"):
        find_generator("tiny", storage.uri)
    with pytest.raises(ConfigError, match="no generator yet"):
        find_generator("young", storage.uri)


# -- samples ----------------------------------------------------------------------------------------------------------


def test_image_i_of_a_seed_is_always_the_same(exported, tmp_path):
    _, folder, _ = exported

    def sample(n, **how):
        write_samples(folder.path(), n, str(tmp_path / "x.npy"), **how)
        found = np.load(tmp_path / "x.npy").astype(int)
        if found.shape[-1] == 4:  # as networks make them: a colour that is hardly seen depends on how it is rounded
            found[..., :3] = found[..., :3] * found[..., 3:] // 255
        return found

    many = sample(300)  # more than one batch
    assert np.abs(sample(7) - many[:7]).max() <= 1  # another batch size may round otherwise, no more
    assert (sample(300) == many).all()
    assert (sample(7, seed=1) != many[:7]).any()
    assert len(np.unique(many.reshape(300, -1), axis=0)) > 290


def test_arrays_grids_and_folders_hold_the_same_images(exported, tmp_path):
    _, folder, kind = exported
    _, channels, resolution, _ = KINDS[kind]
    height, width = sides(resolution)
    said = write_samples(folder.path(), 12, str(tmp_path / "new" / "a.npy"))
    assert said == f"12 images of tiny at 1.5 kimg: {tmp_path}/new/a.npy"
    array = np.load(tmp_path / "new" / "a.npy")
    assert array.dtype == np.uint8
    assert array.shape == ((12, height, width) if channels == 1 else (12, height, width, channels))

    write_samples(folder.path(), 12, str(tmp_path / "single"))
    files = sorted((tmp_path / "single").glob("*.png"))
    assert [f.name for f in files] == [f"{i:02d}.png" for i in range(12)]
    assert (np.stack([np.asarray(Image.open(f)) for f in files]) == array).all()

    write_samples(folder.path(), 12, str(tmp_path / "grid.png"), label="each" if kind == "classes" else None)
    times = 64 // max(height, width)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))[::times, ::times]
    columns = 3 if kind == "classes" else 4
    assert grid.shape[:2] == ((height + 2) * (12 // columns) + 2, (width + 2) * columns + 2)
    second = grid[2 : 2 + height, width + 4 : 2 * width + 4]
    generator = load_generator(folder)
    turns = generator.sample(torch.arange(12), 0, "each" if kind == "classes" else None).numpy()
    turns = straight(turns) if channels == 4 else turns
    assert (second == turns[1].transpose(1, 2, 0).squeeze()).all()

    if kind == "classes":
        assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]  # nothing half written
        with pytest.raises(ConfigError, match="there are files in it"):
            write_samples(folder.path(), 12, str(tmp_path / "single"))
        assert len(list((tmp_path / "single").iterdir())) == 13
        (tmp_path / "empty").mkdir()
        write_samples(folder.path(), 2, str(tmp_path / "empty"))


def test_folders_and_npz_tell_the_class_of_each_image(tmp_path):
    folder = Folder(tmp_path / "g")
    export(folder, "classes")
    labels = load_generator(folder).labels(torch.arange(30), 4).numpy()
    write_samples(folder.path(), 30, str(tmp_path / "folder"), seed=4)
    known = json.loads((tmp_path / "folder" / "dataset.json").read_text())
    assert known == {
        "labels": [[f"{i:02d}.png", label] for i, label in enumerate(labels.tolist())],
        "classes": ["cat", "dog", "axolotl"],
    }
    write_samples(folder.path(), 30, str(tmp_path / "set.npz"), seed=4)
    found = open_samples(DataConfig(name=str(tmp_path / "set.npz")))
    names = np.array(["cat", "dog", "axolotl"])[labels]
    assert (np.array(found.classes)[found.labels] == names).all()
    assert (found.samples[:, 0] == np.load(tmp_path / "set.npz")["images"]).all()


def test_classes_are_drawn_as_often_as_in_the_data(tmp_path):
    folder = Folder(tmp_path / "g")
    export(folder, "classes", counts=(600, 0, 400))
    generator = load_generator(folder)
    assert generator.class_counts == (600, 0, 400)
    drawn = generator.labels(torch.arange(5000), 0)
    counts = torch.bincount(drawn, minlength=3).tolist()
    assert counts[1] == 0
    assert counts[0] == pytest.approx(3000, abs=120)
    assert torch.equal(generator.labels(torch.arange(40, 90), 0), drawn[40:90])  # of a sample, not of a batch
    assert not torch.equal(generator.labels(torch.arange(50), 1), drawn[:50])
    meta = json.loads(folder.read("generator.json"))
    for bad in ([1, 2], [0, 0, 0], [-1, 2, 2]):
        folder.write("generator.json", json.dumps(meta | {"spec": meta["spec"] | {"class_counts": bad}}))
        with pytest.raises(ConfigError, match="counts"):
            load_generator(folder)
    del meta["spec"]["class_counts"]  # a file of before: each as often as the others
    folder.write("generator.json", json.dumps(meta))
    even = torch.bincount(load_generator(folder).labels(torch.arange(3000), 0), minlength=3)
    assert min(even.tolist()) > 900


def test_labels(tmp_path):
    folder = Folder(tmp_path / "g")
    export(folder, "classes")
    generator = load_generator(folder)
    assert [find_label(generator, label) for label in (None, "cat", "axolotl", "1")] == [None, 0, 2, 1]
    index = torch.arange(3000)
    assert find_label(generator, "each") == "each"
    assert generator.labels(index[:4], 0, "each").tolist() == [0, 1, 2, 0]  # a column of a grid each
    many = dataclasses.replace(generator, spec=image_spec("many", 1, 16, tuple(map(str, range(100)))))
    assert torch.bincount(many.labels(index, 0), minlength=100).min() > 10
    assert len(set(many.labels(index[:40], 0).tolist())) > 25
    assert generator.labels(index[:3], 0, 2).tolist() == [2, 2, 2]
    write_samples(folder.path(), 4, str(tmp_path / "dogs.npy"), label="dog")
    z = torch.arange(4)
    assert (np.load(tmp_path / "dogs.npy") == generator.sample(z, 0, 1).numpy()[:, 0]).all()
    with pytest.raises(
        ConfigError,
        match=r"--label dgo: no such class; allowed: cat, dog, axolotl, 0 to 2, or each \(all in turn\); did you mean",
    ):
        find_label(generator, "dgo")
    with pytest.raises(ConfigError, match="allowed: cat, dog"):
        find_label(generator, "3")
    numbered = dataclasses.replace(generator, spec=image_spec("ids", 1, 16, ("7", "4000")))
    assert [find_label(numbered, label) for label in ("7", "4000")] == [0, 1]
    with pytest.raises(ConfigError, match="--label 1: no such class; allowed: 7, 4000, or each"):
        find_label(numbered, "1")  # a place in the list, where numbers are names
    export(folder, "grey")
    with pytest.raises(ConfigError, match="trained without labels"):
        find_label(load_generator(folder), "cat")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"n": 0}, "-n 0: allowed: at least 1"),
        ({"n": -5}, "-n -5"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**63}, "--seed"),
        ({"truncation": -0.1}, "--truncation -0.1: allowed: 0 "),
        ({"out": "x.tif"}, r"--out x\.tif: allowed: FILE\.png"),
        ({"n": 20000, "out": "x.png"}, "at most 10000"),
        ({"out": "/proc/nowhere/x.png"}, "--out .*cannot be written"),
    ],
)
def test_bad_requests_are_refused_in_words(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    export(Folder("g"), "grey")
    request = {"n": 4, "out": "x.npy"} | given
    with pytest.raises(ConfigError, match=says):
        write_samples("g", request.pop("n"), request.pop("out"), **request)
    assert [p.name for p in tmp_path.iterdir()] == ["g"]


def test_a_grid_in_every_format_of_pictures_and_without_a_name(tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    export(Folder("g"), "opacity")
    for name in ("a.png", "a.webp", "a.jpg", "a.JPEG"):
        write_samples("g", 9, name)
    grid = Image.open("a.png")
    alpha = np.asarray(grid)[..., 3:]
    assert (np.asarray(Image.open("a.webp")) * (alpha > 0) == np.asarray(grid) * (alpha > 0)).all()
    white = Image.new("RGBA", grid.size, "white")
    exact = np.asarray(Image.alpha_composite(white, grid).convert("RGB")).astype(int)
    for name in ("a.jpg", "a.JPEG"):
        assert Image.open(name).format == "JPEG"
        assert np.abs(np.asarray(Image.open(name)) - exact).mean() < 10
    assert write_samples("g", 4, None, seed=3).endswith("tiny-seed3.png")
    assert write_samples("g", 4, None, walk=3).endswith("tiny-seed0.gif")
    assert {"tiny-seed3.png", "tiny-seed0.gif"} <= {file.name for file in tmp_path.iterdir()}
