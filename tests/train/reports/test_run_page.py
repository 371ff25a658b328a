"""The page of a run: what was measured stands on it, whatever the run lacks, and whatever its classes are called."""

from __future__ import annotations

import json
import re
import shutil
import time

import numpy as np
import pytest
from scipy.stats import binomtest

from support.line import call, succeed
from support.pages import checked
from support.reported import answers_of, draw_scores, make_reported
from zsl_runtime.errors import ArtefactError
from zsl_train.reports.cli import main as zsl_report
from zsl_train.reports.run_classes import leaks, matrix_classes
from zsl_train.reports.run_files import read_run
from zsl_train.reports.run_losses import losses_part, read_losses
from zsl_train.reports.run_page import run_page
from zsl_train.reports.run_scores import at, curve_of, good, wilson
from zsl_train.scoring.evaluate import score
from zsl_train.training.run_folder import info_bytes

HOSTILE = (
    '<script>alert("x")</script>',
    "\u202eevil\u202c",
    "طائر العقعق",
    "\U0001f426\U0001f3fd\u200d\u2b1b bird & 'co' \"",
    "$\\frac{1}{2}$ %s {0} q0zooo",
    "a" * 300,
    "line\nbreak\ttab\x1b[31m",
    "</svg><img src=x onerror=alert(1)>",
)


def plain(count: int, seen: int) -> tuple[tuple[str, ...], np.ndarray]:
    return tuple(f"class {k}" for k in range(count)), np.arange(count) < seen


# --- a real training --------------------------------------------------------------------------------------------------


def test_a_training_leaves_a_page_that_says_what_scores_json_says(trained):
    page = checked((trained / "report.html").read_bytes())
    scores = json.loads((trained / "scores.json").read_text(encoding="utf-8"))
    for key in ("T1", "U", "S", "H", "AUSUC"):
        assert f"{scores[key]:.1f}" in page.text
    for words in (
        "What the letters mean",
        "Seen against unseen",
        "Where attention looks",
        "The surest answers",
        "Losses",
    ):
        assert words in page.text
    for one in scores["classes"]:
        assert one["name"] in page.text
    assert (trained / "report.html").stat().st_size < 5_000_000


def test_its_curve_is_that_of_the_scores(trained):
    run = read_run(trained)
    curve = curve_of(run.material.answers, run.seen)
    assert curve.area == pytest.approx(run.scores["AUSUC"], abs=1e-6)
    unseen, seen = at(curve, run.scores["gamma"])
    assert (unseen, seen) == pytest.approx((run.scores["U"], run.scores["S"]), abs=1e-6)


def test_its_answers_are_those_that_were_counted(trained):
    run = read_run(trained)
    answers = run.material.answers
    for one in run.scores["classes"]:
        own = answers.labels == run.names.index(one["name"])
        assert (int(own.sum()), int(answers.right[own].sum())) == (one["pictures"], one["right"])
    for row, line in enumerate(answers.lines.tolist()):
        assert run.pictures[line].startswith(run.names[int(answers.labels[row])])


def test_its_page_can_be_written_again(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "r")
    (folder / "report.html").unlink()
    assert succeed(zsl_report, "run", folder).out == f"{folder}/report.html\n".encode()
    kept = re.sub(rb"d\d+-", b"", (trained / "report.html").read_bytes()).replace(b", run<", b", r<")
    assert re.sub(rb"d\d+-", b"", (folder / "report.html").read_bytes()) == kept.replace(b", run<", b", r<")


def test_a_run_of_an_older_version_gets_a_page_that_says_what_it_lacks(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "old")
    (folder / "report.safetensors").unlink()
    succeed(zsl_report, "run", folder, "--out", tmp_path / "old.html")
    page = checked((tmp_path / "old.html").read_bytes())
    assert "did not keep what this needs" in page.text
    assert "Seen against unseen" not in page.text
    assert "The pairs that take most pictures the wrong way" in page.text


def test_a_run_that_is_not_finished_has_its_losses_so_far(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "half")
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_bytes(info_bytes({**info, "state": "unfinished", "sha256": None}))
    for name in ("scores.json", "report.safetensors", "generation.safetensors"):
        (folder / name).unlink()
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"t": 5, "session": "final", "sta')  # a kill cut it off
    succeed(zsl_report, "run", folder)
    page = checked((folder / "report.html").read_bytes())
    assert "this run is not finished" in page.text
    assert "Losses so far" in page.text


