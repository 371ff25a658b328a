"""Feature files with att_splits.mat: tiny generated ones, and the published files where the data is there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.tiny_xlsa17 import (
    ATTRIBUTES,
    CLASSES,
    FEATURES,
    SEEN,
    WIDTH,
    attribute_matrix,
    cells,
    feature_rows,
    labels_of_rows,
    lists,
    make_pair,
)
from zsl_runtime.errors import UsageError, ZslError
from zsl_train.data.att_splits import PUBLISHED, looks_like, read_split_file
from zsl_train.data.folder import write_split
from zsl_train.data.open import open_image_set

DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[4] / "shared" / "data")) / "xlsa17"
needs_xlsa17 = pytest.mark.skipif(not DATA.is_dir(), reason="xlsa17 is not there ($ZSL_TEST_DATA)")


def opened(folder, features=FEATURES, **options):
    return open_image_set(folder, features=features, **options)


def refused(code, part, folder, features=FEATURES, **options):
    with pytest.raises(UsageError) as caught:
        opened(folder, features, **options)
    assert caught.value.code == code
    assert part in caught.value.message
    assert "\n" not in str(caught.value)


def told(data, part):
    return any(part in note for note in data.notes)


def test_rows_labels_roles_and_attributes_are_those_of_the_files(tmp_path):
    data = opened(make_pair(tmp_path))
    np.testing.assert_array_equal(data.features.values[:, 0], feature_rows().astype(np.float16))
    assert data.features.values.dtype == np.float16
    np.testing.assert_array_equal(data.labels, labels_of_rows())
    assert data.table.names == CLASSES
    assert data.table.seen.tolist() == SEEN.tolist()
    np.testing.assert_array_equal(data.table.raw, attribute_matrix().T)
    for key, role, seen in (("trainval", "train", True), ("test_seen", "test", True), ("test_unseen", "test", False)):
        np.testing.assert_array_equal(data.rows(role, seen=seen), lists()[f"{key}_loc"] - 1)
    assert data.paths[7] == "res101.mat#7"
    assert data.features.sha256 == hashlib.sha256((tmp_path / FEATURES).read_bytes()).hexdigest()
    assert data.unit == "feature rows"
    assert told(data, "18 pictures of test_seen_loc are in train_loc or val_loc")
    assert data.attribute_source == "6 class attributes (att)"


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("regions", [1, 3])
def test_npy_rows_with_labels_beside_them(tmp_path, dtype, regions):
    make_pair(tmp_path)
    rows = feature_rows().astype(dtype)
    rows = rows if regions == 1 else np.stack([rows] * regions, axis=1)
    np.save(tmp_path / "mine.npy", rows)
    data = opened(tmp_path, "mine.npy")
    assert told(data, "labels of mine.npy are those of res101.mat, row by row")
    assert (data.features.regions, data.features.width) == (regions, WIDTH)
    np.testing.assert_array_equal(data.features.values, rows.reshape(-1, regions, WIDTH).astype(np.float16))
    assert isinstance(data.features.values, np.memmap) == (dtype is np.float16)
    np.save(tmp_path / "labels.npy", labels_of_rows())
    again = opened(tmp_path, "mine.npy")
    assert told(again, "labels of mine.npy are those of labels.npy")
    assert told(again, "the labels of mine.npy count from 0")
    np.testing.assert_array_equal(again.labels, data.labels)


@pytest.mark.parametrize("labels_from", [0, 1])
@pytest.mark.parametrize("lists_from", [0, 1])
def test_files_that_count_from_0_give_the_same_as_those_that_count_from_1(tmp_path, labels_from, lists_from):
    moved = {key: (values - 1 + lists_from)[:, None] for key, values in lists().items()}
    changed = {"labels": labels_of_rows()[:, None] + labels_from}
    data = opened(make_pair(tmp_path / "other", splits=moved, features=changed))
    plain = opened(make_pair(tmp_path / "plain"))
    np.testing.assert_array_equal(data.labels, plain.labels)
    np.testing.assert_array_equal(data.role, plain.role)
    assert told(data, "lists of att_splits.mat count from 0") == (lists_from == 0)
    assert told(data, "labels of res101.mat count from 0") == (labels_from == 0)


def test_lists_that_name_neither_the_first_nor_the_last_row_are_told_by_their_classes(tmp_path):
    kept = {key: values[(values > 1) & (values < len(labels_of_rows()))] for key, values in lists().items()}
    for base in (0, 1):
        moved = {key: (values - 1 + base)[:, None] for key, values in kept.items()}
        data = opened(make_pair(tmp_path / str(base), splits=moved))
        np.testing.assert_array_equal(data.rows("train"), kept["trainval_loc"] - 1)
        assert told(data, "2 rows are in none of the lists")


def test_rows_in_no_list_keep_their_number_and_have_no_role(tmp_path):
    kept = lists()["test_unseen_loc"][1:]
    data = opened(make_pair(tmp_path, splits={"test_unseen_loc": kept[:, None]}))
    left = lists()["test_unseen_loc"][0] - 1
    assert data.role[left] == ""
    write_split(data, tmp_path / "split.csv")
    lines = (tmp_path / "split.csv").read_text().splitlines()
    assert len(lines) == len(data)  # a line of column names, and all rows but one
    assert not any(line.startswith(f"res101.mat#{left},") for line in lines)


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({}, "PS v1 (train_loc and val_loc hold 18 test_seen pictures"),
        ("clean", "PS2, the later kind (train_loc + val_loc = trainval_loc)"),
        ({"train_loc": None}, "without train_loc and val_loc"),
    ],
)
def test_the_version_of_the_split_is_told(tmp_path, changes, version):
    if changes == "clean":
        half = lists()["trainval_loc"]
        changes = {"train_loc": half[::2, None], "val_loc": half[1::2, None]}
    assert version in opened(make_pair(tmp_path, splits=changes)).split_version


def test_other_attributes_are_chosen_by_name_or_file(tmp_path):
    make_pair(tmp_path)
    np.testing.assert_array_equal(opened(tmp_path, attributes="original_att").table.raw, 100 * attribute_matrix().T)
    sentences = np.random.default_rng(5).standard_normal((9, len(CLASSES)))
    order = np.random.default_rng(6).permutation(len(CLASSES))
    mixed = {"att": sentences[:, order], "allclasses_names": cells([CLASSES[i] for i in order])}
    scipy.io.savemat(tmp_path / "sent_splits.mat", mixed)
    np.save(tmp_path / "mine.npy", sentences.T)
    np.save(tmp_path / "attribute_vectors.npy", np.ones((ATTRIBUTES, 3), np.float32))
    for name in ("sent_splits.mat", "mine.npy"):
        data = opened(tmp_path, attributes=name)
        np.testing.assert_array_equal(data.table.raw, sentences.T)
        assert name in data.attribute_source
        assert data.word_vectors is None
        assert told(data, "attribute_vectors.npy belongs to the attributes of att_splits.mat")
    np.testing.assert_array_equal(opened(tmp_path).word_vectors, np.ones((ATTRIBUTES, 3)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("attributes.csv", "name,words\n" + "".join(f"has_bill::a{i},bill a{i}\n" for i in range(6))),
        ("attributes.txt", "".join(f"{i + 1} has_bill::a{i}\n" for i in range(6))),
        ("predicates.txt", "".join(f"    {i + 1}\thas_bill::a{i}\n" for i in range(6))),
    ],
)
def test_attribute_names_are_read_where_there_are_some(tmp_path, name, text):
    make_pair(tmp_path)
    assert opened(tmp_path).table.attributes[0] == "attribute 1"
    (tmp_path / name).write_text(text)
    data = opened(tmp_path)
    assert data.table.attributes == tuple(f"has_bill::a{i}" for i in range(6))
    assert data.words == tuple(f"bill a{i}" for i in range(6))


def test_a_file_without_class_names_numbers_them(tmp_path):
    data = opened(make_pair(tmp_path, splits={"allclasses_names": None}))
    assert data.table.names == tuple(f"class {i}" for i in range(1, 9))
    assert told(data, "names no classes")


def test_what_is_odd_is_told(tmp_path):
    rows = feature_rows()
    rows[:, [3, 5]] = 2.5
    attributes = attribute_matrix()
    attributes[:, 2] = attributes[:, 0]
    trainval = lists()["trainval_loc"]
    lonely = np.flatnonzero(labels_of_rows()[trainval - 1] == 0)[1:]  # all but one of class 0
    changes = {"att": attributes, "trainval_loc": np.delete(trainval, lonely)[:, None]}
    labels = labels_of_rows() + 1.0
    files = cells([f"images/{CLASSES[label]}/x.jpg" for label in labels_of_rows()[::-1]])
    data = opened(make_pair(tmp_path, splits=changes, features={"features": rows.T, "image_files": files}))
    assert told(data, "2 of 14 dimensions of res101.mat are the same number in every row")
    assert told(data, "1 seen classes have a single training row")
    assert told(data, "1 classes have the attributes of another and cannot be told from it: 'ant = cat'")
    assert told(data, f"{int((labels != labels[::-1]).sum())} labels of res101.mat name another class than the folder")


N = len(labels_of_rows())


@pytest.mark.parametrize(
    ("splits", "features", "code", "part"),
    [
        ({}, {"features": feature_rows()[:-3].T}, "E-FEATURES-FILE", "there are 80 labels"),
        ({}, {"features": feature_rows()}, "E-FEATURES-FILE", "transposed"),
        ({}, {"features": None}, "E-FEATURES-FILE", "lacks features"),
        ({}, {"labels": None}, "E-FEATURES-FILE", "lacks labels"),
        ({}, {"features": cells(["a"] * N)}, "E-FEATURES-FILE", "expected numbers (V, N)"),
        ({}, {"image_files": cells(["a.jpg"])}, "E-FEATURES-FILE", "80 labels and 1 image_files"),
        ({}, {"labels": labels_of_rows() + 1.5}, "E-FEATURES-FILE", "not whole numbers"),
        (
            {},
            {"features": np.where(np.arange(WIDTH)[:, None] == 2, np.nan, feature_rows().T)},
            "E-FEATURES-FILE",
            "80 n",
        ),
        ({}, {"features": 1e6 * feature_rows().T}, "E-FEATURES-FILE", "half precision holds 65504"),
        ({}, {"labels": labels_of_rows() + 2}, "E-LABELS", "labels outside the 8 classes"),
        ({}, {"labels": labels_of_rows() - 1}, "E-LABELS", "labels outside the 8 classes"),
        ({}, {"labels": labels_of_rows()[::-1] + 1}, "E-SPLITS", "neither wholly seen nor wholly unseen"),
        (
            {},
            {"features": feature_rows()[:60].T, "labels": labels_of_rows()[:60] + 1, "image_files": None},
            "E-SPLITS",
            "must hold positions 1..60",
        ),
        ({"trainval_loc": None}, {}, "E-SPLITS", "lacks trainval_loc"),
        ({"test_seen_loc": lists()["trainval_loc"]}, {}, "E-SPLITS", "pictures of another list"),
        ({"trainval_loc": np.array([[1.5]])}, {}, "E-SPLITS", "whole numbers"),
        ({"trainval_loc": np.array([[np.nan]])}, {}, "E-SPLITS", "whole numbers"),
        ({"trainval_loc": np.array([[1, 1]])}, {}, "E-SPLITS", "twice"),
        ({"trainval_loc": np.zeros((0, 1))}, {}, "E-SPLITS", "holds nothing"),
        ({"att": attribute_matrix().T}, {}, "E-ATTRIBUTES", "transposed"),
        ({"att": None}, {}, "E-ATTRIBUTES", "holds no att (but 'original_att')"),
        ({"att": attribute_matrix()[:, :5]}, {}, "E-ATTRIBUTES", "8 classes"),
        ({"att": attribute_matrix() * (np.arange(8) != 3)}, {}, "E-ATTRIBUTE-ZERO", "'dog'"),
        ({"att": np.where(np.arange(8) == 4, np.inf, attribute_matrix())}, {}, "E-ATTRIBUTE-VALUE", "'eel'"),
        ({"allclasses_names": cells(["ant"] * 8)}, {}, "E-CLASS-DUPLICATE", "'ant'"),
    ],
)
def test_bad_files_are_one_line(tmp_path, splits, features, code, part):
    refused(code, part, make_pair(tmp_path, splits=splits, features=features))


def test_files_that_are_not_there_or_not_of_their_kind(tmp_path):
    make_pair(tmp_path)
    refused("E-FEATURES-FILE", "there are 'res101.mat'", tmp_path, "other.mat")
    (tmp_path / "picture.jpg").write_bytes(b"x")
    refused("E-FEATURES-FILE", "no feature file by its name", tmp_path, "picture.jpg")
    refused("E-SPLITS", "no file", tmp_path, splits=tmp_path / "nowhere")
    refused("E-ATTRIBUTES", "neither att nor original_att nor a file", tmp_path, attributes="attt")
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(500))
    refused("E-FEATURES-FILE", "cannot be read as a MATLAB file", tmp_path, "new.mat")
    (tmp_path / "text.npy").write_text("1 2 3")
    refused("E-FEATURES-FILE", "save it with numpy.save", tmp_path, "text.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}, {}]), allow_pickle=True)
    refused("E-FEATURES-FILE", "save it with numpy.save", tmp_path, "pickled.npy")
    np.save(tmp_path / "turned.npy", feature_rows().T)
    refused("E-FEATURES-FILE", "res101.mat has 80 (transposed?)", tmp_path, "turned.npy")
    np.save(tmp_path / "labels.npy", labels_of_rows())
    refused("E-FEATURES-FILE", "it is transposed", tmp_path, "turned.npy")
    with pytest.raises(UsageError, match=r"add --features res101\.mat"):
        open_image_set(tmp_path)
    with pytest.raises(UsageError, match="E-ATTRIBUTES"):
        open_image_set(tmp_path, attributes="original_att")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_one_line_or_still_right(tmp_path_factory, data):
    """Cut short or with a flipped byte, each file gives our error, or what it said, or numbers that are all finite."""
    folder = make_pair(tmp_path_factory.mktemp("damaged"))
    name = data.draw(st.sampled_from([FEATURES, "att_splits.mat"]))
    content = bytearray((folder / name).read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(content)
    try:
        found = opened(folder)
    except ZslError:
        return
    assert len(found) == N
    assert np.isfinite(found.features.values).all()


@needs_xlsa17
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_published_splits_have_the_published_counts(name):
    split, known = read_split_file(DATA / name / "att_splits.mat"), PUBLISHED[name]
    sizes = {key.removesuffix("_loc"): len(values) for key, values in split.lists.items()}
    assert sizes == {key: getattr(known, key) for key in ("trainval", "test_seen", "test_unseen", "train", "val")}
    assert split.attributes["att"].shape == (known.attributes, known.seen + known.unseen)
    assert split.overlap("train_loc", "test_seen_loc") == known.leaked_train
    assert split.overlap("val_loc", "test_seen_loc") == known.leaked_val
    assert "PS v1" in split.version
    assert looks_like(known.seen + known.unseen, known.images) == name


@needs_xlsa17
@pytest.mark.parametrize(("folder", "version"), [("CUB", "PS v1"), ("CUB_v2", "PS2")])
def test_the_real_pair(folder, version):
    data = opened(DATA / "CUB", "resnet_fc1000.mat", splits=DATA / folder)
    assert version in data.split_version
    assert (len(data.rows("train")), len(data.rows("test", seen=True)), len(data.rows("test", seen=False))) == (
        7057,
        1764,
        2967,
    )
    assert (data.table.seen.sum(), len(data.table), data.features.width) == (150, 200, 1000)
    assert data.data_set == "CUB"
