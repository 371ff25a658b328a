"""`zsl-classes explain` as a user types it: lines of 80 letters, JSON, wrong names."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from support.tiny_bundle import ATTRIBUTES, CANONICAL, PER_CLASS
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.account import NEAR, accounts
from zsl_runtime.classes.changes import add_classes, teach_classes
from zsl_runtime.cli.classes import main
from zsl_runtime.cli.explain import MOST_STEPS, WIDTH, lines
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.gaussian import Evidence
from zsl_runtime.head.readout import Readout


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(["explain", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_what_is_printed_has_the_numbers_and_fits_a_terminal(capsys, shared_bundle):
    engine = str(shared_bundle(rule="gaussian"))
    code, out, err = run(capsys, "--engine", engine, "crow")
    assert (code, err) == (0, "")
    (crow,) = accounts(Bundle.open(engine), ["crow"])
    told = out.splitlines()
    assert max(map(len, told)) <= WIDTH
    assert told[:2] == ["crow", "seen, row 2, 6 attributes, head rule gaussian"]
    below = told.index("  distance  lost  taken  class") + 1
    for line, near in zip(told[below : below + NEAR], crow.neighbours, strict=True):
        assert line.split(maxsplit=3) == [f"{near.distance:.1f}", f"{near.lost:.0%}", f"{near.taken:.0%}", near.name]
    below = told.index("        it      them       all  attribute") + 1
    for line, one in zip(told[below:], crow.apart, strict=False):
        assert line.split(maxsplit=3) == [f"{one.own:.2f}", f"{one.near:.2f}", f"{one.all:.2f}", one.attribute]
    text = " ".join(out.split())
    assert f"its attributes and {PER_CLASS} photographs of training." in text
    assert f"moved its mean by {crow.rests.moved:.1f} standard deviations" in text
    assert f"{crow.rests.left:.0%} is left; 10 photographs more would leave {crow.rests.left_then:.0%}." in text
    assert told[-1] == f"  {crow.history[0].when}  generation 1: exported with the model"


def test_several_classes_have_a_blank_line_between_them_and_json_has_a_list(capsys, shared_bundle):
    engine = str(shared_bundle(rule="gaussian"))
    code, out, _ = run(capsys, "--engine", engine, "crow", "übersee-ente")
    assert code == 0
    assert "\n\nübersee-ente\nunseen, row 7, " in out
    assert "its attributes alone, no photograph." in " ".join(out.split())
    code, out, _ = run(capsys, "--engine", engine, "crow", "übersee-ente", "--format", "json")
    assert code == 0
    assert json.loads(out) == [
        json.loads(json.dumps(one.to_dict())) for one in accounts(Bundle.open(engine), ["crow", "übersee-ente"])
    ]


@pytest.mark.parametrize("rule", ["fit", "rows"])
def test_other_heads_say_what_is_not_known(capsys, shared_bundle, rule):
    code, out, _ = run(capsys, "--engine", str(shared_bundle(rule=rule)), "crow")
    assert code == 0
    assert max(map(len, out.splitlines())) <= WIDTH
    text = " ".join(out.split())
    assert "  cosine  class\n" in out
    assert f"this one's is made by the rule '{rule}'." in text
    assert f"Heads made by the rule '{rule}' keep no count of the photographs" in text


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["crwo"], "E-CLASS-UNKNOWN: class 'crwo' is not in this model (did you mean crow?)"),
        (["crow", "WREN"], "E-CLASS-UNKNOWN: class 'WREN' is not in this model (did you mean wren?)"),
        (["dodo"], "E-CLASS-UNKNOWN: class 'dodo' is not in this model; it knows 8 classes"),
        ([], "NAME"),
        (["crow", "--format", "xml"], "xml"),
        (["--", "-crow"], "E-CLASS-UNKNOWN"),
    ],
)
def test_a_name_that_is_not_there_is_one_line(capsys, shared_bundle, argv, told):
    code, out, err = run(capsys, "--engine", str(shared_bundle(rule="gaussian")), *argv)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert told in err


def test_a_name_cannot_make_lines_of_its_own(own_bundle):
    """Names that do things to a terminal are refused when classes are added; attributes may come from anywhere."""
    bundle = Bundle.open(own_bundle(rule="gaussian"))
    name = "白鹭 " * 20 + "ibis"
    add_classes(bundle, ClassTable((name,), np.zeros(1, dtype=bool), np.array([[9.0, 0, 1, 0, 0, 2]]), ATTRIBUTES))
    (one,) = accounts(bundle, [name])
    assert next(lines(one)) == name
    (robin,) = accounts(bundle, ["robin"])
    assert any(line.endswith(f"%  {name}") for line in lines(robin))


def test_a_long_history_is_cut_in_the_middle(own_bundle):
    bundle = Bundle.open(own_bundle(rule="gaussian"))
    for _ in range(MOST_STEPS + 3):
        teach_classes(bundle, {"wren": Evidence(1, np.zeros(CANONICAL))})
    (wren,) = accounts(bundle, ["wren"])
    told = list(lines(wren))
    came = told[told.index("How it came:") + 1 :]
    assert len(came) == MOST_STEPS + 1
    assert came[0].endswith("generation 1: exported with the model")
    assert came[1] == "  ... and 4 more"
    assert came[2].endswith("generation 6: taught, 1 photograph")
    assert came[-1].endswith(f"generation {MOST_STEPS + 4}: taught, 1 photograph")


def test_photographs_that_lie_elsewhere_than_any_class_make_one_ask(own_bundle):
    bundle = Bundle.open(own_bundle(rule="gaussian"))
    teach_classes(bundle, {"wren": Evidence(50, np.full(CANONICAL, 50 * 200.0))})
    (wren,) = accounts(bundle, ["wren"])
    assert "Are its row and its photographs of one class?" in " ".join(lines(wren))


def test_contradictions_are_a_table_of_their_own(own_bundle):
    bundle = Bundle.open(own_bundle(rule="gaussian"))
    weight = np.zeros((len(ATTRIBUTES), CANONICAL), np.float32)
    quality = np.full(len(ATTRIBUTES), 0.9, np.float32)
    offset = np.array([6, 6, 0, 0, 1, 40], np.float32)  # what is read of every picture: a wren's row but for the last
    place, unit = np.ones(CANONICAL, np.float32), np.ones(len(ATTRIBUTES), np.float32)
    readout = Readout(weight, offset, quality, unit, 0 * place, place)
    teach_classes(bundle, {"wren": Evidence(2, np.zeros(CANONICAL))})
    told = list(lines(accounts(bundle, ["wren"], readout)[0]))
    assert max(map(len, told)) <= WIDTH
    assert "Its photographs seem to contradict the table in 1 of the 6 attributes" in " ".join(told)
    row = told[told.index("     table      read  apart  quality  attribute") + 1]
    assert row.split()[:2] == ["1.00", "40.00"]
    assert row.split()[3:] == ["0.90", ATTRIBUTES[5]]
    offset[5] = 1
    none = Readout(weight, offset, quality, unit, 0 * place, place)
    text = " ".join(lines(accounts(bundle, ["wren"], none)[0]))
    assert "contradict the table in none of the 6 attributes" in text


def test_no_library_that_runs_models_is_loaded(shared_bundle):
    code = (
        "import sys\nfrom zsl_runtime.cli.classes import main\n"
        f"assert main(['explain', '--engine', {str(shared_bundle(rule='gaussian'))!r}, 'crow']) == 0\n"
        "print(sorted({'onnxruntime', 'openvino', 'torch', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
