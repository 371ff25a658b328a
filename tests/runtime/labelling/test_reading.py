"""A reader of one item: what it says of bytes that are no picture, and that a profile changes nothing."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.inputs.item import Item
from zsl_runtime.labelling import reading
from zsl_runtime.labelling.ahead import in_order
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.labelling.evaluation import evaluate
from zsl_runtime.labelling.photographs import gather
from zsl_runtime.labelling.profiling import Profile
from zsl_runtime.labelling.reading import Reader, batch_of, check_counts, fetched_ahead
from zsl_runtime.pixels.pixels import PixelSpec

NUMBERS = Reader(None, (1, 1))


def test_bytes_that_cannot_be_read_are_told_by_the_name_of_the_item():
    reader = Reader(PixelSpec(8, 8), (8, 8, 3))
    row = reader.row(Item("birds.zip/a.jpg", b"no picture"))
    assert str(row.value).startswith("E-IMAGE-FORMAT: 'birds.zip/a.jpg': picture of 10 bytes is not")


def test_a_profiled_reader_reads_the_same(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    reader, profile = Reader(PixelSpec(8, 8), (8, 8, 3)), Profile()
    assert np.array_equal(reader.profiled(picture, profile), reader(picture))
    assert np.array_equal(NUMBERS.profiled(np.ones((1, 1)), profile), [[1]])
    with pytest.raises(InputError):
        reader.profiled(b"", profile)


def test_an_item_that_is_done_with_is_not_held_while_the_next_one_is_made():
    """It may be a member of an archive as large as the largest picture."""

    held = []

    def items():
        for number in range(3):
            assert all(one() is None for one in held[:number])
            data = np.zeros((0, 0, 3), np.uint8)
            held.append(weakref.ref(data))
            item = Item(f"{number}", data)
            del data
            yield item
            del item

    reader = Reader(PixelSpec(8, 8), (8, 8, 3))
    given = fetched_ahead(items())
    for item in given:
        assert isinstance(reader.row(item).value, InputError)
        del item
    assert len(held) == 3


def test_of_large_files_in_a_store_one_is_in_memory_at_a_time(monkeypatch):
    from zsl_runtime.inputs import stores

    together, most, lock, two = 0, 0, threading.Lock(), threading.Event()

    patience = 0.0

    class Slow:
        def __call__(self, *_):
            nonlocal together, most
            with lock:
                together += 1
                most = max(most, together)
            if most > 1 or not two.wait(patience):
                two.set()
            with lock:
                together -= 1
            raise InputError("E-IMAGE-FORMAT", "no picture")

    monkeypatch.setattr(stores, "read_small", lambda path: b"small" if "small" in path else None)
    monkeypatch.setattr(stores, "read", lambda path: path.encode())
    monkeypatch.setattr(reading, "prepare", Slow())
    reader = Reader(PixelSpec(8, 8), (8, 8, 3))

    def run(kind, seconds):
        nonlocal most, patience
        most, patience = 0, seconds
        two.clear()
        items = (Item(f"memory://{kind}/{number}.jpg", f"memory://{kind}/{number}.jpg") for number in range(8))
        found = list(in_order(reader.row, fetched_ahead(items), workers=4, ahead=8))
        assert [one.name for one in found] == [f"memory://{kind}/{number}.jpg" for number in range(8)]
        return most

    assert run("large", 0.1) == 1  # for so long the first one waits in vain
    assert run("small", 20) > 1


# --- how many at once -----------------------------------------------------------------------------------------------

GIB = 2**30
PICTURES_260 = Reader(PixelSpec(260, 260), (260, 260, 3))  # 202,800 bytes each
ROWS_2048 = Reader(None, (1, 2048))  # 8,192 bytes each


@pytest.mark.parametrize(
    ("reader", "memory", "asked", "used"),
    [
        (PICTURES_260, 8 * GIB, None, 8),
        (PICTURES_260, 8 * GIB, 1, 1),
        (PICTURES_260, 8 * GIB, 64, 64),
        (PICTURES_260, 8 * GIB, 10_000_000, 165),  # 4 GiB / (128 * 202,800) = 165.4
        (PICTURES_260, 64 * GIB, 10**30, 1323),  # eight times that: 1323.6
        (PICTURES_260, 512 * GIB, 10**9, 4096),
        (PICTURES_260, GIB // 16, 10**9, 8),  # what is taken by default is never cut
        (PICTURES_260, GIB // 16, 5, 5),
        (PICTURES_260, None, 10**9, 4096),
        (ROWS_2048, 2 * GIB, 10**9, 1024),  # 1 GiB / (128 * 8,192)
        (NUMBERS, GIB, 10**9, 4096),
    ],
)
def test_a_batch_is_cut_to_what_there_is_memory_for(monkeypatch, reader, memory, asked, used):
    monkeypatch.setattr(reading, "memory_bytes", lambda: memory)
    assert batch_of(asked, reader) == used


@pytest.mark.parametrize("number", [0, -3, 1.5, True, "8", [8]])
def test_counts_are_whole_numbers(number):
    with pytest.raises(UsageError, match=r"^E-TOPK: topk is .*; ask for a whole number of classes, at least 1$"):
        check_counts(number, None)
    with pytest.raises(UsageError, match=r"^E-BATCH: batch_size is .*; give a whole number of at least 1$"):
        check_counts(1, number)
    check_counts(np.int64(3), np.uint8(8))


def test_every_call_that_takes_a_batch_cuts_it(own_bundle, monkeypatch):
    """No more than MOST_AT_ONCE, here 2, are in the graph at once."""
    path = own_bundle(rule="gaussian")
    monkeypatch.setattr(reading, "MOST_AT_ONCE", 2)
    pictures = [np.full((8, 8, 3), shade, np.uint8) for shade in range(0, 250, 50)]
    sizes = []
    with Classifier.open(path, backend="ort", threads=1) as classifier:
        run, features = classifier.backend.run, classifier.backend.features
        monkeypatch.setattr(classifier.backend, "run", lambda x, head: sizes.append(len(x)) or run(x, head))
        monkeypatch.setattr(classifier.backend, "features", lambda x: sizes.append(len(x)) or features(x))
        name = classifier.class_table.names[0]
        assert len(classifier.predict(pictures, batch_size=10**9, topk=10**9)) == 5
        assert evaluate(classifier, [(one, name) for one in pictures], batch_size=10**9).photographs == 5
        assert gather(classifier, {name: pictures}, batch_size=10**9).evidence[name].count == 5
    assert sizes == [2, 2, 1] * 3
