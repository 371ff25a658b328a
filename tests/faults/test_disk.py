"""Disks that are full, fail, are slow or answer in pieces, and signals that come in the middle: one clear line and the
right exit code, nothing half written, and the command can be repeated.

Every operation of a command on files meets the fault once: the normal tests take `add` and `zsl-infer`, the long ones
every command.
"""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from support.changes import Place, draw_photographs, open_place
from support.faults import (
    ALWAYS,
    CHANGES,
    LACKING,
    LOCK,
    MAP,
    NAME,
    OPEN,
    READ,
    SYNC,
    WRITE,
    Ended,
    Plan,
    decent,
)
from support.faults import errors as numbers_of
from support.reliability import Tally
from support.sound import LITTER, Answers, answers, check_clean, check_sound

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)
ENOSPC, EDQUOT, EIO, EINTR, EROFS, EACCES, ENOMEM, EMFILE = numbers_of(
    "ENOSPC", "EDQUOT", "EIO", "EINTR", "EROFS", "EACCES", "ENOMEM", "EMFILE"
)
# What goes wrong -> error, kinds of operations, how many in a row.
FAULTS = {
    "full disk": (ENOSPC, WRITE | NAME | SYNC, ALWAYS),
    "full for a moment": (ENOSPC, WRITE | NAME | SYNC, 1),
    "quota": (EDQUOT, WRITE, ALWAYS),
    "read-only": (EROFS, WRITE | NAME, ALWAYS),
    "failing disk": (EIO, CHANGES, ALWAYS),
    "failing once": (EIO, CHANGES, 1),
    "failing reads": (EIO, READ | OPEN | MAP, ALWAYS),
    "a failing read": (EIO, READ | OPEN | MAP, 1),
    "forbidden": (EACCES, OPEN | NAME, 1),
    "no memory of the kernel": (ENOMEM, READ | WRITE | OPEN | MAP, 1),
    "no more open files": (EMFILE, OPEN, 1),
    "interrupted calls": (EINTR, READ | WRITE | SYNC | LOCK, 1),
}
QUICK = ("full disk",)


