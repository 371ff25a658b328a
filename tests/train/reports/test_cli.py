"""zsl-report as a command: what is there is not replaced unasked, what is no run is told, nothing is half written."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.line import call, succeed
from zsl_train.reports.cli import main as zsl_report


@pytest.mark.parametrize("words", [("run", "RUN"), ("compare", "RUN", "RUN"), ("latency", "FILE")])
def test_a_file_that_is_there_is_replaced_only_when_that_is_said(words, trained, tmp_path):
    out = tmp_path / "there.html"
    out.write_text("mine")
    bench = tmp_path / "b.json"
    bench.write_text('{"x": {"p50_ms": 1.0}}')
    given = [{"RUN": trained, "FILE": bench}.get(word, word) for word in words]
    said = call(zsl_report, *given, "--out", out)
    assert (said.code, said.out) == (2, b"")
    assert "E-REPORT-EXISTS" in said.err
    assert "--force" in said.err
    assert out.read_text() == "mine"
    succeed(zsl_report, *given, "--out", out, "--force")
    assert out.read_bytes().startswith(b"<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "there.html"]


def test_a_folder_in_place_of_a_file_is_told(trained, tmp_path):
    said = call(zsl_report, "run", trained, "--out", tmp_path, "--force")
    assert said.code == 2
    assert "is a folder" in said.err


@pytest.mark.parametrize("command", ["run", "compare"])
def test_what_is_no_run_is_told(command, tmp_path):
    (tmp_path / "x").mkdir()
    said = call(zsl_report, command, tmp_path / "x", tmp_path / "x" if command == "compare" else "--force")
    assert said.code == 5
    assert "not a run folder" in said.err
    assert list((tmp_path / "x").iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_told(trained, tmp_path):
    said = call(zsl_report, "run", trained, "--out", tmp_path / "none" / "r.html")
    assert said.code == 2
    assert "E-SYSTEM" in said.err


def test_a_name_of_bytes_comes_out_as_it_is(trained, tmp_path):
    out = os.path.join(os.fsencode(tmp_path), b"\xff.html")  # noqa: PTH118
    assert succeed(zsl_report, "run", trained, "--out", os.fsdecode(out)).out == out + b"\n"


def test_a_page_needs_no_torch(trained, tmp_path):
    """Loading it takes longer than drawing the page."""
    program = (
        "import sys; from zsl_train.reports.cli import main\n"
        f"assert main(['run', {str(trained)!r}, '--out', {str(tmp_path / 'r.html')!r}]) == 0\n"
        f"assert main(['compare', {str(trained)!r}, {str(trained)!r}, '--out', {str(tmp_path / 'c.html')!r}]) == 0\n"
        "print(*{'torch', 'scipy', 'onnxruntime'} & sys.modules.keys())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[2:] == [""]
