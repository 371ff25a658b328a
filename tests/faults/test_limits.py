"""Too little memory, too few open files, no more threads: one clear line, the right exit code, nothing half written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from PIL import Image

from support.changes import IMPORTS, write_jay
from support.faults import LACKING, Ended, Nursery, Plan, decent
from support.reliability import Tally
from support.sound import Answers, answers, check_sound
from support.tiny_bundle import class_table, draw_pictures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)
MB = 1 << 20
GIVEN_UP = {127, -6}  # libc or a library ends the process where it finds no memory for itself: nobody is asked


class Place(NamedTuple):
    """A nursery, the bundle, the photographs, and what the commands say of them."""

    nursery: Nursery
    folder: Path
    bundle: Path
    base: int

    def run(self, name: str, plan: Plan) -> Ended:
        """One of the commands below, by the plan."""
        words = {
            "zsl-infer": (self.folder / "photos", "--engine", self.bundle, "--backend", "ort", "--threads", 2, "-q"),
            "zsl-classes": ("add", "--engine", self.bundle, "--attributes", self.folder / "jay.csv"),
            "zsl-doctor": (self.bundle,),
        }[name]
        return self.nursery.run(name, *words, plan=plan)


@pytest.fixture(scope="module")
def place(shared_bundle, tmp_path_factory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "photos").mkdir()
    write_jay(folder)
    for number, picture in enumerate(draw_pictures(class_table(), np.full(5, 1), seed=4)):
        Image.fromarray(picture).resize((900, 900)).save(folder / "photos" / f"{number}.png")
    with Nursery(folder / "nursery", ["zsl-classes", "zsl-infer", "zsl-doctor"], IMPORTS) as nursery:
        yield Place(nursery, folder, folder / "bundle", nursery.memory())


@pytest.fixture
def bundle(place, shared_bundle) -> Answers:
    """A fresh copy; its answers."""
    shutil.rmtree(place.bundle, ignore_errors=True)
    shutil.copytree(shared_bundle(rule="gaussian"), place.bundle)
    return answers(place.bundle)


def undisturbed(place: Place, name: str) -> Ended:
    """How a command ends without limits; the bundle is as it was."""
    ended = place.run(name, Plan())
    assert ended.code == 0, ended.err
    if name == "zsl-classes":
        undo(place)
    return ended


def undo(place: Place) -> None:
    """Take back what was added."""
    assert place.nursery.run("zsl-classes", "undo", "--engine", place.bundle).code == 0


def check(place: Place, name: str, plan: Plan, whole: Ended, before: Answers, codes: set[int]) -> int:
    """Run a command by the plan: it does what it always does, or says why not; its exit code."""
    ended = place.run(name, plan)
    if ended.code in GIVEN_UP and "RLIMIT_AS" in plan.limits and name != "zsl-classes":
        return ended.code
    if name == "zsl-doctor":  # says what is amiss where it says everything, on stdout
        assert ended.code in codes, ended
        assert "Traceback" not in ended.err, ended
    else:
        assert decent(ended, codes), ended
    if name == "zsl-infer" and ended.code == 0:
        assert ended.out == whole.out
    if name == "zsl-classes":
        if ended.code == 0:
            undo(place)
        assert check_sound(place.bundle, before, most=0, computed=False)
    return ended.code


@pytest.mark.parametrize("name", ["zsl-infer", "zsl-classes", pytest.param("zsl-doctor", marks=pytest.mark.slow)])
def test_too_few_open_files(place, bundle, name):
    whole = undisturbed(place, name)
    tally = Tally("faults", f"{name}: too few open files")
    for limit in range(4, 20, 1 if name == "zsl-classes" else 3):
        with tally.point("limit"):
            plan = Plan(limits={"RLIMIT_NOFILE": limit})
            tally.note(f"exit {check(place, name, plan, whole, bundle, {0, 2, 4, 5, 6})}")
    tally.end()


@pytest.mark.parametrize("name", ["zsl-infer", "zsl-classes", pytest.param("zsl-doctor", marks=pytest.mark.slow)])
def test_no_more_threads(place, bundle, name):
    whole = undisturbed(place, name)
    tally = Tally("faults", f"{name}: no more threads")
    for threads in range(6):
        with tally.point("limit"):
            tally.note(f"exit {check(place, name, Plan(threads=threads), whole, bundle, {0, 2, 4})}")
    tally.end()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zsl-infer", "zsl-classes"])
def test_too_little_memory(place, bundle, name):
    """From nothing to enough, by address space. Not of zsl-doctor: it opens every library, and some hang then."""
    whole = undisturbed(place, name)
    tally = Tally("faults", f"{name}: too little memory")
    for more in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512):
        with tally.point("limit"):
            plan = Plan(limits={"RLIMIT_AS": place.base + more * MB})
            tally.note(f"exit {check(place, name, plan, whole, bundle, {0, 2, 4, 5, 6})}")
    tally.end()
