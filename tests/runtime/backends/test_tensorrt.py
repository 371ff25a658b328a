"""Engines in the hands of users: which plan is loaded, what it must prove, and the API and command on a card.

The card and TensorRT are stand-ins (`support.fake_card`); the plans, the store and all of ours are real.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from support.drivers import pretend_driver
from support.fake_card import FakeCard
from support.tiny_bundle import as_regions, class_table, draw_pictures
from support.usable import auto_chooses_among
from zsl_runtime.backends import auto
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.backends.tensorrt import check
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.infer import main as infer
from zsl_runtime.errors import ArtefactError, BackendError, UsageError
from zsl_runtime.inputs.item import Item
from zsl_runtime.labelling.ahead import in_flight
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.labelling.reading import ReadItem
from zsl_runtime.labelling.scoring import label, score_ahead
from zsl_runtime.labelling.snapshot import Scored
from zsl_runtime.machine.cards import Card, Driver

if TYPE_CHECKING:
    from pathlib import Path

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8), seed=11)


@pytest.fixture
def path(own_bundle) -> Path:
    return own_bundle("b", precisions=("fp32", "fp16", "int8-trt"))


@pytest.fixture
def card(monkeypatch, tmp_path):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    made = FakeCard(monkeypatch, seed=2)
    yield made
    made.check()


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(20):
        Image.fromarray(PICTURES[i % 8]).save(folder / f"{i:02}.png")
    return folder


def without(bundle: Bundle, name: str) -> None:
    """Commit a generation without class `name`."""
    now = bundle.current()
    rows = np.array([j for j, known in enumerate(now.table.names) if known != name])
    with bundle.lock():
        table, head = now.table.take(rows), now.head.take(rows)
        bundle.commit(replace(now, number=now.number + 1, parent=now.number, table=table, head=head), {"names": [name]})


# --- which plan is loaded -------------------------------------------------------------------------------------------


def test_without_an_engine_the_error_has_the_command_that_builds_it(card, path):
    with pytest.raises(ArtefactError, match=r"E-ENGINE-MISSING: .*zsl-export .* --format engine") as caught:
        open_backend("tensorrt", Bundle.open(path))
    assert caught.value.exit_code == 5


def test_an_engine_of_another_version_is_not_loaded(card, path):
    card.add_engine(path, version="11.3.0.99")
    with pytest.raises(ArtefactError, match=r"E-ENGINE-MISMATCH: .*11\.3\.0\.99.* here is tensorrt 11\.4\.0\.106"):
        open_backend("tensorrt", Bundle.open(path))


def test_an_engine_for_fewer_classes_is_not_loaded(card, path):
    card.add_engine(path, classes=7)
    with pytest.raises(ArtefactError, match=r"E-ENGINE-MISMATCH: .* 8 classes \(it takes 7\)"):
        open_backend("tensorrt", Bundle.open(path))


def test_a_plan_that_was_changed_is_not_loaded(card, path):
    plan = card.add_engine(path)
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    backend = open_backend("tensorrt", Bundle.open(path))
    with pytest.raises(ArtefactError, match="E-ENGINE-HASH"):
        backend.input_port()
    assert card.trt.alive["runtime"] == 0


def test_somebody_else_s_plan_is_loaded_only_if_the_user_says_so(card, path):
    card.add_engine(path, trusted=False)
    bundle = Bundle.open(path)
    with pytest.raises(ArtefactError, match="E-ENGINE-TRUST") as caught:
        Classifier.open(bundle, "tensorrt")
    assert caught.value.exit_code == 5
    with pytest.raises(ArtefactError, match="E-ENGINE-TRUST"):
        check(bundle, "fp32", Card(0, "Fake 0", "8.9", 1))
    with Classifier.open(bundle, "tensorrt", trust_engine=True) as classifier:
        assert classifier.predict(PICTURES[:1], topk=1)[0].names == (TABLE.names[0],)


def test_each_precision_has_its_engine(card, path):
    bundle = Bundle.open(path)
    for precision in ("fp32", "fp16", "int8"):
        card.add_engine(bundle, precision)
        with Classifier.open(bundle, "tensorrt", precision=precision) as classifier:
            assert classifier.backend.precision == precision
            names = [one.names[0] for one in classifier.predict(PICTURES, topk=1)]
            assert names == list(TABLE.names)
    with pytest.raises(BackendError, match="E-PRECISION-BACKEND"):
        open_backend("tensorrt", bundle, precision="bf16")


@pytest.mark.parametrize("missing", ["tensorrt", "cuda.bindings"])
def test_what_is_missing_is_named_with_its_install_line(card, path, missing, monkeypatch):
    card.add_engine(path)
    monkeypatch.setitem(sys.modules, missing, None)
    bundle = Bundle.open(path)
    for call in (
        lambda: open_backend("tensorrt", bundle),
        lambda: check(bundle, "fp32", Card(0, "Fake 0", "8.9", 1)),
        lambda: check(None, "fp32", None),
    ):
        with pytest.raises(BackendError, match=r'pip install "zsl-deploy\[tensorrt\]"') as caught:
            call()
        assert (caught.value.code, caught.value.exit_code) == ("E-BACKEND-MISSING", 4)


def test_without_a_driver_the_device_is_told(card, path, monkeypatch):
    card.add_engine(path)
    pretend_driver(monkeypatch, Driver("", "", (), ""))

    def no_driver():
        raise RuntimeError("Failure finding libcuda.so.1")

    card.cuda.cudaGetDeviceCount = no_driver
    with pytest.raises(BackendError, match="cuda:0 cannot be used: Failure finding") as caught:
        open_backend("tensorrt", Bundle.open(path), device="cuda:0")
    assert (caught.value.code, caught.value.exit_code) == ("E-DEVICE", 4)


# --- a plan that never ran ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_plan_built_without_a_card_is_held_against_the_probe_once(card, path, precision):
    plan = card.add_engine(path, precision, gpu=None)
    runs = []
    for _ in range(2):
        before = len(card.trt.buckets)
        with Classifier.open(path, "tensorrt", precision=precision) as classifier:
            runs.append(len(card.trt.buckets) - before)
            assert classifier.predict(PICTURES[2:3], topk=1)[0].names == (TABLE.names[2],)
    assert runs == [1, 0]
    assert json.loads(plan.with_suffix(".json").read_bytes())["verified"] == {"probe": True, "on": "Fake 0"}


@pytest.mark.parametrize(("precision", "shift"), [("fp32", 0.02), ("fp16", 0.5), ("int8", 2.0), ("fp32", np.nan)])
def test_a_plan_with_other_answers_is_refused_and_nothing_of_it_stays(card, path, precision, shift):
    plan = card.add_engine(path, precision, gpu=None, shift=float(shift))
    with pytest.raises(ArtefactError, match=r"E-ENGINE-PROBE: .* on Fake 0: its features") as caught:
        Classifier.open(path, "tensorrt", precision=precision)
    assert caught.value.exit_code == 5
    assert "build it again (zsl-export" in caught.value.message
    assert json.loads(plan.with_suffix(".json").read_bytes())["verified"]["probe"] is False
    card.check()


def test_a_plan_that_never_ran_and_a_bundle_without_inputs_do_not_go_together(card, own_bundle):
    path = own_bundle("none")
    bundle = Bundle.open(path)
    probe = bundle.probe()._replace(pixels=None, inputs=None)
    object.__setattr__(bundle, "probe", lambda: probe)
    card.add_engine(bundle, gpu=None)
    with pytest.raises(ArtefactError, match=r"E-ENGINE-PROBE: .* never ran, and the bundle has no inputs"):
        Classifier.open(bundle, "tensorrt")
    card.add_engine(bundle)  # one that was built here needs none
    with Classifier.open(bundle, "tensorrt") as classifier:
        classifier.warmup()


# --- the API --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", ["all", "unseen"])
@pytest.mark.parametrize("topk", [1, 3, 99])
def test_predictions_are_those_of_the_cpu(card, path, classes, topk):
    card.add_engine(path)
    many = list(PICTURES) * 5
    with Classifier.open(path, "ort", threads=1) as on_cpu, Classifier.open(path, "tensorrt", threads=1) as on_card:
        assert (on_cpu.in_flight, on_card.in_flight) == (1, 2)
        expected = on_cpu.predict(many, topk, classes)
        found = on_card.predict(many, topk, classes)
        assert [one.names for one in found] == [one.names for one in expected]
        assert [one.seen for one in found] == [one.seen for one in expected]
        np.testing.assert_allclose(
            [one.probabilities for one in found], [one.probabilities for one in expected], atol=1e-6
        )
        scores, features = on_card.score(PICTURES, classes)
        for given, wanted in zip((scores, features), on_cpu.score(PICTURES, classes), strict=True):
            np.testing.assert_allclose(given, wanted, atol=1e-5)
    with pytest.raises(UsageError, match="E-CLOSED"):
        on_card.begin(on_card.snapshot(), PICTURES, 1)


def test_the_same_plan_serves_before_and_after_classes_were_changed(card, path):
    plan = card.add_engine(path)
    content = plan.read_bytes()
    with Classifier.open(path, "tensorrt", threads=1) as classifier:
        engines = card.trt.alive["engine"]
        assert classifier.predict(PICTURES[5:6], topk=1)[0].names == ("wren",)
        without(Bundle.open(path), "wren")
        assert classifier.reload()
        assert classifier.predict(PICTURES[5:6], topk=1)[0].names != ("wren",)
        assert card.trt.alive["engine"] == engines == 1
    assert plan.read_bytes() == content
    with Classifier.open(path, "tensorrt", threads=1) as classifier:
        assert "wren" not in classifier.class_table.names


def test_a_reload_that_does_not_fit_on_the_card_leaves_the_old_classes_in_use(card, path):
    card.add_engine(path)
    with Classifier.open(path, "tensorrt", threads=1) as classifier:
        assert classifier.predict(PICTURES[5:6], topk=1)[0].names == ("wren",)
        without(Bundle.open(path), "wren")
        room, card.cuda.memory = card.cuda.memory, card.cuda.used()
        with pytest.raises(BackendError, match="E-CUDA-MEMORY"):
            classifier.reload()
        assert classifier.generation == 1
        assert classifier.predict(PICTURES[5:6], topk=1)[0].names == ("wren",)
        card.cuda.memory = room
        assert classifier.reload()
        assert classifier.generation == 2


def test_threads_predict_while_another_reloads_and_every_answer_is_right(card, path):
    """Each answer belongs to one generation, whole, and is what the CPU says of that generation."""
    card.add_engine(path)
    bundle = Bundle.open(path)
    right = {}

    def learn() -> None:
        with Classifier.open(path, "ort", threads=1) as on_cpu:
            found = on_cpu.predict(PICTURES, topk=8)
            right[tuple(sorted(found[0].names))] = [one.names for one in found]

    learn()
    answers, failures = [], []
    stop = threading.Event()
    with Classifier.open(path, "tensorrt", threads=1) as classifier:

        def work(size: int) -> None:
            try:
                while not stop.is_set():
                    answers.append(classifier.predict(PICTURES, topk=8, batch_size=size))
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(size,)) for size in (8, 3, 1)]
        for thread in threads:
            thread.start()
        try:
            for name in ("wren", "tit", "crow", "gull"):
                without(bundle, name)
                learn()
                assert classifier.reload()
                before = len(answers)
                while len(answers) < before + 4 and not failures:
                    stop.wait(0.001)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert failures == []
    for answer in answers:
        names = [one.names for one in answer]
        assert names == right[tuple(sorted(names[0]))]
    assert len({tuple(sorted(answer[0].names)) for answer in answers}) > 1


def test_after_the_card_is_lost_the_process_goes_on_with_a_backend_of_the_cpu(card, path):
    card.add_engine(path)
    with Classifier.open(path, "tensorrt", threads=1) as classifier:
        expected = classifier.predict(PICTURES, topk=2)
        card.cuda.break_down("enqueue")
        with pytest.raises(BackendError, match="E-CUDA-LOST") as caught:
            classifier.predict(PICTURES, topk=2)
        assert caught.value.exit_code == 4
        classifier.switch("ort")
        found = classifier.predict(PICTURES, topk=2)
        assert [one.names for one in found] == [one.names for one in expected]
        assert (classifier.backend.name, classifier.in_flight) == ("ort", 1)
        with pytest.raises(BackendError):
            classifier.switch("tensorrt")  # the card is still lost
        assert classifier.predict(PICTURES[:1], topk=2)[0].names == expected[0].names
    with pytest.raises(UsageError, match="E-CLOSED"):
        classifier.switch("ort")
    card.cuda.lost = None


def test_auto_takes_a_card_that_has_an_engine_into_account(card, path, monkeypatch):
    auto_chooses_among(monkeypatch, "ort", "tensorrt")
    bundle = Bundle.open(path)
    assert open_backend("auto", bundle).name == "ort"  # there is no engine
    card.add_engine(path)
    seconds = {"tensorrt": 0.001, "ort": 0.01}
    monkeypatch.setattr(auto, "_in_turns", lambda backends, *_: {name: [seconds[name]] for name in backends})
    assert open_backend("auto", bundle).name == "tensorrt"
    backend = open_backend("auto", bundle, device="cuda:0")
    assert backend.device == "cuda:0"
    with pytest.raises(UsageError, match="E-DEVICE-BACKEND"):
        open_backend("tensorrt", bundle, device="cpu")


def test_what_the_card_ranks_is_as_far_as_the_cpu_says(card, own_bundle, photos, capsys):
    """The best columns come from the card, features with them; the lift and the distances are the CPU's."""
    path = own_bundle("far", rule="gaussian")
    card.add_engine(path)
    strange = np.random.default_rng(0).integers(0, 256, PICTURES[:3].shape, dtype=np.uint8)
    with Classifier.open(path, "ort", threads=1) as classifier:
        wanted = classifier.predict([*PICTURES, *strange])
    with Classifier.open(path, "tensorrt", threads=1) as classifier:
        assert classifier.backend.ranks(5)
        found = classifier.predict([*PICTURES, *strange], batch_size=4)
    np.testing.assert_allclose([one.distance for one in found], [one.distance for one in wanted], rtol=1e-3)
    assert [one.far for one in found] == [one.far for one in wanted] == [False] * 8 + [True] * 3
    assert [one.names[0] for one in found] == [one.names[0] for one in wanted]
    assert infer([str(photos), "--engine", str(path), "--backend", "tensorrt", "--topk", "1"]) == 0
    out, err = capsys.readouterr()
    assert [line.split(",")[6] for line in out.splitlines()[1:]] == ["false"] * 20
    assert "held-out pictures: 0 of 20" in err


