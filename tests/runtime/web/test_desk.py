"""What the page can ask of a bundle: labels as NumPy works them out, changes as the commands make them."""

from __future__ import annotations

import base64
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from support.served import FILES, PICTURES, by_numpy, newcomer
from support.tiny_bundle import canonical_of, class_table, draw_pictures, features_of, tiny_gaussian
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.signing import open_signer
from zsl_runtime.bundle.vouching import open_to_vouch, sign_bundle
from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.machine.storage import exclusive
from zsl_runtime.web import desk as desk_module
from zsl_runtime.web.desk import Desk


def opened(path, **more) -> Desk:
    return Desk(Classifier.open(path, "ort", threads=1), **more)


@pytest.fixture
def desk(own_bundle):
    found = opened(own_bundle(rule="gaussian"))
    yield found
    found.classifier.close()


def shown(desk: Desk) -> list[str]:
    return [desk.look_at(file)["digest"] for file in FILES]


def raised(code: str, call, *given) -> str:
    with pytest.raises(UsageError) as caught:
        call(*given)
    assert caught.value.code == code
    return caught.value.message


# --- photographs ------------------------------------------------------------------------------------------------------


def test_labels_are_those_of_the_definition(desk):
    chances, _ = by_numpy(desk.classifier.bundle, PICTURES)
    names = desk.classifier.class_table.names
    for file, row in zip(FILES, chances, strict=True):
        found = desk.look_at(file)
        label = found["labels"][found["digest"]]
        best = np.argsort(-row)[:5]
        assert [one["name"] for one in label["classes"]] == [names[j] for j in best]
        np.testing.assert_allclose([one["probability"] for one in label["classes"]], row[best], atol=1e-4)
        assert [one["kind"] for one in label["classes"]] == ["seen" if j < 5 else "unseen" for j in best]
        assert found["generation"] == 1


def test_labels_from_what_is_kept_are_those_of_the_model(desk):
    """`Classifier.predict` runs the whole graph; the page keeps what the head looks at."""
    digests = shown(desk)
    found = desk.labels(digests)["labels"]
    for digest, one in zip(digests, desk.classifier.predict(FILES), strict=True):
        label = found[digest]
        assert tuple(each["name"] for each in label["classes"]) == one.names
        np.testing.assert_allclose([each["probability"] for each in label["classes"]], one.probabilities, atol=1e-5)
        assert label["distance"] == pytest.approx(one.distance, rel=1e-4)
        assert label["far"] == one.far


def test_the_distance_is_to_the_nearest_class(desk):
    digests = shown(desk)
    _, apart = by_numpy(desk.classifier.bundle, PICTURES)
    names = desk.classifier.class_table.names
    for digest, row in zip(digests, apart, strict=True):
        label = desk.labels([digest])["labels"][digest]
        assert label["nearest"] == names[int(row.argmin())]
        assert label["distance"] == pytest.approx(row.min(), rel=1e-3)


def test_the_preview_is_the_square_that_the_model_sees(desk):
    address = desk.look_at(FILES[0])["preview"]
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (8, 8)
        assert np.abs(np.asarray(image).mean(axis=(0, 1)) - PICTURES[0].mean(axis=(0, 1))).max() < 6


def test_a_photograph_that_is_not_known_has_no_labels(desk):
    assert desk.labels(["0" * 64])["labels"] == {"0" * 64: None}


@pytest.mark.parametrize("data", [b"", b"no picture", FILES[0][:40]])
def test_what_is_no_picture_is_refused_and_nothing_is_kept(desk, data):
    with pytest.raises(InputError, match="E-IMAGE-"):
        desk.look_at(data)
    assert len(desk.vectors) == 0


def test_a_model_of_feature_vectors_has_no_page(shared_bundle):
    with Classifier.open(shared_bundle(kind="backbone_features", rule="gaussian"), "ort", threads=1) as classifier:
        assert "takes feature vectors" in raised("E-PAGE-INPUT", Desk, classifier)


# --- classes ----------------------------------------------------------------------------------------------------------


def test_state_tells_classes_by_kind_and_is_short_where_nothing_changed(desk):
    state = desk.state()
    table = class_table()
    assert [one["name"] for one in state["classes"]] == list(table.names)
    assert [one["kind"] for one in state["classes"]] == ["seen"] * 5 + ["unseen"] * 3
    assert [one["photographs"] for one in state["classes"]] == [40] * 5 + [0] * 3
    assert (state["generation"], state["closed"], state["steps"]) == (1, "", [])
    assert desk.state(1) == {"generation": 1}


