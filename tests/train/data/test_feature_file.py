"""Feature files, as training reads them and as labelling reads them: one file, one answer."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from support.tiny_xlsa17 import CLASSES, WIDTH, attribute_matrix, feature_rows, labels_of_rows, lists, make_pair
from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.inputs.feature_rows import RowFiles, check_row
from zsl_train.data.feature_file import feature_files, read_feature_file
from zsl_train.data.open import open_image_set


def trained(path):
    """(N, R, V) as training keeps it; None where it refuses the file."""
    try:
        return np.array(read_feature_file(path, path.parent).values)
    except UsageError:
        return None


def labelled(path, shape):
    """(N, R, V) as a bundle of rows (R, V) takes it; None where it refuses the file or one of its rows."""
    try:
        found = [item.source for item in RowFiles(shape).items([str(path)])]
        return np.stack([check_row(row, shape) for row in found])
    except InputError:
        return None


def check_both(path, wanted):
    """Both give the rows `wanted` (N, R, V), in their own precision; or both refuse."""
    ours = trained(path)
    theirs = labelled(path, wanted.shape[1:])
    with np.errstate(over="ignore"):
        fits = np.isfinite(wanted.astype(np.float64)).all() and np.abs(wanted.astype(np.float64)).max() <= 65504
    assert (ours is not None) == bool(fits)
    if ours is not None:
        np.testing.assert_array_equal(ours, wanted.astype(np.float16))
        np.testing.assert_array_equal(theirs, wanted.astype(np.float32))


DTYPES = [
    *("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "f2", "f4", "f8"),
    *(">i2", ">i4", ">u8", ">f2", ">f4", ">f8"),
]


@settings(max_examples=80, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), order=st.sampled_from("CF"), regions=st.integers(0, 2))
def test_what_trains_is_labelled_with_the_same_numbers(tmp_path_factory, data, dtype, order, regions):
    shape = (3, 4) if regions == 0 else (3, regions, 4)
    array = data.draw(hnp.arrays(dtype, shape))
    folder = tmp_path_factory.mktemp("rows")
    np.save(folder / "x.npy", np.asarray(array, order=order))
    np.save(folder / "labels.npy", np.arange(3))
    check_both(folder / "x.npy", array.reshape(3, max(regions, 1), 4))


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "f4", "f8", "?"])
@pytest.mark.parametrize("version", ["4", "5", "7.3", "sparse"])
def test_matlab_files_of_all_versions_and_classes(tmp_path, dtype, version):
    """mat7.3#28: features saved as uint8, single, logical; and sparse ones."""
    rows = np.array([[0, 1, 100, 3], [1, 0, 7, 127]]).astype(dtype)
    path, content = tmp_path / "x.mat", {"features": rows.T, "labels": np.array([[1.0], [2.0]])}
    if version == "7.3":
        with h5py.File(path, "w") as file:
            for name, value in content.items():
                file[name] = value.T
    elif version == "sparse":
        scipy.io.savemat(path, content | {"features": scipy.sparse.csc_matrix(rows.T.astype(float))})
    elif version == "4" and dtype not in {"u1", "u2", "i2", "i4", "f4", "f8"}:
        pytest.skip("version 4 has no such class")
    else:
        scipy.io.savemat(path, content, format=version)
    check_both(path, rows[:, None])
    (tmp_path / "._x.mat").write_bytes(path.read_bytes())
    assert feature_files(tmp_path) == [path]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4), complex),
        np.zeros((3, 4), "m8[s]"),
        np.array([["a"] * 4] * 3),
        np.zeros((3, 4), [("a", "f4")]),
        np.array([[{}] * 4] * 3),
        np.zeros(12),
        np.zeros((3, 1, 1, 4)),
        np.float32(1),
        np.full((3, 4), np.nan),
        np.full((3, 4), np.iinfo(np.int32).min),
        np.full((3, 4), np.iinfo(np.int64).min),
    ],
)
def test_what_is_no_row_of_numbers_is_refused_by_training(tmp_path, array):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    np.save(tmp_path / "labels.npy", np.arange(3))
    assert trained(tmp_path / "x.npy") is None
    if array.dtype.kind != "i":  # numbers that half precision does not hold are no trouble for a model in float32
        assert labelled(tmp_path / "x.npy", (1, 4)) is None


def saved_with_savez(path):
    np.savez(path.with_suffix(".npz"), features=feature_rows())
    path.with_suffix(".npz").rename(path)


@pytest.mark.parametrize(
    ("save", "told"),
    [
        (lambda path: np.save(path, feature_rows().astype(object)), "it holds Python objects in place of numbers"),
        (saved_with_savez, "it is an archive of arrays, as numpy.savez"),
    ],
)
def test_what_people_save_by_mistake_is_told_by_training_and_by_labelling(tmp_path, save, told):
    path = tmp_path / "x.npy"
    save(path)
    np.save(tmp_path / "labels.npy", labels_of_rows())
    with pytest.raises(UsageError, match=told) as training:
        read_feature_file(path, tmp_path)
    (item,) = RowFiles((1, WIDTH)).items([str(path)])
    assert training.value.code == "E-FEATURES-FILE"
    assert (item.source.code, told in item.source.message) == ("E-ROW-FILE", True)


def test_a_pair_in_version_7_3_is_read_as_one_in_version_7(tmp_path):
    """Features, labels, names, split and attributes, all as MATLAB writes them with -v7.3."""
    older, newer = make_pair(tmp_path / "older"), tmp_path / "newer"
    newer.mkdir()
    labels = labels_of_rows()
    names = [f"images/{CLASSES[label]}/{row:04}.jpg" for row, label in enumerate(labels)]
    split = {key: values[:, None].astype(float) for key, values in lists().items()}
    split |= {"att": attribute_matrix(), "original_att": 100 * attribute_matrix(), "allclasses_names": list(CLASSES)}
    features = {"features": feature_rows().T, "labels": labels[:, None] + 1.0, "image_files": names}
    for file_name, content in (("att_splits.mat", split), ("res101.mat", features)):
        with h5py.File(newer / file_name, "w", userblock_size=512) as file:
            for key, value in content.items():
                if not isinstance(value, list):
                    file[key] = value.T
                    continue
                cell = file.create_dataset(key, (1, len(value)), h5py.ref_dtype)
                for number, text in enumerate(value):
                    one = file.create_dataset(f"#refs#/{key}{number}", data=np.array([[*map(ord, text)]], "u2").T)
                    cell[0, number] = one.ref
        with (newer / file_name).open("r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    one, two = (open_image_set(folder, features="res101.mat") for folder in (older, newer))
    assert two.table.names == one.table.names
    assert two.features.width == WIDTH
    np.testing.assert_array_equal(two.features.values, one.features.values)
    np.testing.assert_array_equal(two.role, one.role)
    np.testing.assert_array_equal(two.table.raw, one.table.raw)
    assert two.features.image_files == tuple(names)
