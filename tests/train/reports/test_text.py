"""What a run prints: the table, its letters in words, classes and mix-ups, and a verdict that tells the truth."""

from __future__ import annotations

import numpy as np
import pytest

from zsl_runtime.head.class_table import ClassTable
from zsl_train.reports.text import COLUMNS, by_class, cell, legend, report, table, verdict
from zsl_train.scoring.verdict import by_classes, warnings

NAMES = ("crow", "gull", "heron", "tern", "owl")
TABLE = ClassTable(NAMES, np.array([True, True, True, False, False]), np.eye(5), tuple("abcde"))
LABELS = np.repeat(np.arange(5), 10)


def scores(**changes) -> dict:
    figures = dict(zip(COLUMNS, (61.24, 63.0, 50.0, 70.06, 58.3, 40.0, 33.333), strict=True))
    predicted = LABELS.copy()
    predicted[30:35] = 0  # half of the terns are called crows
    found = {
        **figures,
        "head": "fit",
        "ECE": 4.21,
        "gamma": 0.5,
        "validation_H": 60.0,
        "validation_H_crossfitted": 55.55,
        "method": "sc-egg",
        "preset": "paper",
        "null": {},
        "baselines": {"eszsl": baseline(-48.3, 4.0, 9.96), "other": baseline(-1.0, 2.0, 57.3)},
        "protocol": {
            "split": "given",
            "features": "resnet",
            "selection": "3 folds",
            "seed": 5,
            "classes": {"seen": 3, "unseen": 2},
        },
        **by_classes(predicted, LABELS, TABLE, TABLE.raw),
        **changes,
    }
    return found | {"warnings": changes.get("warnings", warnings(found))}


def baseline(ahead, spread, value=58.0) -> dict:
    return {**dict.fromkeys(COLUMNS, value), "ahead": ahead, "ahead_spread": spread}


def text(lines) -> str:
    return " ".join(" ".join(lines).split())


def test_cells_have_one_decimal_or_a_dash():
    assert [cell(value) for value in (61.24, 9.96, 0.0, None)] == ["61.2", "10.0", "0.0", "-"]


def test_the_table_lines_up():
    lines = table(scores())
    assert lines[0].split() == list(COLUMNS)
    assert lines[1].split() == ["sc-egg", "(paper)", "61.2", "63.0", "50.0", "70.1", "58.3", "40.0", "33.3"]
    assert lines[2].split() == ["eszsl", *["10.0"] * 7]
    assert lines[3].split() == ["other", *["57.3"] * 7]
    assert len({len(line) for line in lines}) == 1
    ends = [lines[0].index(name) + len(name) for name in COLUMNS]
    assert all(line[end - 1] in "0123456789" and line[end : end + 1] in {"", " "} for line in lines[1:] for end in ends)


def test_each_letter_is_explained_where_it_is_printed():
    lines = legend(scores())
    assert [line.split()[0] for line in lines[:7]] == ["S", "U", "H", "T1", "T1_czsl", "AUSUC", "gamma"]
    said = text(lines)
    assert "of 100 photographs of the 3 seen classes" in said
    assert "2 U S / (U + S)" in said
    assert "0.50 is taken off the score of every seen class" in said
    assert "guessing gives 20.0, and 50.0 for T1" in said
    assert "by a classifier of its own, fitted on generated features of these classes alone" in said
    assert "the same figure" in text(legend(scores(head="gaussian")))
    assert "given; resnet; 3 folds; seed 5" in said
    assert "0.50 is added to the score" in text(legend(scores(gamma=-0.5)))


def test_what_else_was_scored_of_the_training_stands_below_it():
    parts = {"local network": baseline(None, None, 33.0), "guide": baseline(None, None, 44.0)}
    lines = table(scores(published_head=baseline(None, None, 22.0), parts=parts))
    assert [line.split("  ")[0 if line[0] != " " else 1] for line in lines[2:6]] == [
        "its published head, same training",
        "its local network, same training",
        "its guide, same training",
        "eszsl",
    ]
    assert [line.split()[-1] for line in lines[2:5]] == ["22.0", "33.0", "44.0"]
    (other,) = [line for line in table(scores(gaussian_head=baseline(None, None, 11.0))) if "same training" in line]
    assert other.startswith("  the Gaussian head, same training  ")
    for found in ({"parts": parts}, {"gaussian_head": baseline(None, None)}):
        assert "same training: what else can label there" in text(legend(scores(**found)))
    for found in ({}, {"parts": {}}):
        assert "same training" not in text(legend(scores(**found)))