# --- the pipeline ---------------------------------------------------------------------------------------------------


class Slow:
    """A classifier whose answers wait until they are asked for."""

    def __init__(self, in_flight: int = 2, fails_at: int = -1) -> None:
        self.in_flight, self.fails_at = in_flight, fails_at
        self.begun = self.answered = self.most = 0

    def begin(self, snapshot, rows, topk):
        if self.begun == self.fails_at:
            raise BackendError("E-CUDA-MEMORY", "no room")
        self.begun += 1
        self.most = max(self.most, self.begun - self.answered)
        outer = self

        class Later:
            def result(self):
                outer.answered += 1
                return snapshot.answer(rows)

        return Later()


class Snapshot:
    """Tells nothing but how many rows there were."""

    table = ("a", "b")

    def answer(self, rows):
        from zsl_runtime.graphs.answers import Answer, Best

        n = len(rows)
        values = np.array([row[0] for row in rows], np.float32)
        return Answer(None, None, Best(np.zeros((n, 1), np.int64), values[:, None]))


def test_batches_overlap_and_answers_come_in_order():
    classifier, snapshot = Slow(), Snapshot()
    rows = [ReadItem(str(i), np.array([i], np.float32)) for i in range(23)]
    batches = list(score_ahead(classifier, snapshot, rows, batch_size=5, topk=1))
    assert [name for batch in batches for name, _ in batch.entries] == [str(i) for i in range(23)]
    assert np.concatenate([batch.best.scores for batch in batches]).ravel().tolist() == list(range(23))
    assert classifier.most == 2


