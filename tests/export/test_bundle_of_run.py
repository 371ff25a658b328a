"""The bundle of a run answers as the run does, takes new classes without torch, and is whole or absent."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from support import tiny_run as tiny
from support.forked import allow_fork, become_nobody, forked, killed_at_every_step, public_folder
from zsl_export import bundle_of_run
from zsl_export.bundle_of_run import export_run
from zsl_export.parity import reference_rows, reference_scores
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes, refit, undo
from zsl_runtime.cli.doctor import main as doctor
from zsl_runtime.errors import GateError, SystemProblem, UsageError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.head import fold
from zsl_runtime.labelling.classifier import Classifier

assert public_folder  # a fixture

NEW = ClassTable(
    names=("heron",),
    seen=np.array([False]),
    raw=np.array([[90.0, 1, 50, 2, 70, 5]]),
    attributes=tuple(f"attribute {letter}" for letter in "abcdef"),
)


@pytest.fixture
def copy(exported, tmp_path):
    """A bundle that may be changed."""
    return Bundle.open(shutil.copytree(exported.bundle, tmp_path / "copy"))


def tree(folder) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too, but for the locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def names(folder) -> list[str]:
    return [path.name for path in folder.iterdir()]


# What the bundle answers.


def test_the_classifier_scores_as_pytorch_does(exported):
    run = exported.run
    features, lifted = reference_rows(run)
    wanted = reference_scores(lifted, fold(run.generation.head, run.generation.table.seen))
    with Classifier.open(exported.bundle) as classifier:
        for count in (1, 5, 70):
            scores, given = classifier.score(run.pictures[:count])
            np.testing.assert_allclose(given, features[:count], atol=1e-5)
            np.testing.assert_allclose(scores, wanted[:count], atol=1e-5)
        best = classifier.predict(run.pictures[:9], topk=1)
    assert [prediction.names[0] for prediction in best] == [run.generation.table.names[j] for j in wanted[:9].argmax(1)]


def test_the_probe_is_reproduced_by_whoever_runs_it(exported, capsys):
    probe = Bundle.open(exported.bundle).probe()
    assert np.array_equal(probe.pixels, exported.run.pictures[:6])
    with Classifier.open(exported.bundle) as classifier:
        scores, features = classifier.score(probe.pixels)
    np.testing.assert_allclose(features, probe.features, atol=1e-6)
    np.testing.assert_allclose(scores, probe.scores, atol=1e-6)
    assert probe.top1.tolist() == probe.scores.argmax(axis=1).tolist()
    assert doctor([str(exported.bundle)]) == 0


def test_the_manifest_says_what_was_trained_and_exported(exported):
    manifest = Bundle.open(exported.bundle).manifest
    run = exported.run
    assert manifest["method"] == "tiny"
    assert manifest["backbone"] == {
        "name": "tiny",
        "weights_sha256": run.backbone.weights_sha256,
        "size": 16,
        "regions": 16,
        "channels": 12,
    }
    assert manifest["pixels"] == {"resize": 16, "crop": 16, "version": 1}
    assert manifest["input"] == {"name": "images", "dtype": "uint8", "shape": ["N", 16, 16, 3]}
    assert manifest["dims"] == {"F": 10, "D": 18, "A": 6, "Z": 4}
    assert manifest["head"]["seed"] == run.seed
    assert manifest["head"]["synthetic_per_class"] == 30
    assert (manifest["recipe"], manifest["scores"]) == (run.recipe, run.scores)
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["versions"]["training"] == run.info["versions"]
    assert set(manifest["files"]) == {
        *("model.onnx", "synthesizer.onnx", "lift.onnx", "replay.safetensors", "probe.safetensors"),
        "readout.safetensors",
    }
    assert manifest["explain"] == {"readout": "readout.safetensors", "graph": None, "regions": 0}
    assert (exported.bundle / "parity.json").is_file()  # `zsl-export --verify` writes it anew, so it is not listed


def test_generation_and_replay_are_the_run_s(exported):
    bundle, run = Bundle.open(exported.bundle), exported.run
    found, wanted = bundle.current(), run.generation
    assert (found.number, found.parent, found.seed, found.action) == (1, 0, run.seed, "export")
    assert found.table.names == wanted.table.names
    assert np.array_equal(found.table.raw, wanted.table.raw)
    for given, expected in zip(found.head.weights, wanted.head.weights, strict=True):
        assert np.array_equal(given, expected)
    assert (found.head.gamma, found.head.temperature) == (0.3, 0.8)
    assert np.array_equal(bundle.replay().features, run.replay.features)
    assert np.array_equal(bundle.replay().labels, run.replay.labels)


def test_the_user_is_told_what_was_done_and_how_long_it_took(exported):
    text = "\n".join(exported.told)
    for part in ("model.onnx", "synthesizer.onnx", "lift.onnx"):
        assert f"exported {part} (" in text
    assert "ok   best class: 70 rows, 100.00% agree" in text


def test_a_run_without_a_lift_makes_a_bundle_without_one(tmp_path):
    run = tiny.make_tiny_run(lift=False, pictures=12)
    bundle = Bundle.open(export_run(run, tmp_path / "plain"))
    assert bundle.graph("lift") is None
    assert bundle.manifest["dims"]["D"] == bundle.manifest["dims"]["F"] == 10
    _, lifted = reference_rows(run)
    with Classifier.open(bundle.path) as classifier:
        scores, _ = classifier.score(run.pictures)
    np.testing.assert_allclose(
        scores, reference_scores(lifted, fold(run.generation.head, run.generation.table.seen)), atol=1e-5
    )
    assert len(add_classes(bundle, NEW).generation.table) == 8


@pytest.mark.parametrize("lift", [False, True])
def test_a_run_whose_rows_come_from_attributes(exported_rows, tmp_path, lift, capfd):
    """Its bundle keeps rows.onnx alone, answers as PyTorch does, and takes a class as training would have."""
    if lift:
        run, told = tiny.make_tiny_run(rule="rows", lift=True, pictures=12), []
        bundle = Bundle.open(export_run(run, tmp_path / "rows", tell=told.append))
    else:
        run, told = exported_rows.run, exported_rows.told
        bundle = Bundle.open(shutil.copytree(exported_rows.bundle, tmp_path / "rows"))
    files = {"model.onnx", "rows.onnx", "probe.safetensors", "readout.safetensors", *(["lift.onnx"] if lift else [])}
    assert set(bundle.manifest["files"]) == files
    assert bundle.manifest["head"] == {
        "rule": "rows",
        "views": [{"name": "all", "start": 0, "stop": 18 if lift else 10, "weight": 1.0, "fit": None}],
        "synthetic_per_class": 0,
        "seed": run.seed,
    }
    assert (bundle.manifest["format_version"], bundle.manifest["dims"]["Z"]) == (2, 0)
    assert any(line.startswith("rows.onnx: 70 random rows, batches of") for line in told)
    _, lifted = reference_rows(run)
    with Classifier.open(bundle.path) as classifier:
        scores, _ = classifier.score(run.pictures)
    wanted = reference_scores(lifted, fold(run.generation.head, run.generation.table.seen))
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    assert doctor([str(bundle.path)]) == 0
    assert "rows are computed from attributes" in capfd.readouterr().out
    head = refit(bundle).generation.head
    np.testing.assert_allclose(head.weights[0], run.generation.head.weights[0], atol=1e-5)
    whole = tiny.fit_tiny_head(run.trained, run.generation.table.append(NEW), run.replay)
    added = add_classes(bundle, NEW).generation.head
    np.testing.assert_allclose(added.weights[0], whole.weights[0], atol=1e-5)
    np.testing.assert_allclose(added.biases[0], whole.biases[0], atol=1e-5)
    assert np.ptp(whole.weights[0], axis=0).max() > 0.1


@pytest.mark.parametrize("name", ["project.weight", "bias"])
def test_rows_that_differ_from_the_run_s_fail_the_gate(exported_rows, tmp_path, monkeypatch, name):
    honest = tiny.TinyRows.forward

    class Off(torch.nn.Module):
        def __init__(self, rows) -> None:
            super().__init__()
            self.rows = rows

        def forward(self, semantic):
            weight, bias = honest(self.rows, semantic)
            return (weight * 1.001, bias) if name == "project.weight" else (weight, bias + 0.01)

    plain, trace = bundle_of_run.rows_graph, bundle_of_run.export_graph

    def export(graph, path, metadata) -> None:
        if path.name == "rows.onnx":
            trace(graph, path, metadata)
        else:
            shutil.copyfile(exported_rows.bundle / path.name, path)

    def wrong(trained, attributes):
        graph = plain(trained, attributes)
        graph.module.rows = Off(graph.module.rows)
        return graph

    monkeypatch.setattr(bundle_of_run, "rows_graph", wrong)
    monkeypatch.setattr(bundle_of_run, "export_graph", export)
    with pytest.raises(GateError, match=r"E-PARITY.*rows\.onnx weight"):
        export_run(exported_rows.run, tmp_path / "rows")
    assert list(tmp_path.iterdir()) == []


# New classes, without torch.


def test_a_class_added_on_site_gets_the_row_that_training_would_have_given_it(exported, copy):
    """The whole head fitted through ONNX Runtime against the same fit through PyTorch's own synthesizer and lift."""
    run = exported.run
    change = add_classes(copy, NEW)
    whole = run.generation.table.append(NEW)
    wanted = tiny.fit_tiny_head(run.trained, whole, run.replay)
    assert change.generation.table.names == whole.names
    for given, expected in zip(change.generation.head.weights, wanted.weights, strict=True):
        np.testing.assert_allclose(given, expected, atol=1e-4)


