"""How long does it take to add classes, lift and durable commit included?

Bundles of 2048-d features, of random weights and a head of nearest means: 150 seen classes with 100 Replay rows each
and 50 (or 4,850) without photographs; without a lift, and with a published one (4,096 more columns). In process, on an
open bundle, and as the command `zsl-classes add`, a process of its own. `warm` finds the rows of the old classes in the
bundle's cache, as every addition but the first does; `cold` has to make them. Checked each time: the classes are there,
the old rows are untouched, the new class takes its own.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from support.big_bundle import Sizes, make_big_bundle, random_table
from zsl_runtime.bundle import Bundle
from zsl_runtime.generations import add_classes, undo

SIZES = {
    "200 classes": Sizes(lift=0),
    "200 classes, lift 4096": Sizes(),
    "5000 classes": Sizes(unseen=4850, lift=0),
}
COMMAND = [sys.executable, "-c", "from zsl_runtime.cli_classes import main; raise SystemExit(main())"]


def newcomers(count):
    """Classes that no bundle here has."""
    return random_table(Sizes(seen=0, unseen=count), seed=7, prefix="new")


def write_csv(path, table):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *table.attributes])
        writer.writerows([name, *row] for name, row in zip(table.names, table.raw.tolist(), strict=True))
    return path


@pytest.fixture(scope="module", params=SIZES, ids=str)
def original(request, tmp_path_factory):
    """A bundle with a warm cache: something was added before, and undone."""
    bundle = Bundle.open(make_big_bundle(tmp_path_factory.mktemp("add") / "bundle", SIZES[request.param]))
    for count in (1, 10):
        add_classes(bundle, newcomers(count))
        undo(bundle)
    return bundle.path


@pytest.fixture(params=["warm", "cold"])
def model(request, original, tmp_path):
    """The bundle's copy, and a function that makes it as it was."""
    bundle = tmp_path / "bundle"

    def fresh():
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(original, bundle, copy_function=os.link, ignore=shutil.ignore_patterns("cache"))
        if request.param == "warm":
            shutil.copytree(original / "cache", bundle / "cache")
        os.sync()  # else the commit that is timed would wait for these copies, too

    return bundle, fresh


def check(path, before, count):
    """The bundle at `path` has `count` classes more than `before`, and nothing else was touched."""
    after = Bundle.open(path).current()
    assert len(after.table) == len(before.table) + count
    for old, new in zip(before.head.weights, after.head.weights, strict=True):
        np.testing.assert_array_equal(new[: len(before.table)], old)


@pytest.mark.parametrize("count", [1, 10])
def bench_add_in_process(measure, model, count):
    path, fresh = model
    table = newcomers(count)
    fresh()
    before = Bundle.open(path).current()
    change = add_classes(Bundle.open(path), table)
    assert min(change.fits.values()) > 0.8
    check(path, before, count)
    opened = []

    def setup():
        fresh()
        opened[:] = [Bundle.open(path)]

    measure(lambda: add_classes(opened[0], table), things=count, unit="classes", setup=setup)


@pytest.mark.parametrize("count", [1, 10])
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
