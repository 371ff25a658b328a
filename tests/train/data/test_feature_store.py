"""The feature store: right numbers, reuse, kill -9, two at once, a full disk, pictures that cannot be read."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.no_files import to_folder, to_hard_link, to_link, to_nowhere, to_pipe
from support.tiny_backbone import FixedBackbone
from support.tiny_data import class_name, make_tiny_data
from zsl_runtime.errors import ArtefactError, SystemProblem, UsageError
from zsl_runtime.pixels.pixels import PixelSpec, prepare
from zsl_train.data import feature_store
from zsl_train.data.feature_store import FeatureStore, extract, fingerprint
from zsl_train.data.open import open_image_set

if TYPE_CHECKING:
    from pathlib import Path

    from zsl_train.data.image_set import ImageSet

COUNT = 36


@pytest.fixture
def data(tmp_path) -> ImageSet:
    return open_image_set(make_tiny_data(tmp_path / "data"))


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def run(data: ImageSet, cache: Path, backbone: FixedBackbone | None = None, **options) -> tuple[FeatureStore, str]:
    """The store and what was reported."""
    stream = io.StringIO()
    store = extract(data, backbone or FixedBackbone(), cache=cache, progress=stream, **options)
    return store, stream.getvalue()


def expected(data: ImageSet, backbone: FixedBackbone) -> np.ndarray:
    """One picture at a time, without a store."""
    rows = [torch.from_numpy(prepare(data.root / path, backbone.pixels)[None]) for path in data.paths]
    return np.concatenate([backbone(row).numpy() for row in rows])


def test_regions_are_the_backbones_in_half_precision(data, cache):
    store, report = run(data, cache)
    assert store.regions.shape == (COUNT, 16, 5)
    assert store.regions.dtype == np.float16
    assert isinstance(store.regions, np.memmap)
    assert not store.regions.flags.writeable
    assert store.ok.all()
    assert store.problems == ()
    wanted = expected(data, FixedBackbone())
    np.testing.assert_allclose(store.regions, wanted, rtol=1e-3, atol=1e-4)
    assert f"features: {COUNT} pictures in" in report
    assert "a second" in report


def test_pooled_is_the_mean_over_regions_in_float32(data, cache, monkeypatch):
    monkeypatch.setattr(feature_store, "POOL_BLOCK", 5)
    store, _ = run(data, cache)
    assert store.pooled().dtype == np.float32
    np.testing.assert_allclose(store.pooled(), np.array(store.regions, dtype=np.float64).mean(axis=1), atol=1e-6)


def test_a_second_run_reuses_everything_at_once(data, cache):
    first, _ = run(data, cache)
    backbone = FixedBackbone()
    second, report = run(data, cache, backbone)
    assert backbone.calls == 0
    assert second.folder == first.folder
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.regions, first.regions)
    assert f"{COUNT} pictures reused" in report


def test_the_store_lies_in_the_users_cache_folder_and_says_what_it_is(data, tmp_path, monkeypatch):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "mine"))
    store = extract(data, FixedBackbone(), progress=io.StringIO())
    assert store.folder.parent == tmp_path / "mine" / "features"
    about = json.loads((store.folder / "about.json").read_text())
    assert about == {"backbone": "fixed", "pictures": str(data.root.resolve()), "shape": [COUNT, 16, 5]}


def test_everything_that_features_depend_on_changes_the_fingerprint(data, tmp_path):
    before = fingerprint(data, FixedBackbone())
    assert fingerprint(data, FixedBackbone()) == before
    relabelled = replace(data, labels=data.labels[::-1], role=data.role[::-1])
    assert fingerprint(relabelled, FixedBackbone()) == before
    other = [
        fingerprint(data, FixedBackbone(scale=2.0)),
        fingerprint(replace(data, paths=data.paths[1:]), FixedBackbone()),
    ]
    cropped = FixedBackbone()
    cropped.pixels = PixelSpec(20, 16)
    other.append(fingerprint(data, cropped))
    shutil.copytree(data.root, tmp_path / "copy")
    other.append(fingerprint(replace(data, root=tmp_path / "copy"), FixedBackbone()))
    picture = data.root / data.paths[3]
    os.utime(picture, ns=(0, picture.stat().st_mtime_ns + 1))
    other.append(fingerprint(data, FixedBackbone()))
    with picture.open("ab") as file:
        file.write(b"x")
    os.utime(picture, ns=(0, 0))
    other.append(fingerprint(data, FixedBackbone()))
    picture.unlink()
    other.append(fingerprint(data, FixedBackbone()))
    assert len({before, *other}) == 1 + len(other)


def test_unreadable_pictures_are_reported_left_out_and_the_rest_is_done(data, cache):
    (data.root / data.paths[0]).write_bytes(b"not a picture")
    (data.root / data.paths[9]).unlink()
    wanted = {0, 9}
    for _ in range(2):  # extracted, then reused
        store, report = run(data, cache)
        assert set(np.flatnonzero(~store.ok)) == wanted
        assert len(store.problems) == 2
        assert "E-IMAGE-FORMAT" in store.problems[0]
        assert "E-IMAGE-OPEN" in store.problems[1]
        assert [data.paths[0] in store.problems[0], data.paths[9] in store.problems[1]] == [True, True]
        assert sum(line.startswith("unreadable, left out: E-IMAGE") for line in report.splitlines()) == 2
        assert not store.regions[[0, 9]].any()
    good = replace(
        data,
        paths=tuple(path for row, path in enumerate(data.paths) if row not in wanted),
        labels=data.labels[store.ok],
        role=data.role[store.ok],
    )
    np.testing.assert_allclose(store.regions[store.ok], expected(good, FixedBackbone()), rtol=1e-3, atol=1e-4)


def test_no_readable_picture_at_all_or_none_to_train_a_class_on(data, cache):
    first = [row for row in data.rows("train") if data.labels[row] == 0]
    for row in first:
        (data.root / data.paths[row]).write_bytes(b"")
    with pytest.raises(UsageError, match=f"E-DATA-NO-TRAINING: .*{class_name(int(data.labels[first[0]]))}"):
        run(data, cache)
    for path in data.paths:
        (data.root / path).write_bytes(b"")
    with pytest.raises(UsageError, match=f"E-DATA-UNREADABLE: none of the {COUNT} pictures"):
        run(data, cache)


def test_features_that_half_precision_cannot_hold_are_refused(data, cache):
    with pytest.raises(ArtefactError, match=r"E-FEATURES: .*pictures 0\.\.3 do not fit half precision"):
        run(data, cache, FixedBackbone(scale=1e6))


class NaNOfOne(FixedBackbone):
    """No numbers for one picture of the batch that is its turn."""

    def feature_map(self, x):
        found = super().feature_map(x)
        if self.calls == 2:
            found = found.clone()
            found[1] = torch.nan
        return found


def test_a_picture_whose_features_are_no_numbers_is_left_out_and_told(data, cache):
    store, said = run(data, cache, NaNOfOne())
    (row,) = np.flatnonzero(~store.ok)
    assert f"unreadable, left out: E-ANSWER-VALUE: '{data.root / data.paths[row]}'" in said
    assert not store.regions[row].any()
    np.testing.assert_array_equal(store.regions[store.ok], run(data, cache.with_name("other"))[0].regions[store.ok])


class Interrupted(FixedBackbone):
    """Ctrl-C after so many batches."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def feature_map(self, x):
        if self.calls == self.after:
            raise KeyboardInterrupt
        return super().feature_map(x)


