"""kill -9 and failing disks at any point of training, of the extraction of features and of an export: what goes on ends
bit for bit as if nothing had happened, and a bundle is whole or not there.

Points are operations on files, before them and in the middle of them, and moments, all drawn at random. A training is
killed again and again until one command gets through; then its run is compared with one that was never killed.
"""

from __future__ import annotations

import json
import random
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from support.faults import ALWAYS, CHANGES, LACKING, NAME, SYNC, WRITE, Ended, Nursery, Plan, decent
from support.faults import errors as numbers_of
from support.reliability import POINTS, Tally
from support.sound import check_doctor
from support.tiny_data import make_tiny_data
from support.tiny_training import arguments, figures, tiny_weights
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.writing import export_leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)
IMPORTS = """
import matplotlib.pyplot, onnxruntime, onnxscript, shutil, sklearn, scipy.optimize, sys, torch
import support.tiny_training as tiny, zsl_export.bundle_of_run as exporting, zsl_train.backbones as backbones
import zsl_train.reports.run_files, zsl_train.reports.run_page, zsl_train.reports.text, zsl_train.training.runner
from pathlib import Path
from zsl_train.training import timing
torch.set_num_threads(1)
backbones.BACKBONES["tiny"] = tiny.TinyBackbone
timing.ENOUGH_SECONDS = 0.05
"""
# Tracing a graph takes seconds in which nothing is written but a file of the export's own folder: it is done once.
TRACE_ONCE = """
def export_graph(graph, path, metadata, real=exporting.export_graph, kept=Path({folder!r})):
    if not (kept / path.name).exists():
        real(graph, kept / path.name, metadata)
    shutil.copyfile(kept / path.name, path)
exporting.export_graph = export_graph
"""
# Have times in them; scores: see figures.
NO_MATTER = {"log.jsonl", "run.json", "scores.json", ".lock", "report.txt", "report.html"}


class Place(NamedTuple):
    """Data, weights, and what was made of them by commands that nothing happened to."""

    nursery: Nursery
    folder: Path
    whole: Path
    cache: Path
    operations: dict[str, int]
    seconds: dict[str, float]

    def train(self, out: Path, *more: object, plan: Plan | None = None) -> Ended:
        """Run zsl-train."""
        words = arguments(self.folder / "data", self.folder / "tiny.safetensors", out, *more)
        return self.nursery.run("zsl-train", *words, plan=plan)

    def export(self, out: Path, plan: Plan | None = None) -> Ended:
        """Run zsl-export on the run that was never killed."""
        return self.nursery.run("zsl-export", self.whole, "--out", out, "--force", plan=plan)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("training")
    folder, beside = base / "work", base / "nursery"  # what is printed lies on no disk that is full
    make_tiny_data(folder / "data", seen=6, unseen=3, word_width=5)
    tiny_weights(folder)
    (folder / "traced").mkdir()
    before = IMPORTS + TRACE_ONCE.format(folder=str(folder / "traced"))
    with Nursery(beside, ["zsl-train", "zsl-export", "zsl-doctor"], before) as nursery:
        cache, whole = beside / "cache" / "features", folder / "whole"
        made = Place(nursery, folder, whole, cache, {}, {})
        first = made.train(whole, plan=Plan(root=str(cache)))
        assert first.code == 0, first.err
        second = made.train(folder / "second", plan=Plan(root=str(folder / "second")))
        assert made.export(folder / "traced bundle").code == 0
        third = made.export(folder / "bundle", Plan(root=str(folder)))
        made.operations.update({"extraction": first.met, "training": second.met, "export": third.met})
        made.seconds.update({"extraction": first.seconds, "training": second.seconds, "export": third.seconds})
        assert contents(folder / "second") == contents(whole)  # what is compared below is the same every time
        yield made


