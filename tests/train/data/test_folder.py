"""The data folder: every way to lay it out right, and one error for every way to lay it out wrong."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.no_files import to_folder, to_pipe, to_socket, to_terabyte, to_zero
from support.tiny_data import ATTRIBUTES, class_name, make_tiny_data, write_csv
from zsl_runtime.errors import SystemProblem, UsageError, ZslError
from zsl_runtime.pixels.pixels import decode
from zsl_train.data.folder import write_split
from zsl_train.data.open import open_image_set
from zsl_train.data.word_vectors import attribute_words

DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture
def folder(tmp_path):
    return make_tiny_data(tmp_path / "data", split=True, word_width=7)


def refused(folder: Path, code: str, *parts: str, **options) -> None:
    with pytest.raises(UsageError) as caught:
        open_image_set(folder, **options)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in caught.value.message


def split_rows(folder: Path) -> list[list[str]]:
    with (folder / "split.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def write_split_rows(folder: Path, rows) -> None:
    write_csv(folder / "split.csv", ("image", "role"), rows)


def test_everything_is_read_as_it_was_written(folder):
    data = open_image_set(folder)
    assert len(data) == 36
    assert data.root == folder / "images"
    assert data.paths == tuple(sorted(data.paths))
    assert data.notes == ()
    assert data.split_version == "given by split.csv"
    assert data.table.attributes == ATTRIBUTES
    given_roles = dict(split_rows(folder))
    for path, label, role in zip(data.paths, data.labels, data.role, strict=True):
        assert path.split("/")[0] == data.table.names[label]
        assert role == given_roles[path]
        assert decode(data.root / path).ndim == 3
    assert data.words == tuple(name.replace("_", " ") for name in ATTRIBUTES)
    np.testing.assert_array_equal(data.word_vectors, np.load(folder / "attribute_vectors.npy"))
    assert data.labels.dtype == np.int64
    assert data.word_vectors.dtype == np.float32


def test_rows_choose_by_role_and_by_kind_of_class(folder):
    data = open_image_set(folder)
    assert [len(data.rows("train", seen=s)) for s in (True, False, None)] == [16, 0, 16]
    assert [len(data.rows("test", seen=s)) for s in (True, False, None)] == [8, 12, 20]
    everything = np.concatenate([data.rows(role) for role in ("train", "val", "test")])
    assert sorted(everything) == list(range(36))
    assert not data.table.seen[data.labels[data.rows("test", seen=False)]].any()


def test_nested_files_odd_suffixes_and_hidden_files(folder):
    (folder / "split.csv").unlink()
    first = folder / "images" / class_name(0)
    (first / "2019" / "may").mkdir(parents=True)
    shutil.move(first / "000.png", first / "2019" / "may" / "Photo.PNG")
    (first / "notes.txt").write_text("not a picture")
    (first / ".thumbnail.png").write_bytes(b"x")
    (folder / "images" / ".cache").mkdir()
    (folder / "images" / "loose.jpg").write_bytes(b"x")
    data = open_image_set(folder)
    assert len(data) == 36
    assert f"{class_name(0)}/2019/may/Photo.PNG" in data.paths
    assert any("1 pictures lie directly in" in note for note in data.notes)
    assert any("1 files below" in note and "no pictures" in note for note in data.notes)


def test_thumbnails_of_a_nas_are_neither_trained_nor_tested_on(folder):
    """In every folder there is one of them, that of the classes too; a picture's thumbnails may not straddle roles."""
    (folder / "split.csv").unlink()
    plain = open_image_set(folder)
    for place in (folder / "images", folder / "images" / class_name(0)):
        for photo in ("000.png", "001.png"):
            (place / "@eaDir" / photo).mkdir(parents=True)
            shutil.copy(folder / "images" / class_name(0) / photo, place / "@eaDir" / photo / "SYNOPHOTO_THUMB_M.jpg")
    shutil.copy(folder / "images" / class_name(0) / "000.png", folder / "images" / class_name(0) / "._000.png")
    data = open_image_set(folder)
    assert data.paths == plain.paths
    np.testing.assert_array_equal(data.role, plain.role)
    assert [note for note in data.notes if "left out" in note] == [
        "pictures left out because of where they lie: 4 in @eaDir (thumbnails of a NAS)"
    ]


