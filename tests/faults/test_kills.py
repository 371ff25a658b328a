"""kill -9 at any point of a change: the bundle answers as before or after it, and the change can be made again.

Two ways to choose points: every operation on the bundle's files, before it and in the middle of it, and moments drawn
at random. The normal tests take every operation of the changes; `make faults` takes ZSL_FAULT_POINTS of each command.
"""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from PIL import Image

from support.faults import CHANGES, LACKING, Nursery, Plan
from support.reliability import POINTS, Tally
from support.sound import Answers, answers, check_clean, check_doctor, check_sound
from support.tiny_bundle import ATTRIBUTES, SEEN, class_table, draw_pictures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)
CHANGE = {
    "add": ("add", "--attributes", "{folder}/jay.csv"),
    "add with photographs": ("add", "--attributes", "{folder}/jay.csv", "--photos", "{folder}/of_jays"),
    "teach": ("teach", "--photos", "{folder}/of_tits"),
    "remove": ("remove", "wren"),
    "undo": ("undo",),
    "refit": ("refit",),
    "prune": ("prune", "--keep", "1"),
}
AGAIN_EVERY = 4  # moments: those after which the change is made again, which it is after every operation
WHOLE_EVERY = 10  # points: those at which scores are computed and zsl-doctor has a look


class Place(NamedTuple):
    """Where a change is tried.

    Attributes:
        nursery: which runs the commands.
        folder: with the class file and the photographs.
        start: a bundle with two changes behind it.
        bundle: where its copies go.

    """

    nursery: Nursery
    folder: Path
    start: Path
    bundle: Path

    def words(self, name: str) -> list[str]:
        """The arguments of a change."""
        verb, *rest = (word.format(folder=self.folder) for word in CHANGE[name])
        return [verb, "--engine", str(self.bundle), *rest]

    def again(self) -> None:
        """A fresh copy."""
        shutil.rmtree(self.bundle, ignore_errors=True)
        shutil.copytree(self.start, self.bundle)


@pytest.fixture(scope="module")
def place(shared_bundle, tmp_path_factory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "jay.csv").write_text(f"{','.join(('name', *ATTRIBUTES))}\njay,1,1,0,3,1,1\n", encoding="utf-8")
    for name, species, column in (("of_jays", "jay", 2), ("of_tits", SEEN[1], 1)):
        (folder / name / species).mkdir(parents=True)
        for number, picture in enumerate(draw_pictures(class_table(), np.full(3, column), seed=4)):
            Image.fromarray(picture).save(folder / name / species / f"{number}.png")
    before = "import onnxruntime, PIL.Image, zsl_runtime.classes.changes, zsl_runtime.labelling.classifier"
    with Nursery(folder / "nursery", ["zsl-classes", "zsl-doctor"], before) as nursery:
        start = shutil.copytree(shared_bundle(rule="gaussian"), folder / "start")
        for words in (("remove", "gull"), ("remove", "crow")):
            assert nursery.run("zsl-classes", words[0], "--engine", start, *words[1:]).code == 0
        yield Place(nursery, folder, start, folder / "bundle")


def strike(
    place: Place, name: str, plan: Plan, before: Answers, after: Answers, *, whole: bool, again: bool = True
) -> str:
    """Run a change by the plan, check what it left, and, with `again`, make it again; how it ended.

    With `whole`, scores are computed, not only classes and head compared, and zsl-doctor has a look.
    """
    place.again()
    ended = place.nursery.run("zsl-classes", *place.words(name), plan=plan)
    assert ended.code in {0, -9}, ended.err
    assert not ended.left
    found = check_sound(place.bundle, before, after, computed=whole)
    if whole:
        said = place.nursery.run("zsl-doctor", place.bundle)
        check_doctor(said.out + said.err, said.code)
    how = "finished" if ended.code == 0 else "before" if found == before else "after"
    if not again:
        return how
    if found == before:
        said = place.nursery.run("zsl-classes", *place.words(name))
        assert said.code == 0, said.err
        check_sound(place.bundle, after, computed=whole)
    else:
        assert place.nursery.run("zsl-classes", "prune", "--engine", place.bundle, "--keep", 9).code == 0
    check_clean(place.bundle)
    return how


def ends(place: Place, name: str) -> tuple[Answers, Answers, int, float]:
    """Answers before and after a change that nothing happens to, its operations, and its seconds."""
    place.again()
    before = answers(place.bundle)
    ended = place.nursery.run("zsl-classes", *place.words(name), plan=Plan(root=str(place.bundle)))
    assert ended.code == 0, ended.err
    return before, answers(place.bundle), ended.met, ended.seconds


@pytest.mark.parametrize(
    "name", ["add", "prune", *(pytest.param(one, marks=pytest.mark.slow) for one in ("teach", "undo"))]
)
def test_killed_at_any_operation_a_change_is_made_or_not(place, name):
    before, after, met, _ = ends(place, name)
    assert met >= 4
    seen = set()
    for at in range(met):
        plan = Plan(root=str(place.bundle), action="kill", at=at)
        seen.add(strike(place, name, plan, before, after, whole=False))
    plan = Plan(root=str(place.bundle), action="half then kill", at=3)
    seen.add(strike(place, name, plan, before, after, whole=name == "add"))
    assert seen >= ({"before"} if before == after else {"before", "after"})


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGE)
def test_killed_at_many_points_a_change_is_made_or_not(place, name):
    before, after, met, seconds = ends(place, name)
    draw = random.Random(name)
    tally = Tally("kills", name)
    operations = [(action, at) for at in range(met) for action in ("kill", "half then kill")]
    for number in range(max(POINTS, len(operations))):
        if number < len(operations):
            action, at = operations[number]
            plan = Plan(root=str(place.bundle), action=action, at=at, kinds=CHANGES)
        else:
            plan = Plan(root=str(place.bundle), kill_after=draw.uniform(0, 1.05 * seconds))
        with tally.point("operation" if number < len(operations) else "moment"):
            again = number < len(operations) or number % AGAIN_EVERY == 0
            how = strike(place, name, plan, before, after, whole=number % WHOLE_EVERY == 0, again=again)
            tally.note(how)
    tally.end()