def contents(run: Path) -> dict[str, object]:
    """All of a run that does not tell how long something took."""
    files = {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    return {"figures": figures(run), **{name: data for name, data in files.items() if name not in NO_MATTER}}


def stores(cache: Path) -> dict[str, bytes]:
    """Features and what is known of them."""
    return {path.name: path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def points(kind: str, place: Place, root: Path, count: int) -> Iterator[tuple[str, Plan]]:
    """So many points of a command, with the way in which each was chosen."""
    draw = random.Random(kind)
    for number in range(count):
        if number % 3 < 2:
            action = ("kill", "half then kill")[number % 3]
            yield "operation", Plan(root=str(root), action=action, at=draw.randrange(place.operations[kind]))
        else:
            yield "moment", Plan(root=str(root), kill_after=draw.uniform(0, place.seconds[kind]))


def train_killed(place: Place, count: int, tally: Tally) -> None:
    """Trainings that are killed until they get through, for so many points."""
    out = place.folder / "killed"
    for number, (way, plan) in enumerate(points("training", place, out, count)):
        with tally.point(way):
            unfinished = (out / "run.json").exists() and number % 2
            ended = place.train(out, *(["--resume"] if unfinished else []), plan=plan)
            assert ended.code in {0, -9}, ended.err
            tally.note("finished" if ended.code == 0 else "killed")
            if ended.code == 0 or number == count - 1:
                try:
                    finish(place, out)
                finally:
                    shutil.rmtree(out, ignore_errors=True)
            elif out.exists():
                assert len(litter(out)) <= 2, litter(out)
                assert not (out / "run.json").exists() or state(out) in {"unfinished", "finished"}


def state(run: Path) -> str | None:
    """What run.json says of itself."""
    return json.loads((run / "run.json").read_text(encoding="utf-8")).get("state")


def litter(run: Path) -> list[str]:
    """Temporary files of a run."""
    return [path.name for path in run.rglob(".tmp-*")]


def finish(place: Place, out: Path) -> None:
    """The same command once more ends with the run that was never killed."""
    ended = place.train(out)
    assert ended.code == 0 or "E-RUN-EXISTS" in ended.err, ended.err
    assert contents(out) == contents(place.whole)
    assert litter(out) == []
    assert not (out / "checkpoint").exists()


def extract_killed(place: Place, count: int, tally: Tally) -> None:
    """Extractions that are killed; the next command, with features or without, ends as if they never were."""
    out, kept = place.folder / "of killed", place.folder / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(place.cache, kept)
    for number, (way, plan) in enumerate(points("extraction", place, place.cache, count)):
        with tally.point(way):
            shutil.rmtree(out, ignore_errors=True)
            if number % 2 == 0 or not place.cache.exists():
                shutil.rmtree(place.cache, ignore_errors=True)
            ended = place.train(out, plan=plan)
            assert ended.code in {0, -9}, ended.err
            tally.note("finished" if ended.code == 0 else "killed")
            if number % 2 or number == count - 1:
                again = place.train(out)
                assert again.code == 0 or "E-RUN-EXISTS" in again.err, again.err
                assert stores(place.cache) == stores(kept)
                assert contents(out) == contents(place.whole)


def export_killed(place: Place, count: int, tally: Tally) -> None:
    """Exports that are killed, of a target that is there and of one that is not."""
    target = place.folder / "exports" / "bundle"
    target.parent.mkdir(exist_ok=True)
    old = place.folder / "traced bundle"
    digests = [Bundle.open(old).manifest_sha256]
    for number, (way, plan) in enumerate(points("export", place, place.folder, count)):
        with tally.point(way):
            replaced = number % 2 == 0
            shutil.rmtree(target, ignore_errors=True)
            if replaced:
                shutil.copytree(old, target)
            ended = place.export(target, plan)
            assert ended.code in {0, -9}, ended.err
            assert target.exists() or not replaced
            if target.exists():
                found = Bundle.open(target)
                assert found.current().number == 1
                tally.note("old" if found.manifest_sha256 in digests else "new")
            else:
                tally.note("absent")
            assert len(export_leftovers(target)) <= 2  # of the graphs, and of the bundle
            if number % 5 == 4 or number == count - 1:
                again = place.export(target)
                assert again.code == 0, again.err
                said = place.nursery.run("zsl-doctor", target)
                check_doctor(said.out + said.err, said.code)
                assert [path.name for path in target.parent.iterdir()] == ["bundle"]


CASES = {"training": train_killed, "extraction": extract_killed, "export": export_killed}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_killed_at_many_points_it_goes_on_as_if_nothing_had_happened(place, kind):
    tally = Tally("kills", kind)
    CASES[kind](place, POINTS, tally)
    tally.end()


def disturbed(kind: str, place: Place, root: Path, count: int) -> Iterator[tuple[str, Plan]]:
    """So many plans of a command whose disk fails or is full from then on, or that is stopped, at random operations."""
    draw = random.Random(f"{kind} disturbed")
    full, failing = numbers_of("ENOSPC", "EIO")
    ways = (
        ("full disk", "error", full, WRITE | NAME | SYNC, ALWAYS),
        ("failing once", "error", failing, CHANGES, 1),
        ("Ctrl-C", "signal", 2, CHANGES, 1),
        ("SIGTERM", "signal", 15, CHANGES, 1),
    )
    for number in range(count):
        way, action, value, kinds, times = ways[number % len(ways)]
        yield way, Plan(str(root), action, value, kinds, draw.randrange(place.operations[kind]), times)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["training", "extraction"])
def test_a_training_that_is_disturbed_says_so_and_goes_on(place, kind):
    """One line, or the run as it always is; the same command ends with the run that was never disturbed."""
    out = place.folder / f"disturbed {kind}"
    root = out if kind == "training" else place.cache
    tally = Tally("faults", f"{kind}: full or failing disk, signals")
    for way, plan in disturbed(kind, place, root, max(8, POINTS // 5)):
        with tally.point(way):
            shutil.rmtree(out, ignore_errors=True)
            if kind == "extraction":
                shutil.rmtree(place.cache, ignore_errors=True)
            ended = place.train(out, plan=plan)
            assert decent(ended), ended
            tally.note(f"exit {ended.code}")
            finish(place, out)
    tally.end()


@pytest.mark.slow
def test_an_export_that_is_disturbed_says_so_and_leaves_the_old_bundle(place):
    target, old = place.folder / "disturbed exports" / "bundle", place.folder / "traced bundle"
    target.parent.mkdir()
    before = Bundle.open(old).manifest_sha256
    tally = Tally("faults", "export: full or failing disk, signals")
    for way, plan in disturbed("export", place, place.folder, max(8, POINTS // 5)):
        with tally.point(way):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(old, target)
            ended = place.export(target, plan)
            assert decent(ended), ended
            found = Bundle.open(target)
            assert ended.code == 0 or found.manifest_sha256 == before or plan.action == "signal", ended
            again = place.export(target)
            assert again.code == 0, again.err
            assert [path.name for path in target.parent.iterdir()] == ["bundle"]
            tally.note(f"exit {ended.code}")
    tally.end()