@pytest.mark.parametrize("name", ["scores.json", "generation.safetensors", "report.safetensors", "recipe.toml"])
def test_a_file_that_has_changed_is_told_and_nothing_is_written(trained, tmp_path, name):
    folder = shutil.copytree(trained, tmp_path / "r")
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    before = (folder / "report.html").read_bytes()
    said = call(zsl_report, "run", folder)
    assert said.code == 5
    assert "E-RUN" in said.err
    assert (folder / "report.html").read_bytes() == before


def test_scores_of_another_kind_are_told_as_damage():
    run = make_reported(*plain(4, 2))
    del run.scores["protocol"]
    with pytest.raises(ArtefactError, match="cannot be reported on") as caught:
        run_page(run)
    assert caught.value.code == "E-RUN"


def test_a_page_that_cannot_be_written_costs_the_run_nothing(trained, tmp_path, trainings_draw_no_page, capsys):
    folder = shutil.copytree(trained, tmp_path / "r")
    (folder / "scores.json").write_text("{}")
    trainings_draw_no_page(folder)
    said = capsys.readouterr().err
    assert "was not written (E-RUN" in said
    assert said.count("\n") == 1


# --- all kinds of runs ------------------------------------------------------------------------------------------------


def test_names_of_any_kind_are_shown_and_never_taken_for_markup():
    names = (*HOSTILE, "plain")
    log = tuple({"session": "<b>final</b>", "stage": "st&ge", "step": n, HOSTILE[0]: 1.0 / n} for n in (1, 2, 3))
    run = make_reported(
        names,
        np.arange(9) % 2 == 0,
        attributes=HOSTILE[:4],
        log=log,
        warnings=['<img src=x> & "more"'],
        folder="<i>r</i>",
    )
    page = checked(run_page(run))
    assert '<script>alert("x")</script>' in page.text
    assert "طائر العقعق" in page.text
    assert "\u202e" not in page.source
    assert "\x1b" not in page.source
    assert "\U0001f426" in page.text
    assert "$\\frac{1}{2}$" in page.text
    assert {name for name, _ in page.tags} >= {"bdi", "svg", "image", "use"}


def test_a_name_that_looks_like_a_stand_in_stays_what_it_is():
    page = checked(run_page(make_reported(("q1zoooooo", "q0zo", "third", "q2z"), np.arange(4) < 2)))
    assert page.source.count("q1zoooooo") >= 3
    assert "oooooooo" not in page.source


def test_eight_hundred_classes_in_seconds_and_below_five_megabytes():
    names, seen = plain(800, 600)
    run = make_reported(names, seen, labels=np.repeat(np.arange(800), 8))
    began = time.process_time()
    page = run_page(run)
    assert time.process_time() - began < 30
    assert len(page) < 5_000_000
    found = checked(page)
    assert "All 800" in found.text or "class 799" in found.text
    assert "Shown are 30 of 800 classes" in found.text


@pytest.mark.parametrize(
    ("count", "seen", "labels"),
    [
        (4, 3, None),  # a single unseen class
        (5, 3, np.repeat(np.arange(3), 4)),  # no pictures of unseen classes
        (5, 3, np.repeat(np.arange(3, 5), 4)),  # none of seen ones
        (4, 4, None),  # no unseen classes
        (2, 1, None),
        (3, 2, np.arange(3)),  # one picture of each
        (6, 3, np.zeros(0, np.int64)),  # no test pictures at all
        (4, 2, np.array([0])),
    ],
)
def test_what_the_data_lacks_is_left_out(count, seen, labels):
    names, kind = plain(count, seen)
    page = checked(run_page(make_reported(names, kind, labels=labels, strength=1.0)))
    assert "Scores" in page.text


def test_all_right_and_all_wrong():
    names, seen = plain(5, 3)
    assert (
        "No test picture was given a wrong class." in checked(run_page(make_reported(names, seen, strength=99.0))).text
    )
    page = checked(run_page(make_reported(names, seen, strength=-99.0)))
    assert "Of 5 of them not one picture is right (2 unseen, 3 seen)" in page.text