def test_what_was_begun_is_answered_before_a_failure_is_raised():
    classifier, snapshot = Slow(fails_at=3), Snapshot()
    rows = [ReadItem(str(i), np.array([i], np.float32)) for i in range(30)]
    found = []
    with pytest.raises(BackendError, match="no room"):
        found.extend(len(batch.entries) for batch in score_ahead(classifier, snapshot, rows, batch_size=5, topk=1))
    assert found == [5, 5, 5]


def test_an_error_of_an_answer_ends_it_and_closes_the_batches():
    closed = []

    def batches():
        try:
            yield from range(10)
        finally:
            closed.append(True)

    class Broken:
        def result(self):
            raise BackendError("E-CUDA-LOST", "gone")

    with pytest.raises(BackendError, match="gone"):
        list(in_flight(lambda _: Broken(), batches(), 2))
    assert closed


def test_unreadable_items_stay_in_their_places(card, path):
    from zsl_runtime.errors import InputError

    card.add_engine(path)
    rows = []
    for i in range(9):
        rows += [ReadItem(f"good {i}", PICTURES[i % 8]), ReadItem(f"bad {i}", InputError("E-IMAGE-DECODE", f"{i}"))]
    with Classifier.open(path, "tensorrt", threads=1) as classifier:
        snapshot = classifier.snapshot()
        batches = list(score_ahead(classifier, snapshot, rows, batch_size=4, topk=2))
        assert all(isinstance(batch, Scored) for batch in batches)
        lines = [line for answer in label(classifier, snapshot, batches, topk=2) for line in answer]
    assert [line.name for line in lines] == [row.name for row in rows]
    assert [getattr(line.result, "names", (None,))[0] for line in lines[::2]] == [TABLE.names[i % 8] for i in range(9)]
    assert all(isinstance(line.result, InputError) for line in lines[1::2])
    only_bad = [ReadItem("x", InputError("E-IMAGE-DECODE", "y"))]
    assert Item("x", None).name == "x"
    with Classifier.open(path, "tensorrt", threads=1) as classifier:
        (batch,) = score_ahead(classifier, classifier.snapshot(), only_bad, batch_size=4, topk=2)
        assert batch.scores.shape == (0, 8)