def test_a_class_that_is_called_like_litter_is_a_class(folder):
    """Whoever lists it means it."""
    text = (folder / "classes.csv").read_text().replace(class_name(0), "RECYCLER")
    (folder / "classes.csv").write_text(text)
    (folder / "split.csv").unlink()
    (folder / "images" / class_name(0)).rename(folder / "images" / "RECYCLER")
    data = open_image_set(folder)
    assert len(data) == 36
    assert [path for path in data.paths if path.startswith("RECYCLER/")]


def test_links_to_a_disk_that_is_not_mounted_are_told(folder):
    (folder / "split.csv").unlink()
    shutil.rmtree(folder / "images" / class_name(5))
    (folder / "images" / class_name(5)).symlink_to("/not/mounted")  # an unseen class, which needs no pictures
    (folder / "images" / class_name(0) / "more").symlink_to("/not/mounted/either")
    notes = open_image_set(folder).notes
    assert any(note.startswith("links that lead nowhere left out: 2; bring back") for note in notes)


def test_pictures_of_kinds_that_are_not_read_are_told_by_kind_and_class(folder):
    (folder / "split.csv").unlink()
    first, second = (folder / "images" / class_name(i) for i in range(2))
    for number in range(3):
        (first / f"IMG_{number}.HEIC").write_bytes(b"x")
    (second / "raw.nef").write_bytes(b"x")
    (second / "notes.txt").write_bytes(b"x")
    notes = [note for note in open_image_set(folder).notes if "left out" in note or "lack" in note]
    assert notes[0].startswith("5 files below ")
    assert notes[1].startswith("HEIC pictures left out: 3 (.heic); save as JPEG")
    assert notes[2].startswith("cameras' raw files left out: 1 (.nef); ")
    assert notes[3] == f"classes that lack these pictures in training and test: {class_name(0)} 3, {class_name(1)} 1"
    for file in first.glob("*.png"):
        file.unlink()
    refused(folder, "E-DATA-NO-PHOTOS", class_name(0), "HEIC pictures left out: 3 (.heic); save as JPEG")
    for file in (folder / "images").rglob("*.png"):
        file.unlink()
    refused(folder, "E-DATA-NO-IMAGES", "HEIC pictures left out: 3 (.heic)", "raw files left out: 1 (.nef)")


def test_links_to_folders_are_followed_once(folder):
    (folder / "split.csv").unlink()
    first = folder / "images" / class_name(0)
    elsewhere = folder / "elsewhere"
    shutil.move(first, elsewhere)
    first.symlink_to(elsewhere)
    (elsewhere / "round_and_round").symlink_to(elsewhere)
    further = folder / "further"
    further.mkdir()
    shutil.move(elsewhere / "000.png", further / "000.png")
    (elsewhere / "more").symlink_to(further)
    data = open_image_set(folder)
    assert len(data) == 36
    assert f"{class_name(0)}/more/000.png" in data.paths


def test_an_unseen_class_without_photographs_is_normal(folder):
    unseen = class_name(5)
    shutil.rmtree(folder / "images" / unseen)
    write_split_rows(folder, [row for row in split_rows(folder) if not row[0].startswith(unseen)])
    data = open_image_set(folder)
    assert len(data) == 30
    assert data.notes == ()
    assert unseen in data.table.names


def test_accents_compare_however_they_are_composed(folder):
    name = "Grünfink"
    for file in ("classes.csv", "split.csv"):
        text = (folder / file).read_text(encoding="utf-8")
        (folder / file).write_text(text.replace(class_name(0), unicodedata.normalize("NFC", name)), encoding="utf-8")
    on_disk = unicodedata.normalize("NFD", name)
    (folder / "images" / class_name(0)).rename(folder / "images" / on_disk)
    data = open_image_set(folder)
    assert len(data) == 36
    assert data.notes == ()
    assert (data.labels == data.table.index(unicodedata.normalize("NFC", name))).sum() == 6
    assert sum((data.root / path).is_file() for path in data.paths) == 36


# --- errors of the folder -------------------------------------------------------------------------------------------


