"""`zsl-doctor` runs every precision of a bundle on the probe: what it holds against what, and what it says then."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.signed import change_file, change_probe
from support.tiny_bundle import class_table, draw_pictures, features_of
from support.tiny_precisions import add_precisions, quantised_features_of
from zsl_runtime.backends import ort, table
from zsl_runtime.backends.auto import TOLERANCES
from zsl_runtime.backends.openvino import OpenVinoBackend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.generation import Probe
from zsl_runtime.cli import doctor_answers
from zsl_runtime.cli.doctor import main
from zsl_runtime.cli.doctor_answers import Judged, Stated, bound, compare, read_stated, verdicts
from zsl_runtime.errors import ArtefactError, BackendError
from zsl_runtime.machine.processor import Processor

ALL = ("fp32", "fp16", "int8-cpu")
PICTURES = draw_pictures(class_table(), np.arange(8), 1)  # those of the tiny bundle's probe
FEATURES = features_of(PICTURES).astype(np.float64)
LENGTH = np.sqrt((FEATURES**2).sum(axis=1).mean())


@pytest.fixture
def path(own_bundle):
    return own_bundle(precisions=ALL)


@pytest.fixture
def only_ort(monkeypatch):
    """`ort` and `reference` are all that is installed."""
    monkeypatch.setattr(table, "is_found", lambda _: False)
    real = table.version_of
    monkeypatch.setattr(table, "version_of", lambda packages: real([one for one in packages if one == "onnxruntime"]))


def lines(capsys, path) -> tuple[int, list[str]]:
    code = main([str(path)])
    said = capsys.readouterr()
    assert said.err == ""
    return code, [line for line in said.out.splitlines() if "  probe: " in line]


def line_of(found: list[str], about: str) -> str:
    (line,) = (line for line in found if f" {about}, " in line or f" {about} " in line)
    return line


def number(line: str, before: str, after: str) -> float:
    return float(line.partition(before)[2].partition(after)[0])


def put_parity(path, content) -> None:
    """parity.json of a bundle whose manifest does not list it, as exports write it now."""
    text = content if isinstance(content, str) else json.dumps(content)
    change_file(path, "parity.json", text.encode(), listed=False)


# --- every precision by every backend -------------------------------------------------------------------------------


def test_every_precision_is_run_by_every_backend_that_can(capsys, path):
    code, found = lines(capsys, path)
    assert code == 0
    assert found[0] == "ok      probe: 8 pictures with recorded answers, which each precision must give here, too"
    able = [name for name in table.installed_of(table.BACKENDS) if table.BACKENDS[name].device == "cpu"]
    for precision in ("fp32", "fp16", "int8"):
        for name in able:
            assert line_of(found, f"{precision} by {name}").startswith("ok ")
    assert any("bf16 by openvino" in line for line in found) == ("openvino" in able)


def test_how_far_int8_is_off_is_what_numpy_says(capsys, path, only_ort):
    """The tiny model in int8 can be computed by hand."""
    apart = np.linalg.norm(quantised_features_of(PICTURES) - FEATURES, axis=1)
    line = line_of(lines(capsys, path)[1], "int8 by ort")
    assert number(line, "features differ by ", " of") == pytest.approx(apart.max() / LENGTH, rel=0.06)  # two digits
    assert "(at most 1.0e+00, as usual in int8), and by " in line
    assert number(line, "and by ", " from") < 1e-5
    assert line.endswith("from the reference (at most 1.5e-01); 8 of 8 top-1 answers are as shipped (at least 7)")


def broken_int8(monkeypatch, kind, shift: float) -> None:
    """A library that computes int8 wrongly, as without VNNI: the reference, which does not rewrite, is right."""
    real = kind.run

    def run(self, inputs, head):
        scores, features = real(self, inputs, head)
        if self.precision == "int8":
            features = features.copy()
            features[3, 1] += np.float32(shift * LENGTH)
        return scores, features

    monkeypatch.setattr(kind, "run", run)


def test_int8_that_this_machine_computes_wrongly_fails_and_what_to_do_is_said(capsys, path, monkeypatch, only_ort):
    broken_int8(monkeypatch, ort.OrtBackend, 0.3)
    monkeypatch.setattr(doctor_answers, "processor", lambda: Processor("old", frozenset({"avx2"})))
    code, found = lines(capsys, path)
    assert code == 4
    line = line_of(found, "int8 by ort")
    assert line.startswith("FAILED  probe: int8 by ort, features differ by ")
    assert number(line, "and by ", " from") == pytest.approx(0.3, abs=0.01)
    assert line.endswith(
        "; do not use --precision int8 with --backend ort on this machine, use another --precision; this CPU has no "
        "VNNI, without which sums in int8 may be cut off"
    )
    assert sum(line.startswith("ok") for line in found) == len(found) - 1
    monkeypatch.setattr(doctor_answers, "processor", lambda: Processor("new", frozenset({"avx512_vnni"})))
    assert "VNNI" not in line_of(lines(capsys, path)[1], "int8 by ort")


def test_a_backend_that_is_right_is_named_where_another_is_not(capsys, path, monkeypatch):
    if not table.version_of(["openvino"]):
        pytest.skip("openvino is not installed")
    broken_int8(monkeypatch, OpenVinoBackend, 0.3)
    code, found = lines(capsys, path)
    assert code == 4
    assert line_of(found, "int8 by openvino").startswith("FAILED")
    assert "use --backend ort" in line_of(found, "int8 by openvino")
    assert line_of(found, "int8 by ort").startswith("ok")


def test_an_int8_file_that_nobody_gets_right_is_broken(capsys, path, monkeypatch, only_ort):
    """Both the optimised and the exact way are off: it is the file."""
    real = ort.OrtBackend._run
    monkeypatch.setattr(
        ort.OrtBackend,
        "_run",
        lambda self, part, outputs, *rest: [
            np.roll(array, 1, axis=1) if self.precision == "int8" and part == "model" else array
            for array in real(self, part, outputs, *rest)
        ],
    )
    code, found = lines(capsys, path)
    assert code == 5
    for name in ("ort", "reference"):
        assert line_of(found, f"int8 by {name}").startswith("BROKEN")
    assert "no backend gives what was recorded: export" in line_of(found, "int8 by ort")
    assert line_of(found, "fp32 by ort").startswith("ok")


def test_fp32_that_one_backend_gets_wrong_is_not_the_bundles_fault(capsys, path, monkeypatch, only_ort):
    real = ort.OrtBackend.run
    monkeypatch.setattr(
        ort.OrtBackend, "run", lambda self, inputs, head: (real(self, inputs, head)[0], 1.01 * FEATURES)
    )
    code, found = lines(capsys, path)
    assert code == 4
    assert line_of(found, "fp32 by ort").startswith("FAILED")
    assert line_of(found, "fp32 by reference").startswith("ok")


@pytest.mark.parametrize(
    "error", [BackendError("E-BACKEND-RUN", "out of memory"), RuntimeError("no\nkernel"), MemoryError(), SystemExit(3)]
)
def test_what_cannot_be_run_fails_and_the_others_go_on(capsys, path, monkeypatch, only_ort, error):
    real = ort.OrtBackend.run

    def run(self, inputs, head):
        if self.precision == "fp16":
            raise error
        return real(self, inputs, head)

    monkeypatch.setattr(ort.OrtBackend, "run", run)
    code, found = lines(capsys, path)
    assert code == 4
    line = line_of(found, "fp16 by ort")
    assert line.startswith("FAILED  probe: fp16 by ort cannot be run, ")
    assert "do not use --precision fp16 with --backend ort on this machine" in line
    assert sum(line.startswith("ok") for line in found) == len(found) - 1


def test_a_precision_that_this_cpu_does_not_have_is_no_failure(capsys, path, monkeypatch):
    if not table.version_of(["openvino"]):
        pytest.skip("openvino is not installed")
    real = OpenVinoBackend.__init__

    def without_bf16(self, graphs, threads, precision="fp32"):
        if precision == "bf16":
            raise BackendError("E-PRECISION-CPU", "this CPU has no bf16 instructions")
        real(self, graphs, threads, precision)

    monkeypatch.setattr(OpenVinoBackend, "__init__", without_bf16)
    code, found = lines(capsys, path)
    assert code == 0
    assert "ok      probe: not run in bf16 by openvino, this CPU has no bf16 instructions" in found


def test_a_precision_that_nothing_installed_runs_is_told(capsys, path, monkeypatch):
    monkeypatch.setattr(doctor_answers, "installed_of", lambda _: [])
    code, found = lines(capsys, path)
    assert code == 0
    for precision in ("fp32", "fp16", "int8"):
        assert f"note    probe: not run in {precision}: no backend that runs it is installed" in found


def test_answers_of_a_bundle_without_fp32_are_those_of_its_own_precision(capsys, own_bundle, only_ort):
    """What was recorded is of the precision that the bundle runs by default, by another machine."""
    path = add_precisions(own_bundle(), ("int8-cpu",), default="int8")
    rough = quantised_features_of(PICTURES).astype(np.float32)
    change_probe(path, features=rough)
    code, found = lines(capsys, path)
    assert code == 0
    assert "of their length (at most 1.5e-01, two ways to run one file)" in line_of(found, "int8 by ort")
    assert not any("fp32 by" in line for line in found)
    rough[:, 0] += np.float32(0.2 * LENGTH)
    change_probe(path, features=rough)
    assert lines(capsys, path)[0] == 5


# --- bounds ---------------------------------------------------------------------------------------------------------


def probe_of(rows: int = 4) -> Probe:
    scores = np.log(np.full((rows, 3), [0.7, 0.2, 0.1], np.float32))
    features = np.random.default_rng(0).standard_normal((rows, 5), dtype=np.float32)
    return Probe(None, None, features, scores, np.zeros(rows, np.int64))


def test_a_bound_follows_what_the_export_stated_and_is_never_wider_than_the_usual_one():
    probe = probe_of(40)
    nothing = Stated({}, None, {})
    for precision in ("fp32", "fp16", "bf16", "int8"):
        usual = bound(precision, "fp32", nothing, probe)
        assert usual.features == TOLERANCES[precision].probe
        assert usual.source == f"as usual in {precision}"
    assert bound("fp32", "fp32", Stated({"fp32": 5e-5}, None, {}), probe).features == pytest.approx(5e-4)
    assert bound("fp32", "fp32", Stated({"fp32": 9.0}, None, {}), probe).features == 1e-3
    assert bound("fp16", "fp32", Stated({"fp16": 0.02}, None, {}), probe).features == pytest.approx(0.04)
    x = probe.features.astype(np.float64)
    spread = math.sqrt(sum(((row - x.mean(axis=0)) ** 2).sum() for row in x) / 39)
    length = math.sqrt(sum((row**2).sum() for row in x) / 40)
    found = bound("int8", "fp32", Stated({}, 0.1, {}), probe)
    assert found.features == pytest.approx(3 * 0.1 * spread / length, rel=1e-6)
    assert found.source == "3 times what the export measured"
    assert bound("int8", "fp32", Stated({}, 0.1, {}), probe_of(1)).features == 1.0  # one row has no spread


@pytest.mark.parametrize(("agreement", "rows", "others"), [(0.95, 4, 1), (0.95, 40, 4), (0.9, 40, 8), (1.0, 40, 1)])
def test_as_many_labels_may_change_as_the_export_says_twice_over(agreement, rows, others):
    assert bound("int8", "fp32", Stated({}, None, {"int8": agreement}), probe_of(rows)).others == others
    assert bound("fp32", "fp32", Stated({}, None, {"int8": agreement}), probe_of(rows)).others == 0


def test_the_same_precision_is_held_to_its_own_answers():
    found = bound("int8", "int8", Stated({}, 0.2, {}), probe_of())
    assert (found.features, found.source) == (TOLERANCES["int8"].rows, "two ways to run one file")
    assert bound("fp16", "int8", Stated({"fp16": 0.01}, 0.2, {}), probe_of()).features == TOLERANCES["int8"].probe


def test_answers_are_compared_row_by_row():
    probe = probe_of()
    length = np.sqrt((probe.features.astype(np.float64) ** 2).sum(axis=1).mean())
    allowed = doctor_answers.Bound(0.1, "x", 0.05, 0.5, 1)
    moved = probe.features.copy()
    moved[1, 2] += np.float32(0.09 * length)
    good, text = compare(probe, moved, probe.scores, allowed)
    assert good
    assert "differ by 9.0e-02 of their length (at most 1.0e-01, x); 4 of 4 top-1" in text
    assert not compare(probe, moved, probe.scores, allowed, probe.features)[0]  # too far from the reference
    assert compare(probe, moved, probe.scores, allowed, moved)[0]
    turned = probe.scores.copy()
    turned[:1] = np.roll(turned[:1], 1, axis=1)
    assert compare(probe, probe.features, turned, allowed)[0]  # one may be another
    turned[:2] = np.roll(probe.scores[:2], 1, axis=1)
    good, text = compare(probe, probe.features, turned, allowed)
    assert (good, text.partition("; ")[2]) == (False, "2 of 4 top-1 answers are as shipped (at least 3)")
    assert compare(probe, probe.features, turned, allowed._replace(margin=2.0))[0]  # ties
    assert not compare(probe, np.full_like(moved, np.nan), probe.scores, allowed)[0]
    assert not compare(probe, probe.features, np.full_like(turned, np.nan), allowed)[0]
    assert not compare(probe, probe.features[:, :2], None, allowed)[0]


def test_whose_fault_it_is():
    def states(*judged):
        return [finding.state for finding in verdicts([Judged(*one) for one in judged], "b")]

    assert states(("fp32", "ort", "", False), ("fp32", "openvino", "", True)) == ["FAILED", "ok"]
    assert states(("fp32", "ort", "", False)) == ["BROKEN"]
    assert states(("int8", "openvino", "", False)) == ["FAILED"]  # nobody says what the file really gives
    assert states(("int8", "reference", "", False), ("int8", "ort", "", False)) == ["BROKEN", "BROKEN"]
    assert states(("int8", "reference", "", True), ("int8", "ort", "", False)) == ["ok", "FAILED"]
    assert states(("fp16", "ort", "", None)) == ["FAILED"]


# --- parity.json ----------------------------------------------------------------------------------------------------


def test_what_the_export_stated_is_read(path):
    said = {
        "passed": True,
        "limits": {"row_error": 1e-4},
        "precisions": {
            "fp16": {"limits": {"row_error": 0.05}},
            "int8-cpu": {"feature_error": 0.17},
            "accuracy": {"precisions": {"fp16": {"agreement": 1.0}, "int8-cpu": {"agreement": 0.94}}},
        },
    }
    put_parity(path, said)
    stated, problem = read_stated(Bundle.open(path))
    assert problem == ""
    assert stated == Stated({"fp32": 1e-4, "fp16": 0.05}, 0.17, {"fp16": 1.0, "int8": 0.94})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            '{"passed": true, "limits": {"row_error": NaN}, "precisions": {"int8-cpu": {"feature_error": 1e999}}}',
            "cannot be read (holds NaN",
        ),
        ('{"passed": true, "limits": {"row_error": "small"}, "precisions": [1]}', ""),
        ('{"passed": true, "limits": {"row_error": true}, "precisions": {"int8-cpu": {"feature_error": -1}}}', ""),
        ('{"passed": true, "limits": {"row_error": 1' + "0" * 400 + "}}", "cannot be read (holds a whole number"),
        ("[]", "is not what an export writes; the usual bounds are used"),
        ("{", "cannot be read ("),
        ("[" * 100_000, "cannot be read"),
        ('{"passed": false}', "does not say that the export passed its own comparison"),
    ],
)
def test_a_parity_json_that_says_nothing_leaves_the_usual_bounds(capsys, path, content, told, only_ort):
    put_parity(path, content)
    code, found = lines(capsys, path)
    assert code == 0
    assert "(at most 1.0e-03, as usual in fp32)" in line_of(found, "fp32 by ort")
    assert "(at most 1.0e+00, as usual in int8)" in line_of(found, "int8 by ort")
    main([str(path)])
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note") and "parity" in line]
    assert len(notes) == bool(told)
    assert all(told in note for note in notes)


@given(
    content=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["passed", "limits", "row_error", "precisions", "fp16", "int8-cpu", "feature_error"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_parity_json_says_bounds_are_numbers_and_no_wider_than_usual(shared_bundle, content):
    bundle = Bundle.open(shared_bundle(precisions=ALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor_answers, "read_whole", lambda *_: json.dumps(content).encode())
        stated, _ = read_stated(bundle)
    for precision in ("fp32", "fp16", "bf16", "int8"):
        found = bound(precision, "fp32", stated, probe_of())
        assert 0 < found.features <= TOLERANCES[precision].probe
        assert 0 <= found.others <= 4


def test_a_missing_parity_json_and_an_empty_probe_are_notes(capsys, path, monkeypatch, only_ort):
    put_parity(path, "{}")
    (path / "parity.json").unlink()
    assert main([str(path)]) == 0
    assert "parity.json cannot be read (E-BUNDLE-MISSING" in capsys.readouterr().out
    empty = Bundle.open(path).probe()
    monkeypatch.setattr(Bundle, "probe", lambda _: Probe(*(one if one is None else one[:0] for one in empty)))
    assert main([str(path)]) == 0
    assert "probe: no pictures were kept at export" in capsys.readouterr().out


def test_a_graph_of_another_kind_is_broken(capsys, path, monkeypatch, only_ort):
    real = ort.OrtBackend.run

    def run(self, inputs, head):
        if self.precision == "int8":
            raise ArtefactError("E-BUNDLE-GRAPH", "this graph has other inputs")
        return real(self, inputs, head)

    monkeypatch.setattr(ort.OrtBackend, "run", run)
    code, found = lines(capsys, path)
    assert code == 5
    assert line_of(found, "int8 by ort").startswith("BROKEN  probe: int8 by ort cannot be run, E-BUNDLE-GRAPH: this")
