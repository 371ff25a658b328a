"""Labelled photographs: what counts as truth, which of it, and every way in which it can be wrong."""

from __future__ import annotations

import csv
import unicodedata
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from support.tiny_bundle import SIDE
from zsl_runtime.errors import InputError, UsageError, ZslError
from zsl_runtime.inputs.item import Item
from zsl_runtime.labelling.reading import Reader
from zsl_runtime.labelling.truth import FOLDERS, TABLE, TRAINING_DATA, Truth, check_classes, find_truth, with_role
from zsl_runtime.pixels.pixels import PixelSpec

if TYPE_CHECKING:
    from pathlib import Path

PICTURES = Reader(PixelSpec(SIDE, SIDE), (SIDE, SIDE, 3))
ROWS = Reader(None, (1, 3), "res.mat")
PHOTOGRAPHS = ("wren/0.png", "wren/garden/1.png", "tit/0.png", "tit/1.JPG")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Class folders; nothing in them is read here."""
    return lay_out(tmp_path / "birds")


def lay_out(root: Path, photographs=PHOTOGRAPHS) -> Path:
    for name in photographs:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def write_csv(path: Path, *rows: tuple[object, ...], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def names(truth: Truth) -> dict[str, list[str]]:
    return {name: [item.name for item in items] for name, items in truth.pictures.items()}


def refused(code: str, *parts: str):
    return pytest.raises(UsageError, match=f"^{code}: " + "".join(f"(?=.*{part})" for part in parts))


# --- folders ----------------------------------------------------------------------------------------------------------


def test_class_folders_are_truth(folder):
    (folder / "wren/notes.txt").write_text("x")
    (folder / "heron").mkdir()
    truth = find_truth(folder, PICTURES)
    assert (truth.path, truth.kind) == (str(folder), FOLDERS)
    assert names(truth) == {
        "tit": [f"{folder}/tit/0.png", f"{folder}/tit/1.JPG"],
        "wren": [f"{folder}/wren/0.png", f"{folder}/wren/garden/1.png"],
    }
    assert truth.counts == {"tit": 2, "wren": 2}
    assert next((name, item.source) for name, item in truth.pairs()) == ("tit", f"{folder}/tit/0.png")
    assert truth.notes == (
        "files of other kinds, or in no class folder, left out: 1",
        "class folders without a photograph: 'heron'",
    )


def test_a_folder_of_training_data_holds_its_photographs_in_images(tmp_path):
    lay_out(tmp_path / "images")
    (tmp_path / "classes.csv").write_text("name,split\n")
    truth = find_truth(tmp_path, PICTURES)
    assert (truth.path, truth.kind, truth.count) == (str(tmp_path), TRAINING_DATA, 4)
    (tmp_path / "classes.csv").unlink()
    assert find_truth(tmp_path, PICTURES).counts == {"images": 4}  # a folder like any other


@pytest.mark.parametrize("kind", ["there", "file", "empty", "no photographs"])
def test_a_folder_without_photographs_of_classes_is_no_truth(tmp_path, kind):
    codes = {"there": "E-TRUTH", "file": "E-CSV", "empty": "E-PHOTOS-FOLDER", "no photographs": "E-PHOTOS-EMPTY"}
    place = tmp_path / "truth"
    if kind == "file":
        place.write_bytes(b"\xff\xfe\x00")
    elif kind != "there":
        place.mkdir()
    if kind == "no photographs":
        (place / "wren").mkdir()
    with refused(codes[kind], "truth"):
        find_truth(place, PICTURES)


def test_rows_of_feature_files_take_the_place_of_photographs(tmp_path):
    (tmp_path / "wren").mkdir()
    (tmp_path / "tit").mkdir()
    np.save(tmp_path / "wren/a.npy", np.ones((3, 3), np.float32))
    savemat(tmp_path / "tit/b.mat", {"features": np.ones((3, 2))})
    truth = find_truth(tmp_path, ROWS)
    assert truth.counts == {"tit": 2, "wren": 3}
    assert names(truth)["tit"] == [f"{tmp_path}/tit/b.mat#0", f"{tmp_path}/tit/b.mat#1"]


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_of_paths_and_classes_is_truth(folder, encoding):
    """As people keep it: other columns, in any order; absolute paths; rows that nobody has labelled yet."""
    table = write_csv(
        folder / "labels.csv",
        ("who", " class ", "path"),
        ("me", " wren ", "wren/0.png"),
        ("me", unicodedata.normalize("NFD", "übersee-ente"), str(folder / "tit/0.png")),
        ("you", "wren", "./wren/garden/1.png"),
        ("you", "", "tit/1.JPG"),
        encoding=encoding,
    )
    truth = find_truth(table, PICTURES)
    assert (truth.path, truth.kind) == (str(table), TABLE)
    assert names(truth) == {
        "wren": [f"{folder}/wren/0.png", f"{folder}/./wren/garden/1.png"],
        "übersee-ente": [f"{folder}/tit/0.png"],
    }
    assert truth.counts == {"wren": 2, "übersee-ente": 1}
    assert truth.notes == ("rows without a class left out: 1",)


def test_a_table_may_name_files_of_rows_and_single_rows(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(9, dtype=np.float32).reshape(3, 3))
    savemat(tmp_path / "b.mat", {"features": np.arange(6.0).reshape(3, 2)})
    np.save(tmp_path / "odd#1", np.ones((1, 3), np.float32))  # odd#1.npy
    table = write_csv(
        tmp_path / "t.csv",
        ("path", "class"),
        ("a.npy", "wren"),
        ("b.mat#1", "tit"),
        ("odd#1.npy", "tit"),
        ("a.npy#7", "tit"),
        ("none.npy#0", "tit"),
    )
    truth = find_truth(table, ROWS)
    assert truth.counts == {"wren": 3, "tit": 4}
    row, other, beyond, absent = truth.pictures["tit"]
    assert row.name == f"{tmp_path}/b.mat#1"
    np.testing.assert_array_equal(row.source, [1, 3, 5])
    assert other.name == f"{tmp_path}/odd#1.npy#0"
    assert isinstance(beyond.source, InputError)
    assert "holds 3 rows" in beyond.source.message
    assert isinstance(absent.source, InputError)
    assert absent.source.code == "E-ROW-FILE"


@pytest.mark.parametrize(
    ("rows", "code", "parts"),
    [
        ([], "E-CSV", ["it is empty"]),
        ([("image", "class")], "E-CSV", ["one column 'path' and one 'class'", "first line is 'image', 'class'"]),
        ([("path", "class", "path")], "E-CSV", ["one column 'path'"]),
        ([("path:class",)], "E-CSV", ["separated by commas"]),
        ([("path", "class")], "E-PHOTOS-EMPTY", ["no photographs with a class"]),
        ([("path", "class"), ("wren/0.png", "")], "E-PHOTOS-EMPTY", ["no photographs with a class"]),
        ([("path", "class"), (" ", "wren")], "E-CSV", ["line 2 has no path"]),
        ([("path", "class"), ("wren/0.png", "a/b")], "E-CLASS-NAME", ["line 2"]),
        ([("path", "class"), ("0.png", "wren"), ("1.png", "wren")], "E-PHOTOS-EMPTY", ["is there", "birds/0.png"]),
        (
            [("path", "class"), ("wren/0.png", "wren"), ("x", "tit"), ("wren/0.png", "tit")],
            "E-TRUTH-TWICE",
            ["'wren/0.png' twice, in lines 2 and 4"],
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said(folder, rows, code, parts):
    with refused(code, *parts):
        find_truth(write_csv(folder / "labels.csv", *rows), PICTURES)


def test_one_photograph_that_is_there_is_enough_to_begin(folder):
    table = write_csv(folder / "t.csv", ("path", "class"), ("gone.png", "wren"), ("wren/0.png", "wren"))
    assert find_truth(table, PICTURES).count == 2  # what is gone is told when its turn comes


def test_a_row_is_there_where_its_file_is(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    rows = write_csv(tmp_path / "t.csv", ("path", "class"), ("a.npy#1", "wren"))
    assert find_truth(rows, ROWS).count == 1
    with refused("E-PHOTOS-EMPTY", "is there"):
        find_truth(write_csv(tmp_path / "t.csv", ("path", "class"), ("b.npy#1", "wren")), ROWS)


@given(st.binary(max_size=60) | st.text("path,class\n\"'#/.0;", max_size=60).map(str.encode))
def test_whatever_a_table_holds_is_truth_or_one_of_our_errors(tmp_path_factory, data):
    place = tmp_path_factory.mktemp("t") / "t.csv"
    place.write_bytes(b"path,class\n" + data)
    for reader in (PICTURES, ROWS):
        try:
            truth = find_truth(place, reader)
        except ZslError:
            continue
        assert truth.count == len(list(truth.pairs())) > 0


# --- classes that the model does not have -----------------------------------------------------------------------------


def test_a_class_that_the_model_does_not_have_is_refused_with_the_nearest_name(folder):
    truth = find_truth(folder, PICTURES)
    assert check_classes(truth, ("tit", "wren", "crow"), known_only=False) is truth
    with refused("E-CLASS-UNKNOWN", "1 of the 2 classes", r"'wren' \(did you mean Wrens\?\)", "--known-only"):
        check_classes(truth, ("tit", "Wrens"), known_only=False)
    with refused("E-CLASS-UNKNOWN", "2 of the 2 classes", "'tit', 'wren'"):
        check_classes(truth, ("owl",), known_only=False)


def test_photographs_of_other_classes_can_be_left_out(folder):
    truth = find_truth(folder, PICTURES)
    left = check_classes(truth, ("tit", "owl"), known_only=True)
    assert names(left) == {"tit": names(truth)["tit"]}
    assert (left.count, left.counts) == (2, {"tit": 2})
    assert left.notes[-1] == "photographs left out because the model does not have their classes: 2, of wren (2)"
    with refused("E-PHOTOS-EMPTY", "all 4 photographs", "'tit', 'wren'"):
        check_classes(truth, ("owl",), known_only=True)


# --- splits -----------------------------------------------------------------------------------------------------------


SPLIT = (
    ("image", "role"),
    ("wren/0.png", "test"),
    ("wren/garden/1.png", "train"),
    ("tit/0.png", "val"),
    ("owl/0.png", "test"),
)


@pytest.mark.parametrize("kind", ["folder", "table", "table elsewhere"])
def test_only_photographs_with_the_role_count(folder, tmp_path, kind):
    place = folder
    if kind != "folder":
        where = folder if kind == "table" else tmp_path
        rows = ((str((folder / name).relative_to(where)), name.partition("/")[0]) for name in PHOTOGRAPHS)
        place = write_csv(where / "t.csv", ("path", "class"), *rows)
    split = write_csv(tmp_path / "split.csv", *SPLIT)
    truth = with_role(find_truth(place, PICTURES), split, "test")
    assert names(truth) == {"wren": [f"{folder}/wren/0.png"]}
    assert names(truth) == {"wren": [f"{folder}/wren/0.png"]}  # again
    assert truth.counts == {"wren": 1}
    assert truth.notes == (
        f"photographs with the role test in {split}: 1; with another: 2",
        "photographs left out because the split does not list them: 1",
        "photographs that the split lists as test and that are not there: 1, 'owl/0.png'",
    )
    assert with_role(find_truth(place, PICTURES), split, "val").counts == {"tit": 1}


def test_of_two_images_the_one_with_the_longer_path_is_meant(tmp_path):
    folder = lay_out(tmp_path / "data", ("a/wren/0.png", "wren/0.png"))
    split = write_csv(tmp_path / "s.csv", ("image", "role"), ("a/wren/0.png", "train"), ("wren/0.png", "test"))
    assert names(with_role(find_truth(folder, PICTURES), split, "test")) == {"wren": [f"{folder}/wren/0.png"]}


def test_accents_are_the_same_however_they_are_composed(tmp_path):
    composed, apart = (unicodedata.normalize(form, "übersee-ente/é.png") for form in ("NFC", "NFD"))
    folder = lay_out(tmp_path / "data", (apart,))
    split = write_csv(tmp_path / "s.csv", ("image", "role"), (composed, "test"))
    assert with_role(find_truth(folder, PICTURES), split, "test").count == 1

    # Two files that look the same: letter by letter goes first.
    composed, apart = (unicodedata.normalize(form, "tit/é.png") for form in ("NFC", "NFD"))
    split = write_csv(tmp_path / "s.csv", ("image", "role"), (composed, "test"), (apart, "train"))
    both = find_truth(lay_out(tmp_path / "both", (apart, composed)), PICTURES)
    assert names(with_role(both, split, "test")) == {"tit": [f"{tmp_path}/both/{composed}"]}
    assert names(with_role(both, split, "train")) == {"tit": [f"{tmp_path}/both/{apart}"]}


def test_a_split_of_another_training_is_refused(folder, tmp_path):
    split = write_csv(tmp_path / "split.csv", ("image", "role"), ("owl/0.png", "test"), ("wren/0.png", "train"))
    with refused("E-SPLIT-MISSING", "none of the 4 photographs", "role test", r"1 have another one, 3 are not listed"):
        with_role(find_truth(folder, PICTURES), split, "test")


@pytest.mark.parametrize(
    ("rows", "code", "part"),
    [
        ([("path", "role")], "E-CSV", "one column 'image' and one 'role'"),
        ([("image", "role"), ("a.png", "tests")], "E-SPLIT-ROLE", "line 2: the role of 'a.png' is 'tests'"),
        (
            [("image", "role"), ("a.png", "test"), ("./a.png", "val")],
            "E-SPLIT-TWICE",
            "line 3: './a.png' is listed twice",
        ),
    ],
)
def test_what_is_wrong_with_a_split_is_said(folder, tmp_path, rows, code, part):
    with refused(code, part):
        with_role(find_truth(folder, PICTURES), write_csv(tmp_path / "s.csv", *rows), "test")


def test_a_split_that_is_not_there_is_one_line(folder, tmp_path):
    with pytest.raises(ZslError, match=r"E-SYSTEM: could not read the table .*none\.csv") as caught:
        with_role(find_truth(folder, PICTURES), tmp_path / "none.csv", "test")
    assert caught.value.exit_code == 2


paths = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)


@given(st.lists(paths, unique=True, min_size=1), st.dictionaries(paths, st.sampled_from(["train", "val", "test"])))
def test_roles_are_found_as_by_trying_every_end_of_a_path(tmp_path_factory, photographs, roles):
    place = write_csv(tmp_path_factory.mktemp("s") / "s.csv", ("image", "role"), *roles.items())
    items = [Item(f"/data/{one}", f"/data/{one}") for one in photographs]
    truth = Truth("data", FOLDERS, {"wren": items}, {"wren": len(items)})

    def role(path: str) -> str | None:
        parts = path.split("/")
        ends = ["/".join(parts[k:]) for k in range(len(parts))]
        return next((roles[end] for end in ends if end in roles), None)

    wanted = [item for item, one in zip(items, photographs, strict=True) if role(one) == "test"]
    if not wanted:
        with pytest.raises(UsageError, match="E-SPLIT-MISSING"):
            with_role(truth, place, "test")
    else:
        assert list(with_role(truth, place, "test").pictures["wren"]) == wanted


def test_what_zsl_infer_said_is_no_truth(tmp_path):
    (tmp_path / "labels.csv").write_text("path,rank,class,split,probability\na.png,1,crow,seen,0.9\n")
    with pytest.raises(UsageError, match=r"E-TRUTH.*it is what zsl-infer said, not the truth"):
        find_truth(tmp_path / "labels.csv", PICTURES)
