"""kill -9 at any point of a change: the bundle answers as before or after it, and the change can be made again.

Two ways to choose points: every operation on the bundle's files, before it and in the middle of it, and moments drawn
at random. The normal tests take every operation of the changes; `make faults` takes ZSL_FAULT_POINTS of each command.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from support.changes import CHANGE, Place, open_place
from support.faults import CHANGES, LACKING, Plan
from support.reliability import POINTS, Tally
from support.sound import Answers, answers, check_clean, check_doctor, check_sound

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)
AGAIN_EVERY = 4  # moments: those after which the change is made again, which it is after every operation
WHOLE_EVERY = 10  # points: those at which scores are computed and zsl-doctor has a look


@pytest.fixture(scope="module")
def place(shared_bundle, tmp_path_factory) -> Iterator[Place]:
    with open_place(tmp_path_factory.mktemp("kills"), shared_bundle(rule="gaussian"), "zsl-doctor") as made:
        yield made


def strike(
    place: Place, name: str, plan: Plan, before: Answers, after: Answers, *, whole: bool, again: bool = True
) -> str:
    """Run a change by the plan, check what it left, and, with `again`, make it again; how it ended.

    With `whole`, scores are computed, not only classes and head compared, and zsl-doctor has a look.
    """
    place.again()
    ended = place.change(name, plan)
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
        said = place.change(name)
        assert said.code == 0, said.err
        check_sound(place.bundle, after, computed=whole)
    else:
        place.clean()
    check_clean(place.bundle)
    return how


def ends(place: Place, name: str) -> tuple[Answers, Answers, int, float]:
    """Answers before and after a change that nothing happens to, its operations, and its seconds."""
    place.again()
    before = answers(place.bundle)
    ended = place.change(name, Plan(root=str(place.bundle)))
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
