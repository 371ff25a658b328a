"""Our reader of MATLAB files against scipy's, on files that scipy writes; and on damaged ones."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zsl_runtime.inputs.matfile import MatError, read_matrix

DTYPES = (*(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f4", "f8")
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.mat"


def written(path, content, **how):
    scipy.io.savemat(path, content, **how)
    return path


@QUIET
@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9))
    ),
    compressed=st.booleans(),
    before=st.lists(st.sampled_from(["a", "labels", "image_files", "a_name_of_many_letters"]), unique=True),
)
def test_it_reads_what_scipy_writes(path, array, compressed, before):
    others = {name: np.array(["text", "more"], dtype=object) if "files" in name else np.eye(3) for name in before}
    written(path, {**others, "features": array, "after": 1.0}, do_compression=compressed)
    found, wanted = read_matrix(path, "features"), scipy.io.loadmat(path)["features"]
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    assert found.shape == wanted.shape


def test_large_matrices_and_long_lists_of_variables(path):
    array = np.random.default_rng(0).standard_normal((70, 3000)).astype(np.float32)
    for compressed in (False, True):
        written(path, {**{f"v{i}": np.ones((50, 50)) for i in range(20)}, "features": array}, do_compression=compressed)
        np.testing.assert_array_equal(read_matrix(path, "features"), array)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_integers_that_stand_for_doubles(path, order):
    """MATLAB stores a double matrix of small whole numbers as bytes; old machines wrote the other byte order."""
    flags = struct.pack(f"{order}IIII", 6, 8, 6, 0)  # miUINT32, 8 bytes: class double
    axes = struct.pack(f"{order}IIii", 5, 8, 2, 3)
    name = struct.pack(f"{order}I4s", (1 << 16) | 1, b"f")  # a small element: size and type in one word
    numbers = struct.pack(f"{order}II6Bxx", 2, 6, 1, 2, 3, 4, 5, 255)
    matrix = flags + axes + name + numbers
    mark = struct.pack(f"{order}HH", 0x0100, 0x4D49)
    path.write_bytes(b" " * 124 + mark + struct.pack(f"{order}II", 14, len(matrix)) + matrix)
    found = read_matrix(path, "f")
    np.testing.assert_array_equal(found, [[1, 3, 5], [2, 4, 255]])
    assert found.dtype == np.float64
    np.testing.assert_array_equal(scipy.io.loadmat(path)["f"], found)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"labels": np.eye(2)}, "it holds 'labels', and no matrix 'features'"),
        ({"features": np.eye(2) + 1j}, "no matrix of real numbers"),
        ({"features": np.array(["a", "b"], dtype=object)}, "no matrix of real numbers"),
        ({"features": "text"}, "no matrix of real numbers"),
        ({"features": {"a": 1}}, "no matrix of real numbers"),
        ({"features": scipy.sparse.eye(3).tocsc()}, "no matrix of real numbers"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_no_matrix_is_told(path, content, part, compressed):
    with pytest.raises(MatError, match=part):
        read_matrix(written(path, content, do_compression=compressed), "features")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "no MATLAB file of version 5 to 7"),
        (b"\x93NUMPY" + bytes(200), "no MATLAB file of version 5 to 7"),
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(500), "save it again with '-v7'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "save it again with '-v7'"),
    ],
)
def test_other_files_are_told(path, data, part):
    path.write_bytes(data)
    with pytest.raises(MatError, match=part):
        read_matrix(path, "features")


def test_version_4_is_told(path):
    with pytest.raises(MatError, match="no MATLAB file of version 5 to 7"):
        read_matrix(written(path, {"features": np.eye(3)}, format="4"), "features")


@QUIET
@given(compressed=st.booleans(), where=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_is_told_or_does_no_harm(path, compressed, where, bit, cut):
    """Cut short or with a flipped bit: our error, or an array; never another error, never gigabytes."""
    buffer = io.BytesIO()
    array = np.arange(24.0).reshape(4, 6)
    scipy.io.savemat(buffer, {"labels": np.eye(2), "features": array}, do_compression=compressed)
    content = bytearray(buffer.getvalue())
    if cut:
        del content[where % len(content) :]
    else:
        content[where % len(content)] ^= 1 << bit
    path.write_bytes(content)
    try:
        found = read_matrix(path, "features")
    except MatError:
        return
    assert found.size == array.size
    if compressed:  # what zlib guards came through whole, or the flip was outside it
        np.testing.assert_array_equal(np.sort(found, axis=None), np.arange(24.0))
