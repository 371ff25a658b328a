"""Folds hold what they promise; choices are the best there is, found again by trying everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_train.scoring.baselines import BASELINES, SCALINGS, scale
from zsl_train.scoring.evaluate import choose_gamma, fit_temperature, seen_unseen_curve
from zsl_train.scoring.folds import MINIMUM_SEEN, BaselineChoice, Fold, choose_baseline, make_folds
from zsl_train.training.choice import Choice, choose


@st.composite
def collections(draw):
    """(rows, labels, seen, marked): pictures of seen classes at scattered rows, in any order of classes."""
    counts = draw(st.lists(st.integers(1, 9), min_size=MINIMUM_SEEN, max_size=9))
    seen = np.array([True] * len(counts) + [False] * draw(st.integers(0, 5)))
    order = np.array(draw(st.permutations(range(len(seen)))))
    seen = seen[order]
    labels = np.repeat(np.flatnonzero(seen), counts)
    labels = labels[np.array(draw(st.permutations(range(len(labels)))))]
    rows = np.cumsum(draw(st.lists(st.integers(1, 3), min_size=len(labels), max_size=len(labels))))
    marked = np.array(draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels))))
    return rows.astype(np.int64), labels.astype(np.int64), seen, marked


@given(collections(), st.integers(1, 4), st.integers(0, 3), st.booleans())
@settings(max_examples=60)
def test_half_of_the_left_out_classes_are_newcomers_and_some_class_keeps_two_pictures(case, count, seed, with_marks):
    """But for that the folds are those of a published head; where no training class has two pictures there is none."""
    rows, labels, seen, marked = case
    marks = marked if with_marks else None
    plain = make_folds(rows, labels, seen, count=count, seed=seed, marked=marks)
    folds = make_folds(rows, labels, seen, count=count, seed=seed, marked=marks, newcomers=True)
    label_of = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    assert not any(fold.newcomers.any() for fold in plain)
    possible = [fold for fold in plain if np.bincount(labels)[np.flatnonzero(fold.seen)].max() > 1]
    assert len(folds) == len(possible)
    for fold, other in zip(folds, possible, strict=True):
        np.testing.assert_array_equal(fold.seen, other.seen)
        left_out = seen & ~fold.seen
        assert fold.newcomers.sum() == left_out.sum() // 2
        assert not (fold.newcomers & ~left_out).any()
        together = np.concatenate([fold.train, fold.held_out])
        np.testing.assert_array_equal(np.sort(together), rows)
        trained = [label_of[row] for row in fold.train.tolist()]
        assert np.bincount(trained).max() > 1
        if np.bincount([label_of[row] for row in other.train.tolist()]).max() > 1:
            np.testing.assert_array_equal(fold.train, other.train)
        else:
            assert set(other.train.tolist()) < set(fold.train.tolist())
            assert np.bincount(trained).max() == 2


def test_of_two_pictures_a_class_some_keep_both_and_some_lend_one():
    seen = np.array([True] * 8 + [False] * 2)
    for fold in make_folds(np.arange(16), np.repeat(np.arange(8), 2), seen, count=3, seed=0, newcomers=True):
        kept = np.bincount(fold.train // 2, minlength=8)[fold.seen[:8]]
        assert sorted(kept) == [1, 1, 1, 2, 2, 2]


@given(collections(), st.integers(1, 4), st.integers(0, 3), st.booleans())
@settings(max_examples=60)
def test_a_fold_is_a_small_zero_shot_problem(case, count, seed, with_marks):
    rows, labels, seen, marked = case
    folds = make_folds(rows, labels, seen, count=count, seed=seed, marked=marked if with_marks else None)
    assert len(folds) == count
    label_of = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    mark_of = dict(zip(rows.tolist(), marked.tolist(), strict=True))
    known = np.flatnonzero(seen)
    share = (~seen).mean() if not seen.all() else 0.25
    wanted = np.clip(min(round(share * len(known)), len(known) // count), 2, len(known) - 2)
    for fold in folds:
        assert fold.seen.shape == seen.shape  # unseen classes stay in the label space
        assert not fold.seen[~seen].any()
        assert fold.seen.sum() >= 2
        assert (seen & ~fold.seen).sum() == wanted
        together = np.concatenate([fold.train, fold.held_out])
        np.testing.assert_array_equal(np.sort(together), rows)
        training = set(np.flatnonzero(fold.seen).tolist())
        assert {label_of[row] for row in fold.train.tolist()} == training
        for one in training:
            own = [row for row in rows.tolist() if label_of[row] == one]
            held = [row for row in fold.held_out.tolist() if label_of[row] == one]
            marks = [row for row in own if mark_of[row]]
            if with_marks and 0 < len(marks) < len(own):
                assert sorted(held) == marks
            else:
                assert len(held) == (0 if len(own) == 1 else max(1, len(own) // 5))


def test_validation_classes_of_different_folds_do_not_overlap_while_there_are_enough():
    seen = np.array([True] * 12 + [False] * 4)  # a quarter of the classes is unseen: 3 of 12 are left out
    labels = np.repeat(np.arange(12), 5)
    folds = make_folds(np.arange(60), labels, seen, count=4, seed=0)
    left_out = np.concatenate([np.flatnonzero(seen & ~fold.seen) for fold in folds])
    np.testing.assert_array_equal(np.sort(left_out), np.arange(12))
    again = make_folds(np.arange(60), labels, seen, count=4, seed=0)
    other = make_folds(np.arange(60), labels, seen, count=4, seed=1)
    assert all(np.array_equal(a.held_out, b.held_out) for a, b in zip(folds, again, strict=True))
    assert any(not np.array_equal(a.held_out, b.held_out) for a, b in zip(folds, other, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_folds_beyond_the_classes_there_are_still_leave_out_as_many(seed):
    seen = np.array([True] * 5 + [False] * 3)  # two of five: the third fold begins in one order and ends in the next
    for fold in make_folds(np.arange(20), np.repeat(np.arange(5), 4), seen, count=5, seed=seed):
        assert (seen & ~fold.seen).sum() == 2


def test_more_folds_leave_out_fewer_classes_each_and_one_no_more_than_the_share_of_unseen_ones():
    seen = np.array([True] * 12 + [False] * 6)
    labels = np.repeat(np.arange(12), 3)

    def sizes(count: int) -> list[int]:
        return [(seen & ~f.seen).sum() for f in make_folds(np.arange(36), labels, seen, count=count, seed=0)]

    assert [sizes(count) for count in (1, 2, 3, 4, 6)] == [[4], [4] * 2, [4] * 3, [3] * 4, [2] * 6]


def test_without_unseen_classes_a_quarter_is_left_out():
    folds = make_folds(np.arange(24), np.repeat(np.arange(12), 2), np.ones(12, bool), count=1, seed=0)
    assert (~folds[0].seen).sum() == 3


@pytest.mark.parametrize(("classes", "count"), [(3, 3), (8, 0)])
def test_too_few_classes_or_no_folds_wanted_give_none(classes, count):
    labels = np.repeat(np.arange(classes), 4)
    assert make_folds(np.arange(len(labels)), labels, np.ones(classes, bool), count=count, seed=0) == []


def scored_folds(count: int):
    """Logits of `count` folds whose pictures are told apart better the larger `skill` is."""
    rng = np.random.default_rng(3)
    seen = [np.array([True, True, True, False, False])] * count
    labels = [rng.integers(0, 5, 40) for _ in range(count)]

    def logits(skill: float):
        return [
            (skill * np.eye(5)[y] + rng.standard_normal((40, 5)) + 2 * s).astype(np.float32)
            for y, s in zip(labels, seen, strict=True)
        ]

    return logits, labels, seen


def test_the_best_share_gamma_and_temperature_are_chosen():
    logits, labels, seen = scored_folds(2)
    snapshots = {0.25: logits(0.5), 0.5: logits(3.0), 1.0: logits(1.0)}
    got = choose(snapshots, labels, seen)
    means = {}
    for share, folds in snapshots.items():
        curves = [seen_unseen_curve(z, y, s) for z, y, s in zip(folds, labels, seen, strict=True)]
        gammas = np.linspace(-8, 8, 4001)
        means[share] = np.mean([curve.at(gammas) for curve in curves], axis=0).max()
    assert got.stop_at == max(means, key=means.get) == 0.5
    assert got.validation_H == pytest.approx(means[0.5], abs=0.5)
    assert got.gamma == pytest.approx(2, abs=2)
    assert got.temperature == fit_temperature(snapshots[0.5], labels, seen, got.gamma)
    assert set(got.candidates) == set(snapshots)
    assert got.candidates[0.5] == got.validation_H > max(got.candidates[0.25], got.candidates[1.0])


def test_of_equal_shares_the_shortest_is_taken():
    logits, labels, seen = scored_folds(1)
    same = logits(2.0)
    assert choose({1.0: same, 0.25: same, 0.5: same}, labels, seen).stop_at == 0.25


def test_nothing_is_chosen_where_no_fold_has_pictures_of_both_kinds():
    neutral = Choice(1.0, 0.0, 1.0, None, {})
    assert choose({}, [], []) == neutral
    only_unseen = [np.array([3, 4])]
    seen = [np.array([True, True, True, False, False])]
    assert choose({1.0: [np.zeros((2, 5), np.float32)]}, only_unseen, seen) == neutral


def toy_set():
    """24 pictures of 6 seen classes with features that follow attributes, on scales that differ by column."""
    rng = np.random.default_rng(5)
    semantic = rng.random((8, 5)).astype(np.float32)
    seen = np.array([True] * 6 + [False] * 2)
    labels = np.repeat(np.arange(6), 6)
    mixing = rng.standard_normal((5, 9)) * np.logspace(-1, 1, 9)
    noise = 0.6 * rng.standard_normal((36, 9)) * np.logspace(-1, 1, 9)
    return (semantic[labels] @ mixing + noise).astype(np.float32), labels, semantic, seen


@pytest.mark.parametrize("name", BASELINES)
def test_a_baselines_choice_is_the_best_of_all_combinations(name):
    pooled, labels, semantic, seen = toy_set()
    folds = make_folds(np.arange(36), labels, seen, count=2, seed=0)
    got = choose_baseline(name, folds, pooled, labels, semantic)
    fit, grid = BASELINES[name]
    found = {}
    for scaling in SCALINGS:
        for ridges in grid:
            curves = []
            for fold in folds:
                train, held = pooled[fold.train], pooled[fold.held_out]
                predict = fit(
                    scale(train, train, scaling),
                    labels[fold.train],
                    semantic,
                    fold.seen,
                    ridges,
                )
                logits = predict(scale(held, train, scaling))
                curves.append(seen_unseen_curve(logits, labels[fold.held_out], fold.seen))
            found[scaling, ridges] = choose_gamma(curves)
    # Each ridge was solved for on its own here, all of them from one decomposition there.
    assert got.validation_H == pytest.approx(max(value for _, value in found.values()), abs=1e-6)
    assert (got.gamma, got.validation_H) == pytest.approx(found[got.scaling, got.ridges], abs=1e-6)
    assert len({value for _, value in found.values()}) > 3  # the choice matters


def test_a_baseline_that_has_nothing_to_choose_on_takes_the_middle_of_its_grid():
    pooled, labels, semantic, _ = toy_set()
    grid = BASELINES["eszsl"][1]
    middle = BaselineChoice(SCALINGS[0], grid[len(grid) // 2], 0.0, None)
    assert choose_baseline("eszsl", [], pooled, labels, semantic) == middle
    lonely = Fold(np.array([True] * 4 + [False] * 4), np.arange(24), np.arange(24, 36), np.zeros(8, bool))
    assert choose_baseline("eszsl", [lonely], pooled, labels, semantic) == middle