# --- the command ----------------------------------------------------------------------------------------------------


def run(capsys, *arguments) -> tuple[int, str, list[str]]:
    code = infer(["--quiet", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def as_columns(text: str) -> list[list[str]]:
    """Without probabilities, whose last digits depend on the backend."""
    return [line.split(",")[:4] for line in text.splitlines()]


def test_the_command_labels_on_a_card_as_on_the_cpu(card, path, photos, capsys):
    card.add_engine(path)
    _, expected, _ = run(capsys, photos, "--engine", path, "--backend", "ort")
    for extra in (["--batch-size", "3"], ["--batch-size", "32", "--topk", "5"], ["--device", "cuda:0", "--profile"]):
        code, out, err = run(capsys, photos, "--engine", path, "--backend", "tensorrt", *extra)
        assert code == 0
        assert as_columns(out) == as_columns(expected)
        assert any("backend tensorrt (tensorrt 11.4.0.106 on Fake 0) on cuda:0, fp32" in line for line in err)
    _, cascaded, _ = run(capsys, photos, "--engine", path, "--backend", "ort", "--cascade")
    code, out, _ = run(capsys, photos, "--engine", path, "--backend", "tensorrt", "--cascade")
    assert (code, as_columns(out)) == (0, as_columns(cascaded))


def test_a_plan_stands_for_its_bundle_and_for_tensorrt(card, path, photos, capsys):
    plan = card.add_engine(path)
    code, out, err = run(capsys, photos, "--engine", plan)
    assert code == 0
    assert len(out.splitlines()) == 101
    assert "backend tensorrt" in err[-1]
    other = card.add_engine(path, "fp16")
    code, _, err = run(capsys, photos, "--engine", other)
    assert code == 0
    assert "on cuda:0, fp16, generation 1" in err[-1]
    code, _, err = run(capsys, photos, "--engine", other, "--precision", "fp32")
    assert "on cuda:0, fp32, generation 1" in err[-1]
    other.with_suffix(".json").write_text("{}")
    code, _, err = run(capsys, photos, "--engine", other)
    assert code == 5
    assert err[0].startswith("error: E-ENGINE-SIDECAR")


def test_rebuild_builds_when_nothing_fits_says_so_and_goes_on(card, path, photos, capsys):
    card.add_engine(path, version="11.3.0.99")
    arguments = (photos, "--engine", path, "--backend", "tensorrt")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (5, "")
    assert err[0].startswith("error: E-ENGINE-MISMATCH: ")
    code, out, err = run(capsys, *arguments, "--rebuild", "--batch-size", 100)
    assert code == 0
    assert len(out.splitlines()) == 101
    assert err[0].startswith("E-ENGINE-MISMATCH: ")
    assert err[0].endswith("building an engine now")
    assert any("building the fp32 engine with tensorrt 11.4.0.106 for Fake 0" in line for line in err)
    assert any(line.startswith("wrote ") for line in err)
    (built,) = card.built
    assert [str(profile) for profile in built["profiles"]] == ["1..8 (best 1)", "1..100 (best 100)"]
    code, again, err = run(capsys, *arguments, "--rebuild")
    assert (code, as_columns(again)) == (0, as_columns(out))
    assert len(card.built) == 1  # there is one now
    assert len(err) == 1


@pytest.mark.parametrize("damage", ["missing", "bytes"])
def test_rebuild_cures_what_is_missing_or_damaged_and_nothing_else(card, path, photos, capsys, damage):
    plan = card.add_engine(path)
    if damage == "missing":
        plan.unlink()
    else:
        plan.write_bytes(plan.read_bytes()[:-3] + b"...")
    arguments = (photos, "--engine", path, "--backend", "tensorrt")
    code, _, err = run(capsys, *arguments)
    assert code == 5
    assert err[0].startswith("error: E-ENGINE-MISSING" if damage == "missing" else "error: E-ENGINE-HASH")
    assert run(capsys, *arguments, "--rebuild")[0] == 0
    shutil.rmtree(path / "engines")
    card.add_engine(path, trusted=False, shift=1e-9)  # other bytes than those that were built here
    assert run(capsys, *arguments, "--rebuild")[0] == 5
    code, out, _ = run(capsys, *arguments, "--trust-engine")
    assert (code, len(out.splitlines())) == (0, 101)


def test_rebuild_is_for_tensorrt(card, path, photos, capsys):
    code, _, err = run(capsys, photos, "--engine", path, "--rebuild")
    assert code == 2
    assert err == ["error: E-REBUILD: --rebuild builds TensorRT engines; give --backend tensorrt, too, or leave it out"]


def test_a_card_that_is_lost_ends_the_command_with_exit_code_4_and_what_was_finished_is_written(
    card, path, photos, capsys
):
    card.add_engine(path)
    real, runs = card.cuda.cudaGraphLaunch, []

    def launch(graph, stream):
        runs.append(graph)
        if len(runs) == 3:
            card.cuda.break_down("enqueue")
        return real(graph, stream)

    card.cuda.cudaGraphLaunch = launch
    code, out, err = run(capsys, photos, "--engine", path, "--backend", "tensorrt", "--batch-size", 2)
    assert code == 4
    assert err[-1].startswith("error: E-CUDA-LOST: cuda:0 could not finish the work on the card: ")
    done = as_columns(out)
    assert len(done) > 1
    assert (len(done) - 1) % 10 == 0  # whole batches of 2 pictures with 5 classes each
    card.cuda.lost = None


def test_rows_of_features_go_the_same_way(card, own_bundle, tmp_path, capsys):
    path = own_bundle("rows", kind="backbone_features")
    card.add_engine(path)
    np.save(tmp_path / "rows.npy", as_regions(PICTURES))
    arguments = (tmp_path / "rows.npy", "--engine", path, "--batch-size", 3)
    _, expected, _ = run(capsys, *arguments, "--backend", "ort")
    code, out, _ = run(capsys, *arguments, "--backend", "tensorrt")
    assert (code, as_columns(out)) == (0, as_columns(expected))