@pytest.mark.parametrize("after", [0, 1, 5])
def test_ctrl_c_keeps_what_is_done_and_the_rest_follows(data, cache, after):
    (data.root / data.paths[1]).write_bytes(b"not a picture")
    whole, _ = run(data, cache / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(data, cache, Interrupted(after))
    backbone = FixedBackbone()
    store, _ = run(data, cache, backbone)
    assert backbone.calls == 9 - after
    assert store.regions.tobytes() == whole.regions.tobytes()
    assert store.problems == whole.problems
    assert threading.active_count() == 1


def test_a_resumed_run_may_take_other_batches(data, cache):
    with pytest.raises(KeyboardInterrupt):
        run(data, cache, Interrupted(2))
    backbone = FixedBackbone()
    store, _ = run(data, cache, backbone, batch_size=5, threads=1)
    assert backbone.calls == 7  # 8 pictures are done: batches 0..4 only is whole
    np.testing.assert_allclose(store.regions, expected(data, FixedBackbone()), rtol=1e-3, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    state=st.one_of(st.none(), st.binary(max_size=50)),
    regions=st.one_of(st.none(), st.just(b"cut short")),
    problems=st.one_of(st.none(), st.just(b""), st.just(b'[0, "old"]\n[1, "cut sh'), st.just(b"[]\n3\nnull\n\n")),
)
def test_whatever_a_crash_left_of_the_records_features_are_right(tmp_path_factory, state, regions, problems):
    """A state that says 'done' is believed only beside a whole regions file; anything else is done again."""
    base = tmp_path_factory.mktemp("s")
    data = open_image_set(make_tiny_data(base / "data", seen=1, unseen=0, per_class=7, side=16))
    whole, _ = run(data, base / "whole")
    folder = base / "cache" / "features" / whole.folder.name
    shutil.copytree(whole.folder, folder)
    wanted = whole.regions.tobytes()
    for name, content in (("state.u8", state), ("regions.f16", regions), ("problems.jsonl", problems)):
        if content is not None:
            (folder / name).write_bytes(content)
    believed = regions is None and state is not None
    done = [byte for byte in (state or b"")[:7] if byte in {1, 2}] if believed else []
    if 2 in done:
        return  # a picture that the record calls unreadable stays so
    store, _ = run(data, base / "cache")
    assert store.regions.tobytes() == wanted
    assert store.ok.all()


@pytest.mark.parametrize(
    "kind", [to_link, to_hard_link, to_nowhere, to_pipe, to_folder], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize("name", ["regions.f16", "state.u8", "problems.jsonl", "about.json", ".lock"])
def test_what_somebody_put_into_the_cache_is_not_written_through(data, cache, tmp_path, name, kind):
    """A store is begun anew where a file of it is none of its own; a lock that is none is one line."""
    (next(data.root.rglob("*.jpg"), None) or next(data.root.rglob("*.png"))).write_bytes(b"no picture")
    store, _ = run(data, cache)
    victim, place = tmp_path / "victim", store.folder / name
    wanted, problems = np.array(store.regions), store.problems
    (store.folder / "state.u8").write_bytes(bytes(COUNT))
    victim.write_bytes(place.read_bytes())
    before = victim.read_bytes()
    place.unlink()
    kind(place, victim)
    try:
        again, _ = run(data, cache)
    except SystemProblem as error:
        assert "could not keep the region features" in str(error)  # noqa: PT017
        assert name == ".lock" or (name, kind) == ("about.json", to_folder)
    else:
        np.testing.assert_array_equal(again.regions, wanted)
        assert again.problems == problems
    assert victim.read_bytes() == before
    assert not (tmp_path / "nowhere").exists()


def test_the_record_of_unreadable_pictures_may_be_lost_but_not_that_they_are(data, cache):
    (data.root / data.paths[0]).write_bytes(b"not a picture")
    store, _ = run(data, cache)
    (store.folder / "problems.jsonl").write_text('[5, "other"]\n[0, "cut sh')
    again, _ = run(data, cache)
    assert again.problems == (f"{data.root / data.paths[0]}, for a reason that was not recorded",)


SERVER = """
import json, os, signal, sys, time
from pathlib import Path
from support.tiny_backbone import FixedBackbone
from zsl_runtime.errors import ZslError
from zsl_train.data import feature_store
from zsl_train.data.open import open_image_set

def work(data, cache, seconds=0.0, commit=2.0, limit=0, uid=0):
    import resource
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if uid:
        os.setgid(uid)
        os.setuid(uid)
    feature_store.COMMIT_SECONDS = commit
    try:
        store = feature_store.extract(open_image_set(data), FixedBackbone(seconds=seconds), cache=Path(cache))
    except ZslError as error:
        print(f"{type(error).__name__} {error}")
    else:
        print("done", int(store.ok.sum()))

work(sys.argv[1], sys.argv[2])  # imports everything, before a child may not look where Python lies
for line in sys.stdin:
    job = json.loads(line)
    log, kill_after = job.pop("log"), job.pop("kill_after")
    child = os.fork()
    if child == 0:
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            work(**job)
        finally:
            sys.stdout.flush()
            os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Children:
    """Processes that extract, forked from one that has imported torch already: a tenth of a second each."""

    def __init__(self, base: Path) -> None:
        make_tiny_data(base / "warm", seen=1, unseen=0, per_class=2)
        self.log = base / "log"
        self.process = start([sys.executable, "-c", SERVER, base / "warm", base / "warm_cache"], stdin=subprocess.PIPE)
        while self.answer()[:4] != "done":
            """Whatever it says while it warms up."""

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server of children died"
        return line.strip()

    def run(self, data: ImageSet, cache: Path, *, kill_after: float | None = None, **options) -> tuple[int, str]:
        """Exit code (-9 when the kill hit it) and what it wrote."""
        job = {"data": str(data.root.parent), "cache": str(cache), "log": str(self.log), "kill_after": kill_after}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job | options) + "\n")
        self.process.stdin.flush()
        code = int(self.answer().removeprefix("exit "))
        return code, self.log.read_text()


def start(command, **options) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    server = Children(tmp_path_factory.mktemp("children"))
    yield server
    server.process.communicate()


def test_two_at_once_do_the_work_once(data, cache):
    """In two threads here; the lock belongs to the opened file, so it is the same between processes (slow tests)."""
    backbones = [FixedBackbone(seconds=0.02) for _ in range(2)]
    results: dict[int, tuple[FeatureStore, str]] = {}

    def work(number: int) -> None:
        results[number] = run(data, cache, backbones[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(backbone.calls for backbone in backbones) == [0, 9]
    waited = [report for _, report in results.values() if "waiting for it" in report or "reused" in report]
    assert len(waited) == 1
    np.testing.assert_array_equal(results[0][0].regions, results[1][0].regions)
    np.testing.assert_allclose(results[0][0].regions, expected(data, FixedBackbone()), rtol=1e-3, atol=1e-4)


def test_a_disk_that_takes_no_more_is_one_line_and_resumable(data, cache, children):
    """A limit on the size of files refuses the allocation as a full disk does, on any machine and for root too."""
    _, said = children.run(data, cache, limit=5000)
    assert said.startswith("SystemProblem E-DISK-FULL: the region features take 0.0 MB in")
    assert "set ZSL_CACHE to a folder on a larger disk" in said
    assert len(said.splitlines()) == 1
    assert not list(cache.rglob("regions.f16"))
    assert children.run(data, cache)[1].splitlines()[-1] == f"done {COUNT}"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_a_cache_without_write_permission_is_one_line(data, cache, children, tmp_path_factory):
    for place in (data.root, *data.root.parents):
        if place.is_relative_to(tmp_path_factory.getbasetemp().parent):
            place.chmod(0o755)
    cache.mkdir(mode=0o755)
    _, said = children.run(data, cache, uid=65534)
    assert said.startswith("SystemProblem E-SYSTEM: could not keep the region features")
    assert "Permission denied" in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing_that_was_recorded(data, cache, children):
    (data.root / data.paths[7]).write_bytes(b"not a picture")
    whole, _ = run(data, cache / "whole")
    moments = random.Random(8)
    killed = resumed = 0
    for attempt in range(40):
        target = cache / str(attempt)
        for _ in range(4):
            code, _ = children.run(data, target, seconds=0.03, commit=0.0, kill_after=moments.uniform(0, 0.3))
            killed += code == -signal.SIGKILL
        backbone = FixedBackbone()
        store, _ = run(data, target, backbone)
        resumed += 0 < backbone.calls < 9
        assert store.regions.tobytes() == whole.regions.tobytes()
        assert store.problems == whole.problems
    assert killed > 80
    assert resumed > 2  # kills hit in the middle, how often depends on the machine; what was done was not done again


@pytest.mark.slow
def test_after_a_kill_the_next_run_continues_where_the_record_ends(data, cache, children):
    code, _ = children.run(data, cache, seconds=1.0, kill_after=5.5)  # nine batches of a second, a record every two
    assert code == -signal.SIGKILL
    backbone = FixedBackbone()
    run(data, cache, backbone)
    assert 4 <= backbone.calls <= 7


@pytest.mark.slow
def test_two_processes_at_once_do_the_work_once(data, cache, tmp_path):
    command = [sys.executable, "-c", SERVER, data.root.parent, cache]
    processes = [start(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
    reports = [process.communicate(timeout=120) for process in processes]
    assert [out.splitlines()[-1] for out, _ in reports] == [f"done {COUNT}"] * 4
    assert sum(f"features: {COUNT} pictures in" in err for _, err in reports) == 1


def can_mount() -> bool:
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0  # noqa: PLW1510


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="no tmpfs can be mounted here (needs unshare --map-root-user)")
def test_a_full_disk_is_one_line_and_the_run_succeeds_once_there_is_room(data, cache):
    """A real file system of 64 KB, filled up by another file that then makes room."""
    cache.mkdir()
    code = f'mount -t tmpfs -o size=64k tmpfs {cache}; head -c 60000 /dev/zero > {cache}/o; "$@"; rm {cache}/o; "$@"'
    wrapped = ["unshare", "--map-root-user", "--mount", "sh", "-c", code, "sh"]
    command = [*wrapped, sys.executable, "-c", SERVER, data.root.parent, cache]
    out, err = start(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE).communicate(timeout=120)
    lines = out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("SystemProblem E-DISK-FULL")
    assert lines[1] == f"done {COUNT}"
    assert "Traceback" not in err


@pytest.mark.parametrize("code", ["EOPNOTSUPP", "EINVAL"])
def test_file_systems_that_cannot_reserve_do_too(data, cache, monkeypatch, code):
    import errno

    def refuse(*_):
        raise OSError(getattr(errno, code), "cannot")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    store, _ = run(data, cache)
    np.testing.assert_allclose(store.regions, expected(data, FixedBackbone()), rtol=1e-3, atol=1e-4)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_a_rate_and_the_time_left(data, cache):
    stream = Terminal()
    extract(data, FixedBackbone(seconds=0.02), cache=cache, progress=stream)
    assert f"{COUNT}/{COUNT}" in stream.getvalue()
    assert "a second" in stream.getvalue()
    assert "0:00:0" in stream.getvalue()


def test_a_log_gets_a_plain_line_now_and_then(data, cache, monkeypatch):
    monkeypatch.setattr(feature_store, "LINE_SECONDS", 0.0)
    _, report = run(data, cache, batch_size=9)
    lines = [line for line in report.splitlines() if f"of {COUNT} pictures" in line]
    assert [line.split(",")[0] for line in lines] == [f"features: {n} of {COUNT} pictures" for n in (9, 18, 27, 36)]
    assert all("a second" in line and "s left" in line for line in lines)
    assert "\x1b" not in report


def test_progress_goes_to_stderr_by_itself(data, cache, capsys):
    extract(data, FixedBackbone(), cache=cache)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"features: {COUNT} pictures in" in captured.err
