"""What containers and batch systems do not have: a home, an entry in the list of users, a current folder, /tmp."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.lone import run_alone
from support.poor_system import NO_HOME
from support.tiny_bundle import ATTRIBUTES
from support.tiny_xlsa17 import FEATURES, make_pair

GONE = """
import os, tempfile
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
"""
NO_PLACES = """
import tempfile
def _none():
    raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
tempfile.gettempdir = _none
"""
PLACES = {
    "nobody without home": ({}, NO_HOME),
    "home is not there": ({"HOME": "/proc/nowhere"}, ""),
    "home is relative": ({"HOME": "home"}, NO_HOME.replace('os.environ.pop("HOME", None)', "")),
    "home of nobody": ({"HOME": "/proc/nowhere", "ZSL_CACHE": "~nobodyx/c"}, ""),
    "cache is a file": ({"HOME": "/proc/nowhere", "ZSL_CACHE": sys.executable}, ""),
    "no current folder": ({"HOME": "/proc/nowhere"}, GONE),
    "odd locale, zone and TMPDIR": (
        {"LC_ALL": "qq_QQ.x", "TZ": "No/Where", "TMPDIR": "/proc/nowhere", "HOME": "/"},
        "",
    ),
}


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def new_class(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text(f"{','.join(['name', *ATTRIBUTES])}\njay,1,1,0,3,1,1\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("place", PLACES)
def test_labelling(own_bundle, photograph, place):
    """By `auto`, which would keep what it measured in the bundle or the cache folder, and can in neither here."""
    bundle = own_bundle(rule="gaussian")
    (bundle / "engines").write_text("in the way", encoding="utf-8")
    environment, before = PLACES[place]
    done = run_alone("zsl-infer", photograph, "--engine", bundle, environment=environment, before=before)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 6  # header and five classes
    assert not (photograph.parent / "home").exists()


def test_relative_paths_in_a_folder_that_is_gone(own_bundle):
    bundle = own_bundle(rule="gaussian")
    done = run_alone("zsl-infer", "few", "--engine", bundle, environment={"HOME": os.fspath(Path.home())}, before=GONE)
    assert done.returncode == 2
    assert done.stderr == (
        "error: E-SYSTEM: the folder that this was started in is gone; change to another one, or give whole paths\n"
    )
    assert done.stdout == ""


def test_the_other_commands_of_the_runtime(own_bundle, photograph, new_class):
    bundle = own_bundle(rule="gaussian")
    environment, before = PLACES["nobody without home"]
    for name, *words in (
        ("zsl-doctor", bundle),
        ("zsl-classes", "add", "--engine", bundle, "--attributes", new_class),
        ("zsl-classes", "list", "--engine", bundle),
    ):
        done = run_alone(name, *words, environment=environment, before=before)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_training_and_export_of_nobody(tmp_path):
    data, run, bundle = make_pair(tmp_path / "data"), tmp_path / "run", tmp_path / "bundle"
    environment, before = {"TMPDIR": str(tmp_path)}, NO_HOME
    for name, *words in (
        ("zsl-train", "--data", data, "--features", FEATURES, "--out", run, "--method", "gfzsl"),
        ("zsl-export", run, "--out", bundle),
    ):
        done = run_alone(name, *words, environment=environment, before=before)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        (GONE, "the folder that this was started in is gone; change to another one"),
        (NO_PLACES, "torch needs a folder for temporary files; let TMPDIR name one"),
    ],
)
@pytest.mark.parametrize("command", [("zsl-train", "--data"), ("zsl-export", "--out", "bundle")])
def test_where_torch_cannot_start_is_one_line(tmp_path, command, lacking, told):
    """Its mathematics library would end the process with a line of its own."""
    done = run_alone(*command, tmp_path / "x", environment={"HOME": os.fspath(Path.home())}, before=lacking)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert told in done.stderr
