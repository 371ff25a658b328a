"""Photographs to evidence: folders, what is left out and told, every backend, and the calls from Python."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import zsl_runtime
from support.forked import allow_fork, become_nobody, forked, public_folder
from support.tiny_bundle import (
    ATTRIBUTES,
    SIDE,
    as_regions,
    canonical_of,
    class_table,
    draw_pictures,
    features_of,
)
from support.usable import FROM_GRAPHS, usable_backend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.template import class_template
from zsl_runtime.errors import InputError, UsageError, ZslError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.inputs.item import Item
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.labelling.photographs import class_folders, gather
from zsl_runtime.labelling.reading import Reader, reader_of
from zsl_runtime.pixels.pixels import PixelSpec

if TYPE_CHECKING:
    from pathlib import Path

assert public_folder  # a fixture
TABLE = class_table()


@pytest.fixture(scope="module")
def originals(shared_bundle) -> dict[str, Path]:
    return {kind: shared_bundle(kind=kind, rule="gaussian") for kind in ("images", "backbone_features")}


@pytest.fixture(params=["images", "backbone_features"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def shared(originals):
    """For what changes nothing."""
    with Classifier.open(originals["images"], "ort", threads=2) as classifier:
        yield classifier


@pytest.fixture
def classifier(own_bundle):
    with Classifier.open(own_bundle("own", kind="images", rule="gaussian"), "ort", threads=1) as opened:
        yield opened


def pictures(name: str, count: int, seed: int = 5) -> np.ndarray:
    return draw_pictures(TABLE, np.full(count, TABLE.index(name)), seed)


def expected(drawn: np.ndarray) -> np.ndarray:
    return canonical_of(features_of(drawn)).astype(np.float64).sum(axis=0)


def heron() -> ClassTable:
    return ClassTable(("heron",), np.array([False]), np.array([[0, 7, 1, 1, 7, 1.0]]), ATTRIBUTES)


def save(folder: Path, drawn: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(drawn):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


# --- folders that cannot be looked into, litter -----------------------------------------------------------------------


@allow_fork
def test_class_folders_that_nobody_may_look_into_are_items_and_links_there_too(public_folder):
    for name in ("wren", "tit", "away/crow"):
        save(public_folder / name, np.zeros((1, SIDE, SIDE, 3), np.uint8))
    (public_folder / "crow").symlink_to(public_folder / "away" / "crow")
    for name in ("tit", "away"):
        (public_folder / name).chmod(0)
    reader = Reader(PixelSpec(SIDE, SIDE), (SIDE, SIDE, 3))

    def look() -> None:
        found = class_folders(public_folder, reader)
        for name, items in found.pictures.items():
            for item in items:
                print(name, getattr(item.source, "code", "read"), found.counts[name])

    done = forked(look, **become_nobody())
    assert done.stdout.splitlines() == [f"{name} E-FOLDER 1" for name in ("away", "crow", "tit")] + ["wren read 1"]


def test_from_python_litter_and_other_kinds_are_noted(classifier, tmp_path):
    folder = save(tmp_path / "photos" / "wren", pictures("wren", 2))
    (folder / "@eaDir" / "0.png").mkdir(parents=True)
    (folder / "@eaDir" / "0.png" / "SYNOFILE_THUMB_M.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "a.heic").write_bytes(b"x")
    change = classifier.teach(tmp_path / "photos")
    assert change.photographs == {"wren": 2}
    assert "pictures left out because of where they lie: 1 in @eaDir (thumbnails of a NAS)" in change.notes
    assert any(note.startswith("HEIC pictures left out: 1 (.heic); save as JPEG") for note in change.notes)


# --- gather ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_evidence_is_how_many_and_the_sum_of_what_the_model_makes_of_them(shared, batch_size):
    wren, tit = pictures("wren", 11), pictures("tit", 2)
    done = []
    found = gather(shared, {"wren": wren, "tit": iter(tit)}, batch_size=batch_size, advance=done.append)
    assert list(found.evidence) == ["wren", "tit"]
    assert [one.count for one in found.evidence.values()] == [11, 2]
    for name, drawn in (("wren", wren), ("tit", tit)):
        assert found.evidence[name].total.dtype == np.float64
        np.testing.assert_allclose(found.evidence[name].total, expected(drawn), atol=1e-3)
    assert found.skipped == []
    assert sum(done) == 13


@pytest.mark.parametrize("backend", FROM_GRAPHS)
def test_every_backend_says_the_same_to_rounding(originals, kind, backend):
    drawn = pictures("gull", 5)
    given = list(drawn if kind == "images" else as_regions(drawn))
    with Classifier.open(originals[kind], usable_backend(backend), threads=1) as classifier:
        found = gather(classifier, {"gull": given}).evidence["gull"]
    np.testing.assert_allclose(found.total, expected(drawn), atol=2e-3)


def test_what_cannot_be_read_is_told_and_the_rest_is_counted(shared, tmp_path):
    folder = save(tmp_path, pictures("wren", 3))
    (folder / "2.png").write_bytes(b"no picture")
    drawn = pictures("tit", 1)
    found = gather(
        shared,
        {
            "wren": [str(folder / f"{j}.png") for j in (0, 2, 1)],
            "tit": [
                b"nothing",
                drawn[0],
                Item("tit.zip/a.png", b"\x89PNG"),
                Item("x.npy", InputError("E-ROW-FILE", "x")),
            ],
        },
    )
    assert {name: one.count for name, one in found.evidence.items()} == {"wren": 2, "tit": 1}
    np.testing.assert_allclose(found.evidence["tit"].total, expected(drawn), atol=1e-3)
    assert [name for name, _ in found.skipped] == ["wren", "tit", "tit", "tit"]
    first, second, third, fourth = (error.message for _, error in found.skipped)
    assert f"{str(folder / '2.png')!r}" in first
    assert second.startswith("photograph 0 of class 'tit': ")
    assert third.startswith("'tit.zip/a.png': ")
    assert fourth == "x"


def test_a_class_without_a_single_readable_photograph_is_no_class_to_learn(shared):
    for given in ([], [b"nothing", b"x"]):
        with pytest.raises(
            UsageError, match="E-PHOTOS-EMPTY: none of the photographs of class 'tit' can be read"
        ) as caught:
            gather(shared, {"wren": pictures("wren", 1), "tit": given})
        assert ("the first one: E-IMAGE" in caught.value.message) == bool(given)
        assert caught.value.message.endswith("nothing was changed")


def test_no_more_is_read_than_a_few_batches_ahead(shared, monkeypatch):
    """Photographs are taken from their source as the model gets on."""
    taken, looked_at = [], []
    real = Classifier.canonical

    def slow(self, inputs):
        looked_at.append((len(inputs), len(taken)))
        return real(self, inputs)

    def source():
        for picture in pictures("wren", 200):
            taken.append(1)
            yield picture

    monkeypatch.setattr(Classifier, "canonical", slow)
    assert gather(shared, {"wren": source()}, batch_size=4).evidence["wren"].count == 200
    assert all(ahead <= 4 * number + 4 + 2 * 4 + 2 for number, (_, ahead) in enumerate(looked_at))


def test_only_bundles_with_statistics_look_at_photographs(shared_bundle):
    def never():
        raise AssertionError
        yield

    with (
        Classifier.open(shared_bundle(rule="rows"), "ort") as classifier,
        pytest.raises(UsageError, match="E-HEAD-RULE"),
    ):
        gather(classifier, {"wren": never()})


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders(originals, tmp_path):
    save(tmp_path / "wren", pictures("wren", 3))
    save(tmp_path / "wren" / "from the garden", pictures("wren", 2))
    save(tmp_path / unicodedata.normalize("NFD", "übersee-ente"), pictures("übersee-ente", 1))
    save(tmp_path / ".cache", pictures("wren", 1))
    (tmp_path / "wren" / "notes.txt").write_text("x")
    (tmp_path / "list.csv").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "tit").symlink_to(tmp_path / "wren" / "from the garden")
    found = class_folders(tmp_path, reader_of(Bundle.open(originals["images"])))
    assert {name: len(list(items)) for name, items in found.pictures.items()} == {
        "tit": 2,
        "wren": 5,
        "übersee-ente": 1,
    }
    assert (found.count, found.left_out) == (8, 2)
    assert found.counts == {"tit": 2, "wren": 5, "übersee-ente": 1}
    assert [len(list(items)) for items in found.pictures.values()] == [2, 1, 5]  # again


def test_rows_of_files_take_the_place_of_photographs(originals, tmp_path):
    bundle = originals["backbone_features"]
    drawn = pictures("wren", 7)
    (tmp_path / "photos/wren").mkdir(parents=True)
    np.save(tmp_path / "photos/wren/a.npy", as_regions(drawn[:5]))
    np.save(tmp_path / "photos/wren/b.npy", as_regions(drawn[5:]).astype(np.float64))
    (tmp_path / "photos/wren/bad.npy").write_bytes(b"x")
    save(tmp_path / "photos/wren", drawn[:1])
    with Classifier.open(bundle, "ort") as classifier:
        found = class_folders(tmp_path / "photos", reader_of(classifier.bundle))
        assert (found.count, found.left_out) == (8, 1)
        gathered = gather(classifier, found.pictures)
    assert gathered.evidence["wren"].count == 7
    np.testing.assert_allclose(gathered.evidence["wren"].total, expected(drawn), atol=1e-3)
    assert [error.code for _, error in gathered.skipped] == ["E-ROW-FILE"]


def test_columns_of_a_matrix_are_rows(originals, tmp_path):
    """Only where a row is a vector; here it is a region of four, and the file says so itself."""
    (tmp_path / "wren").mkdir()
    savemat(tmp_path / "wren" / "features.mat", {"features": np.ones((12, 3))})
    with Classifier.open(originals["backbone_features"], "ort") as classifier:
        found = class_folders(tmp_path, reader_of(classifier.bundle))
        with pytest.raises(UsageError, match=r"E-PHOTOS-EMPTY: none of .* the first one: E-ROW-SHAPE"):
            gather(classifier, found.pictures)


@pytest.mark.parametrize(
    ("make", "code", "told"),
    [
        (
            lambda path: None,
            "E-PHOTOS-FOLDER",
            "is not there; expected a folder that holds one folder of photographs for",
        ),
        (lambda path: path.write_text("x"), "E-PHOTOS-FOLDER", "is no folder"),
        (lambda path: path.mkdir(), "E-PHOTOS-FOLDER", "is empty"),
        (lambda path: save(path, pictures("wren", 2)), "E-PHOTOS-FOLDER", "holds 2 files and no class folders"),
        (lambda path: (path / ".hidden").mkdir(parents=True), "E-PHOTOS-FOLDER", "is empty"),
        (lambda path: (path / "wren").mkdir(parents=True), "E-PHOTOS-EMPTY", "there is no photograph of class 'wren'"),
        (lambda path: (path / "a\\b").mkdir(parents=True), "E-CLASS-NAME", "'a\\\\b'"),
        (lambda path: [save(path / one, pictures("tit", 1)) for one in ("tit", " tit")], "E-CLASS-DUPLICATE", "'tit'"),
    ],
)
def test_a_folder_that_is_none_of_class_folders_is_refused_in_one_line(originals, tmp_path, make, code, told):
    make(tmp_path / "photos")
    with pytest.raises(UsageError) as caught:
        class_folders(tmp_path / "photos", reader_of(Bundle.open(originals["images"])))
    assert caught.value.code == code
    assert told in caught.value.message


def test_an_empty_class_folder_may_be_noted_instead(originals, tmp_path):
    save(tmp_path / "tit", pictures("tit", 2))
    (tmp_path / "wren").mkdir()
    (tmp_path / "wren" / "notes.txt").write_text("x")
    found = class_folders(tmp_path, reader_of(Bundle.open(originals["images"])), may_be_empty=True)
    assert (found.counts, found.empty, found.left_out) == ({"tit": 2}, ("wren",), 1)
    assert list(found.pictures) == ["tit"]


# --- from Python -----------------------------------------------------------------------------------------------------


def test_a_classifier_goes_on_with_what_it_was_taught_and_so_does_the_bundle(classifier):
    drawn = pictures("wren", 4)
    change = classifier.teach({"wren": drawn})
    assert (change.names, change.photographs) == (("wren",), {"wren": 4})
    assert classifier.generation == Bundle.open(classifier.bundle.path).current().number == 2
    assert classifier.bundle.current().means.counts[5] == 4
    assert classifier.predict(drawn[:1])[0].names[0] == "wren"
    change = classifier.add(heron())
    assert (change.names, list(change.neighbours), classifier.generation) == (("heron",), ["heron"], 3)
    assert classifier.class_table.names[-1] == "heron"


def test_a_class_is_added_with_its_photographs(classifier):
    drawn = pictures("gull", 3)
    change = classifier.add(heron(), {"heron": list(drawn)})
    assert change.photographs == {"heron": 3}
    np.testing.assert_allclose(classifier.bundle.current().means.totals[-1], expected(drawn), atol=1e-3)


def test_a_photograph_that_cannot_be_read_is_an_exception_and_nothing_changes(classifier):
    given = [pictures("wren", 1)[0], b"nothing"]
    for action in (lambda: classifier.teach({"wren": given}), lambda: classifier.add(heron(), {"heron": given})):
        with pytest.raises(InputError, match=r"E-IMAGE.*photograph 1 of class '(wren|heron)'"):
            action()
    assert classifier.generation == classifier.bundle.current().number == 1


def test_photographs_that_cannot_be_read_are_left_out_and_told_where_that_is_wanted(classifier, tmp_path):
    drawn = pictures("wren", 3)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    given = {"wren": [*drawn, b"nothing", b""], "tit": [tmp_path / "bad.jpg", *pictures("tit", 1)]}
    change = classifier.teach(given, errors="skip")
    assert change.photographs == {"tit": 41, "wren": 3}
    np.testing.assert_allclose(classifier.bundle.current().means.totals[5], expected(drawn), atol=1e-3)
    first, second = change.notes[-2:]
    assert first.startswith(
        "photographs of class 'wren' left out, because they cannot be read: 2; the first: E-IMAGE-FORMAT: photograph 3 "
    )
    assert second.startswith("photographs of class 'tit' left out, because they cannot be read: 1; the first: E-IMAGE")
    assert "bad.jpg" in second
    change = classifier.add(heron(), {"heron": [b"nothing", *drawn]}, errors="skip")
    assert change.photographs == {"heron": 3}
    assert change.notes[-1].startswith("photographs of class 'heron' left out, because they cannot be read: 1; ")
    assert classifier.generation == 3


def test_a_class_none_of_whose_photographs_can_be_read_is_an_error_also_when_they_are_skipped(classifier):
    with pytest.raises(UsageError, match="E-PHOTOS-EMPTY"):
        classifier.teach({"wren": [b"nothing"], "tit": pictures("tit", 1)}, errors="skip")
    for action in (
        lambda: classifier.teach({"tit": pictures("tit", 1)}, errors="ignore"),
        lambda: classifier.add(heron(), errors=None),
    ):
        with pytest.raises(UsageError, match=r"E-ERRORS: errors=.*: expected 'raise' or 'skip'"):
            action()
    assert classifier.generation == classifier.bundle.current().number == 1


@pytest.mark.parametrize("as_text", [True, False])
def test_a_folder_teaches_and_a_file_adds(classifier, tmp_path, as_text):
    """As the commands take them."""
    photos = tmp_path / "photos"
    save(photos / "wren", pictures("wren", 4))
    (photos / "wren" / "notes.txt").write_text("x")
    change = classifier.teach(str(photos) if as_text else photos)
    assert change.photographs == {"wren": 4}
    assert change.notes[-1] == "files of other kinds, or in no class folder, left out: 1"
    (photos / "wren" / "bad.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"bad\.jpg"):
        classifier.teach(photos)
    (photos / "wren").rename(photos / "heron")
    table = tmp_path / "new.csv"
    table.write_text("\n".join([",".join(("name", *ATTRIBUTES)), "heron,0,7,1,1,7,1"]), encoding="utf-8")
    change = classifier.add(str(table) if as_text else table, photos, errors="skip")
    assert (change.names, change.photographs, classifier.class_table.names[-1]) == (("heron",), {"heron": 4}, "heron")
    assert change.notes[-2] == "files of other kinds, or in no class folder, left out: 1"
    assert "class 'heron' left out, because they cannot be read: 1; the first: " in change.notes[-1]


def test_a_workbook_adds_and_an_unfilled_one_does_not(classifier, tmp_path):
    path = tmp_path / "new.xlsx"
    path.write_bytes(class_template(classifier.bundle, ["heron"]).workbook())
    with pytest.raises(UsageError, match=r"E-ATTRIBUTE-VALUE: .*cell B7.* is empty"):
        classifier.add(path)
    path.write_bytes(class_template(classifier.bundle, ["heron"], like="gull").workbook())
    assert classifier.add(path).names == ("heron",)
    assert classifier.class_table.raw[-1].tolist() == TABLE.raw[3].tolist()


def test_what_newcomers_would_be_mixed_up_with_is_told_before_they_are_added(classifier, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("\n".join([",".join(("name", *ATTRIBUTES)), "heron,0,7,1,1,7,1"]), encoding="utf-8")
    found = classifier.similar(path)
    assert found.neighbours == classifier.similar(heron()).neighbours
    assert classifier.generation == classifier.bundle.current().number == 1
    assert found.neighbours == classifier.add(path).neighbours
    with pytest.raises(UsageError, match="E-CLASS-EXISTS"):
        classifier.similar(path)


def test_folders_and_files_that_are_not_there_are_refused_and_nothing_changes(classifier, tmp_path):
    for action, told in (
        (lambda: classifier.teach(tmp_path / "none"), "E-PHOTOS-FOLDER"),
        (lambda: classifier.teach(""), "E-PHOTOS-FOLDER"),
        (lambda: classifier.add(heron(), ""), "E-PHOTOS-FOLDER"),
        (lambda: classifier.add(tmp_path / "none.csv"), "E-SYSTEM"),
        (lambda: classifier.add(tmp_path / "none.xlsx"), "E-SYSTEM"),
    ):
        with pytest.raises(ZslError, match=told):
            action()
    assert classifier.generation == classifier.bundle.current().number == 1


def test_changes_are_taken_back_and_classes_out_and_the_classifier_goes_on_so(classifier):
    classifier.add(heron())
    classifier.teach({"heron": pictures("gull", 1)})
    change = classifier.remove(" heron ")
    assert (change.names, classifier.generation, classifier.class_table.names) == (("heron",), 4, TABLE.names)
    change = classifier.undo()
    assert (change.names, classifier.class_table.names[-1]) == (("heron",), "heron")
    assert classifier.bundle.current().means.counts[-1] == 1
    assert classifier.undo().photographs == {"heron": 0}
    assert classifier.undo().names == ("heron",)
    assert classifier.class_table.names == TABLE.names
    assert classifier.generation == classifier.bundle.current().number == 7
    with pytest.raises(UsageError, match="E-UNDO-NONE"):
        classifier.undo()
    assert classifier.remove(["wren", "tit"]).names == ("wren", "tit")
    assert not {"wren", "tit"} & set(classifier.predict(pictures("wren", 1), topk=9)[0].names)
    for names, code in ((["dodo"], "E-CLASS-UNKNOWN"), ([], "E-CLASSES-EMPTY"), ("a/b", "E-CLASS-UNKNOWN")):
        with pytest.raises(UsageError, match=code):
            classifier.remove(names)
    classifier.close()
    for action in (
        classifier.undo,
        lambda: classifier.remove("gull"),
        lambda: classifier.add(heron()),
        lambda: classifier.similar(heron()),
    ):
        with pytest.raises(UsageError, match="E-CLOSED"):
            action()


def test_names_are_looked_at_before_photographs(classifier):
    def never():
        raise AssertionError
        yield

    for action, code in (
        (lambda: classifier.teach({"wrem": never()}), "E-CLASS-UNKNOWN"),
        (lambda: classifier.add(heron(), {"hero": never()}), "E-CLASS-UNKNOWN"),
        (lambda: classifier.add(TABLE.take(np.array([5])), {"wren": never()}), "E-CLASS-EXISTS"),
        (lambda: classifier.teach({}), "E-CLASSES-EMPTY"),
    ):
        with pytest.raises(UsageError, match=code):
            action()
    classifier.close()
    with pytest.raises(UsageError, match="E-CLOSED"):
        classifier.teach({"wren": never()})


@pytest.mark.parametrize("rule", ["fit", "rows"])
def test_older_bundles_still_label_and_take_classes_and_say_why_they_cannot_be_taught(own_bundle, rule):
    path = own_bundle(rule=rule)
    with Classifier.open(path, "ort", threads=1) as classifier:
        assert classifier.manifest["format_version"] in {1, 2}
        assert classifier.predict(pictures("wren", 1))[0].names[0] == "wren"
        with pytest.raises(UsageError, match="E-HEAD-RULE"):
            classifier.teach({"wren": pictures("wren", 1)})
        with pytest.raises(UsageError, match="E-HEAD-RULE"):
            classifier.add(heron(), {"heron": pictures("wren", 1)})
        assert classifier.add(heron()).neighbours == {}
        table = TABLE.append(heron())
        found = classifier.predict(draw_pictures(table, np.full(5, 8), 1), topk=1)
        assert [one.names for one in found] == [("heron",)] * 5


def test_what_changes_a_bundle_is_at_hand_from_the_package():
    from zsl_runtime.classes.changes import add_classes, teach_classes

    assert (zsl_runtime.add_classes, zsl_runtime.teach_classes) == (add_classes, teach_classes)


@pytest.mark.parametrize("one", ["wren.png", b"bytes", Image.new("RGB", (8, 8))])
def test_one_photograph_is_not_taken_for_a_list_of_them(classifier, one):
    with pytest.raises(UsageError, match=r"E-IMAGES.*class 'wren' has one \w+; expected a list of photographs"):
        classifier.teach({"wren": one})
