"""Pieces of messages."""

import pytest

from distgan.text import clock, count, did_you_mean, duration, first_line, last_line, nearest, printable, table


@pytest.mark.parametrize(
    ("word", "said"),
    [("trian", "; did you mean train?"), ("Least_Squares", "; did you mean least-squares?"), ("xyzzy", ""), ("", "")],
)
def test_the_nearest_name_is_suggested_as_it_is_spelled(word, said):
    assert did_you_mean(word, ["train", "least-squares", "tune"]) == said


def test_several_names_come_best_first():
    assert nearest("lr_g", ["g_lr", "lr_d", "beta"], 2) == ["lr_d", "g_lr"]


def test_durations_in_words():
    seconds = (-1, 0, 59.6, 119, 200, 3600, 3723, 86400 + 60, 2 * 86400, 2 * 86400 + 5 * 3600)
    words = ["0 s", "0 s", "60 s", "119 s", "3 min", "1 h", "1 h 2 min", "24 h 1 min", "2 d", "2 d 5 h"]
    assert [duration(s) for s in seconds] == words


def test_durations_as_a_clock():
    assert [clock(s) for s in (-1, 0, 59.6, 125, 3723)] == ["0:00", "0:00", "1:00", "2:05", "1:02:03"]


def test_counts():
    counts = [count(0, "node"), count(1, "node"), count(10, "image"), count(2, "index", "indices")]
    assert counts == ["0 nodes", "1 node", "10 images", "2 indices"]


def test_columns_are_aligned_and_lines_end_where_their_text_ends():
    assert table([("RUN", "STATE"), ("mnist", ""), ("a", "complete")]) == "RUN    STATE\nmnist\na      complete"


def test_lines_of_an_error():
    error = ValueError("\n  one \n\ntwo\n\n")
    assert (first_line(error), last_line(error)) == ("one", "two")
    assert (first_line(OSError()), last_line("")) == ("OSError", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é and 字", "plain, é and 字"),
        ("\udce9", "\\xe9"),
        ("a\udcffb", "a\\xffb"),
        ("\ud83d", "\\ud83d"),
        ("\ud83d\udce9", "\\ud83d\\udce9"),
    ],
)
def test_half_characters_are_shown_by_their_numbers(text, shown):
    assert printable(text) == shown
    printable(text).encode()