def test_an_addition_with_photographs_is_that_of_the_command(desk, own_bundle):
    """The same head, bit for bit, as `Classifier.add` of the same photographs makes of another copy."""
    table, drawn = newcomer("jay"), FILES[:2]
    digests = [desk.look_at(file)["digest"] for file in drawn]
    said = desk.add(table, {"jay": digests})
    with Classifier.open(own_bundle("other", rule="gaussian"), "ort", threads=1) as other:
        change = other.add(table, {"jay": drawn})
        expected = other.bundle.current()
    made = desk.classifier.bundle.current()
    np.testing.assert_allclose(made.head.weights[0], expected.head.weights[0], rtol=1e-6)
    np.testing.assert_allclose(made.means.totals, expected.means.totals, rtol=1e-6)
    assert made.means.counts.tolist() == expected.means.counts.tolist()
    near = change.neighbours["jay"][0]
    assert said["generation"] == 2
    assert said["said"][0].startswith(f"added jay, 2 photographs in all: most like {near.name}, {near.distance:.1f} ")
    assert said["notes"] == list(change.notes)
    state = desk.state()
    assert state["classes"][-1] == {"name": "jay", "kind": "added", "photographs": 2}
    assert [(step["action"], step["names"]) for step in state["steps"]] == [("add", ("jay",))]


def test_labels_follow_a_change_at_once_and_go_back_with_undo(desk):
    table = ClassTable(("jay",), np.array([False]), np.array([[3.0, 3, 3, 1, 1, 1]]), class_table().attributes)
    picture = draw_pictures(table, np.array([0]), seed=4)
    file = io.BytesIO()
    Image.fromarray(picture[0]).save(file, "PNG")
    digest = desk.look_at(file.getvalue())["digest"]
    before = desk.labels([digest])["labels"][digest]
    foreseen = desk.rehearse(table, {}, [digest])["labels"][digest]
    assert desk.labels([digest])["labels"][digest] == before
    assert desk.classifier.bundle.pointer()[0] == 1
    desk.add(table, {})
    after = desk.labels([digest])["labels"][digest]
    assert after == foreseen
    assert before["classes"][0]["name"] != "jay"
    assert (after["classes"][0]["name"], after["classes"][0]["kind"]) == ("jay", "added")
    chances, apart = by_numpy(desk.classifier.bundle, picture)
    assert after["classes"][0]["probability"] == pytest.approx(chances[0, 8], abs=1e-4)
    assert after["distance"] == pytest.approx(apart[0].min(), rel=1e-3)
    said = desk.undo(2, 1)
    assert said["said"] == ["jay: gone"]
    assert desk.labels([digest])["labels"][digest] == before


@pytest.mark.parametrize("given", [0, 2])
def test_what_is_said_before_is_what_is_said_after(desk, given):
    digests = shown(desk)[:given]
    table = ClassTable(("Tit",), np.array([False]), np.array([[1.0, 9, 1, 0, 2, 90]]), class_table().attributes)
    before = desk.rehearse(table, {"Tit": digests} if digests else {}, [])
    after = desk.add(table, {"Tit": digests} if digests else {})
    assert before["notes"] == after["notes"]
    assert any("'größe' of 'Tit' is 90" in note for note in before["notes"])
    assert before["said"][0].partition(":")[2] == after["said"][0].partition(":")[2]


def test_teaching_moves_a_mean_by_the_photographs(desk):
    digests = shown(desk)
    said = desk.teach({"wren": digests[:3]})
    assert said["said"][0].startswith("taught wren, 3 photographs in all: most like ")
    made = desk.classifier.bundle.current().means
    x = canonical_of(features_of(PICTURES[:3])).astype(np.float64)
    np.testing.assert_allclose(made.totals[-1], x.sum(axis=0), rtol=1e-5)
    d = tiny_gaussian().variance
    where = tiny_gaussian().posterior(made.take(np.array([5])))[0]
    np.testing.assert_allclose(where, made.prior[5] + d / (d + 1 / 3) * (x.mean(axis=0) - made.prior[5]), rtol=1e-5)
    assert desk.undo(2, 1)["said"] == ["wren: back to 0 photographs"]


def test_remove_and_several_steps_back(desk):
    desk.add(newcomer("jay"), {})
    desk.remove(["tit"])
    desk.remove(["jay"])
    assert [step["action"] for step in desk.state()["steps"]] == ["remove", "remove", "add"]
    assert desk.undo(4, 3)["said"] == ["jay: gone", "tit: back"]
    assert [one["name"] for one in desk.state()["classes"]] == list(class_table().names)
    raised("E-UNDO-NONE", desk.undo, 7, 1)


def test_more_steps_back_than_there_are_take_nothing_back(desk):
    desk.add(newcomer("jay"), {})
    desk.remove(["tit"])
    assert "3 changes were to be taken back, and 2 can be" in raised("E-UNDO-NONE", desk.undo, 3, 3)
    assert desk.classifier.bundle.pointer()[0] == 3


