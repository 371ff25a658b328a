"""How long does it take to fit a head and to fold it, at 20 and at 200 classes, and to add a class to a Gaussian one?

2048 features, 20 rows a class, 5 epochs of batches of 300; published schedules have 25 epochs and more rows. And at
10,000 classes: scores and top 5 of 64 pictures with 2048 and with 6144 features, folding, the CSV, the commands.
"""

from __future__ import annotations

import csv
import os
import shutil

import numpy as np
import pytest
from turns import Contender

from support.big_bundle import Sizes, make_big_bundle, random_table
from support.line import succeed
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import remove_classes
from zsl_runtime.cli.classes import main as zsl_classes
from zsl_runtime.head.class_file import read_class_csv
from zsl_runtime.head.fitting import fit_head
from zsl_runtime.head.gaussian import ClassMeans, Gaussian, gaussian_head, grown_head
from zsl_runtime.head.head import FitSettings, Head, View, best_columns, fold

WIDTH, ROWS = 2048, 20
VIEWS = (View("feature", 0, WIDTH, 1.0, FitSettings(epochs=5)),)


@pytest.fixture(scope="module", params=[20, 200])
def rows(request):
    """Features around one centre a class: x (N, D) float32 and labels (N,)."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(request.param), ROWS)
    centres = rng.standard_normal((request.param, WIDTH), dtype=np.float32)
    return centres[labels] + rng.standard_normal((len(labels), WIDTH), dtype=np.float32), labels


@pytest.fixture(scope="module")
def head(rows):
    x, labels = rows
    return fit_head(x, labels, int(labels[-1]) + 1, VIEWS, 0)


def accuracy(head, x, labels):
    logits = x @ head.weights[0].T + head.biases[0]
    return (logits.argmax(axis=1) == labels).mean()


def bench_fit(measure, rows, head):
    x, labels = rows
    assert accuracy(head, x, labels) > 0.99
    measure(lambda: fit_head(x, labels, len(head), VIEWS, 0), things=len(head), unit="classes")


def bench_grow_a_gaussian_head_by_one_class(measure):
    """By the rule `gaussian`: a row follows from its mean, the others are copied."""
    rng = np.random.default_rng(2)
    variance = rng.uniform(0.1, 3, 256)
    gaussian = Gaussian(variance, 1 / (1 + variance))
    means = ClassMeans.without_photographs(rng.standard_normal((200, 256), dtype=np.float32))
    new = ClassMeans.without_photographs(rng.standard_normal((1, 256), dtype=np.float32))
    old = gaussian_head(means, gaussian, View("canonical", 0, 256, 1.0, None))
    grown = grown_head(old, new, gaussian)
    np.testing.assert_array_equal(grown.weights[0][:-1], old.weights[0])
    np.testing.assert_allclose(grown.weights[0][-1], gaussian.scale * new.prior[0], rtol=1e-6)
    measure(lambda: grown_head(old, new, gaussian), things=1, unit="classes")


def bench_fold(measure, rows, head):
    seen = np.arange(len(head)) % 2 == 0
    folded = fold(head, seen)
    np.testing.assert_array_equal(folded.weight, head.weights[0])
    np.testing.assert_array_equal(folded.bias, head.biases[0])
    measure(lambda: fold(head, seen), things=len(head), unit="classes")


# --- ten thousand classes ---

MANY, PICTURES, TOPK = 10_000, 64, 5


@pytest.fixture(scope="module", params=[2048, 6144])
def many(request):
    """A folded head of 10,000 classes, and features of 64 pictures."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((MANY, request.param), dtype=np.float32) / np.float32(np.sqrt(request.param))
    view = View("lifted", 0, request.param, 1.0, FitSettings())
    head = Head((view,), (weight,), (np.zeros(MANY, dtype=np.float32),), gamma=0.5, temperature=1.2)
    x = rng.standard_normal((PICTURES, request.param), dtype=np.float32)
    return head, fold(head, np.arange(MANY) % 2 == 0), x


def bench_scores_of_ten_thousand_classes(measure, many):
    _, folded, x = many
    logits = x.astype(np.float64) @ folded.weight.T.astype(np.float64) + folded.bias + folded.class_bias
    logits -= logits.max(axis=1, keepdims=True)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(folded.scores(x), expected, atol=1e-3)
    measure(lambda: folded.scores(x), things=PICTURES, unit="pictures")


def bench_top_5_of_ten_thousand_classes(measure_in_turns, many):
    _, folded, x = many
    scores = folded.scores(x)

    def whole_sort():
        return np.argsort(-scores, axis=1, kind="stable")[:, :TOPK]

    def check(columns):
        np.testing.assert_array_equal(columns, whole_sort())

    measure_in_turns(
        {"partition": Contender(lambda: best_columns(scores, TOPK), check), "whole sort": Contender(whole_sort)},
        things=PICTURES,
        unit="pictures",
        against="whole sort",
        named=lambda name: f"bench_top_5_of_ten_thousand_classes[{folded.weight.shape[1]}-{name}]",
    )


def bench_fold_ten_thousand_classes(measure, many):
    head, folded, _ = many
    seen = np.arange(MANY) % 2 == 0
    np.testing.assert_allclose(folded.weight, head.weights[0] / np.float32(1.2), rtol=1e-6)
    measure(lambda: fold(head, seen), things=MANY, unit="classes")


def bench_read_a_csv_of_ten_thousand_classes(measure, tmp_path):
    table = random_table(Sizes(seen=0, unseen=MANY))
    path = tmp_path / "classes.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *table.attributes])
        writer.writerows([name, *row] for name, row in zip(table.names, table.raw.tolist(), strict=True))
    read = read_class_csv(path, attributes=table.attributes, need_split=False)
    np.testing.assert_array_equal(read.raw, table.raw)
    measure(lambda: read_class_csv(path, attributes=table.attributes, need_split=False), things=MANY, unit="classes")


@pytest.mark.parametrize("what", ["list", "remove", "undo", "prune"])
def bench_commands_on_ten_thousand_classes(measure, big, tmp_path, what):
    """In process, hashes of every file checked."""
    path = tmp_path / "bundle"

    def fresh():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(big, path, copy_function=os.link)
        if what in {"undo", "prune"}:
            remove_classes(Bundle.open(path), ["class 3"])

    argv = {"remove": ["class 7", "class 9000"], "prune": ["--keep", "1"]}.get(what, [])

    def call():
        return succeed(zsl_classes, what, "--engine", path, *argv)

    fresh()
    call()
    expected = {"list": MANY, "remove": MANY - 2, "undo": MANY, "prune": MANY - 1}[what]
    assert len(Bundle.open(path).current().table) == expected
    measure(call, things=1, unit="commands", setup=fresh)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A bundle of 10,000 classes and 2048-d features."""
    return make_big_bundle(tmp_path_factory.mktemp("big") / "bundle", Sizes(unseen=MANY - 150, lift=0))
