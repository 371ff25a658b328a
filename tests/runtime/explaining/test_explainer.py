"""An opened bundle explains its labels: sums against the graph's own scores, maps against NumPy, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.tiny_bundle import ATTRIBUTES, SIDE, class_table, draw_pictures, maps_of
from support.usable import FROM_GRAPHS, usable_backend
from zsl_runtime import Classifier
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.explaining.explainer import Answered

RULES = ("gaussian", "fit", "rows")


def total(one) -> float:
    return sum(spoken.contribution for spoken in one.spoken) + one.rest + one.seen_handicap


def pictures(count: int = 24, seed: int = 5) -> np.ndarray:
    table = class_table()
    return draw_pictures(table, np.arange(count) % len(table), seed)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("backend", FROM_GRAPHS)
def test_the_sum_is_the_difference_that_the_graph_gives_for_every_rule_and_backend(
    shared_bundle, rule, backend
) -> None:
    with Classifier.open(shared_bundle(rule=rule, explain=True), usable_backend(backend), threads=1) as classifier:
        drawn = pictures()
        snapshot = classifier.snapshot()
        answers = classifier.score_with(snapshot, drawn)
        found = classifier.explained(snapshot, [f"{i}.png" for i in range(len(drawn))], drawn, answers)
        scores = np.sort(answers[0].astype(np.float64), axis=1)
        names = classifier.class_table.names
        for one, row, best in zip(found, scores, answers[0].argsort(axis=1), strict=True):
            assert one.difference == pytest.approx(row[-1] - row[-2], abs=1e-6)
            scale = 1 + sum(abs(spoken.contribution) for spoken in one.spoken) + abs(one.rest)
            assert total(one) == pytest.approx(one.difference, abs=1e-4 * scale)
            assert (one.answer, one.rival) == (names[best[-1]], names[best[-2]])
            assert one.probability == pytest.approx(np.exp(row[-1]))
            assert one.rival_probability == pytest.approx(np.exp(row[-2]))
            assert one.spoken
            assert "größe" not in {spoken.attribute for spoken in one.spoken}  # it cannot be read


@given(seed=st.integers(0, 2**31), most=st.integers(2, 8))
@settings(max_examples=25)
def test_the_sum_holds_for_any_picture_and_any_filter(shared_bundle, seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    with Classifier.open(shared_bundle(rule="gaussian", explain=True), "ort", threads=1) as classifier:
        some = rng.permutation(classifier.class_table.names)[:most].tolist()
        one = classifier.explain(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), some)
        assert {one.answer, one.rival} <= set(some)
        handicaps = {name: -0.4 / 1.25 if seen else 0.0 for name, seen in zip(*class_names(classifier), strict=True)}
        assert one.seen_handicap == pytest.approx(handicaps[one.answer] - handicaps[one.rival], abs=1e-6)
        scale = 1 + sum(abs(spoken.contribution) for spoken in one.spoken) + abs(one.rest)
        assert total(one) == pytest.approx(one.difference, abs=1e-4 * scale)
        table = classifier.class_table
        for spoken in one.spoken:
            column = table.attributes.index(spoken.attribute)
            assert spoken.answer == table.raw[table.index(one.answer), column]
            assert spoken.rival == table.raw[table.index(one.rival), column]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_sum_holds_in_lower_precision(shared_bundle, precision: str) -> None:
    path = shared_bundle(rule="gaussian", explain=True, precisions=("fp32", "fp16", "int8-cpu"))
    with Classifier.open(path, "ort", precision=precision, threads=1) as classifier:
        for picture in pictures(8):
            one = classifier.explain(picture)
            assert total(one) == pytest.approx(one.difference, rel=1e-3, abs=1e-3)


def class_names(classifier: Classifier) -> tuple[tuple[str, ...], list[bool]]:
    return classifier.class_table.names, classifier.class_table.seen.tolist()


def test_attributes_that_are_not_known_of_a_class_say_nothing(shared_bundle) -> None:
    with Classifier.open(shared_bundle(rule="gaussian", explain=True), "ort", threads=1) as classifier:
        table = class_table()
        duck = draw_pictures(table, np.array([7]), 3)[0]  # of which `bright top` is not known
        one = classifier.explain(duck, ["übersee-ente", "gull"])
        assert "bright top" not in {spoken.attribute for spoken in one.spoken}
        assert "bright left" not in {spoken.attribute for spoken in one.spoken}  # both have the same
        gull = classifier.explain(draw_pictures(table, np.array([3]), 3)[0], ["gull", "crow"])
        assert "bright top" in {spoken.attribute for spoken in gull.spoken}


def test_maps_are_those_of_the_graph_and_have_the_shape_of_the_picture(shared_bundle) -> None:
    with Classifier.open(shared_bundle(rule="gaussian", explain=True), "ort", threads=1) as classifier:
        drawn = pictures(3)
        wanted = maps_of(drawn)
        for picture, maps in zip(drawn, wanted, strict=True):
            found = classifier.explain(picture).maps
            assert found is not None
            assert tuple(found) == ATTRIBUTES
            for name, row in zip(ATTRIBUTES, maps, strict=True):
                assert found[name] == pytest.approx(row.reshape(2, 2), abs=1e-5)
                assert found[name].sum() == pytest.approx(1, abs=1e-5)


def test_maps_lie_where_the_manifest_says_that_regions_are(shared_bundle) -> None:
    """Regions centred 1 and 4 pixels into the square of 8: of four tiles, centred at 1, 3, 5 and 7, the last two are
    at the second region or beyond."""
    bundle = shared_bundle(rule="gaussian", explain=True, centres=(1.0, 3.0))
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        drawn = pictures(2)
        take = np.array([[1, 0], [1 / 3, 2 / 3], [0, 1], [0, 1]])
        for picture, maps in zip(drawn, maps_of(drawn), strict=True):
            found = classifier.explain(picture).maps
            for name, row in zip(ATTRIBUTES, maps, strict=True):
                wanted = take @ row.reshape(2, 2) @ take.T
                assert found[name] == pytest.approx(wanted / wanted.sum(), abs=1e-5)


def test_feature_rows_are_explained_without_maps(shared_bundle) -> None:
    with Classifier.open(shared_bundle(kind="backbone_features", explain=True), "ort", threads=1) as classifier:
        one = classifier.explain(np.full((4, 3), 0.5, np.float32))
        assert one.maps is None
        assert one.spoken


def test_one_class_alone_has_no_rival(shared_bundle) -> None:
    with Classifier.open(shared_bundle(rule="gaussian", explain=True), "ort", threads=1) as classifier:
        one = classifier.explain(pictures(1)[0], ["wren"])
        assert (one.answer, one.rival, one.probability, one.rival_probability) == ("wren", None, pytest.approx(1), 0)
        assert (one.spoken, one.rest, one.seen_handicap, one.difference) == ((), 0, 0, 0)


def test_a_picture_has_the_name_of_its_path(shared_bundle, tmp_path) -> None:
    from PIL import Image

    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    with Classifier.open(shared_bundle(rule="gaussian", explain=True), "ort", threads=1) as classifier:
        assert classifier.explain(tmp_path / "a.png").name == str(tmp_path / "a.png")
        assert classifier.explain(pictures(1)[0]).name == ""


def test_what_is_learnt_later_is_explained_too(own_bundle) -> None:
    with Classifier.open(own_bundle(rule="gaussian", explain=True), "ort", threads=1) as classifier:
        before = classifier.explain(pictures(1)[0])
        table = class_table()
        classifier.teach({"robin": list(draw_pictures(table, np.array([1, 1, 1]), 8))})
        after = classifier.explain(pictures(1)[0])
        assert before.difference != after.difference
        for one in (before, after):
            assert total(one) == pytest.approx(one.difference, abs=1e-3)


def test_a_bundle_that_explains_nothing_says_what_to_do(shared_bundle) -> None:
    classifier = Classifier.open(shared_bundle(rule="gaussian"), "ort", threads=1)
    with classifier, pytest.raises(UsageError) as caught:
        classifier.explain(pictures(1)[0])
    assert caught.value.code == "E-EXPLAIN"
    assert "export the run again" in caught.value.message


@pytest.mark.parametrize("name", ["readout.safetensors", "explain.onnx"])
def test_damage_of_what_explains_is_met_when_it_explains_and_not_before(own_bundle, name: str) -> None:
    path = own_bundle(rule="gaussian", explain=True)
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with Classifier.open(path, "ort", threads=1) as classifier:  # labels are as they were
        assert classifier.predict([pictures(1)[0]])[0].names
        with pytest.raises(ArtefactError) as caught:
            classifier.explain(pictures(1)[0])
    assert caught.value.code in {"E-BUNDLE-HASH", "E-BUNDLE-GRAPH"}


def test_nothing_is_explained_of_no_pictures(shared_bundle) -> None:
    with Classifier.open(shared_bundle(rule="gaussian", explain=True), "ort", threads=1) as classifier:
        none = Answered((), pictures(1)[:0], np.zeros((0, 8), np.float32), np.zeros((0, 10), np.float32))
        snapshot = classifier.snapshot()
        assert classifier.explainer.explain(snapshot.generation, snapshot.head, none) == []