def test_older_runs_have_no_t1_of_its_own_for_closed_forms():
    old = baseline(1.0, 2.0)
    del old["T1_czsl"]
    assert table(scores(baselines={"eszsl": old | {"T1": 12.3}}))[2].split()[1:3] == ["12.3", "12.3"]


def test_the_h_of_the_validation_classes_is_told_with_what_of_it_is_luck():
    said = text(legend(scores()))
    assert "on validation classes H was 60.0, the best of what was compared on them; 55.5 where each fold" in said
    assert "where each fold" not in text(legend(scores(validation_H_crossfitted=None)))
    assert "on validation classes H was" not in text(legend(scores(validation_H=None)))


def test_a_budget_shows_what_was_tried_best_first():
    trials = [
        {"method": "gfzsl", "validation_H": 50.0, "seconds": 3.2, "why": ""},
        {"method": "sc-egg", "validation_H": 61.23, "seconds": 600.4, "why": ""},
        {"method": "acmr", "validation_H": None, "seconds": 0.0, "why": "needs 9 minutes at least"},
    ]
    lines = report(scores(leaderboard=trials), "run").splitlines()
    assert lines[0].startswith("on validation classes")
    assert [line.split() for line in lines[1:4]] == [
        ["H", "seconds"],
        ["sc-egg", "61.2", "600", "kept"],
        ["gfzsl", "50.0", "3"],
    ]
    assert lines[4] == "acmr was left out: needs 9 minutes at least"
    assert not report(scores(), "run").startswith("on validation")


def test_what_is_null_gets_a_dash_and_a_reason_told_once():
    why = "no photographs of unseen classes"
    found = scores(T1=None, U=None, H=None, null={"T1": why, "U": why, "H": why, "S": "no others"})
    assert table(found)[1].split()[2:7] == ["-", "63.0", "-", "70.1", "-"]
    said = text(legend(found))
    assert f"no T1, U, H: {why} no S: no others" in said
    assert "the same for the 2 unseen classes" not in said
    assert "H cannot be measured here" in text(verdict(found, "run"))


def test_classes_come_worst_first_with_what_they_are_taken_for():
    lines = by_class(scores())
    assert lines[0] == "class by class, worst first"
    assert lines[2].split() == ["tern", "unseen", "5", "of", "10", "crow", "(5)"]
    assert lines[-1] == "  tern is called crow: 5 photographs, 50% of that class"
    assert by_class(scores(classes=[], mixups=[])) == []


def test_of_many_classes_the_worst_of_each_kind_are_shown():
    many = ClassTable(tuple(f"{n:02d}" for n in range(40)), np.arange(40) < 30, np.eye(40), tuple(map(str, range(40))))
    labels = np.repeat(np.arange(40), 4)
    predicted = np.where(np.arange(160) % 4 < labels % 4, 39, labels)
    lines = by_class(scores(**by_classes(predicted, labels, many, many.raw)))
    assert lines[0] == "class by class, worst first: 10 of 40, the others are in scores.json"
    shown = [line.split()[:2] for line in lines[2:12]]
    assert [name for name, kind in shown if kind == "seen"] == ["03", "07", "11", "15", "19"]
    assert [name for name, kind in shown if kind == "unseen"] == ["31", "35", "30", "34", "38"]


