"""zsl-train as a user meets it: whole runs on drawn pictures, its exit codes, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import tomli_w
import torch

from support.tiny_data import make_tiny_data
from support.tiny_training import (
    arguments,
    command,
    environment,
    figures,
    know_backbone,
    tiny_weights,
)
from zsl_runtime.accuracy import harmonic_mean, per_class_accuracy
from zsl_runtime.head.head import fold
from zsl_train.backbones import BACKBONES
from zsl_train.backbones.resnet101 import ResNet101
from zsl_train.cli import at_hand, main
from zsl_train.cli import command as train_command
from zsl_train.data.open import open_image_set
from zsl_train.methods import METHODS
from zsl_train.methods.base import run_batched
from zsl_train.progress import TrainingProgress
from zsl_train.recipe import make_recipe, read_recipe
from zsl_train.training import budget, timing
from zsl_train.training.run_folder import RunWriter, load_run, read_info

KEYS = {"T1", "U", "S", "H", "AUSUC", "H_uncalibrated", "T1_czsl", "ECE", "gamma", "temperature", "protocol"}
FIGURES = KEYS - {"protocol"}
LETTERS = ["S", "U", "H", "T1", "T1_czsl", "AUSUC", "gamma"]
HEAD_SETTINGS = {"shrinkage", "width", "ridge", "kappa", "share", "draws", "error_ratio", "error_floor"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A data folder with 6 seen and 3 unseen classes and the weights of the backbone; nobody changes it."""
    folder = tmp_path_factory.mktemp("shared")
    make_tiny_data(folder / "data", seen=6, unseen=3, word_width=5)
    tiny_weights(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch, cache) -> None:
    know_backbone(monkeypatch)
    monkeypatch.setenv("ZSL_CACHE", str(cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(timing, "ENOUGH_SECONDS", 0.05)  # nobody waits for what these trainings would take
    torch.set_num_threads(1)  # folds one after the other: the tests below count on their order


@pytest.fixture
def train(capfd):
    """Run the command in this process: (exit code, stdout, stderr lines)."""

    def run(given: list[str]) -> tuple[int, str, list[str]]:
        capfd.readouterr()
        code = main(given)
        captured = capfd.readouterr()
        return code, captured.out, captured.err.splitlines()

    return run


@pytest.fixture(scope="module")
def finished(shared, cache, tmp_path_factory) -> Path:
    """A whole run of the shared data."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        know_backbone(patch)
        patch.setenv("ZSL_CACHE", str(cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main(given(shared, out)) == 0
    return out


def given(shared: Path, out: Path, *more: object, **settings) -> list[str]:
    return arguments(shared / "data", shared / "tiny.safetensors", out, *more, **settings)


def one_line(outcome: tuple[int, str, list[str]], code: int, error: str) -> str:
    """The message of a command that ended with `code`, said one line of error and wrote nothing to stdout."""
    found, out, lines = outcome
    assert found == code, lines
    assert out == ""
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert lines[-1] == errors[0]
    assert errors[0].startswith(f"error: {error}: ")
    assert not any(line.startswith("Traceback") for line in lines)
    return errors[0]


# --- whole runs ------------------------------------------------------------------------------------------------------


def test_a_run_prints_its_folder_to_stdout_and_the_rest_to_stderr(train, shared, tmp_path):
    code, out, lines = train(given(shared, tmp_path / "run"))
    assert code == 0
    assert out == f"{tmp_path / 'run'}\n"
    assert lines[0] == "54 photographs, 6 seen and 3 unseen classes, 7 attributes"
    assert any(line.startswith("training sc-egg (default) on 30 photographs, 2 folds for validation") for line in lines)
    assert any(line.startswith("closed forms, in ") and "gfzsl " in line for line in lines)
    assert any(re.fullmatch(r"about \d+ seconds, measured on this machine", line) for line in lines)
    assert not [line for line in lines if "local" in line and "its local network" not in line]  # losses are in the log
    assert [line for line in lines if line.startswith("validation classes: H ")]
    table = next(row for row, line in enumerate(lines) if line.split()[:3] == ["T1", "T1_czsl", "U"])
    first = [re.split(r"  (?=\S)|\s{3}", line.strip())[0] for line in lines[table + 1 : table + 7]]
    inside = ["its local network, same training", "its guide, same training"]
    assert first == ["sc-egg (default)", *inside, "gfzsl", "eszsl", "ridge-to-prototype"]
    assert [line.split()[0] for line in lines if re.match(r"  (S|U|H|T1|T1_czsl|AUSUC|gamma) ", line)] == LETTERS
    assert [line for line in lines if line.startswith("  on validation classes H was ")]
    assert [line for line in lines if line.startswith("class by class, worst first")]
    assert [line for line in lines if line.startswith(("verdict: ", "WARNING: "))]
    assert lines[-1] == f"run written to {tmp_path / 'run'}; next: zsl-export {tmp_path / 'run'} --out BUNDLE"
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.startswith(".tmp-")]


def test_scores_have_their_keys_and_their_protocol(finished):
    scores = json.loads((finished / "scores.json").read_text())
    assert set(scores) >= KEYS
    assert 0 <= scores["validation_H_crossfitted"] <= 100
    assert set(scores["parts"]) == {"local network", "guide"}
    assert all(isinstance(scores[key], float) for key in FIGURES)
    assert all(0 <= scores[key] <= 100 for key in FIGURES - {"gamma", "temperature"})
    assert scores["temperature"] > 0
    assert scores["null"] == {}
    assert set(scores["baselines"]) == {"gfzsl", "eszsl", "ridge-to-prototype"}
    assert scores["head"] == "gaussian"
    assert set(scores["head_settings"]) == HEAD_SETTINGS
    assert set(scores["baselines"]["gfzsl"]) >= HEAD_SETTINGS | {"scaling", "gamma", "validation_H"}
    assert "published_head" not in scores
    protocol = scores["protocol"]
    assert protocol["head_rows"] == {"real": 30, "synthetic": 0}
    assert protocol["pictures"] == {"train": 30, "test_seen": 6, "test_unseen": 18, "unreadable": 0}
    assert protocol["seed"] == 0
    assert "2 folds of validation classes" in protocol["selection"]
    assert "half of them newcomers to the training" in protocol["selection"]
    assert "the settings of the head" in protocol["selection"]
    assert "our own seeded split" in protocol["split"]
    assert set(scores["candidates"]) == {"0.25", "0.5", "1.0"}
    assert scores["stop_at"] == float(max(scores["candidates"], key=lambda k: (scores["candidates"][k], -float(k))))


def test_scores_come_out_again_from_what_the_run_folder_holds(shared, finished, cache):
    run = load_run(finished)
    images = open_image_set(shared / "data")
    (store,) = [
        folder
        for folder in (cache / "features").iterdir()
        if json.loads((folder / "about.json").read_text())["pictures"] == str(images.root.resolve())
    ]
    regions = np.fromfile(store / "regions.f16", dtype="<f2").reshape(54, 16, 12)
    rows = images.rows("test")
    labels = images.labels[rows]
    x = run_batched(run.trained.lift, run_batched(run.trained.embedder, regions[rows]))
    table = run.generation.table
    assert table.names == images.table.names
    answers = fold(run.generation.head, table.seen).scores(x).argmax(axis=1)
    of_seen = table.seen[labels]
    unseen, seen = (per_class_accuracy(answers[part], labels[part]) for part in (~of_seen, of_seen))
    assert run.scores["U"] == pytest.approx(unseen)
    assert run.scores["S"] == pytest.approx(seen)
    assert run.scores["H"] == pytest.approx(harmonic_mean(unseen, seen))
    only = fold(run.generation.head, table.seen).only(~table.seen).scores(x).argmax(axis=1)
    assert run.scores["T1"] == pytest.approx(per_class_accuracy(only[~of_seen], labels[~of_seen]))
    assert (run.scores["gamma"], run.scores["temperature"]) == (
        run.generation.head.gamma,
        run.generation.head.temperature,
    )


def test_what_was_trained_is_in_the_log(finished):
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    ended = [(line["session"], line["stage"], line["steps"]) for line in lines if "seconds" in line]
    stages = ("scen", "guide", "eggn")
    wanted = [(name, stage, 6) for name in ("fold 1/2", "fold 2/2", "final") for stage in stages]
    stop_at = json.loads((finished / "scores.json").read_text())["stop_at"]
    wanted[-1] = ("final", "eggn", max(1, round(6 * stop_at)))
    assert ended == wanted


def test_the_recipe_of_a_run_gives_the_same_run(train, shared, finished, tmp_path):
    out = tmp_path / "again"
    weights, recipe = shared / "tiny.safetensors", finished / "recipe.toml"
    code, _, _ = train(
        ["--data", str(shared / "data"), "--recipe", str(recipe), "--weights", str(weights), "--out", str(out)]
    )
    assert code == 0
    assert figures(out) == figures(finished)
    assert read_recipe(out / "recipe.toml") == read_recipe(recipe)
    one, other = (load_run(path).trained.state_dict() for path in (finished, out))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_finished_run_is_replaced_with_force_only(train, shared, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    assert "add --force" in one_line(train(given(shared, out)), 2, "E-RUN-EXISTS")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, said, lines = train(given(shared, out, "--resume"))
    assert (code, said) == (0, f"{out}\n")
    assert lines[-1] == f"{out} is a finished run: nothing to resume; next: zsl-export {out} --out BUNDLE"
    assert (out / "report.txt").read_text().splitlines() == lines[:-2]  # what the training said, once more
    assert "class by class, worst first" in "\n".join(lines)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    code, _, _ = train(given(shared, out, "--force", "--seed", 5))
    assert code == 0
    assert figures(out) != figures(finished)
    assert figures(out)["protocol"]["seed"] == 5


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_every_preset_trains_with_its_epochs_capped(train, shared, tmp_path, preset):
    lengths = {f"stage{n}_steps": 0 for n in (1, 2, 3)}
    given_words = given(shared, tmp_path / "run", "--preset", preset, "--epochs", "2", "-v", folds=0, **lengths)
    code, _, lines = train(given_words)
    assert code == 0
    assert [line for line in lines if "final, scen 1/1 " in line]  # two epochs of 30 pictures by 64
    assert [line for line in lines if "final, eggn 2/2 " in line and " kl " in line]  # and of two loops, with losses
    assert read_info(tmp_path / "run")["config"]["stage1_steps"] == 1


def test_the_default_preset_is_sized_to_the_data(train, shared, tmp_path):
    lengths = {f"stage{n}_steps" for n in (1, 2, 3)}
    free = [
        one
        for one in given(shared, tmp_path / "run", folds=0)
        if not one.startswith(tuple(f"--set={n}" for n in lengths))
    ]
    code, _, _ = train([*free, "--epochs", "0.5"])
    assert code == 0
    config = read_info(tmp_path / "run")["config"]
    assert all(config[name] == 1 for name in lengths)


def test_threads_are_told_not_to_spin_unless_the_user_said_otherwise(train, shared, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("OPENBLAS_NUM_THREADS", "1")):
        for before, after in ((None, value), ("7", "7")):
            monkeypatch.setenv(name, before or "")
            if before is None:
                monkeypatch.delenv(name)
            one_line(train(given(shared, tmp_path / "run", "--method", "none")), 2, "E-METHOD")
            assert os.environ[name] == after


# --- the first run of a new user -------------------------------------------------------------------------------------


def plainly(shared: Path, out: Path, *more: object) -> list[str]:
    """The command without a method."""
    words = ["--data", shared / "data", "--weights", shared / "tiny.safetensors", "--out", out, *more]
    return [str(word) for word in words]


def test_without_a_method_the_closed_form_is_fitted_and_a_longer_one_named(train, shared, tmp_path, monkeypatch):
    out = tmp_path / "run"
    code, said, lines = train(plainly(shared, out, "--backbone", "tiny"))
    assert (code, said) == (0, f"{out}\n")
    assert read_info(out)["method"] == "gfzsl"
    assert figures(out)["protocol"]["selection"].startswith("8 folds")
    (line,) = [line for line in lines if line.startswith("--method sc-egg would take about ")]
    assert re.search(r"about \d+ (seconds|minutes) here, measured just now: it looks at regions", line)
    assert lines[-1] == line
    monkeypatch.setattr(budget, "alternative", lambda *_: signal.raise_signal(signal.SIGINT))
    code, said, lines = train(plainly(shared, tmp_path / "hasty", "--backbone", "tiny"))
    assert (code, said) == (0, f"{tmp_path / 'hasty'}\n")
    assert lines[-1].startswith("timing some steps of a longer training")
    # Whoever names the method knows of others.
    code, _, lines = train(plainly(shared, tmp_path / "named", "--backbone", "tiny", "--method", "gfzsl"))
    assert not [line for line in lines if "would take" in line]


def test_a_method_without_a_published_head_has_no_literature_to_compare_with(train, shared, tmp_path):
    out = tmp_path / "run"
    more = ("--backbone", "tiny", "--method", "gfzsl", "--set", "literature=true", "--set", "compare_heads=true")
    code, _, lines = train(plainly(shared, out, *more))
    assert code == 0, lines
    assert not {"literature", "published_head", "gaussian_head"} & figures(out).keys()


def test_a_run_is_called_run_unless_it_is_named(train, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word for word in plainly(shared, tmp_path, "--backbone", "tiny", "--method", "gfzsl") if word != "--out"]
    words.remove(str(tmp_path))
    code, said, lines = train(words)
    assert (code, said) == (0, "run\n")
    assert lines[-1] == "run written to run; next: zsl-export run --out BUNDLE"
    assert "give another --out" in one_line(train(words), 2, "E-RUN-EXISTS")


def test_a_budget_sizes_stages_alone(train, shared, tmp_path):
    words = plainly(shared, tmp_path / "run", "--backbone", "tiny", "--budget", "5m", "--epochs", 2)
    assert "leave --epochs out, or --budget" in one_line(train(words), 2, "E-BUDGET")


def test_a_budget_tries_several_and_keeps_the_best(train, shared, tmp_path):
    out = tmp_path / "run"
    code, _, lines = train(plainly(shared, out, "--backbone", "tiny", "--budget", "6s", "--set", "folds=2"))
    assert code == 0
    scores = figures(out)
    tried = {one["method"]: one["validation_H"] for one in scores["leaderboard"]}
    known = {name: value for name, value in tried.items() if value is not None}
    assert {"gfzsl", "eszsl"} <= known.keys()
    assert set(tried) == {"gfzsl", "eszsl", "sc-egg", "dcr-gan", "acmr", "lisgan"}
    assert known[scores["method"]] == max(known.values())
    assert f"{scores['method']} is the best on validation classes, and is kept" in lines
    assert "on validation classes, the same for all; test photographs had no part in it:" in lines
    assert load_run(out).method == scores["method"]
    code, _, lines = train(plainly(shared, out, "--backbone", "tiny", "--budget", "6s", "--resume"))
    assert code == 0
    assert lines[-1] == f"{out} is a finished run: nothing to resume; next: zsl-export {out} --out BUNDLE"


def test_without_a_backbone_the_one_on_board_is_taken_and_said(shared, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    options = {"weights": None, "force": False}
    assert at_hand(options, tmp_path / "run") == "efficientnet_lite2"
    said = capfd.readouterr().err
    assert "backbone efficientnet_lite2, whose weights came with the packages" in said
    assert "resnet101 is larger and needs a network once" in said
    weights = ResNet101.cached()
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    assert at_hand(options, tmp_path / "run") == "resnet101"
    assert "whose weights are in the cache folder" in capfd.readouterr().err
    assert at_hand({"weights": "mine.pth", "force": False}, tmp_path / "run") == "resnet101"
    # An unfinished run goes on with the backbone that it began with.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text('backbone = "efficientnet_lite2"\n')
    assert at_hand(options, tmp_path / "run") == "efficientnet_lite2"
    assert at_hand({**options, "force": True}, tmp_path / "run") == "resnet101"
    (tmp_path / "run" / "recipe.toml").write_text('backbone = "features"\n')
    assert at_hand(options, tmp_path / "run") == "resnet101"


# --- data that is not perfect ----------------------------------------------------------------------------------------


def changed(shared: Path, folder: Path) -> Path:
    """A copy of the shared data to change."""
    shutil.copytree(shared, folder)
    return folder


def test_unreadable_pictures_are_named_and_left_out(train, shared, tmp_path):
    mine = changed(shared, tmp_path / "mine")
    images = open_image_set(mine / "data")
    for row in (images.rows("train")[0], images.rows("test", seen=False)[0]):
        (images.root / images.paths[int(row)]).write_bytes(b"GIF89a")
    code, out, lines = train(given(mine, tmp_path / "run"))
    assert code == 6
    assert out == f"{tmp_path / 'run'}\n"
    assert len([line for line in lines if line.startswith("unreadable, left out: ")]) == 2
    pictures = figures(tmp_path / "run")["protocol"]["pictures"]
    assert pictures == {"train": 29, "test_seen": 6, "test_unseen": 17, "unreadable": 2}
    load_run(tmp_path / "run")


def test_unseen_classes_without_photographs_leave_figures_null_with_the_reason(train, shared, tmp_path):
    mine = changed(shared, tmp_path / "mine")
    images = open_image_set(mine / "data")
    for name, seen in zip(images.table.names, images.table.seen, strict=True):
        if not seen:
            shutil.rmtree(images.root / name)
    code, _, lines = train(given(mine, tmp_path / "run"))
    assert code == 0
    scores = figures(tmp_path / "run")
    assert {name for name in FIGURES if scores[name] is None} == {"T1", "U", "H", "AUSUC", "H_uncalibrated", "T1_czsl"}
    assert set(scores["null"].values()) == {"no photographs of unseen classes"}
    assert "  no T1, U, T1_czsl, H, H_uncalibrated, AUSUC: no photographs of unseen classes" in lines
    assert scores["gamma"] != 0  # chosen on validation classes all the same
    assert len(load_run(tmp_path / "run").generation.table) == 9


def test_no_unseen_class_at_all(train, tmp_path):
    make_tiny_data(tmp_path / "data", seen=5, unseen=0, per_class=3)
    tiny_weights(tmp_path)
    code, _, _ = train(given(tmp_path, tmp_path / "run"))
    assert code == 0
    scores = figures(tmp_path / "run")
    assert scores["S"] is not None
    assert scores["null"]["H"] == "no unseen classes"


def test_few_classes_select_nothing_and_it_is_said(train, tmp_path):
    make_tiny_data(tmp_path / "data", seen=3, unseen=2, per_class=3)
    tiny_weights(tmp_path)
    code, _, lines = train(given(tmp_path, tmp_path / "run"))
    assert code == 0
    scores = figures(tmp_path / "run")
    assert (scores["gamma"], scores["temperature"], scores["stop_at"]) == (0.0, 1.0, 1.0)
    assert scores["validation_H"] is None
    why = "nothing was selected (fewer than 4 seen classes): gamma 0, temperature 1, the whole schedule"
    assert scores["protocol"]["selection"] == why
    assert why in " ".join(" ".join(lines).split())
    assert any("learned from scratch" in line for line in lines)  # there are no word vectors


def test_one_photograph_a_class_is_enough_for_a_published_head_and_nothing_to_test(train, tmp_path):
    make_tiny_data(tmp_path / "data", seen=4, unseen=0, per_class=1)
    tiny_weights(tmp_path)
    why = one_line(train(given(tmp_path, tmp_path / "run")), 2, "E-GAUSSIAN-SPREAD")
    assert "4 training pictures of 4 classes, and nothing varies within a class" in why
    assert "--method eszsl, or --set head=published" in why
    assert not (tmp_path / "run" / "checkpoint").exists()  # it is told before anything is trained
    code, _, _ = train(given(tmp_path, tmp_path / "run", head="published"))
    assert code == 0
    scores = figures(tmp_path / "run")
    assert {name for name in FIGURES if scores[name] is None} == FIGURES - {"gamma", "temperature"}
    assert "no photographs of training classes to hold out" in scores["protocol"]["selection"]


# --- what is wrong with the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "error", "part"),
    [
        (["--method", "sc_egg"], "E-METHOD", "did you mean sc-egg?"),
        (["--preset", "papre"], "E-RECIPE", "expected one of default, paper, code (did you mean paper?)"),
        (["--backbone", "resnet"], "E-BACKBONE", "known are efficientnet_lite2, resnet101"),
        (["--image-size", "5"], "E-BACKBONE-SIZE", "16 px"),
        (["--image-size", "-224"], "E-RECIPE", "image_size"),
        (["--weights", "nowhere.pth"], "E-WEIGHTS-FILE", "nowhere.pth"),
        (["--device", "gpu"], "E-TRAIN-DEVICE", "expected auto, cpu, cuda, or cuda:N"),
        (["--set", "hiden=3"], "E-RECIPE", "hiden is no setting of sc-egg"),
        (["--set", "hiden=3"], "E-RECIPE", "(did you mean hidden?)"),
        (["--set", "atributes=att"], "E-RECIPE", "(did you mean attributes?)"),
        (["--set", "attributes=original_att"], "E-ATTRIBUTES", "is for feature files"),
        (["--set", "hidden=big"], "E-RECIPE", "expected int"),
        (["--set", "hidden=0"], "E-RECIPE", "at least 1"),
        (["--set", "head_epochs=0"], "E-FIT-SETTINGS", "epochs"),
        (["--set", "pooling=max"], "E-RECIPE", "expected one of 'mlp', 'mean'"),
        (["--set", "hidden"], "E-RECIPE", "expected key=value"),
        (["--seed", "-1"], "E-USAGE", "--seed"),
        (["--seed", "99999999999"], "E-RECIPE", "4294967295"),
        (["--epochs", "0"], "E-USAGE", "--epochs"),
        (["--epochs", "nan"], "E-USAGE", "--epochs"),
        (["--epochs", "inf"], "E-USAGE", "--epochs"),
        (["--epochs", "x"], "E-USAGE", "--epochs"),
        (["--resume", "--force"], "E-USAGE", "contradict"),
        (["--budget", "soon"], "E-BUDGET", "such as 90s, 20m or 1.5h"),
        (["--budget", "20m"], "E-BUDGET", "leave --method out, or --budget"),
        (["--budget", "20m", "--preset", "paper"], "E-BUDGET", "leave --preset out"),
        (["--resume"], "E-RUN", "holds no unfinished run; leave --resume out"),
        (["--recipe", "nowhere.toml"], "E-SYSTEM", "nowhere.toml"),
        (["--splits", "nowhere.csv"], "E-SPLIT-FILE", "nowhere.csv"),
        (["--set", "words=nowhere.txt"], "E-WORD-VECTORS", "nowhere.txt"),
        (["--data", "nowhere"], "E-DATA-LAYOUT", "nowhere is not a folder"),
        (["--out", "/proc/self/run"], "E-SYSTEM", "could not create the run folder"),
        (["--what"], "E-USAGE", "--what"),
        (["extra"], "E-USAGE", "extra"),
    ],
)
def test_a_wrong_command_is_one_line_before_the_pictures_are_read(
    train, shared, tmp_path, monkeypatch, more, error, part
):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    assert part in one_line(train(given(shared, tmp_path / "run", *more)), 2, error)
    if "words" not in more[-1]:
        assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_wrong_recipe_file_is_one_line(train, shared, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("[settings]\nhiden = 3\n")
    one_line(train(given(shared, tmp_path / "run", "--recipe", recipe)), 2, "E-RECIPE")
    recipe.write_text("sede = 3\n")
    one_line(train(given(shared, tmp_path / "run", "--recipe", recipe)), 2, "E-RECIPE")


def test_flags_go_before_the_recipe_file(train, shared, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(tomli_w.dumps({"seed": 3, "method": "nothing", "folds": 9}))
    out = tmp_path / "run"
    code, _, _ = train(given(shared, out, "--recipe", recipe, "--seed", 4, "--method", "sc-egg", folds=0))
    assert code == 0
    got = make_recipe(read_recipe(out / "recipe.toml"), {}, {})
    assert (got.seed, got.method, got.folds) == (4, "sc-egg", 0)


def test_wrong_data_is_one_line(train, shared, tmp_path):
    mine = changed(shared, tmp_path / "mine")
    images = open_image_set(mine / "data")
    shutil.rmtree(images.root / images.table.names[0])
    one_line(train(given(mine, tmp_path / "run")), 2, "E-DATA-NO-PHOTOS")


def test_something_that_is_no_run_is_not_touched(train, shared, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    for more in ((), ("--force",)):
        one_line(train(given(shared, tmp_path / "photos", *more)), 2, "E-RUN-EXISTS")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_a_second_command_on_the_same_folder_is_told_to_wait(train, shared, tmp_path):
    out = tmp_path / "run"
    with RunWriter(out, force=False).exclusive():
        one_line(train(given(shared, out)), 2, "E-RUN-BUSY")
    assert train(given(shared, out, folds=0))[0] == 0


def test_divergence_stops_the_run_which_needs_force_to_start_over(train, shared, tmp_path):
    out = tmp_path / "run"
    line = one_line(train(given(shared, out, learning_rate_embedding=1e8)), 3, "E-DIVERGED")
    assert "fold 1/2, stage scen, step" in line
    one_line(train(given(shared, out)), 2, "E-RUN-RECIPE")
    assert train(given(shared, out, "--force"))[0] == 0


def test_help_comes_without_heavy_imports():
    program = (
        "import sys; from zsl_train.cli import main; code = main(['--help']);"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'numpy', 'scipy', 'PIL', 'rich'}));"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment(Path())
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--preset" in done.stdout


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [("fold 1/2", "scen", 2), ("fold 2/2", "eggn", 4), ("final", "guide", 6)])
def test_ctrl_c_is_130_and_the_same_command_resumes_to_the_same_figures(
    train, shared, finished, tmp_path, monkeypatch, at
):
    out, real = tmp_path / "run", TrainingProgress.__call__

    def press(self, session, stage, done, total, losses) -> None:
        real(self, session, stage, done, total, losses)
        if (session, stage, done) == at:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingProgress, "__call__", press)
    code, stdout, lines = train(given(shared, out))
    assert code == 130
    assert stdout == ""
    assert lines[-2:] == [f"stopped; repeat the command to go on from the last checkpoint in {out}", "interrupted"]
    assert read_info(out)["state"] == "unfinished"
    monkeypatch.setattr(TrainingProgress, "__call__", real)
    one_line(train(given(shared, out, hidden=9)), 2, "E-RUN-RECIPE")
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])["t"]
    with (out / "log.jsonl").open("a") as log:  # as if that sitting had gone on for longer
        log.write(json.dumps({"t": last + 5000, "note": ""}) + "\n")
    code, _, lines = train(given(shared, out, "--resume", "-v"))
    assert code == 0
    assert 5000 <= json.loads((out / "scores.json").read_text())["train_seconds"] < 6000  # of both sittings
    repeated = [line for line in lines if " fold 1/2, " in line]
    assert bool(repeated) == (at[0] == "fold 1/2")  # what was done is not done again
    assert figures(out) == figures(finished)
    assert not (out / "checkpoint").exists()


@pytest.mark.slow
def test_killed_at_random_moments_it_goes_on_to_the_same_figures(shared, finished, cache, tmp_path):
    out, draw = tmp_path / "run", random.Random(7)
    for after in (0, 1, 0, 2, 1, 3, 1, None):  # lines about stages that are done
        code = killed_after(command(*given(shared, out)), environment(cache), after, draw.uniform(0, 0.1))
        if after is None:
            assert code == 0
        elif code == 0:  # the folds were done: nothing was left to kill
            break
        else:
            assert code == -signal.SIGKILL
            assert not (out / "scores.json").exists() or read_info(out)["state"] == "unfinished"
    assert figures(out) == figures(finished)
    load_run(out)


def killed_after(words: list[str], variables: dict[str, str], stages: int | None, seconds: float) -> int:
    """Run a command and kill it `seconds` after it said that so many stages are done; its exit code."""
    with subprocess.Popen(
        words, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        done = 0
        for line in process.stderr:
            done += line.startswith(("fold ", "final: "))
            if stages is not None and line.startswith(("training", "fold ", "final: ")) and done == stages:
                time.sleep(seconds)
                process.kill()
                break
    return process.returncode


# --- what a shell offers --------------------------------------------------------------------------------------------


def test_a_shell_offers_every_method_and_backbone():
    """They stand in the command a second time: a shell that asks at TAB does not wait for torch."""
    given = {option.opts[0]: option for option in train_command.params}
    context = click.Context(train_command)
    offered = {
        flag: {item.value for item in given[flag].shell_complete(context, "")} for flag in ("--method", "--backbone")
    }
    assert offered == {"--method": set(METHODS), "--backbone": set(BACKBONES) - {"tiny"}}  # that one is a test's
    assert [item.value for item in given["--preset"].shell_complete(context, "p")] == ["paper"]
