"""CUB-200-2011's archive layout on a tiny fake archive."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from support.tiny_data import draw_picture
from zsl_runtime.errors import UsageError, ZslError
from zsl_train.data.open import open_image_set

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross", "004.Groove_billed_Ani")
ATTRIBUTES = ("has_bill_shape::dagger", "has_upperparts_color::grey", "has_wing_pattern::multi-colored")
WORDS = ("bill shape dagger", "upper parts color gray", "wing pattern multi colored")
PER_CLASS = 6
# 1-based positions in images.txt: classes 1, 2 and 4 are seen.
TRAINVAL = [1, 2, 3, 4, 7, 8, 9, 10, 19, 20, 21, 22]
TEST_SEEN = [5, 6, 11, 12, 23, 24]
TEST_UNSEEN = [13, 14, 15, 16, 17, 18]


def numbered(path: Path, values) -> None:
    path.write_text("".join(f"{i} {value}\n" for i, value in enumerate(values, start=1)))


def paths() -> list[str]:
    return [f"{name}/{name[4:]}_{i:04}.jpg" for name in CLASSES for i in range(PER_CLASS)]


@pytest.fixture
def archive(tmp_path):
    """The folder around CUB_200_2011, as the archive is extracted; pictures are drawn."""
    outer = tmp_path / "cub"
    base = outer / "CUB_200_2011"
    (base / "attributes").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for path in paths():
        (base / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        draw_picture(("red", "round", "plain"), 16, draw).save(base / "images" / path)
    numbered(base / "images.txt", paths())
    numbered(base / "classes.txt", CLASSES)
    numbered(base / "image_class_labels.txt", np.repeat(np.arange(1, 5), PER_CLASS))
    numbered(base / "train_test_split.txt", [int(i % PER_CLASS < 3) for i in range(24)])
    numbered(outer / "attributes.txt", ATTRIBUTES)
    rows = [" ".join(f"{10 * c + a + 0.5:.6f}" for a in range(3)) for c in range(4)]
    (base / "attributes" / "class_attribute_labels_continuous.txt").write_text("\n".join(rows) + "\n")
    return outer


def cells(values) -> np.ndarray:
    """A MATLAB cell array of strings."""
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = list(values)
    return array


def save_splits(path: Path, **changes) -> None:
    content = {
        "trainval_loc": TRAINVAL,
        "test_seen_loc": TEST_SEEN,
        "test_unseen_loc": TEST_UNSEEN,
        "train_loc": [1, 2, 3, 4, 7, 8, 9, 10],
        "val_loc": [19, 20, 21, 22],
        "allclasses_names": cells(sorted(CLASSES, reverse=True)),
    } | changes
    columns = {k: v if k == "allclasses_names" else np.array(v)[:, None] for k, v in content.items() if v is not None}
    scipy.io.savemat(path, columns)


def refused(archive: Path, code: str, part: str, **options) -> None:
    with pytest.raises(UsageError) as caught:
        open_image_set(archive, **options)
    assert caught.value.code == code
    assert part in caught.value.message
    assert "\n" not in str(caught.value)


def test_the_archive_with_the_proposed_split(archive):
    save_splits(archive / "att_splits.mat")
    data = open_image_set(archive)
    assert data.root == archive / "CUB_200_2011" / "images"
    assert data.paths == tuple(paths())
    assert data.table.names == CLASSES
    assert data.table.attributes == ATTRIBUTES
    assert data.words == WORDS
    assert data.word_vectors is None
    np.testing.assert_array_equal(data.table.raw, 10 * np.arange(4)[:, None] + np.arange(3) + 0.5)
    assert data.table.seen.tolist() == [True, True, False, True]
    assert data.labels.tolist() == np.repeat(np.arange(4), PER_CLASS).tolist()
    assert (data.rows("train") + 1).tolist() == TRAINVAL
    assert (data.rows("test", seen=True) + 1).tolist() == TEST_SEEN
    assert (data.rows("test", seen=False) + 1).tolist() == TEST_UNSEEN
    assert any("position in images.txt" in note for note in data.notes)


def test_the_archives_own_folder_and_other_places_of_attributes_txt_do_too(archive):
    base = archive / "CUB_200_2011"
    assert open_image_set(base).table.attributes == ATTRIBUTES
    for source, place in ((archive, base), (base, base / "attributes")):
        shutil.move(source / "attributes.txt", place / "attributes.txt")
        assert open_image_set(base).table.attributes == ATTRIBUTES


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({}, "later kind"),
        ({"val_loc": [19, 20, 21, 22, 23, 24], "train_loc": [1, 2, 3, 4, 5, 6]}, "v1 (train_loc and val_loc hold 4 "),
        ({"val_loc": None}, "without train_loc and val_loc"),
    ],
)
def test_the_kind_of_split_is_recorded(archive, changes, version):
    save_splits(archive / "CUB_200_2011" / "att_splits.mat", **changes)
    assert version in open_image_set(archive).split_version


def test_pictures_are_matched_by_name_where_names_are_there(archive, tmp_path):
    """Another order of pictures than images.txt gives the same split, once the names are known."""
    order = np.random.default_rng(1).permutation(24)  # position p of the .mat files is picture order[p]
    position = np.argsort(order) + 1
    chosen = tmp_path / "xlsa17"
    chosen.mkdir()
    moved = {
        key: position[np.array(values) - 1]
        for key, values in (("trainval_loc", TRAINVAL), ("test_seen_loc", TEST_SEEN), ("test_unseen_loc", TEST_UNSEEN))
    }
    save_splits(chosen / "att_splits.mat", **moved, train_loc=None, val_loc=None)
    refused(archive, "E-SPLITS", "does not fit the archive", splits=chosen)
    names = ["C:\\data\\images\\" + paths()[i].replace("/", "\\") for i in order]
    scipy.io.savemat(chosen / "res101.mat", {"image_files": cells(names), "features": np.zeros((2, 24))})
    data = open_image_set(archive, splits=chosen)
    assert (data.rows("train") + 1).tolist() == TRAINVAL
    assert (data.rows("test", seen=False) + 1).tolist() == TEST_UNSEEN
    assert any("by the names in res101.mat" in note for note in data.notes)
    scipy.io.savemat(chosen / "res101.mat", {"image_files": cells(["x/y.jpg", *names[1:]])})
    refused(
        archive, "E-SPLITS", "names 1 pictures that images.txt does not: 'x/y.jpg'", splits=chosen / "att_splits.mat"
    )


def test_pictures_in_no_list_are_left_out(archive):
    save_splits(archive / "att_splits.mat", trainval_loc=TRAINVAL[1:])
    data = open_image_set(archive)
    assert data.paths == tuple(paths()[1:])
    assert any("1 pictures are in none of the lists" in note for note in data.notes)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"trainval_loc": None}, "lacks trainval_loc"),
        ({"trainval_loc": [*TRAINVAL, 25]}, "trainval_loc must hold positions 1..24"),
        ({"trainval_loc": [0, *TRAINVAL]}, "trainval_loc must hold positions 1..24"),
        ({"trainval_loc": [1.5, *TRAINVAL]}, "no list of whole numbers"),
        ({"trainval_loc": [1, *TRAINVAL]}, "names a picture twice"),
        ({"test_seen_loc": [1, *TEST_SEEN]}, "pictures of another list"),
        ({"test_seen_loc": [*TEST_SEEN, 13], "test_unseen_loc": TEST_UNSEEN[1:]}, "does not fit the archive"),
        ({"trainval_loc": TRAINVAL[:8], "test_seen_loc": TEST_SEEN[:4]}, "does not fit the archive"),
        ({"allclasses_names": cells(["a", "b", "c", "d"])}, "is about other classes"),
    ],
)
def test_splits_that_do_not_fit(archive, changes, part):
    save_splits(archive / "att_splits.mat", **changes)
    refused(archive, "E-SPLITS", part)


def test_a_split_file_that_is_missing_or_no_mat_file(archive, tmp_path):
    refused(archive, "E-SPLITS", "no file", splits=tmp_path / "absent.mat")
    refused(archive, "E-SPLITS", "no file", splits=tmp_path)
    (tmp_path / "att_splits.mat").write_text("hello")
    refused(archive, "E-SPLITS", "cannot be read as a MATLAB file", splits=tmp_path)


def test_without_a_proposed_split_a_quarter_of_the_classes_is_unseen_and_the_user_is_warned(archive):
    data = open_image_set(archive, seed=3)
    assert data.table.seen.sum() == 3
    assert any("cannot be compared with published ones" in note for note in data.notes)
    assert "seed 3" in data.split_version
    # Seen classes are divided by the archive's own list: the first half of each class trains.
    for row, path in enumerate(paths()):
        training = data.table.seen[data.labels[row]] and row % PER_CLASS < 3
        assert data.role[row] == ("train" if training else "test"), path
    drawn = {tuple(open_image_set(archive, seed=seed).table.seen) for seed in range(12)}
    assert len(drawn) > 1
    (archive / "CUB_200_2011" / "train_test_split.txt").unlink()
    data = open_image_set(archive, seed=3)
    assert len(data.rows("train")) == 3 * 5
    assert len(data.rows("test", seen=True)) == 3


def test_word_vectors_beside_the_lists_are_taken(archive):
    vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.save(archive / "CUB_200_2011" / "attribute_vectors.npy", vectors)
    np.testing.assert_array_equal(open_image_set(archive).word_vectors, vectors)


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("images.txt", "", "it is empty"),
        ("images.txt", "1 a/b.jpg\n3 a/c.jpg\n", "line 2 is '3 a/c.jpg', expected '2 ' and a value"),
        ("images.txt", "1 a/b.jpg\n2\n", "line 2"),
        ("images.txt", "1 a/b.jpg\n2 a/b.jpg\n", "a name is there twice"),
        ("images.txt", b"\xff\xfe", "it is not text"),
        ("image_class_labels.txt", "1 1\n", "expected 24 lines with class ids 1..4"),
        ("image_class_labels.txt", "".join(f"{i} 5\n" for i in range(1, 25)), "class ids 1..4"),
        ("image_class_labels.txt", "".join(f"{i} one\n" for i in range(1, 25)), "class ids 1..4"),
        ("train_test_split.txt", "1 1\n", "expected 24 lines ending in 0 or 1"),
        ("../attributes.txt", None, "the archive lacks"),
        ("attributes/class_attribute_labels_continuous.txt", None, "the archive lacks"),
        ("attributes/class_attribute_labels_continuous.txt", "1 2 3\n", "expected 4 lines of 3 numbers"),
        ("attributes/class_attribute_labels_continuous.txt", "1 2 x\n" * 4, "could not convert"),
        ("attributes/class_attribute_labels_continuous.txt", "1 2 nan\n" * 4, "not finite"),
        ("images/" + paths()[7], None, "1 of the 24 pictures in images.txt are not below"),
    ],
)
def test_a_damaged_archive(archive, file, content, part):
    path = archive / "CUB_200_2011" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(archive, "E-CUB-FILE", part)


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=60), file=st.sampled_from(["images.txt", "classes.txt", "image_class_labels.txt"]))
def test_arbitrary_bytes_in_the_lists_are_an_error_of_ours(tmp_path_factory, content, file):
    base = tmp_path_factory.getbasetemp() / "lists"
    base.mkdir(exist_ok=True)
    numbered(base / "images.txt", ["a/b.jpg"])
    numbered(base / "classes.txt", ["a"])
    numbered(base / "image_class_labels.txt", [1])
    (base / file).write_bytes(content)
    with pytest.raises(ZslError) as caught:
        open_image_set(base)
    assert "\n" not in str(caught.value)
