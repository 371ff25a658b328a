"""The whole line on photographs, by the commands a user types: what each of them promises about the others."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from support.line import call, label, read_csv, succeed
from zsl_runtime.cli.classes import main as zsl_classes
from zsl_runtime.cli.doctor import main as zsl_doctor
from zsl_runtime.cli.evaluate import main as zsl_eval
from zsl_runtime.cli.infer import main as zsl_infer
from zsl_train.cli import main as zsl_train
from zsl_train.progress import TrainingProgress

ROOT = Path(__file__).parents[2]
# Every class of the model. Copies of a bundle may each measure which backend is faster, and differ in the last digit.
ALL = ("--topk", 10_000, "--backend", "ort")
BLOCKED = ("torch", "onnx", "onnxscript", "scipy", "sklearn", "zsl_train", "zsl_export")


def mean_accuracy(labels: bytes) -> float:
    """Mean over classes of the share of their pictures that got their own name first, in percent."""
    right = defaultdict(list)
    for row in read_csv(labels):
        if row["rank"] == "1":
            name = Path(row["path"]).parent.name
            right[name].append(row["class"] == name)
    return float(100 * np.mean([np.mean(hits) for hits in right.values()]))


def by_picture(labels: bytes) -> dict[str, dict[str, float]]:
    """path -> class -> probability, best first."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for row in read_csv(labels):
        table[row["path"]][row["class"]] = float(row["probability"])
    return table


@pytest.fixture
def bundle(line, tmp_path):
    """A copy to change. Writers rename, so that the files may be shared with the original."""
    return shutil.copytree(line.bundle, tmp_path / "bundle", copy_function=os.link)


@pytest.fixture(scope="module")
def exported(line):
    """All classes of one test picture of each, as the exported bundle gives them."""
    return label(line.bundle, line.one_of_each(), *ALL)


# --- the scores are those of the commands -------------------------------------------------------------------------


def test_the_scores_are_what_zsl_infer_gives_on_the_test_pictures(line):
    unseen, seen = line.test_pictures("unseen"), line.test_pictures("seen")
    counts = line.scores["protocol"]["pictures"]
    assert (len(unseen), len(seen)) == (counts["test_unseen"], counts["test_seen"])
    first = ("--topk", 1)
    found = {
        "T1": mean_accuracy(label(line.bundle, unseen, *first, "--classes", "unseen")),
        "U": mean_accuracy(label(line.bundle, unseen, *first)),
        "S": mean_accuracy(label(line.bundle, seen, *first)),
    }
    found["H"] = 2 * found["U"] * found["S"] / (found["U"] + found["S"])
    assert found == pytest.approx({figure: line.scores[figure] for figure in found}, abs=1e-6)
    assert found["T1"] > 0
    assert found["S"] > 0


def test_zsl_eval_gives_the_scores_of_the_training_on_its_split(line):
    split = line.run / "split.csv"
    said = succeed(zsl_eval, line.bundle, line.data, "--split", split, "--format", "json", "--threads", 1)
    found = json.loads(said.out)
    figures = ("T1", "U", "S", "H")
    assert {one: found[one] for one in figures} == pytest.approx({one: line.scores[one] for one in figures}, abs=1e-6)
    assert found["ECE"] == pytest.approx(line.scores["ECE"], abs=1e-3)
    counts = line.scores["protocol"]["pictures"]
    assert found["figures"]["S"]["photographs"] == counts["test_seen"]
    assert found["figures"]["U"]["photographs"] == found["figures"]["T1"]["photographs"] == counts["test_unseen"]
    assert found["protocol"]["photographs"] == counts["test_seen"] + counts["test_unseen"]
    assert said.err.startswith(f"photographs with the role test in {split}: {found['protocol']['photographs']}; ")
    flattered = json.loads(succeed(zsl_eval, line.bundle, line.data, "--format", "json", "--threads", 1).out)
    assert {one: flattered[one] for one in ("T1", "U")} == {one: found[one] for one in ("T1", "U")}
    assert flattered["figures"]["S"]["photographs"] == counts["test_seen"] + counts["train"]


