"""Matrices of MATLAB files of all versions, and of damaged ones."""

from __future__ import annotations

import io
import os
import sys

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zsl_runtime.errors import BackendError
from zsl_runtime.inputs.matfile import MatError, read_matrix, read_variables, variable_names

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


def test_whole_numbers_stored_as_bytes_are_numbers(path):
    """MATLAB stores a double matrix of small whole numbers as bytes."""
    scipy.io.savemat(path, {"features": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    np.testing.assert_array_equal(read_matrix(path, "features"), [[0, 1, 2], [3, 4, 5]])


def test_version_7_3_has_its_axes_in_the_reverse_order(path):
    array = np.random.default_rng(0).standard_normal((3, 5))
    with h5py.File(path, "w", userblock_size=512) as file:
        file["features"] = array.T  # as MATLAB writes it
        file["labels"] = np.arange(5.0)
        file.create_group("#refs#")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    np.testing.assert_array_equal(read_matrix(path, "features"), array)
    with pytest.raises(MatError, match="it holds 'features', 'labels', and no matrix 'other'"):
        read_matrix(path, "other")


@pytest.mark.parametrize("library", ["scipy", "h5py"])
def test_without_its_library_the_extra_is_named(path, monkeypatch, library):
    if library == "scipy":
        written(path, {"features": np.eye(2)})
    else:
        with h5py.File(path, "w") as file:
            file["features"] = np.eye(2)
    monkeypatch.setitem(sys.modules, library, None)
    told = rf'E-MAT-MISSING: .* needs {library}, which is not installed here; pip install "zsl-deploy\[mat\]", or save'
    with pytest.raises(BackendError, match=told):
        read_matrix(path, "features")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"labels": np.eye(2)}, "it holds 'labels', and no matrix 'features'"),
        ({"features": np.eye(2) + 1j}, "no matrix of real numbers"),
        ({"features": np.array(["a", "b"], dtype=object)}, "no matrix of real numbers"),
        ({"features": "text"}, "no matrix of real numbers"),
        ({"features": {"a": 1}}, "no matrix of real numbers"),
        ({"features": np.eye(2) * 1j}, "no matrix of real numbers"),
        ({"features": scipy.sparse.csc_matrix(([1.0], ([0], [0])), (10**5, 10**5))}, "holds 1 numbers; save it as"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_no_matrix_is_told(path, content, part, compressed):
    with pytest.raises(MatError, match=part):
        read_matrix(written(path, content, do_compression=compressed), "features")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "no MATLAB file, or damaged"),
        (b"\x93NUMPY" + bytes(200), "no MATLAB file, or damaged"),
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(500), "no MATLAB file, or damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "no MATLAB file, or damaged"),
    ],
)
def test_other_files_are_told(path, data, part):
    path.write_bytes(data)
    with pytest.raises(MatError, match=part):
        read_matrix(path, "features")


def test_version_4_is_read(path):
    np.testing.assert_array_equal(
        read_matrix(written(path, {"features": np.eye(3)}, format="4"), "features"), np.eye(3)
    )


def test_a_sparse_matrix_is_filled_up(path):
    """MATLAB saves features behind a ReLU so."""
    array = np.where(np.random.default_rng(0).random((7, 9)) < 0.3, np.arange(63.0).reshape(7, 9), 0)
    written(path, {"features": scipy.sparse.csc_matrix(array)})
    np.testing.assert_array_equal(read_matrix(path, "features"), array)
    sparse = scipy.sparse.csc_matrix(array)
    with h5py.File(path, "w") as file:  # as MATLAB writes version 7.3
        group = file.create_group("features")
        group.attrs["MATLAB_sparse"] = np.uint64(7)
        group["data"], group["ir"], group["jc"] = sparse.data, sparse.indices.astype("u8"), sparse.indptr.astype("u8")
    np.testing.assert_array_equal(read_matrix(path, "features"), array)


def test_all_variables_of_version_7_3_are_read_as_those_of_version_7(path):
    names = ["ant/0.jpg", "größe/1.jpg", ""]
    with h5py.File(path, "w") as file:
        references = file.create_group("#refs#")
        cell = file.create_dataset("image_files", (1, 3), h5py.ref_dtype)
        for number, name in enumerate(names):
            letters = np.array([*map(ord, name)], "u2").reshape(-1, 1) if name else np.zeros(2, "u8")
            references[str(number)] = letters
            cell[0, number] = references[str(number)].ref
        cell.attrs["MATLAB_class"] = np.bytes_("cell")
        file["flags"] = np.array([[1, 0]], "u1")
        file["flags"].attrs["MATLAB_class"] = np.bytes_("logical")
        file["none"] = np.array([0, 5], "u8")
        file["none"].attrs["MATLAB_empty"] = np.uint8(1)
        file["word"] = np.array([[104], [105]], "u2")
        file["word"].attrs["MATLAB_class"] = np.bytes_("char")
        file.create_group("struct")
    found = read_variables(path)
    assert variable_names(path) == ["flags", "image_files", "none", "struct", "word"]
    assert found["image_files"].tolist() == names
    assert found["flags"].tolist() == [[1], [0]]
    assert (found["none"].shape, str(found["word"]), found["struct"]) == ((0, 5), "hi", None)
    assert list(read_variables(path, ["flags", "other"])) == ["flags"]


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
    assert found.nbytes <= 1 << 20


# --- more than a file can hold --------------------------------------------------------------------------------------


def test_a_file_of_hdf5_that_promises_more_than_it_can_hold_is_refused_before_it_is_read(tmp_path):
    """Chunks that were never written take no space in the file, and all of it in memory."""
    path = tmp_path / "x.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", shape=(10**6, 10**6), chunks=(1000, 1000), dtype="f8")
    with pytest.raises(MatError, match="'features' promises 8,000,000,000,000 bytes, and of a file of"):
        read_matrix(path, "features")


def test_a_packed_matrix_that_unpacks_to_out_of_proportion_is_refused(tmp_path):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"features": np.zeros((3000, 12_000)), "other": np.ones((2, 3))}, do_compression=True)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(MatError, match="'features' promises 288,000,000 bytes"):
        read_matrix(path, "features")
    np.testing.assert_array_equal(read_matrix(path, "other"), np.ones((2, 3)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "x.mat")
    with pytest.raises(MatError, match="it is no file"):
        read_matrix(tmp_path / "x.mat", "features")