def test_undo_restores_the_answers(exported, copy):
    pictures = exported.run.pictures[:20]
    with Classifier.open(copy.path) as classifier:
        before, _ = classifier.score(pictures)
        add_classes(copy, NEW)
        assert classifier.reload()
        after, _ = classifier.score(pictures)
        undo(copy)
        assert classifier.reload()
        restored, _ = classifier.score(pictures)
    assert after.shape == (20, 8)
    assert np.array_equal(restored, before)


def test_refit_with_the_export_s_seed_gives_generation_1_again(exported, copy):
    head = refit(copy).generation.head
    for given, expected in zip(head.weights, exported.run.generation.head.weights, strict=True):
        np.testing.assert_allclose(given, expected, atol=1e-4)
    assert (head.gamma, head.temperature) == (0.3, 0.8)


# Whose data.


def test_without_probe_images_no_picture_is_in_the_bundle(exported, traced_before, tmp_path):
    export_run(exported.run, tmp_path / "private", probe_images=False)
    probe = Bundle.open(tmp_path / "private").probe()
    assert probe.pixels is None
    assert len(probe.scores) == 6
    rows = [picture[8].tobytes() for picture in exported.run.pictures]
    assert any(rows[0] in data for data in tree(exported.bundle).values())
    assert not any(row in data for row in rows for data in tree(tmp_path / "private").values())