def test_a_good_run_is_held_against_guessing_and_the_closed_forms():
    said = text(verdict(scores(), "run"))
    assert "verdict: H 58.3 \xb1 " in said
    assert "3 times what guessing gives" in said
    assert "and the same as other (57.3) within what chance makes, \xb1 2.0" in said
    assert said.endswith("run written to run; next: zsl-export run --out BUNDLE")
    better = scores(baselines={"eszsl": baseline(-20.0, 3.0)})
    assert "and 20.0 \xb1 3.0 above the closed form eszsl" in text(verdict(better, "run"))
    assert "closed form" not in text(verdict(scores(baselines={}), "run"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"U": 3.4, "H": 6.5, "S": 80.0}, "U has collapsed: 3.4 % of the photographs of unseen classes"),
        ({"U": 60.0, "H": 18.0, "S": 11.0}, "S has collapsed"),
        ({"U": 91.0, "S": 18.0, "chance": {"all": 2.0, "unseen": 10.0}}, "nearly all are given unseen classes"),
        ({"H": 6.5}, "H has collapsed: 6.5 on the test photographs, 60.0 on the validation classes"),
        ({"T1": 11.0, "chance": {"all": 2.0, "unseen": 10.0}}, "T1 is 11.0, and guessing among the unseen"),
        ({"baselines": {"gfzsl": baseline(3.0, 2.0)}}, "gfzsl does better here in seconds: H 58.0 against 58.3, 3.0"),
    ],
)
def test_what_is_wrong_is_said_loudly(changes, said):
    found = scores(**changes)
    printed = report(found, "run")
    assert text([printed]).count("WARNING: ") == len(found["warnings"]) >= 1
    assert any(said in one for one in found["warnings"])
    assert said in text([printed])
    assert "verdict: see the warnings before you ship this: H " in printed
    assert "and -" not in text([printed])


def test_classes_that_are_described_alike_are_named():
    twice = ClassTable(NAMES, TABLE.seen, TABLE.raw[[0, 1, 2, 3, 3]], TABLE.attributes)
    found = scores(**by_classes(LABELS, LABELS, twice, twice.raw))
    assert found["alike"] == [["tern", "owl"]]
    (one,) = found["warnings"]
    assert one.startswith("2 classes, unseen ones among them, share all their attributes with another: tern = owl.")
    of_seen = ClassTable(NAMES, TABLE.seen, TABLE.raw[[0, 0, 2, 3, 4]], TABLE.attributes)
    assert by_classes(LABELS, LABELS, of_seen, of_seen.raw)["alike"] == []  # their photographs tell these apart


def test_what_the_mean_hides_is_said_in_the_verdict():
    predicted = np.where(LABELS == 4, 0, LABELS)
    said = text(verdict(scores(**by_classes(predicted, LABELS, TABLE, TABLE.raw), ECE=24.5), "run"))
    assert "of 1 of the 2 unseen classes no photograph is right" in said
    assert "probabilities are 24 points off, so set no threshold by them" in said
    assert by_class(scores(**by_classes(predicted, LABELS, TABLE, TABLE.raw)))[0].endswith("; none right of 1 classes")


def test_the_closed_form_that_suits_newcomers_is_preferred_where_it_is_as_good():
    close = {"gfzsl": baseline(4.0, 2.0), "eszsl": baseline(4.5, 2.7)}
    assert warnings(scores(baselines=close))[0].endswith("; take --method gfzsl")
    apart = {"gfzsl": baseline(3.0, 2.0), "eszsl": baseline(9.5, 2.7)}
    assert warnings(scores(baselines=apart))[0].endswith("; take --method eszsl")


def test_only_a_closed_form_that_ships_is_recommended():
    (one,) = warnings(scores(baselines={"gfzsl": baseline(3.0, 2.0), "eszsl": baseline(2.5, 2.0)}))
    assert one.endswith("; take --method gfzsl")
    (other,) = warnings(scores(baselines={"ridge-to-prototype": baseline(3.0, 2.0)}))
    assert "take" not in other


def test_a_run_that_is_beaten_is_below_the_closed_form():
    said = text(verdict(scores(baselines={"gfzsl": baseline(3.0, 2.0)}), "run"))
    assert "and 3.0 \xb1 2.0 below the closed form gfzsl" in said


def test_nothing_is_wrong_with_what_cannot_be_known_or_is_within_chance():
    nothing = dict.fromkeys(("T1", "U", "S", "H"))
    assert warnings(scores(**nothing, baselines={"gfzsl": baseline(None, None)})) == []
    assert warnings(scores(baselines={"gfzsl": baseline(1.9, 2.0)})) == []
    one_class = {"all": 25.0, "unseen": 100.0}  # nothing to tell apart
    assert warnings(scores(T1=100.0, chance=one_class)) == []