def test_neither_layout_says_what_is_there_and_what_was_expected(tmp_path):
    refused(tmp_path / "absent", "E-DATA-LAYOUT", "is not a folder", "classes.csv", "images.txt")
    (tmp_path / "readme.md").touch()
    refused(tmp_path, "E-DATA-LAYOUT", "readme.md", "classes.csv", "image_class_labels.txt")
    (tmp_path / "readme.md").unlink()
    refused(tmp_path, "E-DATA-LAYOUT", "nothing")


def test_no_pictures(folder):
    shutil.rmtree(folder / "images")
    refused(folder, "E-DATA-NO-IMAGES", "there is no folder")
    (folder / "images").mkdir()
    refused(folder, "E-DATA-NO-IMAGES", "no pictures below the class folders")
    (folder / "images" / "loose.jpg").touch()
    refused(folder, "E-DATA-NO-IMAGES", "1 pictures directly in it")


def test_a_folder_that_classes_csv_does_not_name(folder):
    (folder / "images" / class_name(0)).rename(folder / "images" / (class_name(0) + "x"))
    refused(folder, "E-DATA-CLASS-FOLDER", repr(class_name(0) + "x"), f"did you mean {class_name(0)}?")


def test_a_seen_class_without_photographs(folder):
    shutil.rmtree(folder / "images" / class_name(1))
    refused(folder, "E-DATA-NO-PHOTOS", class_name(1))


def test_a_seen_class_without_a_training_photograph(folder):
    rows = [(image, "test" if image.startswith(class_name(2)) else role) for image, role in split_rows(folder)]
    write_split_rows(folder, rows)
    refused(folder, "E-DATA-NO-TRAINING", class_name(2))
    write_split_rows(folder, [row for row in rows if not row[0].startswith(class_name(2))])
    refused(folder, "E-DATA-NO-TRAINING", class_name(2))


def test_no_seen_class(folder):
    text = (folder / "classes.csv").read_text()
    (folder / "classes.csv").write_text(text.replace(",seen,", ",unseen,"))
    refused(folder, "E-DATA-NO-SEEN")


@pytest.mark.parametrize("name", [b"\xff.png", b"a\nb.png", b"a\rb.png", "a\u2028b.png".encode()])
def test_file_names_that_no_list_can_hold(folder, name):
    first = folder / "images" / class_name(0)
    (first / "000.png").rename(first / os.fsdecode(name))
    refused(folder, "E-DATA-FILE-NAME", "1 pictures")


def test_a_folder_that_may_not_be_read_is_an_error_not_an_omission(folder, tmp_path_factory):
    """As an unprivileged child, since root may read everything."""
    code = (
        "import os, sys\n"
        "from zsl_train.data.open import open_image_set\n"
        "from zsl_runtime.errors import ZslError\n"
        "if os.getuid() == 0:\n"
        "    open_image_set(sys.argv[1])\n"  # imports the rest, since Python may lie where nobody else may look
        "    os.setgid(65534); os.setuid(65534)\n"
        "try: print(len(open_image_set(sys.argv[1])))\n"
        "except ZslError as error: print(type(error).__name__, error)\n"
    )
    for place in (folder, *folder.parents):
        if place.is_relative_to(tmp_path_factory.getbasetemp().parent):
            place.chmod(0o755)
    locked = folder / "images" / class_name(0)
    answers = []
    for mode in (0o755, 0):
        locked.chmod(mode)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, env=environment
        )
        answers.append(done.stdout.strip())
    locked.chmod(0o755)
    assert answers[0] == "36"
    assert answers[1].startswith("SystemProblem E-SYSTEM: could not list the folder")


# --- split.csv ------------------------------------------------------------------------------------------------------


def test_pictures_that_the_split_does_not_list_are_left_out_and_counted(folder):
    rows = [row for row in split_rows(folder) if row[0] != f"{class_name(0)}/000.png"]
    write_split_rows(folder, rows)
    data = open_image_set(folder)
    assert len(data) == 35
    assert data.notes == (f"1 pictures are not in split.csv and are left out: '{class_name(0)}/000.png'",)


def test_val_is_a_role_of_seen_classes(folder):
    rows = split_rows(folder)
    rows[0][1] = "val"
    write_split_rows(folder, rows)
    assert [open_image_set(folder).paths[i] for i in open_image_set(folder).rows("val")] == [rows[0][0]]