# Whole or absent.


def test_without_what_explains_a_bundle_labels_and_explains_nothing(exported, traced_before, tmp_path):
    path = export_run(exported.run, tmp_path / "bundle", explain=False)
    manifest = Bundle.open(path).manifest
    assert "explain" not in manifest
    assert "readout.safetensors" not in manifest["files"]
    with Classifier.open(path) as classifier:
        assert classifier.predict([exported.run.pictures[0]])[0].names
        with pytest.raises(UsageError, match="without what labels are explained with"):
            classifier.explain(exported.run.pictures[0])


def test_an_existing_bundle_needs_force_and_is_refused_before_any_work(exported, traced_before, tmp_path, monkeypatch):
    place = shutil.copytree(exported.bundle, tmp_path / "there")
    before = tree(place)
    with monkeypatch.context() as patch:
        patch.setattr(bundle_of_run, "model_graph", None)
        with pytest.raises(UsageError, match=r"E-BUNDLE-EXISTS: .*there exists; give --force"):
            export_run(exported.run, place)
    assert tree(place) == before
    export_run(exported.run, place, force=True, probe_images=False)
    assert Bundle.open(place).probe().pixels is None
    assert names(tmp_path) == ["there"]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_bundle_is_never_replaced(exported, tmp_path, force):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UsageError, match="E-BUNDLE-DEST"):
        export_run(exported.run, tmp_path / "thesis", force=force)
    assert tree(tmp_path) == {"thesis/chapter.txt": b"years of work"}


def test_a_failed_gate_leaves_no_bundle_and_no_litter(exported, traced_before, tmp_path, monkeypatch):
    honest = bundle_of_run.export_graph

    def wrong(graph, path, metadata):
        honest(graph, path, metadata)
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            if tensor.name == "embedder.project.bias":
                values = onnx.numpy_helper.to_array(tensor) + np.float32(0.01)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, path)

    monkeypatch.setattr(bundle_of_run, "export_graph", wrong)
    told = []
    with pytest.raises(GateError, match=r"E-PARITY.*model\.onnx features.*no bundle was written"):
        export_run(exported.run, tmp_path / "bundle", tell=told.append)
    assert list(tmp_path.iterdir()) == []
    assert any(line.startswith("  FAIL features") for line in told)
    old = shutil.copytree(exported.bundle, tmp_path / "old")
    with pytest.raises(GateError):
        export_run(exported.run, old, force=True)
    assert tree(old) == tree(exported.bundle)


