"""Labels by Ray Data: the class that actors call, without Ray; and, slow, a local Ray with two workers."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import pickle
import subprocess
import sys
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from support.lone import IMPORTS
from support.signing import write_keys
from support.tiny_bundle import as_regions, class_table, draw_pictures
from zsl_runtime import ray as ray_module
from zsl_runtime.cli.infer import main
from zsl_runtime.errors import ArtefactError, BackendError, SystemProblem, UsageError
from zsl_runtime.inputs import stores
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.ray import ANSWERS, Labeller, answered, label, unanswered

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8), seed=21)


@pytest.fixture
def photos(tmp_path):
    """Paths of one picture of each class, and of one that cannot be read."""
    paths = []
    for number, picture in enumerate(PICTURES):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(picture).save(paths[-1])
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    return [*paths, str(tmp_path / "bad.jpg")]


@pytest.fixture
def bundle(shared_bundle):
    return shared_bundle(rule="gaussian")


def answers_of_the_command(capfd, bundle, paths) -> list[dict]:
    main([*paths, "--engine", str(bundle), "--backend", "ort", "--format", "jsonl", "--quiet", "--batch-size", "9"])
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def as_columns(answers: list[dict]) -> dict[str, list]:
    """What the command says, as the columns say it."""
    found = {name: [] for name in ("path", *ANSWERS)}
    for one in answers:
        best = one.get("predictions", [])
        error = one.get("error")
        found["path"].append(one["path"])
        found["names"].append([row["class"] for row in best])
        found["ids"].append([TABLE.names.index(row["class"]) for row in best])
        found["probabilities"].append([row["probability"] for row in best])
        found["seen"].append([row["split"] == "seen" for row in best])
        found["generation"].append(1)
        found["error"].append(f"{error['code']}: {error['message']}" if error else None)
        found["distance"].append(one.get("distance"))
        found["far"].append(one.get("far"))
    return found


def plain(batch) -> dict[str, list]:
    """Columns as lists; probabilities with the six digits that the command writes."""
    columns = {name: list(values) for name, values in batch.items()}
    columns["probabilities"] = [[float(f"{one:.6g}") for one in row] for row in columns["probabilities"]]
    columns["generation"] = [int(one) for one in columns["generation"]]
    columns["distance"] = [None if one is None else float(f"{one:.4g}") for one in columns["distance"]]
    return columns


# --- the class ------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_command(capfd, bundle, photos):
    wanted = as_columns(answers_of_the_command(capfd, bundle, photos))
    labeller = Labeller(bundle, backend="ort", threads=1, batch_size=9)
    assert plain(labeller({"path": np.array(photos, object)})) == wanted
    assert plain(labeller({"path": np.array(photos)})) == wanted  # of NumPy's own text
    assert wanted["error"][-1].startswith("E-IMAGE-FORMAT: ")


def test_bytes_give_what_their_files_give_and_are_not_handed_on(capfd, bundle, photos):
    wanted = as_columns(answers_of_the_command(capfd, bundle, photos))
    data = np.empty(len(photos), object)
    data[:] = [Path(path).read_bytes() for path in photos]
    batch = {"path": np.array(photos, object), "bytes": data, "day": np.arange(len(photos)), "names": data}
    found = Labeller(bundle, column="bytes", backend="ort", threads=1, batch_size=9)(batch)
    assert list(found) == ["path", "day", *ANSWERS]
    assert list(found.pop("day")) == list(range(len(photos)))
    found, last = plain(found), wanted["error"].pop()
    assert (
        found["error"].pop()
        == f"E-IMAGE-FORMAT: '{photos[-1]}': picture of 10 bytes{last.partition(photos[-1])[2][1:]}"
    )
    assert found == wanted


def test_what_is_in_a_store_is_read_there(bundle, photos):
    memory = fsspec.filesystem("memory")
    for path in photos:
        memory.pipe(f"/ray/{Path(path).name}", Path(path).read_bytes())
    paths = [f"memory://ray/{Path(path).name}" for path in photos]
    labeller = Labeller(bundle, backend="ort", threads=1, batch_size=9)
    there = labeller({"path": np.array([*paths[:8], "memory://ray/none.png"], object)})
    here = labeller({"path": np.array(photos, object)})
    assert list(there["names"]) == list(here["names"])
    assert there["error"][8].startswith("E-STORE-READ: 'memory://ray/none.png' cannot be read: there is none")


def test_rows_of_features(shared_bundle):
    bundle = shared_bundle(kind="backbone_features")
    rows = as_regions(PICTURES)
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        wanted = [list(one.names) for one in classifier.predict(list(rows))]
    found = Labeller(bundle, column="features", backend="ort", threads=1)({"features": rows})
    assert list(found) == list(ANSWERS)
    assert list(found["names"]) == wanted


def test_it_is_sent_to_other_processes_before_and_after_it_has_opened(bundle, photos):
    first = Labeller(bundle, backend="ort", threads=1, topk=1)
    second = pickle.loads(pickle.dumps(first))
    batch = {"path": np.array(photos[:3], object)}
    wanted = list(first(batch)["names"])
    third, fourth = pickle.loads(pickle.dumps(first)), deepcopy(first)
    assert first._classifier is not None
    for other in (second, third, fourth):
        assert other._classifier is None
        assert list(other(batch)["names"]) == wanted
    with pytest.raises(UsageError, match="E-PROCESS: a Classifier holds a loaded model"):
        pickle.dumps(first.classifier)


def test_a_spawned_process_labels_with_what_it_was_sent(bundle, photos, tmp_path):
    """As multiprocessing's spawn does it: another interpreter, and a pickle."""
    (tmp_path / "labeller").write_bytes(pickle.dumps(Labeller(bundle, backend="ort", threads=1, topk=1)))
    program = (
        "import pickle, sys, numpy\n"
        "labeller = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "print([names[0] for names in labeller({'path': numpy.array(sys.argv[2:], object)})['names']])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "labeller", *photos[:2]],
        env={**os.environ, "PYTHONPATH": IMPORTS},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout == f"{list(TABLE.names[:2])}\n"


