"""Many at one bundle at once: writers, readers, exports to the same place, bundles that are replaced or deleted."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.lone import IMPORTS, program
from support.reliability import Tally
from support.sound import PICTURES, check_clean, litter
from support.tiny_bundle import ATTRIBUTES, make_tiny_bundle
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ZslError
from zsl_runtime.labelling.classifier import Classifier

if TYPE_CHECKING:
    from pathlib import Path

READER = """
import hashlib, json, os, sys
import numpy as np
from support.sound import PICTURES
from zsl_runtime.labelling.classifier import Classifier
seen, calls = {}, 0
with Classifier.open(sys.argv[1], "ort", threads=1) as classifier:
    pictures = np.stack([classifier.read(picture) for picture in PICTURES])
    print("ready", flush=True)
    while calls < 5 or not os.path.exists(sys.argv[2]):
        classifier.reload()
        snapshot = classifier.snapshot()
        scores, _ = classifier.score_with(snapshot, pictures)
        said = hashlib.sha256(repr(snapshot.table.names).encode() + scores.tobytes()).hexdigest()
        assert seen.setdefault(snapshot.generation.number, said) == said
        calls += 1
print(json.dumps([calls, seen]))
"""


def start(words: list[str], **more) -> subprocess.Popen[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": IMPORTS, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        **more,
    )


def class_file(folder: Path, name: str, value: int) -> Path:
    path = folder / f"{name}.csv"
    path.write_text(f"{','.join(('name', *ATTRIBUTES))}\n{name},{value},1,0,3,1,{value % 3}\n", encoding="utf-8")
    return path


def answer_of(bundle: Bundle, number: int, folder: Path) -> str:
    """What a reader must have seen of a generation: computed from a copy in which it is the one in force."""
    copy = folder / f"as of {number}"
    shutil.copytree(bundle.path, copy, ignore=lambda _, names: [name for name in names if name.startswith(".tmp-")])
    digest = hashlib.sha256(bundle.generation_path(number).read_bytes()).hexdigest()
    pointer = {"generation": number, "sha256": digest, "manifest_sha256": bundle.manifest_sha256}
    (copy / "classes" / "CURRENT").write_bytes((json.dumps(pointer) + "\n").encode())
    with Classifier.open(copy, "ort", threads=1) as classifier:
        scores, _ = classifier.score(np.stack([classifier.read(picture) for picture in PICTURES]))
        names = classifier.class_table.names
    shutil.rmtree(copy)
    return hashlib.sha256(repr(names).encode() + scores.tobytes()).hexdigest()


@pytest.mark.parametrize(("writers", "readers", "each"), [(3, 1, 1), pytest.param(8, 4, 6, marks=pytest.mark.slow)])
def test_writers_and_readers_of_one_bundle(own_bundle, tmp_path, writers, readers, each):
    """No class is lost, and every answer is of one generation, whole."""
    path, done = own_bundle(rule="gaussian"), tmp_path / "done"
    before = Bundle.open(path).current().table.names
    reading = [start([sys.executable, "-c", READER, str(path), str(done)]) for _ in range(readers)]
    for reader in reading:
        assert reader.stdout.readline() == "ready\n", reader.stderr.read()
    added = []
    for turn in range(each):
        batch = []
        for writer in range(writers):
            added.append(f"jay {turn} {writer}")
            file = class_file(tmp_path, added[-1], 2 + writer + writers * turn)
            batch.append(start([*program("zsl-classes"), "add", "--engine", str(path), "--attributes", str(file)]))
        for one in batch:
            assert one.communicate(timeout=300)[1].count("error") == 0
            assert one.returncode == 0
    done.touch()
    bundle, tally = Bundle.open(path), Tally("faults", f"{writers} writers and {readers} readers")
    names = bundle.current().table.names
    assert names[: len(before)] == before
    assert sorted(names[len(before) :]) == sorted(added)
    assert bundle.pointer()[0] == 1 + len(added)
    check_clean(path)
    seen = {}
    for reader in reading:
        out, err = reader.communicate(timeout=300)
        assert reader.returncode == 0, err
        calls, answered = json.loads(out.splitlines()[-1])
        seen |= answered
        tally.note("answers", calls)
    for number, said in seen.items():
        with tally.point("generation"):
            assert said == answer_of(bundle, int(number), tmp_path)
    tally.end()


def replaced_by_export(path: Path, seed: int) -> None:
    make_tiny_bundle(path, rule="gaussian", seed=seed, force=True)


def replaced_by_move(path: Path, seed: int) -> None:
    other = path.with_name(f"other {seed}")
    make_tiny_bundle(other, rule="gaussian", seed=seed)
    path.rename(path.with_name(f"old {seed}"))
    other.rename(path)
    shutil.rmtree(path.with_name(f"old {seed}"))


def deleted(path: Path, seed: int) -> None:
    shutil.rmtree(path)
    make_tiny_bundle(path, rule="gaussian", seed=seed)


@pytest.mark.parametrize("replace", [replaced_by_export, replaced_by_move, deleted])
def test_a_bundle_that_is_replaced_or_deleted_while_it_serves(own_bundle, replace):
    """Answers go on as they were; what needs the folder says in one line what became of it."""
    path = own_bundle(rule="gaussian")
    with Classifier.open(path, "ort", threads=1) as classifier:
        before = classifier.predict(PICTURES)
        replace(path, 1)
        assert [one.names for one in classifier.predict(PICTURES)] == [one.names for one in before]
        for attempt in (classifier.reload, classifier.undo, lambda: classifier.remove("wren")):
            with pytest.raises(ZslError) as caught:
                attempt()
            assert caught.value.code == "E-BUNDLE-CHANGED"
        shutil.rmtree(path)
        assert [one.names for one in classifier.predict(PICTURES)] == [one.names for one in before]
        for attempt in (classifier.reload, classifier.undo):
            with pytest.raises(ZslError) as caught:
                attempt()
            assert caught.value.exit_code in {2, 5}
        assert not path.exists()  # nothing of ours makes half of it again


OPENER = """
import json, sys
from pathlib import Path
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ZslError
codes, opened = {}, 0
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    try:
        Bundle.open(sys.argv[1]).current()
        opened += 1
    except ZslError as error:
        codes[error.code] = codes.get(error.code, 0) + 1
