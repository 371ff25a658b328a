"""What is looked at of a MATLAB file before scipy reads it: whole files of all kinds pass, damaged ones never crash."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from support.traced import peak_of
from zsl_runtime.inputs.mat_layout import readable_names
from zsl_runtime.inputs.matfile import MatError, read_matrix, read_variables, variable_names

CELLS = np.array([["ant", "größe"], ["", "bee"]], dtype=object)
CONTENT = {
    "features": np.arange(12.0).reshape(3, 4),
    "whole": np.arange(6, dtype=np.int16).reshape(1, 6),
    "truth": np.array([[True, False]]),
    "none": np.zeros((0, 3)),
    "complex": np.array([[1 + 2j]]),
    "text": "größe",
    "blank": "",
    "cells": CELLS,
    "nested": {"a": np.ones((2, 2)), "b": {"c": "x", "d": CELLS}},
    "sparse": scipy.sparse.csc_matrix(np.array([[0, 1.5, 0], [2, 0, 0]])),
    "zeros": scipy.sparse.csc_matrix((4, 5)),
    "deep": np.zeros((2, 3, 4), np.float32),
}


@pytest.mark.parametrize("packed", [True, False])
def test_every_kind_of_value_that_scipy_writes_is_readable_and_read_as_it_was(tmp_path, packed):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, CONTENT, do_compression=packed, long_field_names=True)
    assert readable_names(path) == [name for name, _, _ in scipy.io.whosmat(path)] == list(CONTENT)
    assert variable_names(path) == list(CONTENT)
    read = read_variables(path)
    assert np.array_equal(read["sparse"], [[0, 1.5, 0], [2, 0, 0]])
    assert np.array_equal(read["features"], CONTENT["features"])
    assert [str(cell[0]) if cell.size else "" for cell in read["cells"].ravel()] == ["ant", "größe", "", "bee"]


def test_files_of_version_4_are_readable(tmp_path):
    path = tmp_path / "x.mat"
    kinds = {"a": np.ones((2, 3)), "b": np.ones((1, 2), np.float32), "c": "text", "d": np.array([[1j]])}
    scipy.io.savemat(path, {**kinds, "s": CONTENT["sparse"]}, format="4")
    assert readable_names(path) == [name for name, _, _ in scipy.io.whosmat(path)]
    assert np.array_equal(read_matrix(path, "s"), [[0, 1.5, 0], [2, 0, 0]])


def test_a_sparse_matrix_of_truth_values_has_a_byte_for_each(tmp_path):
    """As MATLAB writes it, whatever kind the element tells: its own kind of number would be cut off."""
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"s": scipy.sparse.csc_matrix(np.array([[True, False], [True, True]]))})
    assert readable_names(path) == ["s"]
    assert read_matrix(path, "s").tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        # (places of rows, ends of columns) of a sparse matrix of three numbers in 2 x 3
        (np.array([0, 1, 1], "<i4"), np.array([0, 1, 9], "<i4"), "numbers lie outside it"),
        (np.array([0, 1, 1], "<i4"), np.array([0, -1, 1], "<i4"), "numbers lie outside it"),
        (np.array([0, 1, 2, 3], "<i4"), np.array([0, 3, 2, 3], "<i4"), "numbers lie outside it"),
        (np.array([0, 1, 2, 3], "<i4"), np.array([0, 1, 2, 99], "<i4"), "numbers lie outside it"),
    ],
)
def test_numbers_outside_a_sparse_matrix_are_refused(tmp_path, old, new, said):
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"features": scipy.sparse.csc_matrix(np.array([[1.0, 0, 0], [0, 2, 3]]))})
    data = stream.getvalue()
    assert data.count(old.tobytes()) == 1
    (tmp_path / "x.mat").write_bytes(data.replace(old.tobytes(), new.tobytes()))
    with pytest.raises(MatError, match=said):
        read_matrix(tmp_path / "x.mat", "features")


def test_of_a_file_no_more_is_read_than_what_is_looked_at(tmp_path):
    """Of packed cells all is; what lies behind them was read as well, once for each of them."""
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.random.default_rng(0).random(2000), np.arange(3.0)
    content = {
        **{f"cells{number}": cells for number in range(20)},
        "features": np.random.default_rng(1).random(500_000),
    }
    scipy.io.savemat(tmp_path / "file.mat", content, do_compression=True)
    names, peak = peak_of(lambda: readable_names(tmp_path / "file.mat"))
    assert names == list(content)
    assert peak < 500_000, peak


def test_a_matrix_that_says_it_is_larger_than_its_file_takes_no_memory(tmp_path):
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"features": np.zeros((3, 4))})
    size = np.array([3, 4], "<i4").tobytes()
    path = tmp_path / "x.mat"
    for wrong in ([1 << 30, 4], [3, 1 << 30], [3, -4], [3, 5]):
        path.write_bytes(stream.getvalue().replace(size, np.array(wrong, "<i4").tobytes()))
        with pytest.raises(MatError, match=r"holds others|without sizes"):
            read_matrix(path, "features")
    packed = io.BytesIO()
    scipy.io.savemat(packed, {"features": np.zeros((3000, 400))}, do_compression=True)
    assert len(packed.getvalue()) < 20_000
    path.write_bytes(packed.getvalue())
    assert read_matrix(path, "features").shape == (3000, 400)


@given(st.data())
def test_a_file_with_any_byte_changed_is_read_or_refused_in_our_words(tmp_path_factory, data):
    stream = io.BytesIO()
    scipy.io.savemat(stream, CONTENT)
    whole = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(124, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("mat") / "x.mat"
    path.write_bytes(whole)
    try:
        read = read_variables(path)
    except MatError:
        read = {}
    assert set(read) <= {*CONTENT, *variable_names_or_none(path)}


def variable_names_or_none(path) -> list[str]:
    try:
        return variable_names(path)
    except MatError:
        return []