def test_undo_of_what_the_page_does_not_show_is_refused(desk):
    desk.add(newcomer("jay"), {})
    Classifier.open(desk.classifier.bundle.path, "ort", threads=1).remove("tit")
    message = raised("E-PAGE-CHANGED", desk.undo, 2, 1)
    assert "nothing was undone" in message
    assert desk.classifier.bundle.pointer()[0] == 3


def test_another_program_s_change_is_taken_over(desk):
    shown(desk)
    with Classifier.open(desk.classifier.bundle.path, "ort", threads=1) as other:
        other.add(newcomer("jay"))
    assert desk.classifier.generation == 1
    assert desk.state(1)["classes"][-1]["kind"] == "added"
    assert desk.classifier.generation == 2


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda desk: desk.add(newcomer("tit"), {}), "E-CLASS-EXISTS"),
        (lambda desk: desk.add(newcomer("a/b"), {}), "E-CLASS-NAME"),
        (lambda desk: desk.add(newcomer("jay"), {"kite": ["0" * 64]}), "E-CLASS-UNKNOWN"),
        (lambda desk: desk.add(newcomer("jay"), {"jay": ["0" * 64]}), "E-PAGE-FORGOTTEN"),
        (lambda desk: desk.teach({"kite": ["0" * 64]}), "E-CLASS-UNKNOWN"),
        (lambda desk: desk.teach({}), "E-CLASSES-EMPTY"),
        (lambda desk: desk.remove(["kite"]), "E-CLASS-UNKNOWN"),
        (lambda desk: desk.remove([]), "E-CLASSES-EMPTY"),
        (lambda desk: desk.row("kite"), "E-CLASS-UNKNOWN"),
        (lambda desk: desk.rehearse(newcomer("tit"), {}, []), "E-CLASS-EXISTS"),
    ],
)
def test_what_cannot_be_done_changes_nothing(desk, call, code):
    raised(code, call, desk)
    assert desk.classifier.bundle.pointer()[0] == 1
    assert desk.classifier.bundle.leftovers() == []


def test_a_row_is_that_of_the_table(desk):
    assert desk.row("gull") == class_table().raw[3].tolist()


def test_a_table_is_read_as_the_command_reads_it(desk):
    found = desk.table("name;größe;bright left;bright top;red;green;blue\nheron;1;7;1;0;7;1,5\n".encode(), "new.csv")
    assert found["classes"] == [{"name": "heron", "values": [0.0, 7.0, 1.5, 1.0, 7.0, 1.0]}]
    assert "new.csv" in found["notes"][0]
    assert "'new.csv'" in raised("E-ATTRIBUTES", desk.table, b"name,red\nx,1\n", "new.csv")
    raised("E-CSV", desk.table, b"\x00\x01", "new.csv")


# --- bundles of other kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["fit", "rows"])
def test_other_head_rules_label_and_take_classes_and_do_not_learn(own_bundle, rule):
    desk = opened(own_bundle(rule=rule))
    digests = shown(desk)
    for digest, one in zip(digests, desk.classifier.predict(FILES), strict=True):
        label = desk.labels([digest])["labels"][digest]
        assert tuple(each["name"] for each in label["classes"]) == one.names
        assert label["distance"] is label["far"] is label["nearest"] is None
    found = desk.rehearse(newcomer("jay"), {}, digests)
    assert found["said"][0].startswith("jay: most like ")
    assert "by its attributes (cosine" in found["said"][0]
    assert (found["labels"] is None) == (rule == "fit")
    assert desk.about()["teachable"] is False
    raised("E-HEAD-RULE", desk.teach, {"wren": digests[:1]})
    raised("E-HEAD-RULE", desk.add, newcomer("jay"), {"jay": digests[:1]})
    assert desk.add(newcomer("jay"), {})["said"] == ["added jay"]
    if rule == "rows":
        labels = desk.labels(digests)["labels"]
        assert [labels[digest]["classes"] for digest in digests] == [
            found["labels"][digest]["classes"] for digest in digests
        ]


def test_a_bundle_that_may_not_be_written_labels_and_says_why_it_stays(desk, monkeypatch):
    monkeypatch.setattr(desk_module.os, "access", lambda path, mode: False)
    digest = desk.look_at(FILES[0])["digest"]
    message = desk.state()["closed"]
    assert "--try" in message
    for call in (lambda: desk.add(newcomer("jay"), {}), lambda: desk.remove(["tit"]), lambda: desk.undo(1, 1)):
        assert raised("E-PAGE-CLOSED", call) == message
    raised("E-PAGE-CLOSED", desk.teach, {"tit": [digest]})
    assert desk.labels([digest])["labels"][digest]