print(json.dumps([opened, codes]))
"""
EXPORTER = """
import sys
from pathlib import Path
from support.tiny_bundle import make_tiny_bundle
for number in range(int(sys.argv[2])):
    make_tiny_bundle(Path(sys.argv[1]), rule="gaussian", seed=int(sys.argv[3]), force=True)
"""


@pytest.mark.parametrize("times", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_two_exports_to_one_place_while_others_open_it(own_bundle, tmp_path, times):
    """Each leaves a whole bundle; whoever opens it meanwhile gets one of them, or is told that it changed just now."""
    path, done = own_bundle(rule="gaussian"), tmp_path / "done"
    opening = start([sys.executable, "-c", OPENER, str(path), str(done)])
    assert opening.stdout.readline() == "ready\n"
    exports = [start([sys.executable, "-c", EXPORTER, str(path), str(times), str(seed)]) for seed in (1, 2)]
    for export in exports:
        _, err = export.communicate(timeout=300)
        assert export.returncode == 0, err
    done.touch()
    out, err = opening.communicate(timeout=300)
    assert opening.returncode == 0, err
    opened, codes = json.loads(out.splitlines()[-1])
    assert opened > 0
    assert set(codes) <= {"E-BUNDLE-CHANGED", "E-BUNDLE-HASH", "E-BUNDLE-MISSING"}, codes
    assert sum(codes.values()) <= max(2 * times, opened // 2)  # each replacement spoils one opening
    Bundle.open(path).current()
    assert litter(path) == []
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".tmp-")] == []


@pytest.mark.slow
def test_a_pipe_whose_reader_goes_away_at_any_time(shared_bundle, own_bundle, tmp_path):
    """As `| head` does: the command ends at once and without a word of error."""
    from PIL import Image

    path, draw = own_bundle(rule="gaussian"), random.Random(1)
    (tmp_path / "photos").mkdir()
    for number in range(40):
        Image.fromarray(PICTURES[number % len(PICTURES)]).save(tmp_path / "photos" / f"{number}.png")
    words = [
        *program("zsl-infer"),
        str(tmp_path / "photos"),
        "--engine",
        str(path),
        "--backend",
        "ort",
        "--threads",
        "1",
    ]
    tally = Tally("faults", "zsl-infer: the reader of stdout goes away")
    for _ in range(12):
        with tally.point("moment"):
            process = start(words)
            time.sleep(draw.uniform(0, 1.0))
            process.stdout.read(draw.choice((0, 1, 100)))
            process.stdout.close()
            with process.stderr as stderr:
                err = stderr.read()
            code = process.wait(timeout=60)
            assert code in {0, 2}, err
            assert "Traceback" not in err
            tally.note(f"exit {code}")
    tally.end()
