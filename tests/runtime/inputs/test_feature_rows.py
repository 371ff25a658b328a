"""Rows of feature files: what is read, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from zsl_runtime.errors import InputError
from zsl_runtime.inputs.feature_rows import RowFiles, check_row


def opened(paths, shape):
    """Items and how many there should be."""
    files = RowFiles(shape)
    return files.items(paths), files.count(paths)


def test_rows_are_named_and_given_one_by_one(tmp_path):
    regions = np.random.default_rng(0).standard_normal((3, 4, 5))
    path = str(tmp_path / "a.npy")
    np.save(path, regions)
    items, total = opened([path, path], (4, 5))
    items = list(items)
    assert total == 6
    assert [item.name for item in items] == [f"{path}#{i}" for i in (0, 1, 2, 0, 1, 2)]
    for i, item in enumerate(items):
        row = check_row(item.source, (4, 5))
        assert row.dtype == np.float32
        assert np.array_equal(row, regions[i % 3].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 6), (2, 1, 6)])
def test_plain_vectors_are_one_region(tmp_path, dtype, shape):
    path = str(tmp_path / "a.npy")
    np.save(path, np.arange(12).reshape(shape).astype(dtype))
    items, total = opened([path], (1, 6))
    assert total == 2
    assert [check_row(item.source, (1, 6)).tolist() for item in items] == [[[0, 1, 2, 3, 4, 5]], [[6, 7, 8, 9, 10, 11]]]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "E-ROW-FILE"),
        (b"no numpy", "E-ROW-FILE"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9, 4, 5), }", "E-ROW-FILE"),
        (np.array([None, {}]), "E-ROW-FILE"),
        (np.zeros((3, 5), np.float32), "E-ROW-SHAPE"),
        (np.zeros((3, 5, 4), np.float32), "E-ROW-SHAPE"),
        (np.zeros(20, np.float32), "E-ROW-SHAPE"),
        (np.float32(3), "E-ROW-SHAPE"),
        (np.zeros((3, 4, 5), np.complex64), "E-ROW-SHAPE"),
        (np.zeros((3, 4, 5), "m8[s]"), "E-ROW-SHAPE"),
        (np.zeros((3, 4), [("a", "f4")]), "E-ROW-SHAPE"),
        (b"PK\3\4" + bytes(300), "E-ROW-FILE"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape(': (3, 4, 5), }", "E-ROW-FILE"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3.4, 4, 5), }", "E-ROW-FILE"),
        (
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 30 + b",), }",
            "E-ROW-FILE",
        ),
    ],
)
def test_a_bad_file_is_one_unreadable_item(tmp_path, content, code):
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    items, total = opened([str(path)], (4, 5))
    ((name, error),) = items
    assert total == 1
    assert name == str(path)
    assert isinstance(error, InputError)
    assert error.code == code


def test_an_archive_and_a_folder_are_unreadable_items(tmp_path):
    np.savez(tmp_path / "a.npy.npz", rows=np.zeros((3, 4, 5)))
    (tmp_path / "a.npy.npz").rename(tmp_path / "a.npy")
    items, _ = opened([str(tmp_path / "a.npy"), str(tmp_path)], (4, 5))
    assert [item.source.code for item in items] == ["E-ROW-FILE", "E-ROW-FILE"]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (np.full((4, 5), np.nan, np.float32), "E-ROW-VALUE"),
        (np.full((4, 5), np.inf), "E-ROW-VALUE"),
        (np.full((4, 5), 1e300), "E-ROW-VALUE"),
        (np.zeros((4, 5), np.complex128), "E-ROW-SHAPE"),
        (np.zeros((5, 4)), "E-ROW-SHAPE"),
        (np.zeros(5), "E-ROW-SHAPE"),
        ([[0.0] * 5] * 4, "E-ROW-SHAPE"),
        ("a.jpg", "E-ROW-SHAPE"),
    ],
)
def test_bad_rows_are_refused(row, code):
    with pytest.raises(InputError) as caught:
        check_row(row, (4, 5))
    assert caught.value.code == code


@pytest.mark.parametrize("dtype", ["i1", "i2", ">i4", "i8", "u1", ">u2", "u4", "u8", "?", "f2", ">f4", ">f8", "g"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_all_kinds_are_rows(tmp_path, dtype, order):
    """A file that trains is labelled (mat7.3#28): whole numbers, truth values, any byte order and order in memory."""
    numbers = np.array([[[0, 1, 1, 0], [1, 0, 0, 1]], [[1, 1, 0, 0], [0, 0, 1, 1]]]) * (1 if dtype == "?" else 100)
    np.save(tmp_path / "a.npy", np.asarray(numbers.astype(dtype), order=order))
    items, total = opened([str(tmp_path / "a.npy")], (2, 4))
    rows = [check_row(item.source, (2, 4)) for item in items]
    assert total == 2
    assert {row.dtype for row in rows} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(np.stack(rows), numbers.astype(np.float32))