def test_a_bundle_in_a_store_is_to_be_copied_first():
    with pytest.raises(UsageError, match=r"E-BUNDLE-PATH: s3:.*birds: a bundle is opened on the disk; copy it from"):
        Labeller("s3://bucket/birds").classifier  # noqa: B018


def test_a_relative_bundle_is_found_from_another_folder(bundle, photos, monkeypatch, tmp_path):
    monkeypatch.chdir(bundle.parent)
    labeller = Labeller(bundle.name, backend="ort", threads=1)
    monkeypatch.chdir(tmp_path)
    assert len(labeller({"path": np.array(photos[:1], object)})["names"]) == 1


def test_signatures_that_are_demanded_here_are_demanded_by_every_worker(bundle, photos, tmp_path, monkeypatch):
    """The demand travels with the class; the environment of a worker need not have it."""
    keys = write_keys(tmp_path, "maker").public
    monkeypatch.setenv("ZSL_REQUIRE_SIGNATURE", str(keys))
    sent = [pickle.dumps(Labeller(bundle))]
    monkeypatch.delenv("ZSL_REQUIRE_SIGNATURE")
    sent.append(pickle.dumps(Labeller(bundle, require_signature=keys)))
    for data in sent:
        with pytest.raises(ArtefactError, match=r"E-SIGNATURE: .*model\.sig is missing"):
            pickle.loads(data)({"path": np.array([str(photos[0])], dtype=object)})


def test_a_batch_without_the_column(bundle):
    with pytest.raises(UsageError, match="E-RAY: the batch has the columns image, day; expected 'path'"):
        Labeller(bundle)({"image": np.array(["a"]), "day": np.array([1])})


def test_an_empty_batch_has_the_columns(bundle):
    found = Labeller(bundle, backend="ort", threads=1)({"path": np.array([], object)})
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(("path", *ANSWERS), 0)


def test_cells_that_are_no_pictures_are_errors_of_their_rows(bundle, photos):
    cells = np.empty(3, object)
    cells[:] = [None, 7, photos[0]]
    found = Labeller(bundle, backend="ort", threads=1)({"path": cells})
    assert [error and error.partition(":")[0] for error in found["error"]] == ["E-IMAGE-TYPE", "E-IMAGE-TYPE", None]


