"""A clock that is set while a command runs, by hours or by decades, forward or back: nothing is lost, wrong or late."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from support.changes import write_jay
from support.faults import LACKING, Nursery, Plan, decent
from support.reliability import Tally
from support.sound import answers, check_clean, check_sound
from support.tiny_data import make_tiny_data
from support.tiny_training import arguments, figures, tiny_weights
from zsl_runtime.bundle.bundle import Bundle

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)
HOUR, YEAR = 3600, 365 * 24 * 3600
JUMPS = (HOUR, -HOUR, 20 * YEAR, -20 * YEAR)
TRAINING = """
import torch, support.tiny_training as tiny, zsl_train.backbones as backbones, zsl_train.training.runner
from zsl_train.training import timing
torch.set_num_threads(1)
backbones.BACKBONES["tiny"] = tiny.TinyBackbone
timing.ENOUGH_SECONDS = 0.05
"""


@pytest.mark.parametrize("by", [JUMPS[0], *(pytest.param(jump, marks=pytest.mark.slow) for jump in JUMPS[1:])])
def test_classes_added_while_the_clock_is_set(own_bundle, tmp_path, by):
    start = own_bundle("start", rule="gaussian")
    write_jay(tmp_path)
    bundle, tally = tmp_path / "bundle", Tally("faults", f"add: the clock jumps by {by // HOUR} h")
    words = ("add", "--engine", bundle, "--attributes", tmp_path / "jay.csv")
    shutil.copytree(start, bundle)
    before = answers(bundle)
    with Nursery(tmp_path / "nursery", ["zsl-classes"], "import onnxruntime, zsl_runtime.classes.changes") as nursery:
        assert nursery.run("zsl-classes", *words).code == 0
        after = answers(bundle)
        for at in (0, 1, 2, 3, 5, 8):
            with tally.point("reading"):
                shutil.rmtree(bundle)
                shutil.copytree(start, bundle)
                ended = nursery.run("zsl-classes", *words, plan=Plan(clock=(at, by)))
                assert decent(ended, {0}), ended
                assert check_sound(bundle, before, after, computed=False) == after
                check_clean(bundle)
                when = dt.datetime.fromisoformat(Bundle.open(bundle).history()[0][-1]["when"])
                off = (when - dt.datetime.now(dt.UTC)).total_seconds()
                assert abs(off) < HOUR / 2 or abs(off - by) < HOUR / 2
                assert nursery.run("zsl-classes", "undo", "--engine", bundle).code == 0  # at the right time again
                check_sound(bundle, before, computed=False)
    tally.end()


@pytest.mark.slow
def test_a_training_and_its_resumption_while_the_clock_is_set(tmp_path):
    """The figures are the same, and no sitting is said to have taken hours, or less than nothing."""
    make_tiny_data(tmp_path / "data", seen=6, unseen=3, word_width=5)
    tally = Tally("faults", "training and --resume: the clock jumps")
    with Nursery(tmp_path / "nursery", ["zsl-train"], TRAINING) as nursery:

        def train(out: Path, *more: str, plan: Plan | None = None):
            given = arguments(tmp_path / "data", tiny_weights(tmp_path), out, *more)
            return nursery.run("zsl-train", *given, plan=plan)

        whole = train(tmp_path / "whole")
        assert whole.code == 0, whole.err
        for number, by in enumerate(JUMPS):
            with tally.point("jump"):
                out = tmp_path / f"run{number}"
                cut = Plan(clock=(5 + number, by), kill_after=0.6 * whole.seconds)
                killed = train(out, plan=cut)
                assert killed.code in {0, -9}
                begun = ["--resume"] if (out / "run.json").exists() else []
                ended = train(out, *begun, plan=Plan(clock=(3, -by))) if killed.code else killed
                assert decent(ended, {0}), ended
                assert figures(out) == figures(tmp_path / "whole")
                seconds = json.loads((out / "scores.json").read_text(encoding="utf-8"))["train_seconds"]
                assert 0 <= seconds < 600
                lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
                assert all(0 <= json.loads(line)["t"] < 600 for line in lines)
    tally.end()