def test_the_bundle_says_what_the_run_said(line):
    manifest = json.loads((line.bundle / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["scores"] == line.scores
    report = succeed(zsl_doctor, line.bundle).out.decode()
    assert "BROKEN" not in report
    assert "top-1 answers are as shipped" in report


# --- adding classes -----------------------------------------------------------------------------------------------


def test_classes_are_added_from_attributes_alone_and_undone_to_the_byte(line, bundle, exported):
    new = line.data / "more_classes.csv"
    names = [row["name"] for row in read_csv(new)]
    said = succeed(zsl_classes, "add", "--engine", bundle, "--attributes", new).out.decode()
    assert re.findall(r"^added (.*)$", said, re.MULTILINE) == names
    listed = read_csv(succeed(zsl_classes, "list", "--engine", bundle, "--format", "csv").out)
    assert [(row["name"], row["split"]) for row in listed[-len(names) :]] == [(name, "unseen") for name in names]

    before, after = by_picture(exported), by_picture(label(bundle, line.one_of_each(), *ALL))
    assert after.keys() == before.keys()
    for path, answer in after.items():
        assert set(answer) == {*before[path], *names}
        assert sum(answer.values()) == pytest.approx(1, abs=1e-4)

    succeed(zsl_classes, "undo", "--engine", bundle)
    assert label(bundle, line.one_of_each(), *ALL) == exported


def test_refit_gives_the_answers_of_the_export_again(line, bundle, exported):
    succeed(zsl_classes, "refit", "--engine", bundle)
    before, after = by_picture(exported), by_picture(label(bundle, line.one_of_each(), *ALL))
    for path, answer in before.items():
        # The export's head was fitted on what PyTorch computed, this one on what the graphs did: 1e-6 apart.
        assert after[path] == pytest.approx(answer, rel=1e-3, abs=1e-5)
        assert next(iter(after[path])) == next(iter(answer))


def test_a_model_may_end_up_with_nothing_but_added_classes(line, bundle):
    succeed(zsl_classes, "add", "--engine", bundle, "--attributes", line.data / "more_classes.csv")
    known = [row["name"] for row in read_csv(line.data / "classes.csv")]
    succeed(zsl_classes, "remove", "--engine", bundle, "--", *known)
    pictures = line.one_of_each()
    rows = read_csv(label(bundle, pictures, "--topk", 1))
    assert [row["path"] for row in rows] == [str(picture) for picture in pictures]
    assert {row["class"] for row in rows} <= {row["name"] for row in read_csv(line.data / "more_classes.csv")}
    refused = call(zsl_infer, *pictures, "--engine", bundle, "--classes", "seen")
    assert (refused.code, refused.out) == (2, b"")
    assert refused.err.startswith("error: E-FILTER-EMPTY")


# --- without torch ------------------------------------------------------------------------------------------------


def test_everything_after_the_export_runs_where_torch_cannot_be_imported(line, bundle, exported, tmp_path):
    """In another process; the answers are the same to the byte, and README's lines of Python work."""
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    pictures = line.one_of_each()
    shutil.copy(pictures[0], tmp_path / "photo.jpg")
    labelling = [*map(str, pictures), "--engine", "bundle", "--threads", "1", *map(str, ALL), "--output"]
    steps = [
        ("infer", [*labelling, "before.csv"]),
        ("evaluate", ["bundle", str(line.data), "--split", str(line.run / "split.csv"), "--output", "report.txt"]),
        ("classes", ["add", "--engine", "bundle", "--attributes", str(line.data / "more_classes.csv")]),
        ("infer", [*labelling, "after.csv"]),
        ("classes", ["undo", "--engine", "bundle"]),
        ("infer", [*labelling, "undone.csv"]),
        ("classes", ["refit", "--engine", "bundle"]),
        ("classes", ["remove", "--engine", "bundle", pictures[0].parent.name]),
        ("classes", ["prune", "--engine", "bundle", "--keep", "1"]),
        ("classes", ["list", "--engine", "bundle"]),
        ("doctor", ["bundle"]),
    ]
    program = f"""
import importlib, json, sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))  # importing one of these raises ImportError
steps, snippet = json.loads(sys.stdin.read())
for name, words in steps:
    code = importlib.import_module("zsl_runtime.cli." + name).main(words)
    if code:
        sys.exit(f"{{name}} {{words}} ended with {{code}}")
exec(snippet)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps((steps, snippet)),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Prediction(names=(")
    assert (tmp_path / "before.csv").read_bytes() == (tmp_path / "undone.csv").read_bytes() == exported
    assert (tmp_path / "after.csv").read_bytes() != exported


# --- interrupted --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_that_is_stopped_goes_on_and_ends_in_the_same_run(line, tmp_path, monkeypatch):
    """SIGTERM in the last stage of the last session: what a batch system or `docker stop` sends."""
    real = TrainingProgress.__call__

    def stop(self, session, stage, done, total, losses):
        real(self, session, stage, done, total, losses)
        if (session, stage) == ("final", "eggn") and done == total // 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingProgress, "__call__", stop)
    said = call(zsl_train, *line.training, "--out", tmp_path / "run")
    assert (said.code, said.out) == (143, b"")
    assert said.err.splitlines()[-2:] == [
        f"stopped; repeat the command to go on from the last checkpoint in {tmp_path / 'run'}",
        "terminated",
    ]
    monkeypatch.undo()
    succeed(zsl_train, *line.training, "--out", tmp_path / "run")
    for name in ("weights.safetensors", "generation.safetensors", "replay.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (line.run / name).read_bytes(), name
