"""Tables of a data folder as spreadsheet programs save them, and names in any form: the same ImageSet comes out."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from support.tiny_data import ATTRIBUTES, make_tiny_data
from support.tiny_xlsa17 import CLASSES, FEATURES, attribute_matrix, cells, make_pair
from zsl_runtime.errors import UsageError
from zsl_train.check_data import check_data
from zsl_train.cli import main
from zsl_train.data.open import open_image_set

TABLES = ("classes.csv", "split.csv", "attributes.csv")


@pytest.fixture
def folder(tmp_path):
    return make_tiny_data(tmp_path / "data", split=True, word_width=3)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def refused(folder: Path, code: str, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        open_image_set(folder, **options)
    assert caught.value.code == code
    return caught.value.message


def in_german(cell: str) -> str:
    return cell.replace(".", ",") if cell.replace(".", "").isdecimal() else cell


def as_excel_in_germany(rows):
    text = "".join(f"{';'.join(map(in_german, row))};;\r\n" for row in rows)
    return f"sep=;\r\n{text}".encode("utf-8-sig")


def as_unicode_text(rows):
    return "".join("\t".join(row) + "\r\n" for row in rows).encode("utf-16")


def with_title_case(rows):
    header = [cell.title() if cell in {"name", "split", "image", "role", "words"} else cell for cell in rows[0]]
    body = [
        [cell.title() if cell in {"seen", "unseen", "train", "test", "val"} else cell for cell in row]
        for row in rows[1:]
    ]
    return "\n".join(",".join(f'"{cell}"' for cell in row) for row in (header, *body)).encode()


@pytest.mark.parametrize("save", [as_excel_in_germany, as_unicode_text, with_title_case])
def test_every_table_of_a_data_folder_goes_through_the_reader_of_users_tables(folder, save):
    before = open_image_set(folder)
    for name in TABLES:
        (folder / name).write_bytes(save(rows_of(folder / name)))
    after = open_image_set(folder)
    assert (after.paths, after.words, after.table.names) == (before.paths, before.words, before.table.names)
    np.testing.assert_array_equal(after.role, before.role)
    np.testing.assert_array_equal(after.table.raw, before.table.raw)


def test_a_split_with_the_backslashes_of_windows_is_the_same_split(folder):
    before = open_image_set(folder)
    text = (folder / "split.csv").read_text(encoding="utf-8")
    (folder / "split.csv").write_text(text.replace("/", "\\"), encoding="utf-8")
    after = open_image_set(folder)
    assert after.paths == before.paths
    np.testing.assert_array_equal(after.role, before.role)


def test_a_workbook_that_is_called_csv_is_one(folder):
    before = open_image_set(folder)
    for name in TABLES:
        book = openpyxl.Workbook()
        for number, row in enumerate(rows_of(folder / name)):
            numbers = name == "classes.csv" and number
            book.active.append([float(cell) if numbers and k > 1 else cell for k, cell in enumerate(row)])
        book.save(folder / "book.xlsx")
        (folder / name).write_bytes((folder / "book.xlsx").read_bytes())
    after = open_image_set(folder)
    assert (after.paths, after.words) == (before.paths, before.words)
    np.testing.assert_array_equal(after.table.raw, before.table.raw)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_none_is_told_what_it_is(folder, name):
    (folder / name).write_bytes("name,image,role,words,split\nMüller,1,1,1,1\n".encode("cp1252"))
    assert "this would be 'Müller' in Windows-1252 (ANSI)" in refused(folder, "E-CSV")
    (folder / name).write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100))
    assert "is an old Excel workbook (.xls)" in refused(folder, "E-CSV")


def test_attributes_that_differ_in_nothing_that_is_seen_are_one_and_others_are_told(folder):
    before = open_image_set(folder)
    rows = rows_of(folder / "attributes.csv")
    rows[1][0] = f"\u200b{rows[1][0]} "
    (folder / "attributes.csv").write_text("\n".join(map(",".join, rows)), encoding="utf-8")
    assert open_image_set(folder).words == before.words
    rows[2][0] = rows[2][0].replace("_", " ").upper()
    (folder / "attributes.csv").write_text("\n".join(map(",".join, rows)), encoding="utf-8")
    told = refused(folder, "E-ATTRIBUTES")
    assert f"missing {ATTRIBUTES[1]!r}; unknown {rows[2][0]!r}; call {rows[2][0]!r} as {ATTRIBUTES[1]!r}; give" in told


def renamed(folder: Path, old: str, in_table: str, on_disk: str) -> None:
    for table in ("classes.csv", "split.csv"):
        text = (folder / table).read_text(encoding="utf-8")
        (folder / table).write_text(text.replace(old, in_table), encoding="utf-8")
    (folder / "images" / old).rename(folder / "images" / on_disk)


@pytest.mark.parametrize("end", ["", " "])
@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_class_folder_is_found_in_whatever_form_it_is_called(folder, forms, end):
    (folder / "split.csv").unlink()
    old = min(path.name for path in (folder / "images").iterdir())
    (folder / "split.csv").write_text("")  # what `renamed` changes, too
    in_table, on_disk = (unicodedata.normalize(form, "Große Möwe") for form in forms)
    renamed(folder, old, in_table, on_disk + end)
    (folder / "split.csv").unlink()
    data = open_image_set(folder)
    row = data.table.index("Große Möwe")
    assert data.table.names[row] == "Große Möwe"
    assert (data.labels == row).sum() == 6


def test_classes_that_look_alike_are_told_in_training(folder):
    rows = rows_of(folder / "classes.csv")
    rows.append([rows[1][0].title().replace(" ", "_"), "unseen", *rows[1][2:]])
    (folder / "classes.csv").write_text("\n".join(map(",".join, rows)))
    (note,) = [note for note in open_image_set(folder).notes if "looks like" in note]
    assert f"{rows[-1][0]!r} looks like {rows[1][0]!r} and is another one: they differ in case, underscores" in note
    assert note in [finding.text for finding in check_data(folder)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("cell", ["1e300", "1e39", "-1e308", "1e999"])
def test_a_huge_attribute_is_one_clear_line_in_training_and_its_check(folder, cell, capsys):
    rows = rows_of(folder / "classes.csv")
    rows[2][3] = cell
    (folder / "classes.csv").write_text("\n".join(map(",".join, rows)))
    for argv in (
        ["--check-data", str(folder)],
        ["--data", str(folder), "--method", "eszsl", "--out", str(folder / "run")],
    ):
        assert main(argv) in {1, 2, 3, 5}
        said = capsys.readouterr()
        told = [line for line in (said.out + said.err).splitlines() if "E-ATTRIBUTE-VALUE" in line]
        assert len(told) == 1
        assert f"column {ATTRIBUTES[1]!r} holds {cell!r} (beyond 3.4e38" in told[0]
        assert "Warning" not in said.out + said.err
    assert not (folder / "run").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [1e300, -3.5e38])
def test_a_huge_attribute_of_a_feature_file_is_told(tmp_path, value):
    att = attribute_matrix()
    att[2, 4] = value
    make_pair(tmp_path, splits={"att": att})
    assert "of class 'eel' is" in refused(tmp_path, "E-ATTRIBUTE-VALUE", features=Path(FEATURES))


def test_class_names_of_archives_are_in_the_stored_form_too(tmp_path):
    names = ["Mo\u0308we " if name == "cat" else name for name in CLASSES]
    make_pair(tmp_path, splits={"allclasses_names": cells(names)})
    assert open_image_set(tmp_path, features=Path(FEATURES)).table.index("M\u00f6we") == CLASSES.index("cat")