def long(value: object) -> Any:
    """A case for the long tests alone."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def place(shared_bundle, tmp_path_factory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("disk")
    draw_photographs(folder / "photos", 1)
    with open_place(folder, shared_bundle(rule="gaussian"), "zsl-infer", "zsl-doctor") as made:
        yield made


def label(place: Place, plan: Plan | None = None, *more: object) -> Ended:
    """Run zsl-infer on the photographs."""
    words = (place.folder / "photos", "--engine", place.bundle, "--backend", "ort", "--threads", 1, "-q", *more)
    return place.nursery.run("zsl-infer", *words, plan=plan)


def ends(place: Place, name: str, kinds: int) -> tuple[Answers, Answers, int]:
    """Answers before and after a change that nothing happens to, and how many of its operations are of these kinds."""
    place.again()
    before = answers(place.bundle)
    ended = place.change(name, Plan(root=str(place.bundle), kinds=kinds))
    assert ended.code == 0, ended.err
    return before, answers(place.bundle), ended.met


def meet(place: Place, name: str, plan: Plan, before: Answers, after: Answers) -> int:
    """Run a change by the plan, check what it says and leaves, and make it again; its exit code."""
    place.again()
    ended = place.change(name, plan)
    assert decent(ended), (plan, ended)
    most = LITTER + 1 if plan.kinds & NAME else 0  # where names can be removed, all it began is
    found = check_sound(place.bundle, before, after, most=most, computed=plan.at % 5 == 0)
    if ended.code == 0:
        assert found == after
    if found == after != before:  # made, even where its end went wrong: then it says so
        assert ended.code == 0 or "(made)" in ended.err, ended.err
        place.clean()
    else:
        again = place.change(name)
        assert again.code == 0, again.err
        check_sound(place.bundle, after, computed=False)
    check_clean(place.bundle)
    return ended.code


@pytest.mark.parametrize("fault", [name if name in QUICK else long(name) for name in FAULTS])
@pytest.mark.parametrize("name", ["add", *map(long, ("teach", "remove", "undo", "refit", "prune"))])
def test_a_change_that_meets_an_error_anywhere(place, name, fault):
    error, kinds, times = FAULTS[fault]
    before, after, met = ends(place, name, kinds)
    tally = Tally("faults", f"{name}: {fault}")
    for at in range(met):
        plan = Plan(root=str(place.bundle), action="error", value=error, kinds=kinds, at=at, times=times)
        with tally.point(fault):
            tally.note(f"exit {meet(place, name, plan, before, after)}")
    tally.end()


@pytest.mark.parametrize("number", [signal.SIGINT, long(signal.SIGTERM)])
@pytest.mark.parametrize("name", ["add", *map(long, ("teach", "undo", "prune"))])
def test_a_change_that_is_stopped_anywhere(place, name, number):
    """Ctrl-C, or SIGTERM: cleaned up by the command itself, at whatever operation it comes."""
    before, after, met = ends(place, name, CHANGES)
    tally = Tally("faults", f"{name}: {signal.Signals(number).name}")
    for at in range(met):
        plan = Plan(root=str(place.bundle), action="signal", value=int(number), at=at)
        with tally.point("signal"):
            place.again()
            ended = place.change(name, plan)
            assert ended.code in {0, 128 + number}, ended
            assert decent(ended)
            check_sound(place.bundle, before, after, most=0, computed=False)
            tally.note(f"exit {ended.code}")
    tally.end()


def test_calls_that_do_half_of_what_they_are_asked_change_nothing(place):
    before, after, _ = ends(place, "add", READ | WRITE)
    plan = Plan(root=str(place.bundle), action="short", kinds=READ | WRITE, times=ALWAYS)
    assert meet(place, "add", plan, before, after) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [READ, WRITE])
def test_a_call_that_does_half_of_what_it_is_asked_changes_nothing(place, kinds):
    before, after, met = ends(place, "add", kinds)
    assert met > 0
    for at in range(met):
        assert meet(place, "add", Plan(root=str(place.bundle), action="short", kinds=kinds, at=at), before, after) == 0


def test_slow_reads_are_waited_for(place):
    """Of the bundle and of photographs: the answers are the same."""
    place.again()
    fast = label(place)
    plan = Plan(root=str(place.folder), action="delay", value=20, kinds=READ | OPEN, times=ALWAYS)
    slow = label(place, plan)
    assert (slow.code, slow.out) == (0, fast.out)
    assert slow.met > 30  # each of which took 20 ms longer, some side by side
    assert slow.seconds > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("fault", [name for name in FAULTS if FAULTS[name][1] & (READ | OPEN | MAP)])
def test_labelling_from_a_bundle_that_cannot_be_read(place, fault):
    """The line says what; or, where only what is not needed failed, the answers are right."""
    error, kinds, times = FAULTS[fault]
    place.again()
    whole = label(place, Plan(root=str(place.bundle), kinds=kinds))
    assert whole.code == 0
    tally = Tally("faults", f"zsl-infer: {fault} (bundle)")
    for at in range(whole.met):
        with tally.point(fault):
            ended = label(place, Plan(str(place.bundle), "error", error, kinds, at, times))
            assert decent(ended), ended
            assert ended.code in {2, 4, 5} or ended.out == whole.out, ended
            tally.note(f"exit {ended.code}")
    tally.end()


def named(text: str) -> set[str]:
    """Path, rank, class and split of results: last digits of the numbers depend on how many pictures are in a batch."""
    return {line.rsplit(",", 3)[0] for line in text.splitlines()}


@pytest.mark.parametrize("fault", ["failing reads", *map(long, ("a failing read", "forbidden", "interrupted calls"))])
def test_photographs_that_cannot_be_read(place, fault):
    """The others are labelled all the same, and the exit code says it."""
    error, kinds, times = FAULTS[fault]
    root = place.folder / "photos"
    whole = label(place, Plan(root=str(root), kinds=kinds))
    tally = Tally("faults", f"zsl-infer: {fault} (photographs)")
    for at in range(whole.met):
        with tally.point(fault):
            ended = label(place, Plan(str(root), "error", error, kinds, at, times))
            assert decent(ended), ended
            assert ended.code in ({0} if error == EINTR else {0, 2, 6}), ended
            if ended.code == 0:
                assert ended.out == whole.out
            else:
                assert named(ended.out) <= named(whole.out), ended
            tally.note(f"exit {ended.code}")
    tally.end()


@pytest.mark.parametrize(
    "fault", ["full disk", *map(long, ("failing once", "failing disk", "quota", "interrupted calls", "read-only"))]
)
def test_results_that_cannot_be_written(place, fault):
    """What is in the file of results is whole, or it is not there; the same command with --resume ends it."""
    error, kinds, times = FAULTS[fault]
    out = place.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    name = out / "labels.csv"
    whole = label(place, Plan(root=str(out), kinds=kinds), "--output", name)
    assert whole.code == 0, whole.err
    expected = name.read_bytes()
    tally = Tally("faults", f"zsl-infer --output: {fault}")
    for at in range(whole.met):
        with tally.point(fault):
            shutil.rmtree(out)
            out.mkdir()
            ended = label(place, Plan(str(out), "error", error, kinds, at, times), "--output", name)
            assert decent(ended), ended
            assert not name.exists() or name.read_bytes() == expected
            assert ended.code != 0 or name.exists()
            assert error != EINTR or ended.code == 0, ended
            again = label(place, None, "--output", name, "--resume")
            assert again.code == 0, again.err
            assert name.read_bytes() == expected
            assert [path.name for path in out.iterdir()] == ["labels.csv"]
            tally.note(f"exit {ended.code}")
    tally.end()


def test_a_stdout_that_takes_no_more_at_any_point(place):
    """As a full disk behind `> labels.csv`: exit 2 and one line, and what did get there is the beginning."""
    place.again()
    out = place.folder / "stdout" / "labels.csv"
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(b"")
    whole = label(place, Plan(root=str(out.parent), kinds=WRITE, stdout=str(out)))
    assert whole.code == 0
    expected = out.read_bytes()
    for at in range(whole.met):
        out.write_bytes(b"")
        ended = label(place, Plan(str(out.parent), "error", ENOSPC, WRITE, at, ALWAYS, stdout=str(out)))
        assert decent(ended), ended
        assert ended.code == 2, ended
        assert expected.startswith(out.read_bytes())
    assert whole.met >= 1
