"""Walks begin and end at images of the seed, and go evenly in between."""

import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from test_export_portable import export

from distgan.cli import main
from distgan.config import ConfigError
from distgan.export.sample import write_samples
from distgan.export.walk import between, walk
from distgan.storage import Folder


def test_the_way_between_two_normal_vectors_is_a_great_circle():
    a, b = torch.randn(50, 64), 2 * torch.randn(50, 64)
    t = torch.linspace(0, 1, 9)
    path = between(a, b, t, "normal")
    assert path.shape == (9, 50, 64)
    torch.testing.assert_close(path[0], a)
    torch.testing.assert_close(path[-1], b)
    lengths = path.norm(dim=2)
    torch.testing.assert_close(lengths, a.norm(dim=1) + t[:, None] * (b.norm(dim=1) - a.norm(dim=1)))
    unit = path / lengths[..., None]
    angles = torch.acos((unit[:-1] * unit[1:]).sum(-1))
    torch.testing.assert_close(angles, angles[:1].expand_as(angles), atol=1e-3, rtol=1e-3)  # even steps
    assert angles.sum(0).mean() == pytest.approx(math.pi / 2, abs=0.1)  # random directions are nearly at right angles


def test_the_way_of_uniform_noise_stays_in_its_cube_and_equal_ends_are_no_trouble():
    a, b = torch.rand(20, 8) * 2 - 1, torch.rand(20, 8) * 2 - 1
    path = between(a, b, torch.tensor([0.0, 0.25, 1.0]), "uniform")
    torch.testing.assert_close(path[1], 0.75 * a + 0.25 * b)
    torch.testing.assert_close(between(a, a, torch.tensor([0.3]), "normal")[0], a, atol=1e-4, rtol=1e-4)


def test_a_walk_joins_samples_of_its_class(tmp_path):
    generator = export(Folder(tmp_path / "g"))
    images = walk(generator, 4, 6, seed=5, label=1)
    assert images.shape == (4, 6, 3, 16, 16)
    assert images.dtype == torch.uint8
    samples = generator.sample(torch.arange(8), 5, 1).int()
    assert (images[:, 0].int() - samples[:4]).abs().max() <= 1
    assert (images[:, -1].int() - samples[4:]).abs().max() <= 1
    assert not torch.equal(images, walk(generator, 4, 6, seed=5, label=2))


def test_every_kind_of_file_holds_the_same_walk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export(Folder("g"), classes=())
    assert main(["sample", "g", "-n", "4", "--walk", "5", "--out", "new/w.npy"]) == 0
    assert capsys.readouterr().out == "4 walks of 5 steps by tiny at 1.5 kimg: new/w.npy\n"
    array = np.load("new/w.npy")
    assert array.dtype == np.uint8
    assert array.shape == (4, 5, 16, 16, 3)

    for out in ("w.png", "w.gif", "frames"):
        assert main(["sample", "g", "-n", "4", "--walk", "5", "--out", out]) == 0
    strip = np.asarray(Image.open("w.png"))[::4, ::4]
    assert strip.shape == (4 * 18 + 2, 5 * 18 + 2, 3)
    assert (strip[18 + 2 : 18 + 18, 3 * 18 + 2 : 3 * 18 + 18] == array[1, 3]).all()
    frames = sorted((tmp_path / "frames").iterdir())
    assert [f.name for f in frames] == [f"{t}.png" for t in range(5)]
    assert (np.asarray(Image.open(frames[3]))[::4, ::4][2:18, 20:36] == array[1, 3]).all()
    with Image.open("w.gif") as animation:
        assert animation.n_frames == 8  # there and back: 0 1 2 3 4 3 2 1
        assert animation.info["loop"] == 0
        turned = [
            np.asarray(frame.convert("RGB")).astype(int)[::4, ::4][2:18, 20:36]
            for frame in ImageSequence.Iterator(animation)
        ]
    nearest = [
        int(np.abs(shown - array[1].astype(int)).mean((1, 2, 3)).argmin()) for shown in turned
    ]  # 256 colours a frame
    assert nearest == [0, 1, 2, 3, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"walk": 1}, "--walk 1: allowed: at least 2"),
        ({"walk": 10000, "n": 10}, "100000 images; allowed: 20000"),
        ({"out": "x.gif", "n": 1000}, "24000 images; allowed: 20000"),
        ({"out": "s3://bucket/x.png"}, "on this machine"),
    ],
)
def test_bad_walks_are_refused_in_words(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    export(Folder("g"), classes=())
    request = {"n": 4, "out": "x.npy"} | given
    with pytest.raises(ConfigError, match=says):
        write_samples("g", request.pop("n"), request.pop("out"), **request)
    assert [p.name for p in tmp_path.iterdir()] == ["g"]


def test_a_film_has_the_frames_of_the_walk(tmp_path, monkeypatch, capsys):
    import imageio_ffmpeg

    monkeypatch.chdir(tmp_path)
    export(Folder("g"), classes=())
    assert main(["sample", "g", "-n", "4", "--walk", "5", "--out", "w.npy"]) == 0
    assert main(["sample", "g", "-n", "4", "--walk", "5", "--out", "w.mp4"]) == 0
    frames = imageio_ffmpeg.read_frames("w.mp4")
    width, height = next(frames)["size"]
    shown = [np.frombuffer(frame, np.uint8).reshape(height, width, 3)[::4, ::4][2:18, 20:36] for frame in frames]
    array = np.load("w.npy")
    assert [int(np.abs(f - array[1].astype(int)).mean((1, 2, 3)).argmin()) for f in shown] == [0, 1, 2, 3, 4, 3, 2, 1]

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert main(["sample", "g", "-n", "4", "--out", "x.mp4"]) == 2
    assert "pip install 'distgan[video]'" in capsys.readouterr().err
    assert not (tmp_path / "x.mp4").exists()


def test_an_animation_is_a_walk_of_24_steps_unless_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export(Folder("g"), classes=())
    assert main(["sample", "g", "-n", "4", "--out", "w.gif"]) == 0
    assert capsys.readouterr().out == "4 walks of 24 steps by tiny at 1.5 kimg: w.gif\n"
