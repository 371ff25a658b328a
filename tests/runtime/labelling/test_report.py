"""What is written of an evaluation: every form by hand, from counts that are small enough to check."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from zsl_runtime.accuracy import Bin, by_class, mixups
from zsl_runtime.errors import InputError
from zsl_runtime.labelling.evaluation import Calibration, Evaluation, Figure
from zsl_runtime.labelling.report import (
    CLASS_COLUMNS,
    Protocol,
    encode_classes,
    encode_confusion,
    encode_json,
    encode_report,
)

NAMES = ("crow", "übersee-ente, die", "tern")
COUNTS = np.array([[3, 1, 0], [2, 1, 1], [0, 0, 2]])
PROTOCOL = Protocol(
    "b",
    2,
    "some",
    "ort",
    "onnxruntime 1",
    "cpu",
    "fp32",
    "birds",
    "class folders",
    "run/split.csv",
    "test",
    ("a note",),
)
BINS = (Bin(40, 60, 2, 55.4, 50.0), Bin(80, 100, 8, 96.6, 62.5))


def figure(value, spread=1.23, chance=33.3, photographs=10, classes=3, competing=3) -> Figure:
    return Figure(value, spread, chance, photographs, classes, competing)


def an_evaluation(**changes) -> Evaluation:
    found = Evaluation(
        figures={
            "accuracy": figure(66.67),
            "S": figure(75.0, photographs=4, classes=1),
            "U": figure(62.5, photographs=6, classes=2),
            "H": figure(68.18),
            "T1": figure(80.0, None, 50.0, 6, 2, 2),
            "top5": figure(None, None, None),
        },
        calibration=Calibration(20.5, 88.4, 60.0, BINS),
        classes=tuple(by_class(COUNTS, NAMES, np.array([True, False, False]))),
        mixups=tuple(mixups(COUNTS, NAMES, 50)),
        names=NAMES,
        counts=COUNTS,
        photographs=10,
        unreadable=(),
    )
    return replace(found, **changes)


def report(evaluation: Evaluation, protocol: Protocol = PROTOCOL) -> list[str]:
    return encode_report(evaluation, protocol).decode().splitlines()


def test_the_report_says_everything_in_words():
    assert encode_report(an_evaluation(), PROTOCOL).decode() == (
        """bundle  b, generation 2, method some; fp32 by ort on cpu
truth   birds (class folders, role test of run/split.csv): 10 photographs of 3 classes

               %      ±  chance
accuracy    66.7    1.2    33.3  a class's share of right answers, mean over 3 classes; all 3 classes compete
S           75.0    1.2    33.3  the same over 1 seen class (4 photographs); all 3 classes compete
U           62.5    1.2    33.3  the same over 2 unseen classes (6 photographs); all 3 classes compete
H           68.2    1.2    33.3  2US / (U + S): high only where both are
T1          80.0      -    50.0  as U, but only the 2 unseen classes compete
±: standard error, from how many photographs each class has; chance: what guessing would give

calibration: where it says 97% it is right in 62% (the fullest bin, 8 of 10 photographs); over all
it says 88% and is right in 60%: over-confident by 28 points (expected calibration error 20.5
points)

       %   right  split   class              mostly taken for
    25.0  1 of 4  unseen  übersee-ente, die  crow (2)
    75.0  3 of 4  seen    crow               übersee-ente, die (1)
   100.0  2 of 2  unseen  tern

the worst mix-ups
    50.0%  2 of 4 photographs of übersee-ente, die called crow
    25.0%  1 of 4 photographs of crow called übersee-ente, die
    25.0%  1 of 4 photographs of übersee-ente, die called tern
