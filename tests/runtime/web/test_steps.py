"""What undo would take back, read from the history of a bundle that was really changed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from support.served import newcomer
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes, prune, remove_classes, teach_classes, undo
from zsl_runtime.head.gaussian import Evidence
from zsl_runtime.web.steps import added_names, steps


@pytest.fixture
def bundle(own_bundle) -> Bundle:
    return Bundle.open(own_bundle(rule="gaussian"))


def told(bundle: Bundle) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(one.number, one.action, one.names) for one in steps(bundle, bundle.pointer()[0])]


def test_a_bundle_as_exported_has_nothing_to_undo(bundle):
    assert told(bundle) == []
    assert added_names(bundle) == frozenset()


def test_changes_come_newest_first_and_what_was_undone_is_not_among_them(bundle):
    add_classes(bundle, newcomer("jay"))  # 2
    teach_classes(bundle, {"jay": Evidence(3, np.zeros(10))})  # 3
    assert told(bundle) == [(3, "teach", ("jay",)), (2, "add", ("jay",))]
    assert steps(bundle, 3)[0].photographs == {"jay": 3}
    assert steps(bundle, 3)[0].when.startswith("20")
    undo(bundle)  # 4, equals 2
    assert told(bundle) == [(2, "add", ("jay",))]
    remove_classes(bundle, ["tit"])  # 5, begins with 4
    assert told(bundle) == [(5, "remove", ("tit",)), (2, "add", ("jay",))]
    undo(bundle)
    undo(bundle)
    assert told(bundle) == []
    assert added_names(bundle) == {"jay"}


@pytest.mark.parametrize("seed", range(5))
def test_undo_takes_back_what_is_listed_and_as_often(bundle, seed):
    """Whatever was done before: after k undos the classes are those from before the k-th change of the list."""
    rng, tables = np.random.default_rng(seed), {1: bundle.current().table.names}
    for k in range(8):
        if rng.random() < 0.4 and steps(bundle, bundle.pointer()[0]):
            undo(bundle)
        else:
            add_classes(bundle, newcomer(f"bird {k}"))
        tables[bundle.pointer()[0]] = bundle.current().table.names
    listed = steps(bundle, bundle.pointer()[0])
    for step in listed:
        undo(bundle)
        assert bundle.current().table.names == tables[step.number - 1]
    assert bundle.current().parent == 0


def test_the_list_ends_where_undo_does(bundle):
    for name in ("jay", "kite", "lark"):
        add_classes(bundle, newcomer(name))
    prune(bundle, 2)
    assert told(bundle) == [(4, "add", ("lark",))]


@pytest.mark.parametrize(
    "line",
    [
        {"number": 2, "action": "undo", "equals": 2},
        {"number": 2, "action": "undo", "equals": 7},
        {"number": 2, "action": "undo"},
        {"number": "2", "action": "add"},
        {"number": 2},
    ],
)
def test_a_history_that_makes_no_sense_ends_the_list(bundle, line):
    add_classes(bundle, newcomer("jay"))
    history = bundle.path / "history.jsonl"
    first, _ = history.read_text(encoding="utf-8").splitlines()
    history.write_text(f"{first}\n{json.dumps(line)}\n", encoding="utf-8")
    assert [one.names for one in steps(bundle, 2)] in ([], [()])


def test_names_and_counts_of_another_kind_are_left_out(bundle):
    add_classes(bundle, newcomer("jay"))
    history = bundle.path / "history.jsonl"
    first, _ = history.read_text(encoding="utf-8").splitlines()
    odd = {"number": 2, "action": "add", "names": ["jay", 3, None], "photographs": {"jay": "two", "tit": 2}}
    history.write_text(f"{first}\n{json.dumps(odd)}\n", encoding="utf-8")
    (step,) = steps(bundle, 2)
    assert (step.names, step.photographs, step.when) == (("jay",), {"tit": 2}, "")
