"""The choice of `auto`: fakes for its rules, real backends for what is remembered and what comes out."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_bundle import (
    class_table,
    draw_pictures,
    features_of,
    lift_of,
)
from support.tiny_precisions import add_precisions
from support.usable import auto_chooses_among
from zsl_runtime.backends import auto
from zsl_runtime.backends.auto import Choice, choose, cpu_name, measure, remembered
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.backends.table import BACKENDS, Kind, fast, version_of
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import BackendError, UsageError
from zsl_runtime.head.head import fold
from zsl_runtime.labelling.classifier import Classifier

if TYPE_CHECKING:
    from pathlib import Path

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8), seed=1)
FEATURES = features_of(PICTURES)
NAMES = ("first", "second")
KINDS = {name: Kind("", (), "cpu", ("fp32", "int8"), fast=True) for name in NAMES}
needs_two = pytest.mark.skipif(
    version_of(["openvino"]) is None, reason="openvino is not installed: there is nothing to choose between"
)


class Clock:
    """Seconds that only fakes pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A backend of the tiny model: `seconds` a run, features off by `shift`, classes moved by `turn`."""

    def __init__(self, clock: Clock, seconds: float, *, shift=0.0, turn=0, error=None, jitter=0.0) -> None:
        self.clock, self.seconds, self.shift, self.turn, self.error, self.jitter = (
            clock, seconds, shift, turn, error, jitter,
        )  # fmt: skip
        self.batches: list[int] = []
        self.closed = False

    def run(self, inputs, head):
        if self.error:
            raise self.error
        self.clock.now += self.seconds + (self.jitter if len(self.batches) % 2 else 0)
        self.batches.append(len(inputs))
        features = features_of(inputs) + np.float32(self.shift)
        return np.roll(head.scores(lift_of(features)), self.turn, axis=1), features

    def lift(self, features):
        return lift_of(features)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def head(shared_bundle):
    return fold(Bundle.open(shared_bundle()).current().head, TABLE.seen)


@pytest.fixture
def bundle(own_bundle, tmp_path, monkeypatch) -> Bundle:
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    return Bundle.open(own_bundle("b"))


def measured(head, clock: Clock, precision: str = "fp32", **fakes: Fake) -> Choice:
    return measure(list(fakes), fakes.__getitem__, PICTURES, FEATURES, head, precision=precision, clock=clock)


# --- the rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "best"),
    [(0.3, 0.2, "second"), (0.2, 0.3, "first"), (0.2, 0.2, "first"), (0.2, 0.196, "first"), (0.2, 0.19, "second")],
)
def test_the_fastest_is_chosen_and_a_tie_goes_to_the_first(head, first, second, best):
    clock = Clock()
    fakes = {"first": Fake(clock, first), "second": Fake(clock, second)}
    choice = measured(head, clock, **fakes)
    assert choice.chosen == best
    assert choice.seconds == pytest.approx({"first": first, "second": second})
    assert choice.left_out == {}
    assert all(fake.closed for fake in fakes.values())
    for fake in fakes.values():
        assert fake.batches == [8] * len(fake.batches)
        timed = (len(fake.batches) - 2) * fake.seconds  # the check and the warm-up do not count
        assert auto.BUDGET <= timed < auto.BUDGET + fake.seconds + 1e-9


def test_a_very_slow_one_is_run_once_and_a_very_fast_one_not_for_ever(head):
    clock = Clock()
    fakes = {"slow": Fake(clock, 50.0), "fast": Fake(clock, 1e-6)}
    assert measured(head, clock, **fakes).chosen == "fast"
    assert len(fakes["slow"].batches) == 3
    assert len(fakes["fast"].batches) == 2 + auto.MOST_RUNS


def test_what_disturbs_some_runs_does_not_count(head):
    clock = Clock()
    choice = measured(head, clock, first=Fake(clock, 0.1), second=Fake(clock, 0.05, jitter=5.0))
    assert choice.seconds == pytest.approx({"first": 0.1, "second": 0.05})


class SlowingClock(Clock):
    """A machine that becomes slower: what takes a second takes `factor` seconds, then `factor` squared, and so on."""

    def __init__(self, factor: float) -> None:
        self.factor, self.times, self.real = factor, 0, 0.0

    @property
    def now(self) -> float:
        return self.real

    @now.setter
    def now(self, value: float) -> None:
        self.real += (value - self.real) * self.factor**self.times
        self.times += 1


@pytest.mark.parametrize("factor", [1.02, 1 / 1.02], ids=["slower", "faster"])
@pytest.mark.parametrize(("first", "second", "best"), [(0.05, 0.045, "second"), (0.05, 0.0499, "first")])
def test_on_a_machine_that_changes_its_speed_the_order_does_not_decide(head, factor, first, second, best):
    """20 runs of one and then 20 of the other are 1.5 times as slow, or as fast, by then."""
    clock = SlowingClock(factor)
    fakes = {"first": Fake(clock, first), "second": Fake(clock, second)}
    choice = measured(head, clock, **fakes)
    assert choice.chosen == best
    # Of rounds that both were in; each run is 2 % slower or faster than the one before it.
    assert choice.seconds["second"] / choice.seconds["first"] == pytest.approx(second / first, rel=0.021)


def test_a_quiet_moment_that_only_one_of_them_had_does_not_decide(head):
    """The slower one has used up its time when the machine becomes quiet; both are 3 times as fast then."""
    clock = SlowingClock(1.0)
    fakes = {"first": Fake(clock, 0.3), "second": Fake(clock, 0.299)}
    runs = {name: fake.run for name, fake in fakes.items()}

    def run(inputs, head):
        if len(fakes["second"].batches) > 5:
            clock.factor, clock.times = 1 / 3, 1
        return runs["second"](inputs, head)

    fakes["first"].seconds = 0.3
    fakes["second"].run = run
    assert measured(head, clock, **fakes).chosen == "first"


def test_all_that_are_timed_run_in_turns_and_are_closed_whatever_happens(head):
    clock, order = Clock(), []

    class Noting(Fake):
        def run(self, inputs, head):
            order.append(self.seconds)
            if len(order) > 8 and self.seconds == 0.2:
                self.error = BackendError("E-BACKEND-RUN", "out of memory")
            return super().run(inputs, head)

    fakes = {"first": Noting(clock, 0.3), "second": Noting(clock, 0.2), "wrong": Fake(clock, 0.1, turn=1)}
    choice = measured(head, clock, **fakes)
    assert order[:8] == [0.3, 0.2] * 4
    assert choice.chosen == "first"
    assert choice.left_out == {"wrong": "8 of 8 best classes are others", "second": "E-BACKEND-RUN: out of memory"}
    assert all(fake.closed for fake in fakes.values())


def test_whoever_disagrees_with_the_probe_or_fails_is_left_out(head):
    clock = Clock()
    for other, why in (
        (Fake(clock, 0.01, shift=0.01), "features differ by"),
        (Fake(clock, 0.01, turn=1), "8 of 8 best classes are others"),
        (Fake(clock, 0.01, shift=np.nan), "not numbers"),
        (Fake(clock, 0.01, error=BackendError("E-BACKEND-LOAD", "cannot load")), "E-BACKEND-LOAD: cannot load"),
        (Fake(clock, 0.01, error=UsageError("E-INPUT-ARRAY", "takes others")), "E-INPUT-ARRAY: takes others"),
    ):
        for fakes in ({"first": other, "second": Fake(clock, 9.0)}, {"first": Fake(clock, 9.0), "second": other}):
            choice = measured(head, clock, **fakes)
            (bad,) = (name for name, fake in fakes.items() if fake is other)
            assert choice.chosen != bad
            assert why in choice.left_out[bad]
            assert set(choice.seconds) == {choice.chosen}


def test_where_nobody_agrees_it_is_one_error_with_every_reason(head):
    clock = Clock()
    wrong = BackendError("E-BACKEND-LOAD", "no such library")
    with pytest.raises(BackendError, match=r"first: its features differ.*second: E-BACKEND-LOAD: no such") as caught:
        measured(head, clock, first=Fake(clock, 1.0, shift=1.0), second=Fake(clock, 1.0, error=wrong))
    assert (caught.value.code, caught.value.exit_code) == ("E-BACKEND-PROBE", 4)
    assert "zsl-doctor" in caught.value.message


def test_in_lower_precisions_the_others_must_agree_with_the_first(head):
    """What int8 costs is measured at the export; here two ways to run the same file are compared."""
    clock = Clock()
    near = measured(head, clock, "int8", first=Fake(clock, 1.0, shift=0.02), second=Fake(clock, 0.5, shift=0.021))
    assert near.chosen == "second"
    turned = measured(head, clock, "int8", first=Fake(clock, 1.0, shift=0.02), second=Fake(clock, 0.5, turn=1))
    assert turned.left_out == {"second": "8 of 8 best classes are others"}
    broken = measured(head, clock, "int8", first=Fake(clock, 0.1, shift=9.0), second=Fake(clock, 0.5, shift=0.02))
    apart = measured(head, clock, "int8", first=Fake(clock, 1.0, shift=0.1), second=Fake(clock, 0.5, shift=-0.1))
    assert apart.chosen == "first"
    assert (broken.chosen, list(broken.left_out)) == ("second", ["first"])


def test_a_best_class_that_was_a_tie_is_no_disagreement(head):
    wanted = auto.Answers(np.log(np.array([[0.4, 0.4 - 1e-5, 0.2]], np.float32)), np.ones((1, 3), np.float32))
    found = auto.Answers(wanted.scores[:, [1, 0, 2]], wanted.features)
    assert auto.disagreement(found, wanted, 1e-3, 1e-3) == ""
    far = auto.Answers(wanted.scores[:, [2, 1, 0]], wanted.features)
    assert "1 of 1" in auto.disagreement(far, wanted, 1e-3, 1e-3)
    assert "shapes" in auto.disagreement(auto.Answers(found.scores[:, :2], found.features), wanted, 1, 1)


# --- what is remembered ---------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """`choose` between two fakes, `second` being the faster one; and how often it measured."""
    monkeypatch.setattr(auto, "BACKENDS", KINDS)
    calls = []

    def fake_measure(candidates, *_, **__):
        calls.append(list(candidates))
        return Choice("second", {"first": 0.2, "second": 0.1}, {})

    monkeypatch.setattr(auto, "measure", fake_measure)
    return SimpleNamespace(
        calls=calls,
        choose=lambda bundle, precision="fp32", threads=2: choose(
            bundle, NAMES, pytest.fail, precision=precision, threads=threads
        ),
    )


def choices(bundle: Bundle) -> list[Path]:
    return sorted((bundle.path / "engines").glob("*"))


def test_a_choice_is_measured_once_and_stands_beside_the_bundle(bundle, counted):
    assert [counted.choose(bundle) for _ in range(3)] == ["second"] * 3
    assert counted.calls == [["first", "second"]]
    (path,) = choices(bundle)
    said = json.loads(path.read_text())
    assert said["graph"] == bundle.manifest["files"]["model.onnx"]["sha256"]
    assert (said["precision"], said["threads"], said["cpu"]) == ("fp32", 2, cpu_name())
    assert (said["chosen"], said["seconds"]) == ("second", {"first": 0.2, "second": 0.1})
    Bundle.open(bundle.path)  # the bundle is as whole as before
    choice = remembered(bundle, NAMES, precision="fp32")
    assert choice == Choice("second", {"first": 0.2, "second": 0.1}, {}, path)
    path.unlink()
    counted.choose(bundle)
    assert len(counted.calls) == 2


def test_everything_it_depends_on_is_measured_anew(bundle, own_bundle, counted, monkeypatch):
    counted.choose(bundle)
    assert counted.choose(bundle, threads=3) == "second"  # the same answers with every number of threads
    add_precisions(bundle.path)
    again = Bundle.open(bundle.path)
    counted.choose(again)  # the same fp32 graph
    assert len(counted.calls) == 1
    counted.choose(again, precision="int8")
    with monkeypatch.context() as patch:
        patch.setattr(auto, "cpu_name", lambda: "another processor")
        counted.choose(again)
    with monkeypatch.context() as patch:
        patch.setattr(auto, "version_of", lambda _: "library 2")
        counted.choose(again)
    counted.choose(Bundle.open(own_bundle("other", seed=3)))
    assert len(counted.calls) == 5
    counted.choose(again)
    assert len(counted.calls) == 5


def test_a_bundle_that_cannot_be_written_leaves_it_in_the_users_cache_folder(bundle, counted, tmp_path):
    (bundle.path / "engines").write_text("not a folder")
    counted.choose(bundle)
    counted.choose(bundle)
    assert len(counted.calls) == 1
    (path,) = (tmp_path / "cache" / "engines").iterdir()
    assert path.name.startswith("auto-")
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("not a folder either")
    assert [counted.choose(bundle) for _ in range(2)] == ["second"] * 2  # measured each time, and no error
    assert len(counted.calls) == 3


def test_who_came_first_decides(bundle, counted, monkeypatch):
    """Two processes measure side by side; the later one takes over what it finds."""
    slow = auto.measure

    def meanwhile(*arguments, **options):
        choice = Choice("first", {"first": 0.1}, {"second": "x"})
        auto._remember(bundle, choice, auto._facts(bundle, NAMES, "fp32"), 2)
        return slow(*arguments, **options)

    monkeypatch.setattr(auto, "measure", meanwhile)
    assert counted.choose(bundle) == "first"
    assert counted.choose(bundle) == "first"
    (path,) = choices(bundle)
    assert json.loads(path.read_text())["left_out"] == {"second": "x"}


def test_a_file_system_without_links_is_no_obstacle(bundle, counted, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    counted.choose(bundle)
    counted.choose(bundle)
    assert len(counted.calls) == 1
    assert len(choices(bundle)) == 1


def test_without_inputs_in_the_probe_nothing_is_measured(shared_bundle, counted):
    bundle = Bundle.open(shared_bundle(probe_images=False))
    assert counted.choose(bundle) == "first"
    assert counted.calls == []
    assert choices(bundle) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, "x"]), inner, max_size=3),
    max_leaves=5,
)
FACTS = {"format": 1, "graph": "0", "precision": "fp32", "cpu": "c", "backends": dict.fromkeys(NAMES, "")}
WHOLE = {**FACTS, "threads": 1, "chosen": "second", "seconds": {"first": 0.2, "second": 0.1}, "left_out": {}}


@given(
    damage=st.one_of(
        st.binary(max_size=60),
        st.integers(0, len(json.dumps(WHOLE)) - 1).map(lambda end: json.dumps(WHOLE)[:end].encode()),
        st.tuples(st.sampled_from(sorted(WHOLE)), json_values).map(
            lambda change: json.dumps({**WHOLE, change[0]: change[1]}).encode()
        ),
        st.sampled_from(sorted(WHOLE)).map(
            lambda key: json.dumps({name: value for name, value in WHOLE.items() if name != key}).encode()
        ),
    )
)
def test_a_damaged_file_is_no_choice_or_a_valid_one(tmp_path_factory, damage):
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(json.dumps(WHOLE).encode())
    assert auto._read(path, FACTS).chosen == "second"
    path.write_bytes(damage)
    choice = auto._read(path, FACTS)
    assert choice is None or (choice.chosen in choice.seconds and {*choice.seconds, *choice.left_out} == set(NAMES))


def test_a_damaged_file_is_measured_again_and_replaced(bundle, counted):
    counted.choose(bundle)
    (path,) = choices(bundle)
    path.write_bytes(b"\xff{")
    assert counted.choose(bundle) == "second"
    assert len(counted.calls) == 2
    counted.choose(bundle)
    assert len(counted.calls) == 2
    assert choices(bundle) == [path]


def test_the_processor_has_a_name_everywhere(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: Some CPU\nflags : a b\n\nprocessor : 1\nflags : c\n")
    some = cpu_name(info)
    assert some.startswith("Some CPU ")
    info.write_text(info.read_text().replace("a b", "a"))
    assert cpu_name(info) not in {some, ""}
    assert cpu_name(tmp_path / "none")


# --- real ones ------------------------------------------------------------------------------------------------------


def test_with_one_fast_backend_nothing_is_measured(bundle, monkeypatch):
    """It is not even asked: conftest.py leaves one in the table."""
    monkeypatch.setattr(auto, "choose", pytest.fail)
    assert open_backend("auto", bundle).name == "ort"
    assert not (bundle.path / "engines").exists()


@pytest.fixture
def two(monkeypatch):
    """The table as users have it."""
    auto_chooses_among(monkeypatch, *(name for name in BACKENDS if name != "reference"))


@needs_two
def test_real_backends_are_measured_once_and_the_labels_are_right(bundle, two, monkeypatch):
    with Classifier.open(bundle.path, threads=1) as classifier:
        chosen = classifier.backend.name
        labels = [prediction.names[0] for prediction in classifier.predict(PICTURES)]
    assert chosen in {"ort", "openvino"}
    assert labels == list(TABLE.names)
    choice = remembered(bundle, ["ort", "openvino"], precision="fp32")
    assert (choice.chosen, set(choice.seconds), choice.left_out) == (chosen, {"ort", "openvino"}, {})
    monkeypatch.setattr(auto, "measure", pytest.fail)
    assert open_backend("auto", bundle, threads=1).name == chosen
    other = ({"ort", "openvino"} - {chosen}).pop()
    assert open_backend(other, bundle, threads=1).name == other  # what is asked for by name is not looked up


@needs_two
def test_auto_keeps_the_bundles_precision_and_knows_who_runs_it(bundle, two):
    add_precisions(bundle.path, ["int8-cpu", "fp32"], default="int8")
    small = Bundle.open(bundle.path)
    assert open_backend("auto", small, threads=1).precision == "int8"
    assert remembered(small, ["ort", "openvino"], precision="int8").left_out == {}
    assert fast("bf16") == ["openvino"]
    with pytest.raises(UsageError, match="E-PRECISION: "):
        open_backend("auto", small, precision="fp16")