@pytest.mark.parametrize("line", ["exported model.onnx", "exported lift.onnx", "compared"])
def test_ctrl_c_cleans_up(exported, traced_before, tmp_path, line):
    def interrupt(told):
        if told.startswith(line):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_run(exported.run, tmp_path / "bundle", tell=interrupt)
    assert list(tmp_path.iterdir()) == []


def export_in_child(exported, place, *, force=False):
    """`export_run` for a forked child, errors printed as the command does; torch's threads do not survive a fork."""

    def action() -> int:
        torch.set_num_threads(1)
        try:
            export_run(exported.run, place, force=force)
        except SystemProblem as error:
            print(f"error: {error}", flush=True)
            return error.exit_code
        return 0

    return action


@allow_fork
@pytest.mark.parametrize("limit", [0, 2000, 5000])
def test_a_full_disk_is_one_line_and_leaves_nothing(exported, traced_before, tmp_path, limit):
    """The limits fail the first graph, a later one, and a file of the bundle itself."""
    outcome = forked(export_in_child(exported, tmp_path / "bundle"), file_limit=limit)
    assert (outcome.code, outcome.stdout.count("\n")) == (2, 1), outcome
    assert "E-SYSTEM: could not write the bundle" in outcome.stdout
    assert "File too large" in outcome.stdout
    assert list(tmp_path.iterdir()) == []


@allow_fork
def test_a_place_that_may_not_be_written_is_one_line_before_any_graph_is_traced(exported, public_folder, monkeypatch):
    monkeypatch.setattr(bundle_of_run, "model_graph", None)
    outcome = forked(export_in_child(exported, public_folder / "bundle"), **become_nobody())
    assert (outcome.code, outcome.stdout.count("\n")) == (2, 1), outcome
    assert "E-SYSTEM: could not write the bundle" in outcome.stdout
    assert "Permission denied" in outcome.stdout
    assert names(public_folder) == []


def test_a_place_below_a_file_is_a_system_problem(exported, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemProblem, match="E-SYSTEM: could not write the bundle"):
        export_run(exported.run, tmp_path / "file" / "bundle")
    assert names(tmp_path) == ["file"]


@allow_fork
def test_killed_while_the_graphs_are_compared_and_cleaned_by_the_next_export(exported, traced_before, tmp_path):
    def die(line):
        if line.startswith("compared"):
            os.kill(os.getpid(), signal.SIGKILL)

    def action():
        torch.set_num_threads(1)
        export_run(exported.run, tmp_path / "bundle", tell=die)

    assert forked(action).code == -signal.SIGKILL
    assert [path.name[:12] for path in tmp_path.iterdir()] == [".tmp-bundle-"]
    export_run(exported.run, tmp_path / "bundle")
    assert names(tmp_path) == ["bundle"]


@allow_fork
def test_killed_exports_do_not_pile_up(exported, traced_before, tmp_path):
    """Each begins by removing what killed ones left, and never what a living one is at."""

    def die(line):
        os.kill(os.getpid(), signal.SIGKILL)

    def action():
        torch.set_num_threads(1)
        export_run(exported.run, tmp_path / "bundle", tell=die)

    with bundle_of_run.working_folder(tmp_path / "bundle") as living:
        for _ in range(3):
            assert forked(action).code == -signal.SIGKILL
            assert len(list(tmp_path.iterdir())) == 2
        assert living.is_dir()


@pytest.mark.slow
@allow_fork
@pytest.mark.parametrize("replacing", [False, True])
def test_kill_9_at_any_step_leaves_no_half_bundle(exported, traced_before, tmp_path, replacing):
    place = tmp_path / "bundle"
    old = tree(exported.bundle)
    if replacing:
        shutil.copytree(exported.bundle, place)
    run = replace(exported.run, scores={"H": 99.0})
    steps, new = 0, False
    for _ in killed_at_every_step(export_in_child(exported._replace(run=run), place, force=replacing)):
        steps += 1
        assert place.exists() or not replacing
        if place.exists():
            found = Bundle.open(place)
            assert found.current().number == 1
            new = found.manifest["scores"] == {"H": 99.0}
            assert new or tree(place) == old
            if not replacing:
                shutil.rmtree(place)
    assert steps > 20
    assert new
    assert names(tmp_path) == (["bundle"] if replacing else [])
