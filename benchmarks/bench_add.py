"""How long does it take to add classes, durable commit included, and to teach one with photographs?

Bundles of the rule `gaussian` with 256 coordinates, 312 attributes and a kernel regression over 150 seen classes, of
random weights: 200 classes in all, and 10,000. In process, on an open bundle, and as the command `zsl-classes add`, a
process of its own. The aims: one class as a command in 0.3 s, 10,000 in one CSV in 3 s. Checked each time: the classes
are there, the old rows are untouched.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from support.big_bundle import Sizes, make_gaussian_bundle, random_table
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes, teach_classes
from zsl_runtime.head.gaussian import Evidence

UNSEEN = {"200 classes": 50, "10000 classes": 9850}
COUNTS = [1, 10, 10_000]
COMMAND = [sys.executable, "-c", "from zsl_runtime.cli.classes import main; raise SystemExit(main())"]


def newcomers(count):
    """Classes that no bundle here has."""
    return random_table(Sizes(seen=0, unseen=count), seed=7, prefix="new")


def write_csv(path, table):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *table.attributes])
        writer.writerows([name, *row] for name, row in zip(table.names, table.raw.tolist(), strict=True))
    return path


@pytest.fixture(scope="module", params=UNSEEN, ids=str)
def original(request, tmp_path_factory):
    return make_gaussian_bundle(tmp_path_factory.mktemp("add") / "bundle", unseen=UNSEEN[request.param])


@pytest.fixture
def model(original, tmp_path):
    """The bundle's copy, and a function that makes it as it was."""
    bundle = tmp_path / "bundle"

    def fresh():
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(original, bundle, copy_function=os.link)
        os.sync()  # else the commit that is timed would wait for these copies, too

    return bundle, fresh


def check(path, before, count):
    """The bundle at `path` has `count` classes more than `before`, and nothing else was touched."""
    after = Bundle.open(path).current()
    assert len(after.table) == len(before.table) + count
    np.testing.assert_array_equal(after.head.weights[0][: len(before.table)], before.head.weights[0])
    np.testing.assert_array_equal(after.head.biases[0][: len(before.table)], before.head.biases[0])


@pytest.mark.parametrize("count", COUNTS)
def bench_add_in_process(measure, model, count):
    path, fresh = model
    table = newcomers(count)
    fresh()
    before = Bundle.open(path).current()
    change = add_classes(Bundle.open(path), table)
    assert len(change.neighbours) == min(count, 100)
    check(path, before, count)
    opened = []

    def setup():
        fresh()
        opened[:] = [Bundle.open(path)]

    measure(lambda: add_classes(opened[0], table), things=count, unit="classes", setup=setup)


@pytest.mark.parametrize("count", COUNTS)
def bench_add_as_a_command(measure, model, tmp_path, count):
    path, fresh = model
    attributes = write_csv(tmp_path / "new.csv", newcomers(count))

    def add():
        argv = [*COMMAND, "add", "--engine", str(path), "--attributes", str(attributes)]
        subprocess.run(argv, check=True, capture_output=True, timeout=600)

    fresh()
    before = Bundle.open(path).current()
    add()
    check(path, before, count)
    measure(add, things=count, unit="classes", setup=fresh)


def bench_teach_in_process(measure, model):
    """What photographs say is known here: how long the model looks at them is told by bench_engine.py."""
    path, fresh = model
    fresh()
    before = Bundle.open(path).current()
    said = {before.table.names[160]: Evidence(5, np.ones(before.means.prior.shape[1]))}
    teach_classes(Bundle.open(path), said)
    after = Bundle.open(path).current()
    moved = np.flatnonzero((after.head.weights[0] != before.head.weights[0]).any(axis=1))
    assert moved.tolist() == [160]
    opened = []

    def setup():
        fresh()
        opened[:] = [Bundle.open(path)]

    measure(lambda: teach_classes(opened[0], said), things=1, unit="lessons", setup=setup)