"""
    )


def test_top5_has_a_line_where_there_is_one():
    figures = {**an_evaluation().figures, "top5": figure(99.9, competing=9)}
    lines = report(an_evaluation(figures=figures))
    wanted = (
        "top5        99.9    1.2    33.3  as accuracy, but the class is among the first five answers; all 3 classes"
    )
    assert any(line.startswith(wanted) for line in lines)


def test_figures_that_are_not_there_say_why():
    none = figure(None, None, None, 0, 0, 3)
    without_seen = {**an_evaluation().figures, "S": none, "H": none}
    lines = "\n".join(report(an_evaluation(figures=without_seen)))
    assert "S              -      -       -  there are no photographs of seen classes" in lines
    assert "H              -      -       -  2US / (U + S): high only where both are; needs photographs of" in lines
    without_unseen = {**an_evaluation().figures, "U": none, "T1": none, "H": none}
    lines = report(an_evaluation(figures=without_unseen))
    assert sum("there are no photographs of unseen classes" in line for line in lines) == 2


def test_without_a_split_the_line_of_s_says_what_may_flatter_it():
    (line,) = (one for one in report(an_evaluation(), replace(PROTOCOL, split=None, role=None)) if one.startswith("S "))
    assert line.endswith("some may be of its training")
    (line,) = (one for one in report(an_evaluation()) if one.startswith("S "))
    assert "training" not in line


def test_unreadable_photographs_are_told():
    counts = np.array([[1, 0], [0, 3]])
    classes = tuple(by_class(counts, NAMES[:2], np.array([True, False])))
    error = InputError("E-IMAGE-FORMAT", "x")
    lines = report(an_evaluation(classes=classes, mixups=(), unreadable=(("a", error), ("b", error))))
    assert lines[1].endswith("10 photographs of 2 classes; 2 could not be read")
    assert lines[-1] == "no mix-ups: every photograph was named rightly"


def test_of_classes_that_are_as_bad_the_one_with_more_photographs_comes_first():
    counts = np.array([[1, 1, 0], [0, 4, 0], [3, 0, 3]])
    lines = report(an_evaluation(classes=tuple(by_class(counts, NAMES, np.array([True, False, False])))))
    first = next(i for i, line in enumerate(lines) if line.endswith("mostly taken for")) + 1
    assert [line.split()[1:4] for line in lines[first : first + 3]] == [
        ["3", "of", "6"],
        ["1", "of", "2"],
        ["4", "of", "4"],
    ]


def test_a_path_that_is_no_utf8_comes_out_with_its_bytes():
    text = encode_report(an_evaluation(), replace(PROTOCOL, truth="b\udcffrds", split="s\udcff.csv"))
    assert b"truth   b\xffrds (class folders, role test of s\xff.csv): " in text


@pytest.mark.parametrize(
    ("confidence", "right", "verdict"),
    [(80.2, 85.0, "under-confident by 5 points"), (81, 80, "over-confident by 1 point "), (80.4, 79.6, "just as sure")],
)
def test_the_sentence_of_calibration_says_which_way(confidence, right, verdict):
    lines = report(an_evaluation(calibration=Calibration(1, confidence, right, BINS)))
    assert verdict in " ".join(lines)


def test_the_csv_has_a_row_for_each_class():
    rows = list(csv.reader(io.StringIO(encode_classes(an_evaluation()).decode(), newline="")))
    assert rows == [
        list(CLASS_COLUMNS),
        ["crow", "seen", "4", "3", "75.0", "übersee-ente, die", "1"],
        ["übersee-ente, die", "unseen", "4", "1", "25.0", "crow", "2"],
        ["tern", "unseen", "2", "2", "100.0", "", "0"],
    ]


def test_the_confusion_has_names_on_both_sides():
    rows = list(csv.reader(io.StringIO(encode_confusion(an_evaluation()).decode(), newline="")))
    assert rows[0] == ["class", *NAMES]
    assert [row[0] for row in rows[1:]] == list(NAMES)
    np.testing.assert_array_equal(np.array([row[1:] for row in rows[1:]], int), COUNTS)


def test_json_holds_everything_as_plain_numbers():
    error = InputError("E-IMAGE-FORMAT", "no picture")
    found = json.loads(encode_json(an_evaluation(unreadable=(("é\udcff.jpg", error),)), PROTOCOL))
    assert found["protocol"] == {
        "bundle": "b",
        "generation": 2,
        "method": "some",
        "backend": "ort",
        "library": "onnxruntime 1",
        "device": "cpu",
        "precision": "fp32",
        "truth": "birds",
        "truth_kind": "class folders",
        "split": "run/split.csv",
        "role": "test",
        "notes": ["a note"],
        "photographs": 10,
        "unreadable": 1,
    }
    assert (found["H"], found["top5"], found["ECE"]) == (68.18, None, 20.5)
    assert found["figures"]["T1"] == {
        "value": 80.0,
        "spread": None,
        "chance": 50.0,
        "photographs": 6,
        "classes": 2,
        "competing": 2,
    }
    assert found["calibration"]["bins"][1] == {
        "from": 80,
        "to": 100,
        "photographs": 8,
        "confidence": 96.6,
        "right": 62.5,
    }
    assert found["classes"][1] == {
        "class": "übersee-ente, die",
        "split": "unseen",
        "photographs": 4,
        "right": 1,
        "accuracy": 25.0,
        "mistaken_for": "crow",
        "mistaken": 2,
    }
    assert found["classes"][2]["mistaken_for"] is None
    assert found["mixups"][0] == {"class": "übersee-ente, die", "given": "crow", "photographs": 2, "percent": 50.0}
    assert found["confusion"] == {"classes": list(NAMES), "counts": COUNTS.tolist()}
    assert found["unreadable"] == [{"path": "é\udcff.jpg", "code": "E-IMAGE-FORMAT", "message": "no picture"}]
