"""Runs side by side: what cannot be compared is said first, differences are those of an independent count."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.line import call, succeed
from support.pages import checked
from support.reported import make_reported
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_train.reports.cli import main as zsl_report
from zsl_train.reports.compare import Side, comparable, compare_page, difference, seeds_part, settings_part, titles

NAMES = tuple(f"class {k}" for k in range(6))
SEEN = np.arange(6) < 4


def side(name: str = "a", **options) -> Side:
    run = make_reported(NAMES, SEEN, folder=name, **options)
    return Side(name, run, run.scores)


def test_two_trainings_become_one_page(trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other")
    (other / "report.safetensors").unlink()
    out = tmp_path / "c.html"
    assert succeed(zsl_report, "compare", trained, other, "--out", out).out == f"{out}\n".encode()
    page = checked(out.read_bytes())
    assert "Comparable: the same classes" in page.text
    assert "1 of the runs did not keep what a curve is drawn of" in page.text
    assert "None: the recipes are the same" in page.text
    assert "the same, within chance" in page.text


def test_what_differs_is_said_before_any_figure():
    one, other = side("a").run, side("b", seed=1).run
    other.scores["protocol"]["features"] = "resnet101 at 448 px"
    page = checked(compare_page([one, replace(other, split="another")]))
    assert page.text.index("cannot be compared figure by figure") < page.text.index("Their features differ")
    assert page.text.index("Their features differ") < page.text.index("Figures")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ("x", *NAMES[1:])}, "Their classes, or which of them are unseen, differ"),
        ({"seen": np.arange(6) < 3}, "Their classes, or which of them are unseen, differ"),
        ({"split": "other"}, "Their pictures or roles differ"),
        ({"attributes": ("other",)}, "Their attributes differ"),
    ],
)
def test_each_rule_is_told(change, words):
    one, other = side("a"), side("b")
    said = "".join(comparable([one, Side("b", replace(other.run, **change), other.scores)]))
    assert words in said
    assert "cannot be compared" in said


def test_where_nothing_can_be_compared_no_run_is_called_better():
    one, same, other = side("a", strength=0.1), side("b", seed=1, strength=9.0), side("c", seed=1, strength=9.0)
    alike = checked(compare_page([one.run, same.run])).text
    assert "the best of each column is bold" in alike
    assert "better" in alike
    named = tuple(f"other {k}" for k in range(6))
    scores = other.scores | {
        "classes": [entry | {"name": f"other {entry['name']}"} for entry in other.scores["classes"]]
    }
    page = compare_page([one.run, replace(other.run, names=named, scores=scores)])
    text = checked(page).text
    assert "cannot be compared figure by figure" in text
    assert "nothing: see the warning" in text
    assert "better" not in text
    assert "the best of each column" not in text
    assert "there is no class in common" in text


def test_a_difference_of_the_same_pictures_is_taken_picture_by_picture():
    """Against a bootstrap over the pictures of each class, of both runs together."""
    one, other = side("a", strength=1.5), side("b", seed=7, strength=2.5)
    (points, error), paired = difference(one, other)
    assert paired
    assert points == pytest.approx(other.scores["H"] - one.scores["H"])
    first, second = (entry.run.material.answers for entry in (one, other))
    rng, drawn = np.random.default_rng(0), []
    for _ in range(1500):
        rows = np.concatenate([rng.choice(np.flatnonzero(first.labels == k), 4) for k in range(6)])
        shares = []
        for answers in (first, second):
            each = answers.right[rows].reshape(6, 4).mean(axis=1)
            unseen, seen = each[~SEEN].mean(), each[SEEN].mean()
            shares.append(200 * unseen * seen / max(unseen + seen, 1e-9))
        drawn.append(shares[1] - shares[0])
    # With four pictures a class, the bootstrap's variance is 3/4 of the unbiased one.
    assert error == pytest.approx(np.std(drawn) / np.sqrt(0.75), rel=0.25)


def test_without_answers_errors_are_added():
    one, other = side("a"), side("b", seed=3)
    (points, error), paired = difference(one, Side("b", replace(other.run, material=None), other.scores))
    assert not paired
    assert points == pytest.approx(other.scores["H"] - one.scores["H"])
    assert error == pytest.approx(np.hypot(one.scores["spread"]["H"], other.scores["spread"]["H"]))


def test_a_run_without_h_has_no_difference():
    one, other = side("a"), side("b", labels=np.repeat(np.arange(4), 4))
    other.run.material.answers.lines[:] += 1
    assert difference(one, other) == (None, False)
    checked(compare_page([one.run, other.run]))


def test_runs_that_differ_by_their_seed_are_one_recipe():
    sides = [side(name, seed=seed) for seed, name in enumerate("abc")]
    values = [one.scores["H"] for one in sides]
    said = seeds_part(sides)
    assert f"{np.mean(values):.1f}" in said
    assert f"{np.std(values, ddof=1):.1f}" in said
    other = replace(sides[1].run, recipe={**sides[1].run.recipe, "folds": 9})
    assert seeds_part([sides[0], Side("b", other, sides[1].scores)]) == ""


def test_settings_that_differ_are_listed_and_no_others():
    one, other = side("a"), side("b")
    recipe = {**other.run.recipe, "settings": {"hidden": 9, "new": "<b>"}}
    said = settings_part([one, Side("b", replace(other.run, recipe=recipe), other.scores)])
    assert "settings.hidden" in said
    assert "&lt;b&gt;" in said
    assert "preset" not in said


def test_runs_of_one_name_are_told_apart():
    runs = [replace(side().run, folder=Path(path)) for path in ("x/run", "y/run", "z", "z")]
    assert titles(runs) == ["x/run", "y/run", "z (3)", "z (4)"]


def test_a_single_run_is_no_comparison(trained, tmp_path):
    said = call(zsl_report, "compare", trained, "--out", tmp_path / "c.html")
    assert said.code == 2
    assert "E-REPORT-RUNS" in said.err
    assert not (tmp_path / "c.html").exists()
    with pytest.raises(UsageError):
        compare_page([])


def test_an_unfinished_run_and_a_damaged_one_are_told():
    one = side().run
    with pytest.raises(ArtefactError, match="unfinished"):
        compare_page([one, replace(one, scores=None)])
    broken = side("b").run
    broken.scores["spread"] = []
    with pytest.raises(ArtefactError, match="cannot be compared"):
        compare_page([one, broken])


def test_many_runs_with_names_of_any_kind():
    runs = [make_reported(NAMES, SEEN, seed=k, folder=f"<b>\u202e run {k} $x$") for k in range(10)]
    page = checked(compare_page(runs))
    assert "The first 8 are drawn" in page.text