def test_without_ray_it_is_one_line_that_says_what_to_install(bundle, monkeypatch):
    class Absent:
        def find_spec(self, name, *_):
            if name == "ray":
                raise ModuleNotFoundError("No module named 'ray'", name="ray")

    for name in ("ray", "ray.data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(BackendError, match=r'E-PACKAGE: zsl_runtime.ray needs ray.*pip install "zsl-deploy\[ray\]"'):
        label(None, bundle)


def test_ray_says_nothing_to_its_makers():
    done = subprocess.run(
        [sys.executable, "-c", "import zsl_runtime, os; print(os.environ['RAY_USAGE_STATS_ENABLED'])"],
        env={"PYTHONPATH": IMPORTS},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout == "0\n"


# --- Parquet --------------------------------------------------------------------------------------------------------

needs_pyarrow = pytest.mark.skipif(
    find_spec("pyarrow") is None, reason="pyarrow is not installed; it is of the extra ray"
)


@needs_pyarrow
def test_a_table_of_arrow_gives_lists_that_parquet_keeps(bundle, photos, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    labeller = Labeller(bundle, backend="ort", threads=1, batch_size=9, topk=2)
    table = labeller(pa.table({"path": photos, "day": range(len(photos))}))
    assert table.column_names == ["path", "day", *ANSWERS]
    pq.write_table(table, tmp_path / "a.parquet")
    found = pq.read_table(tmp_path / "a.parquet").to_pydict()
    arrays = labeller({"path": np.array(photos, object)})
    assert {name: found[name] for name in ANSWERS} == {name: list(arrays[name]) for name in ANSWERS}


@needs_pyarrow
@pytest.mark.parametrize("there", [False, True])
def test_what_is_answered_is_not_asked_again(tmp_path, there):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "labels"
    assert unanswered(["a", "b"], folder) == ["a", "b"]
    folder.mkdir()
    pq.write_table(pa.table({"path": ["b", "c"], "error": [None, "E-IMAGE-DECODE: x"]}), folder / "1.parquet")
    pq.write_table(pa.table({"path": ["d"], "error": pa.array([None], pa.string())}), folder / "2.parquet")
    whole = (folder / "1.parquet").read_bytes()
    (folder / "3.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "4.parquet").touch()
    place = str(folder)
    if there:
        memory = fsspec.filesystem("memory")
        for path in folder.iterdir():
            memory.pipe(f"/labels/{path.name}", path.read_bytes())
        place = "memory://labels"
    names = ["a", "b", "c", "d", "b"]
    found = answered(place)
    assert found.paths == {"b", "c", "d"}
    assert [path.rpartition("/")[2] for path in found.damaged] == ["3.parquet.damaged", "4.parquet.damaged"]
    assert unanswered(names, place) == ["a"]
    assert unanswered(names, place, errors_again=True) == ["a", "c"]
    assert answered(place).damaged == ()
    left = [name for name, _ in stores.entries(place)] if there else sorted(path.name for path in folder.iterdir())
    assert left == ["1.parquet", "2.parquet", "3.parquet.damaged", "4.parquet.damaged"]


@needs_pyarrow
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("when", ["opened", "read"])
def test_answers_that_cannot_be_read_just_now_are_not_taken_for_damaged(tmp_path, monkeypatch, when, there):
    """A share that is gone for a moment, or a store that refuses: the file may be whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    class Gone(io.BytesIO):
        def readinto(self, _buffer: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

        read = readinto

    def refuse(*_: object, **__: object) -> Gone:
        if when == "read":
            return Gone(bytes(1000))
        raise OSError("the connection was reset")  # without a number, as packages of stores have them

    pq.write_table(pa.table({"path": ["b"], "error": pa.array([None], pa.string())}), tmp_path / "1.parquet")
    place, name = (f"memory://{tmp_path.name}", "open_ranges") if there else (str(tmp_path), "open")
    if there:
        fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/1.parquet", (tmp_path / "1.parquet").read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(stores if there else ray_module, name, refuse, raising=False)
        with pytest.raises(SystemProblem, match=r"E-SYSTEM: could not read the answers in '.*1\.parquet'"):
            answered(place)
    assert answered(place) == ({"b"}, ())


@needs_pyarrow
@pytest.mark.parametrize("there", [False, True])
def test_folders_among_the_answers_are_left_alone(tmp_path, there):
    """Such as those of other programs, which call a folder of parts as a file is called."""
    (tmp_path / "a.parquet").mkdir()
    (tmp_path / "a.parquet" / "0.parquet").write_bytes(b"PAR1")
    place = str(tmp_path)
    if there:
        place = f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/a.parquet/0.parquet", b"PAR1")
    assert answered(place) == (frozenset(), ())
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    assert [path.name for path in (tmp_path / "a.parquet").iterdir()] == ["0.parquet"]


@needs_pyarrow
def test_parquet_files_of_something_else_are_left_alone(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["b"]}), tmp_path / "1.parquet")
    with pytest.raises(UsageError, match=r"E-RAY: .* has no column 'error': it holds no answers"):
        unanswered(["a"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1.parquet"]


# --- Ray ------------------------------------------------------------------------------------------------------------

JOB = """
import json, os, signal, sys, time
from zsl_runtime.ray import Labeller, label, unanswered
import zsl_runtime.ray as module
import ray
import ray._private.node
import ray._common.usage.usage_lib

bundle, folder, marker, *paths = sys.argv[1:]
for start in ("start_monitor", "start_log_monitor"):  # nobody needs these here, and each is a slow start more
    setattr(ray._private.node.Node, start, lambda *_, **__: None)
for attempt in range(5):  # on a busy machine its own helpers may be slower than it waits for them
    try:
        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False,
                 object_store_memory=200_000_000)
        break
    except Exception as error:
        print(error, file=sys.stderr)
        ray.shutdown()
assert ray.is_initialized(), "Ray does not start here"

if marker != "-":
    class Killed(Labeller):
        def __call__(self, batch):
            answers = super().__call__(batch)
            if not os.path.exists(marker):
                open(marker, "x").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return answers
    Killed.__module__ = "__main__"
    module.Labeller = Killed

left = unanswered(paths, folder)
photos = ray.data.from_items([{"path": path} for path in left])
answers = label(photos, bundle, workers=2, num_cpus=0.5, rows=8, backend="ort", batch_size=1)
answers.write_parquet(folder)
print(json.dumps({"asked": len(left), "statistics": ray._common.usage.usage_lib.usage_stats_enabled()}))
ray.shutdown()
"""


@pytest.fixture
def many(tmp_path):
    """64 paths in an order of their own."""
    paths = []
    for number in range(64):
        paths.append(str(tmp_path / f"{number:02d}.png"))
        Image.fromarray(draw_pictures(TABLE, np.array([number % 8]), seed=number)[0]).save(paths[-1])
    return paths


def run_job(tmp_path, bundle, folder, paths, marker="-"):
    done = subprocess.run(
        [sys.executable, "-c", JOB, bundle, folder, marker, *paths],
        env={**os.environ, "PYTHONPATH": IMPORTS, "OMP_NUM_THREADS": "1", "RAY_TMPDIR": "/tmp"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Ray tells there of the actor that was killed, too.
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"asked"')))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_workers_give_what_the_command_gives_also_when_one_is_killed(tmp_path, capfd, bundle, many, killed):
    pytest.importorskip("ray.data", exc_type=ImportError)
    import pyarrow.parquet as pq

    main([*many, "--engine", str(bundle), "--backend", "ort", "--quiet", "--batch-size", "1"])
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out, newline="")))
    wanted = {(row["path"], int(row["rank"]), row["class"], float(row["probability"])) for row in rows}
    folder, marker = tmp_path / "labels", tmp_path / "killed"
    first = run_job(tmp_path, bundle, folder, many[:40], str(marker) if killed else "-")
    assert first == {"asked": 40, "statistics": False}
    assert marker.exists() == killed
    second = run_job(tmp_path, bundle, folder, many)  # as after a fault: what is answered is left out
    assert second["asked"] == 24
    found = pq.read_table(folder).to_pylist()
    assert sorted(row["path"] for row in found) == many  # none lost, none twice
    assert {
        (row["path"], rank, name, float(f"{probability:.6g}"))
        for row in found
        for rank, (name, probability) in enumerate(zip(row["names"], row["probabilities"], strict=True), 1)
    } == wanted
