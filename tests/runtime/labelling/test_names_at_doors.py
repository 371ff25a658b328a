"""One class, whatever form its name is given in, at every door; names that only look alike are told."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zsl_runtime.cli.classes
import zsl_runtime.cli.evaluate
from support.tiny_bundle import ATTRIBUTES, class_table, draw_pictures
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.generation import Generation
from zsl_runtime.classes.changes import add_classes
from zsl_runtime.classes.template import class_template
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.labelling.evaluation import evaluate
from zsl_runtime.labelling.reading import Reader
from zsl_runtime.labelling.truth import find_truth, with_role
from zsl_runtime.machine.storage import parse_tensors, tensor_bytes
from zsl_runtime.pixels.pixels import PixelSpec

TABLE = class_table()
NFC = "übersee-ente"
NFD = unicodedata.normalize("NFD", NFC)
LOON = unicodedata.normalize("NFD", "Große Möwe")


@pytest.fixture(scope="module")
def means(shared_bundle):
    return shared_bundle(rule="gaussian")


def pictures(name: str, count: int = 2) -> list[np.ndarray]:
    return list(draw_pictures(TABLE, np.full(count, TABLE.index(name)), 3))


def table(*names: str, like: str = NFC) -> ClassTable:
    raw = np.tile(TABLE.raw[TABLE.index(like)] + 0.25, (len(names), 1))
    return ClassTable(names, np.zeros(len(names), bool), raw, ATTRIBUTES)


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = zsl_runtime.cli.classes.main(argv)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_who_labels_may_name_classes_in_any_form_and_in_any_sequence(means):
    with Classifier.open(means, threads=1) as classifier:
        given = pictures(NFC)
        wanted = classifier.predict(given, classes=[NFC, "wren"])
        for names in ([NFD, "wren"], (f" {NFD} ", "wren"), np.array([NFD, "wren"]), iter([NFD, "wren"])):
            assert classifier.predict(given, classes=names) == wanted
        scores, _ = classifier.score(np.stack(given), [NFD])
        assert np.isfinite(scores).any(axis=0).tolist() == [name == NFC for name in TABLE.names]
        for names in ([7], np.array([7]), b"wren"):
            with pytest.raises(UsageError, match=r"E-CLASS-NAME: class .* is no text \(.*int.*\); names are"):
                classifier.predict(given, classes=names)
        for names in (None, 7, True):
            with pytest.raises(
                UsageError, match=r"E-FILTER: class filter .*: expected all, seen, unseen or class names"
            ):
                classifier.predict(given, classes=names)


def test_changes_take_names_in_any_form_and_keep_one(own_bundle):
    with Classifier.open(own_bundle("b", rule="gaussian"), threads=1) as classifier:
        added = classifier.add(table(LOON), {LOON: pictures(NFC)})
        assert (added.names, dict(added.photographs)) == (("Große Möwe",), {"Große Möwe": 2})
        taught = classifier.teach({f"{LOON} ": pictures(NFC), NFD: pictures(NFC)})
        assert set(taught.names) == {"Große Möwe", NFC}
        assert taught.photographs["Große Möwe"] == 4
        assert classifier.remove([LOON, "wren", LOON]).names == ("Große Möwe", "wren")
        assert set(classifier.undo().names) == {"Große Möwe", "wren"}
        with pytest.raises(UsageError, match="E-CLASS-DUPLICATE"):
            classifier.teach({NFC: pictures(NFC), NFD: pictures(NFC)})
        with pytest.raises(UsageError, match="E-CLASS-EXISTS"):
            classifier.add(table(NFD))


def test_tables_from_python_are_held_to_what_files_are(own_bundle):
    bundle = Bundle.open(own_bundle("b", rule="rows"))
    for names, code in (
        (("a\x1b[2J",), "E-CLASS-NAME"),
        (("cod\u202eexe",), "E-CLASS-NAME"),
        (("a", "a "), "E-CLASS-DUPLICATE"),
    ):
        with pytest.raises(UsageError, match=code):
            add_classes(bundle, table(*names))
    huge = table("x")
    huge.raw[0, 2] = 1e300
    with pytest.raises(
        UsageError, match=r"E-ATTRIBUTE-VALUE: the new classes: attribute 'blue' of class 'x' is 1e\+300"
    ):
        add_classes(bundle, huge)
    assert bundle.current().number == 1


def test_the_commands_take_names_in_any_form(capsys, own_bundle, tmp_path):
    bundle = str(own_bundle("b", rule="gaussian"))
    code, out, _ = run(capsys, "template", "--engine", bundle, "--like", NFD, LOON)
    assert (code, "Große Möwe," in out, f"# example: {NFC}," in out) == (0, True, True)
    assert class_template(Bundle.open(bundle), like=f" {NFD}").values is not None
    photos = tmp_path / "photos" / NFD
    photos.mkdir(parents=True)
    for number, picture in enumerate(pictures(NFC)):
        Image.fromarray(picture).save(photos / f"{number}.png")
    code, out, _ = run(capsys, "teach", "--engine", bundle, "--photos", str(photos.parent))
    assert (code, out.startswith(f"taught {NFC}: 2 photographs")) == (0, True)
    assert run(capsys, "remove", "--engine", bundle, NFD)[1].startswith(f"removed {NFC}\n")
    assert run(capsys, "undo", "--engine", bundle)[1].startswith(f"back: {NFC}\n")


def test_a_name_that_is_not_there_is_told_with_what_it_looks_like(capsys, means, tmp_path):
    """A no-break space, which nobody sees, is told as what sets the two apart."""
    wrong = "house\u00a0sparrow"
    (tmp_path / "photos" / wrong).mkdir(parents=True)
    for number, picture in enumerate(pictures("house sparrow")):
        Image.fromarray(picture).save(tmp_path / "photos" / wrong / f"{number}.png")
    told = "(did you mean 'house sparrow'? They differ in spaces of another kind or number)"
    assert told in run(capsys, "remove", "--engine", str(means), wrong)[2]
    assert told in run(capsys, "teach", "--engine", str(means), "--photos", str(tmp_path / "photos"))[2]
    assert zsl_runtime.cli.evaluate.main([str(means), str(tmp_path / "photos")]) == 2
    assert told in capsys.readouterr().err
    code, out, err = run(capsys, "template", "--engine", str(means), wrong)
    assert (code, wrong in out) == (0, True)
    assert "looks like 'house sparrow' and is another one: they differ in spaces of another kind or number" in err


def test_truth_is_of_the_same_classes_in_any_form(capsys, means, tmp_path):
    for number, picture in enumerate(pictures(NFC)):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    (tmp_path / "truth.csv").write_bytes(f"sep=;\r\nPath;Class\r\n0.png;{NFD}\r\n1.png;{NFC}\r\n".encode("utf-16"))
    zsl_runtime.cli.evaluate.main([str(means), str(tmp_path / "truth.csv"), "--format", "json", "--threads", "1"])
    found = json.loads(capsys.readouterr().out)
    assert [(one["class"], one["photographs"]) for one in found["classes"]] == [(NFC, 2)]
    with Classifier.open(means, threads=1) as classifier:
        assert [one.name for one in evaluate(classifier, zip(pictures(NFC), [NFD, NFC], strict=True)).classes] == [NFC]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_paths_in_tables_of_other_systems_lead_to_the_photographs(tmp_path, form):
    """Accents composed as another system does, and the backslashes of Windows."""
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    folder = tmp_path / unicodedata.normalize(form, "Möwen")
    folder.mkdir()
    for name in ("0.png", "1.png"):
        (folder / name).write_bytes(b"x")
    given = unicodedata.normalize(other, "Möwen")
    (tmp_path / "t.csv").write_text(f"path,class\n{given}/0.png,wren\n{given}\\1.png,wren\n", encoding="utf-8")
    reader = Reader(PixelSpec(8, 8), (8, 8, 3))
    truth = find_truth(tmp_path / "t.csv", reader)
    assert [item.name for item in truth.pictures["wren"]] == [str(folder / "0.png"), str(folder / "1.png")]
    (tmp_path / "s.csv").write_text(f"Image;Role\n{given}\\0.png;TEST\n{given}\\1.png;Train\n", encoding="utf-8")
    chosen = with_role(truth, tmp_path / "s.csv", "test")
    assert [item.name for item in chosen.pictures["wren"]] == [str(folder / "0.png")]
    (tmp_path / "t.csv").write_text("path,class\nfeatures\\a.npy#1,wren\n")
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "a.npy", np.ones((2, 3), np.float32))
    rows = find_truth(tmp_path / "t.csv", Reader(None, (1, 3), "res.mat"))
    assert [item.name for item in rows.pictures["wren"]] == [str(tmp_path / "features" / "a.npy#1")]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Crow", "class 'Crow' looks like 'crow' and is another one: they differ in case"),
        (
            "house\u00a0sparrow",
            "'house\\xa0sparrow' looks like 'house sparrow' and is another one: they differ in spaces",
        ),
        (
            "wr\u200ben",
            "'wr\\u200ben' looks like 'wren' and is another one: they differ in letters that cannot be seen",
        ),
        ("eagle_owl", "they differ in underscores, spaces or dots"),
        ("heron\ufeff!", "holds letters that cannot be seen: U+FEFF"),
    ],
)
def test_a_name_that_looks_like_another_is_told_and_added(capsys, own_bundle, tmp_path, name, told):
    bundle = str(own_bundle("b", rule="gaussian"))
    path = tmp_path / "new.csv"
    path.write_text(f"name,{','.join(ATTRIBUTES)}\n{name},0,7,1,1,7,1\n", encoding="utf-8")
    code, out, err = run(capsys, "similar", "--engine", bundle, "--attributes", str(path))
    assert (code, told in err) == (0, True), err
    assert "Similar" not in out
    code, out, err = run(capsys, "add", "--engine", bundle, "--attributes", str(path))
    assert (code, err.count("warning: "), told in err) == (0, 1, True), err
    assert f"added {name}: " in out


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "x\n   1  seen    forged", "", "a/b", "..", "\u2028"])
def test_names_inside_a_bundle_are_held_to_what_a_name_may_be(own_bundle, name):
    generation = Bundle.open(own_bundle("b", rule="rows")).current()
    tensors, metadata = parse_tensors(generation.to_bytes(), code="E", where="here")
    odd = metadata | {"names": json.dumps([*generation.table.names[:-1], name])}
    with pytest.raises(ArtefactError, match="E-BUNDLE-GENERATION: here is not a generation") as caught:
        Generation.from_bytes(tensor_bytes(tensors, odd), generation.head.views, where="here")
    assert str(caught.value).isprintable()
    hidden = metadata | {"attributes": json.dumps([*ATTRIBUTES[:-1], "a\x1b[2J"])}
    with pytest.raises(ArtefactError, match="E-BUNDLE-GENERATION"):
        Generation.from_bytes(tensor_bytes(tensors, hidden), generation.head.views, where="here")


def test_names_that_older_versions_let_through_are_read(own_bundle):
    generation = Bundle.open(own_bundle("b", rule="rows")).current()
    tensors, metadata = parse_tensors(generation.to_bytes(), code="E", where="here")
    older = metadata | {"names": json.dumps([*generation.table.names[:-1], "\u05d9\u05d5\u05e0\u05d4\u200f"])}
    read = Generation.from_bytes(tensor_bytes(tensors, older), generation.head.views, where="here")
    assert read.table.index("\u05d9\u05d5\u05e0\u05d4\u200f") == len(read.table) - 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("cell", ["1e300", "-1e308", "1e39", "1e999"])
def test_a_huge_number_is_one_clear_line_in_every_command(capsys, own_bundle, tmp_path, cell):
    bundle = own_bundle("b", rule="gaussian")
    (tmp_path / "new.csv").write_text(f"name,{','.join(ATTRIBUTES)}\nx,0,{cell},1,1,7,1\n", encoding="utf-8")
    for command in ("similar", "add"):
        code, out, err = run(capsys, command, "--engine", str(bundle), "--attributes", str(tmp_path / "new.csv"))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"column 'green' holds '{cell}' (beyond 3.4e38, the largest number that a model can hold)" in err
    assert len(list(Path(bundle / "classes").glob("*.safetensors"))) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("cell", ["3.4e38", "1e30", "-3e38", "1e-30", "5e-324"])
def test_numbers_that_a_model_can_hold_show_no_warning_of_a_library(capsys, own_bundle, tmp_path, cell):
    bundle = str(own_bundle("b", rule="gaussian"))
    (tmp_path / "new.csv").write_text(f"name,{','.join(ATTRIBUTES)}\nx,0,{cell},1,1,7,1\n", encoding="utf-8")
    for argv in (["similar", "--format", "json"], ["add"]):
        code, _, err = run(capsys, *argv, "--engine", bundle, "--attributes", str(tmp_path / "new.csv"))
        assert code == 0
        known = ("warning: ", "adding ", "1 warning above; ")
        assert [line for line in err.splitlines() if not line.startswith(known)] == []
    assert run(capsys, "template", "--engine", bundle, "y", "--like", "x")[0] == 0
