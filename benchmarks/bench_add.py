"""How long does `zsl-classes add` take for one class, in a model of 11 classes and of 50?

The whole command in this process: checking every hash, synthesizing, fitting, committing. A head of 1346 columns, 40
synthetic features a class, 20 epochs; `new` fits the new row alone, `full` the whole head.
"""

from __future__ import annotations

import csv
import os
import shutil

import numpy as np
import pytest

from support.line import succeed
from zsl_runtime.bundle import Bundle
from zsl_runtime.cli_classes import main as zsl_classes

MORE = 39


def write_classes(path, attributes, count, seed):
    """A CSV of `count` invented classes, each with a random third of the attributes."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *attributes])
        for number in range(count):
            row = rng.uniform(0.2, 1.0, len(attributes)) * (rng.permutation(len(attributes)) < len(attributes) // 3)
            writer.writerow([f"species {seed}-{number}", *np.round(row, 3)])
    return path


@pytest.fixture(scope="module", params=[0, MORE], ids=["11 classes", "50 classes"])
def model(request, line, tmp_path_factory):
    """A bundle of that many classes, and a CSV of one class more."""
    folder = tmp_path_factory.mktemp("add")
    bundle = shutil.copytree(line.bundle, folder / "bundle", copy_function=os.link)
    attributes = Bundle.open(bundle).attributes
    if request.param:
        many = write_classes(folder / "many.csv", attributes, request.param, 1)
        succeed(zsl_classes, "add", "--engine", bundle, "--attributes", many)
    return bundle, write_classes(folder / "one.csv", attributes, 1, 2)


@pytest.mark.parametrize("fit", ["new", "full"])
def bench_add_one_class(measure, model, tmp_path, fit):
    original, one = model
    bundle = tmp_path / "bundle"

    def fresh():
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(original, bundle, copy_function=os.link)

    def add():
        return succeed(zsl_classes, "add", "--engine", bundle, "--attributes", one, "--fit", fit)

    fresh()
    count = len(Bundle.open(bundle).current().table)
    add()
    table = Bundle.open(bundle).current().table
    assert (len(table), table.names[-1], bool(table.seen[-1])) == (count + 1, "species 2-0", False)
    measure(add, things=1, unit="classes", setup=fresh)