def test_warnings_stand_above_everything():
    names, seen = plain(4, 2)
    page = checked(run_page(make_reported(names, seen, warnings=["gfzsl does better here; take --method gfzsl"])))
    assert page.text.index("gfzsl does better here") < page.text.index("Verdict") < page.text.index("What was trained")


def test_probabilities_that_mislead_are_said_to():
    run = make_reported(*plain(4, 2), ECE=40.0)
    assert any("set no threshold by them" in line for line in good(run.scores))


# --- the figures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (0, 24), (13, 24), (24, 24), (3, 6), (399, 1000)])
def test_the_interval_is_wilsons(right, count):
    wanted = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right, count) == pytest.approx((100 * wanted.low, 100 * wanted.high), abs=1e-3)


def test_nothing_is_known_of_no_pictures():
    assert wilson(0, 0) == (0.0, 100.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_curve_of_kept_answers_is_that_of_all_scores(seed):
    rng = np.random.default_rng(seed)
    seen = rng.permutation(np.arange(9) < 5)
    labels = rng.integers(0, 9, 60)
    logits = draw_scores(9, labels, seed, 1.0)
    curve = curve_of(answers_of(logits, labels, seen, 0.0, 1.0), seen)
    for gamma in (-2.0, 0.0, 0.7, 3.0):
        wanted = score(logits, labels, seen, gamma, 1.0)
        assert at(curve, gamma) == pytest.approx((wanted["U"], wanted["S"]))


def test_where_pictures_go():
    seen = np.array([True, True, False, False])
    counts = np.array([[5, 1, 2, 0], [0, 4, 0, 0], [3, 0, 1, 1], [0, 0, 2, 6]])
    assert leaks(counts, seen) == {True: (12, 9, 1, 2), False: (13, 7, 3, 3)}


def test_a_matrix_of_many_classes_has_the_worst_pairs_of_every_kind():
    counts = np.eye(100, dtype=np.int64) * 50
    seen = np.arange(100) < 50
    for of, given in ((0, 1), (2, 60), (70, 3), (80, 90)):
        counts[of, given] = 20
    for of in range(81, 90):  # many more between unseen ones
        counts[of, of - 10] = 30
    shown = set(matrix_classes(counts, seen, most=12).tolist())
    assert {0, 1, 2, 60, 70, 3} <= shown
    assert len(shown) <= 12


def test_losses_are_those_of_the_log():
    lines = [
        {"t": 1, "session": "final", "stage": "a", "step": 1, "of": 3, "loss": 3.0},
        {"t": 2, "session": "final", "stage": "a", "step": 2, "of": 3, "loss": 9.0},
        {"t": 3, "session": "final", "stage": "a", "step": 2, "of": 3, "loss": 2.0},  # a sitting that went on
        {"t": 3, "session": "fold 1/2", "stage": "a", "step": 2, "of": 3, "loss": True, "other": "x"},
        {"t": 4, "session": "final", "stage": "a", "steps": 3, "seconds": 1.0},
        {"t": 5, "session": ["x"], "stage": "a", "step": 1, "loss": 1.0},
        {"t": 5, "trained_before": 3.0},
    ]
    (stage,) = read_losses(lines).items()
    assert stage[0] == "a"
    np.testing.assert_array_equal(stage[1]["loss"]["final"], [[1, 3.0], [2, 2.0]])
    assert set(stage[1]) == {"loss"}


def test_a_closed_form_has_no_losses():
    assert "a closed form has no losses" in losses_part(
        [{"session": "final", "stage": "solve", "step": 1, "length": 3.0}]
    )


def test_many_losses_are_cut():
    sessions = (*(f"fold {n}/12" for n in range(12)), "final")
    log = [
        {"session": session, "stage": "s", "step": step, **{f"l{k}": float(k - step) for k in range(13)}}
        for session in sessions
        for step in (1, 2)
    ]
    drawn = losses_part(log)
    assert "1 more are in log.jsonl" in drawn
    assert "l11" in drawn
    assert "fold 11/12" not in drawn
    assert ">final<" in drawn