@pytest.mark.parametrize(
    ("name", "role", "code", "part"),
    [
        ("{seen}/absent.png", "train", "E-SPLIT-MISSING", "1 pictures that are not there"),
        ("images/{seen}/000.png", "train", "E-SPLIT-MISSING", "paths are relative to images/"),
        ("", "train", "E-SPLIT-MISSING", "''"),
        ("../{seen}/000.png", "train", "E-SPLIT-PATH", "leads out of"),
        ("{seen}/../../x.png", "train", "E-SPLIT-PATH", "line 2"),
        ("/etc/hostname", "train", "E-SPLIT-PATH", "/etc/hostname"),
        ("{seen}/000.png", "training", "E-SPLIT-ROLE", "'training'; expected train, val or test"),
        ("{seen}/000.png", "", "E-SPLIT-ROLE", "''"),
        ("{seen}/001.png", "train", "E-SPLIT-TWICE", "listed twice"),
        ("{unseen}/000.png", "train", "E-SPLIT-UNSEEN", "{unseen}"),
        ("{unseen}/000.png", "val", "E-SPLIT-UNSEEN", "{unseen}"),
    ],
)
def test_wrong_lines_of_the_split(folder, name, role, code, part):
    names = {"seen": class_name(0), "unseen": class_name(5)}
    name, part = name.format(**names), part.format(**names)
    rows = [row for row in split_rows(folder) if row[0] != name or code == "E-SPLIT-TWICE"]
    write_split_rows(folder, [(name, role), *rows])
    refused(folder, code, part)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "must have one column 'image' and one 'role'"),
        (b"image:role\na:b\n", "its first line is 'image:role'"),
        (b"image,role,role\n", "must have one column 'image' and one 'role'"),
        (b"image,role\na/b.png\n", "line 2 has 1 cells"),
        (b"image,role\n\xff,train\n", "not UTF-8 (byte 11 of 19)"),
        (b'image,role\n"a,train\n', "line 2"),
    ],
)
def test_a_split_that_is_no_csv_file(folder, content, part):
    (folder / "split.csv").write_bytes(content)
    refused(folder, "E-CSV", part)


def test_spreadsheet_files_are_read_too(folder):
    rows = split_rows(folder)
    text = "\ufeffrole,image,comment\r\n" + "".join(f"{role},./{image},\r\n\r\n" for image, role in rows)
    before = open_image_set(folder)
    (folder / "split.csv").write_text(text, encoding="utf-8", newline="")
    after = open_image_set(folder)
    assert after.paths == before.paths
    assert (after.role == before.role).all()


def test_another_split_file_can_be_given(folder, tmp_path):
    other = tmp_path / "other.csv"
    shutil.move(folder / "split.csv", other)
    assert open_image_set(folder, splits=other).split_version == "given by other.csv"
    refused(folder, "E-SPLIT-FILE", "absent.csv", splits=tmp_path / "absent.csv")


def test_a_split_that_cannot_be_written_is_one_line_and_leaves_nothing(folder, tmp_path):
    data = open_image_set(folder)
    with pytest.raises(SystemProblem, match="E-SYSTEM: could not write the split"):
        write_split(data, tmp_path / "absent" / "split.csv")
    (tmp_path / "taken").mkdir()
    with pytest.raises(SystemProblem, match="E-SYSTEM: could not write the split"):
        write_split(data, tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "taken"]


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(
        st.text(
            st.characters(blacklist_characters="/\0", blacklist_categories=["Cc", "Cs", "Zl", "Zp"]),
            min_size=1,
            max_size=12,
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda name: unicodedata.normalize("NFC", name),
    )
)
def test_any_file_name_survives_the_split_file(tmp_path_factory, names):
    folder = make_tiny_data(tmp_path_factory.mktemp("d") / "data", seen=1, unseen=0, per_class=1, side=8)
    for name in names:
        file = folder / "images" / class_name(0) / f"a{name}.png"
        shutil.copy(folder / "images" / class_name(0) / "000.png", file)
    data = open_image_set(folder)
    assert len(data) == 1 + len(names)
    write_split(data, folder / "split.csv")
    again = open_image_set(folder)
    assert again.paths == data.paths
    assert (again.role == data.role).all()
    assert again.notes == ()