def test_where_signatures_are_demanded_somebody_must_sign(desk, monkeypatch):
    def refuse(_bundle):
        raise UsageError("E-SIGN", "signatures are demanded")

    monkeypatch.setattr(Bundle, "check_signable", refuse)
    assert desk.state()["closed"] == "signatures are demanded"
    raised("E-PAGE-CLOSED", desk.remove, ["tit"])


def test_a_bundle_that_another_program_goes_on_changing_is_one_line(desk, monkeypatch):
    monkeypatch.setattr(desk_module, "PATIENCE", 0.3)
    with exclusive(desk.classifier.bundle.path):
        begun = time.monotonic()
        message = raised("E-PAGE-LOCKED", desk.remove, ["tit"])
        assert time.monotonic() - begun < 5
    assert "another program is changing" in message
    assert desk.classifier.bundle.pointer()[0] == 1


def test_a_change_waits_a_little_for_another_program(desk):
    locked, done = threading.Event(), threading.Event()

    def hold():
        with exclusive(desk.classifier.bundle.path):
            locked.set()
            done.wait(0.5)

    other = threading.Thread(target=hold)
    other.start()
    assert locked.wait(10)
    desk.remove(["tit"])
    other.join()
    assert desk.classifier.bundle.pointer()[0] == 2


def test_two_tabs_that_add_at_once_both_get_what_they_asked(desk):
    names = [f"bird {k}" for k in range(6)]
    threads = [threading.Thread(target=desk.add, args=(newcomer(name), {})) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(names) <= {one["name"] for one in desk.state()["classes"]}
    assert desk.classifier.generation == 7


# --- why --------------------------------------------------------------------------------------------------------------


def test_an_explanation_adds_up_and_is_that_of_the_classifier(own_bundle):
    desk = opened(own_bundle(rule="gaussian", explain=True))
    assert desk.about()["explains"] is True
    for file in FILES[:4]:
        found, whole = desk.explain(file, "a.png"), desk.classifier.explain(file)
        assert (found["name"], found["answer"], found["rival"]) == ("a.png", whole.answer, whole.rival)
        parts = sum(one["contribution"] for one in found["spoken"]) + found["others"]
        assert parts + found["rest"] + found["seen_handicap"] == pytest.approx(found["difference"], abs=1e-3)
        chance, rival = np.log([found["probability"], found["rival_probability"]])
        assert found["difference"] == pytest.approx(chance - rival, abs=1e-3)
        assert found["count"] == len(whole.spoken)
        assert {one["attribute"] for one in found["spoken"]} == set(found["maps"])
        for name, side in found["maps"].items():
            np.testing.assert_allclose(side, whole.maps[name])


def test_of_many_attributes_the_first_are_sent_and_the_others_added_up(own_bundle, monkeypatch):
    monkeypatch.setattr(desk_module, "MOST_SPOKEN", 2)
    desk = opened(own_bundle(rule="gaussian", explain=True))
    found, whole = desk.explain(FILES[0], "a.png"), desk.classifier.explain(FILES[0])
    assert len(found["spoken"]) == len(found["maps"]) == 2
    assert found["others"] == pytest.approx(sum(one.contribution for one in whole.spoken[2:]))
    assert found["count"] == len(whole.spoken) > 2


def test_a_bundle_without_a_read_out_says_so(desk):
    assert desk.about()["explains"] is False
    raised("E-EXPLAIN", desk.explain, FILES[0], "a.png")


# --- signatures -------------------------------------------------------------------------------------------------------


def test_changes_are_signed_by_whoever_starts_the_page(own_bundle, signing, maker, monkeypatch):
    """Where signatures are demanded nothing is changed without a key, and with one everything is taken."""
    path = own_bundle(rule="gaussian")
    signer = open_signer(str(maker.private), None)
    sign_bundle(open_to_vouch(path, signer, fixed=True), signer, fixed=True)
    monkeypatch.setenv("ZSL_REQUIRE_SIGNATURE", str(maker.public))
    desk = opened(path)
    assert "give --sign KEY" in desk.state()["closed"]
    raised("E-PAGE-CLOSED", desk.remove, ["tit"])
    desk = Desk(Classifier.open(Bundle.open(path, signer=signer), "ort", threads=1))
    assert desk.state()["closed"] == ""
    digest = desk.look_at(FILES[0])["digest"]
    desk.add(newcomer("jay"), {"jay": [digest]})
    desk.undo(2, 1)
    assert Bundle.open(path).current().number == 3
    assert (path / "classes" / "000003.sig").exists()
