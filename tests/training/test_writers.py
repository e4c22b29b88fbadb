"""What log writers get is kept apart by its kind, and nothing of it is lost."""

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distgan.kinds import find_kind
from distgan.registry import KINDS, LOG_WRITERS
from distgan.training.writers.tensorboard import GROUPS, SHOWN, tag

PICTURE = np.zeros((4, 4), np.uint8)
NAMES = ["samples", "reals", "events", "d_loss", "pictures/samples", "texts/events", "curves/pictures/samples", "a/b"]


def read(folder: Path, **sizes: int) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance=sizes).Reload()


def test_no_tag_is_that_of_two_kinds():
    tags = [tag(kind, name) for kind in ("curve", *GROUPS) for name in NAMES]
    assert len(set(tags)) == len(tags)
    assert [tag("curve", name) for name in ("d_loss", "fid", "samples")] == ["d_loss", "fid", "samples"]


@pytest.mark.parametrize("writer", sorted(LOG_WRITERS))
def test_names_that_are_used_for_everything_at_once(writer, tmp_path):
    one = LOG_WRITERS[writer](tmp_path, 0)
    for nimg in (0, 1000, 2000):
        one.picture(nimg, "samples", PICTURE)
        for name in NAMES:
            one.scalars(nimg, {name: float(nimg)})
            one.picture(nimg, name.replace("samples", "others"), PICTURE)
        one.event(nimg, "a text")
    one.close()
    if writer == "jsonl":
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [line["event"] for line in lines if "event" in line] == ["a text"] * 3
        assert [line["samples"] for line in lines if "samples" in line] == [0, 1000, 2000]
    if writer == "tensorboard":
        found = read(tmp_path, images=0, tensors=0)
        tags = [name for kind in ("scalars", "images", "tensors", "histograms") for name in found.Tags()[kind]]
        assert len(set(tags)) == len(tags)
        assert [e.value for e in found.Scalars("samples")] == [0, 1000, 2000]
        assert [e.step for e in found.Images("pictures/samples")] == [0, 1000, 2000]
        assert [e.step for e in found.Tensors("texts/events/text_summary")] == [0, 1000, 2000]


def test_tensorboard_shows_every_picture_unasked(tmp_path):
    """Its server keeps ten pictures of a tag, picked by chance."""
    steps = [1000 * i for i in range(3 * SHOWN + 5)]
    writer = LOG_WRITERS["tensorboard"](tmp_path, 0)
    writer.picture(0, "reals", PICTURE)
    for nimg in steps[:17]:
        writer.picture(nimg, "samples", PICTURE)
    writer.close()
    writer = LOG_WRITERS["tensorboard"](tmp_path, 16_000)  # the same run goes on
    for nimg in steps[17:]:
        writer.picture(nimg, "samples", PICTURE)
    writer.rewind(30_000)
    writer.picture(31_000, "samples", PICTURE)
    writer.close()
    found = read(tmp_path, images=SHOWN)
    shown = {name: [e.step for e in found.Images(name)] for name in found.Tags()["images"]}
    assert max(len(kept) for kept in shown.values()) <= SHOWN
    assert {step for name, kept in shown.items() if "samples" in name for step in kept} == set(steps)
    assert shown["pictures/samples"] == steps[:10]
    assert shown["pictures/reals"] == [0]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_s_preview_is_a_picture_for_every_writer(kind, tmp_path):
    shape = {"image": (6, 3, 8, 8)}.get(kind, (6, 8))
    picture = find_kind(kind).preview(np.zeros(shape, np.uint8))
    for name in LOG_WRITERS:
        writer = LOG_WRITERS[name](tmp_path / name, 0) if (tmp_path / name).mkdir() is None else None
        writer.picture(0, "samples", picture)
        writer.close()
    assert read(tmp_path / "tensorboard").Tags()["images"] == ["pictures/samples"]