@settings(max_examples=60, deadline=None)
@given(content=st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda b: b"image,role\n" + b)))
@pytest.mark.parametrize("file", ["split.csv", "attributes.csv"])
def test_arbitrary_bytes_in_csv_files_are_an_error_of_ours(tmp_path_factory, file, content):
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        make_tiny_data(folder, seen=1, unseen=0, per_class=1, side=8)
    (folder / file).write_bytes(content)
    try:
        with pytest.raises(ZslError) as caught:
            open_image_set(folder)
    finally:
        (folder / file).unlink()
    assert "\n" not in str(caught.value)


# --- attributes.csv and attribute_vectors.npy -------------------------------------------------------------------------


@pytest.mark.parametrize("put", [to_pipe, to_socket, to_zero, to_folder, to_terabyte])
@pytest.mark.parametrize("name", ["classes.csv", "split.csv", "attributes.csv", "attribute_vectors.npy", "other.csv"])
def test_what_is_no_file_in_the_place_of_one_is_one_line_and_nobody_waits(folder, name, put):
    """`other.csv` is given as --splits. A pipe without a writer, or /dev/zero, would keep whoever reads it for ever."""
    (folder / name).unlink(missing_ok=True)
    put(folder / name, folder / "victim")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(20)
    try:
        with pytest.raises(ZslError) as caught:
            open_image_set(folder, folder / name if name == "other.csv" else None)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_words_come_from_the_names_where_there_is_no_attributes_csv(folder):
    (folder / "attributes.csv").unlink()
    assert open_image_set(folder).words == tuple(attribute_words(name) for name in ATTRIBUTES)


def test_attributes_csv_may_be_in_any_order_and_leave_words_out(folder):
    rows = [(name, "" if name == "color_red" else f"words  of {name}") for name in reversed(ATTRIBUTES)]
    write_csv(folder / "attributes.csv", ("name", "words"), rows)
    data = open_image_set(folder)
    assert data.words == tuple("color red" if n == "color_red" else f"words of {n}" for n in ATTRIBUTES)
    assert any("different orders" in note and "order of classes.csv" in note for note in data.notes)
    (folder / "attribute_vectors.npy").unlink()
    assert open_image_set(folder).notes == ()
    assert open_image_set(folder).word_vectors is None


def test_attributes_csv_must_name_the_attributes(folder):
    rows = [(name, "words") for name in ATTRIBUTES]
    write_csv(folder / "attributes.csv", ("name", "words"), [*rows[1:], ("colour_red", "x")])
    refused(folder, "E-ATTRIBUTES", "missing 'color_red'", "unknown 'colour_red'")
    write_csv(folder / "attributes.csv", ("name", "words"), [*rows, rows[0]])
    refused(folder, "E-ATTRIBUTES", "is there twice")


def test_word_vectors_that_do_not_fit_are_refused(folder):
    np.save(folder / "attribute_vectors.npy", np.ones((3, 4), dtype=np.float32))
    refused(folder, "E-WORD-VECTORS", "3 rows for 7 attributes")


def test_a_zero_word_vector_is_told(folder):
    vectors = np.load(folder / "attribute_vectors.npy")
    vectors[2] = 0
    np.save(folder / "attribute_vectors.npy", vectors)
    assert any("all-zero word vector" in note and "'color blue'" in note for note in open_image_set(folder).notes)


@pytest.mark.needs_data
@pytest.mark.skipif(not (DATA / "cub20").is_dir(), reason="cub20 is not there ($ZSL_TEST_DATA)")
def test_cub20():
    data = open_image_set(DATA / "cub20")
    counts = [len(data.rows(*key[:1], seen=key[1])) for key in (("train", True), ("test", True), ("test", False))]
    assert counts == [390, 130, 280]
    assert (data.table.seen.sum(), len(data.table), len(data.table.attributes)) == (13, 20, 312)
    assert data.word_vectors.shape == (312, 300)
    assert data.notes == ()
    # Its attributes.csv was made by the rules of the published codes; ours must say the same.
    assert tuple(attribute_words(name) for name in data.table.attributes) == data.words
