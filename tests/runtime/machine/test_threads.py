"""The CPU count follows affinity and cgroup quotas, and survives systems that have neither."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.errors import UsageError
from zsl_runtime.machine import threads
from zsl_runtime.machine.threads import cgroup_cpu_limit, checked_threads, readers, usable_cpus

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def system(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(threads, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(threads, "CGROUP_ROOT", tmp_path / "fs")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    return tmp_path


def limit(system: Path) -> float | None:
    return cgroup_cpu_limit(system / "own", system / "fs")


def test_version_2_quota_is_quota_over_period(system):
    write(system / "own", "0::/app\n")
    write(system / "fs/app/cpu.max", "150000 100000\n")
    assert limit(system) == 1.5
    assert usable_cpus() == 1


def test_a_parents_quota_binds_its_children(system):
    write(system / "own", "0::/a/b\n")
    write(system / "fs/a/b/cpu.max", "max 100000\n")
    write(system / "fs/a/cpu.max", "300000 100000\n")
    write(system / "fs/cpu.max", "600000 100000\n")
    assert usable_cpus() == 3


def test_version_2_without_quota_leaves_the_affinity(system):
    write(system / "own", "0::/\n")
    write(system / "fs/cpu.max", "max 100000\n")
    assert limit(system) is None
    assert usable_cpus() == 8


def test_version_1_quota_and_a_host_path_that_is_not_mounted(system):
    write(system / "own", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/docker/x\n")
    write(system / "fs/cpu,cpuacct/cpu.cfs_quota_us", "200000\n")
    write(system / "fs/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert usable_cpus() == 2


def test_version_1_without_quota(system):
    write(system / "own", "4:cpu,cpuacct:/\n")
    write(system / "fs/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write(system / "fs/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert limit(system) is None


def test_a_tiny_quota_still_gives_one_thread_and_a_large_one_is_bounded_by_affinity(system):
    write(system / "own", "0::/\n")
    write(system / "fs/cpu.max", "20000 100000\n")
    assert usable_cpus() == 1
    write(system / "fs/cpu.max", "6400000 100000\n")
    assert usable_cpus() == 8


@pytest.mark.parametrize("text", ["", "max", "a b", "100000 0", "1 2 3", "-1 100000"])
def test_odd_files_are_no_limit(system, text):
    write(system / "own", "0::/\nnonsense\n\n")
    write(system / "fs/cpu.max", text)
    assert limit(system) is None


def test_no_cgroups_and_no_affinity(system, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cpus() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus() == 1


def test_a_sandbox_that_refuses_to_tell_the_affinity(system, monkeypatch):
    def refuse(_pid):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cpus() == 5


def test_numpy_is_told_before_it_is_imported_and_never_after(system, monkeypatch):
    for name in threads.BLAS_VARIABLES:
        monkeypatch.setenv(name, "")  # so that what is there now comes back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setitem(sys.modules, "numpy", np)
    threads.limit_blas(2)
    assert "OPENBLAS_NUM_THREADS" not in os.environ  # NumPy is here and would not look
    monkeypatch.delitem(sys.modules, "numpy")
    threads.limit_blas(None)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "8"
    assert os.environ["OMP_NUM_THREADS"] == "5"  # the user's own
    threads.limit_blas(2)
    assert {os.environ[name] for name in threads.BLAS_VARIABLES} == {"2"}


@pytest.mark.parametrize(("given", "wanted"), [(1, 1), (2, 2), (16, 16), (256, 32)])
def test_as_many_threads_read_as_the_engine_has_within_reason(given, wanted):
    assert readers(given) == wanted


def test_this_machine_gives_between_one_and_all_cpus():
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)


# --- no more than the machine has CPUs ------------------------------------------------------------------------------


@pytest.fixture
def four(monkeypatch) -> None:
    """A machine with four CPUs, of which this process may use two."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads, "usable_cpus", lambda: 2)


@pytest.mark.parametrize(
    ("asked", "used"),
    [(None, 2), (1, 1), (3, 3), (4, 4), (5, 4), (10_000, 4), (10**30, 4), (np.int64(10_000), 4), (np.uint8(3), 3)],
)
def test_threads_are_cut_to_the_cpus_of_the_machine(four, asked, used):
    assert checked_threads(asked) == used
    assert type(checked_threads(asked)) is int


@pytest.mark.parametrize(
    "asked", [0, -1, -(10**9), pytest.param(-(10**5000), id="huge"), 1.5, 2.0, True, "4", b"4", [4], float("nan")]
)
def test_what_is_no_number_of_threads_is_refused(four, asked):
    with pytest.raises(UsageError, match=r"^E-THREADS: threads is .*; give a whole number of at least 1$"):
        checked_threads(asked)


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none()))
def test_any_number_of_threads_is_refused_or_one_the_machine_can_bear(asked):
    if asked is not None and not (type(asked) is int and asked >= 1):
        with pytest.raises(UsageError, match="E-THREADS"):
            checked_threads(asked)
    else:
        assert 1 <= checked_threads(asked) <= max(os.cpu_count() or 1, usable_cpus())


def test_a_machine_that_does_not_say_how_many_cpus_it_has_gets_what_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(threads, "usable_cpus", lambda: 3)
    assert threads.most_threads() == 3


def test_what_the_environment_asks_of_libraries_is_cut_and_told(four, monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy")
    wanted = {
        "OMP_NUM_THREADS": ("10000,2", "4,2"),
        "MKL_NUM_THREADS": ("9" * 400, "4"),
        "OPENBLAS_NUM_THREADS": ("4", "4"),
        "VECLIB_MAXIMUM_THREADS": ("1", "1"),
    }
    for name, (asked, _) in wanted.items():
        monkeypatch.setenv(name, asked)
    notes = threads.limit_environment()
    assert {name: os.environ[name] for name in wanted} == {name: used for name, (_, used) in wanted.items()}
    assert "note: OMP_NUM_THREADS asks for 10000 threads; this machine has 4 CPUs, so it is 4" in notes
    assert len(notes) == 2
    assert max(map(len, notes)) < 120


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5", "", " ", "4,", "4,many", "4,0", "\u0664"])
def test_what_is_no_number_of_threads_in_the_environment_is_passed_over(four, monkeypatch, value):
    """libgomp would print a line of its own."""
    monkeypatch.delitem(sys.modules, "numpy")
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    notes = threads.limit_environment()
    assert "OMP_NUM_THREADS" not in os.environ
    line = f"note: OMP_NUM_THREADS is {value!r}, which is no number of threads; it is passed over"
    assert notes == ([line] if value.strip() else [])


def test_the_environment_of_a_program_around_us_stays(four, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "10000")
    assert threads.limit_environment() == []
    assert os.environ["OMP_NUM_THREADS"] == "10000"


@pytest.mark.parametrize(("allowed", "libraries"), [(0, "1"), (2, "1"), (3, None)])
def test_where_the_system_gives_few_threads_libraries_take_one(four, monkeypatch, allowed, libraries):
    """OpenBLAS would interrupt the process while NumPy is imported: "interrupted", exit 130, and nobody did that."""
    real, alive = threading.Thread.start, [0]

    def start(thread):
        if alive[0] == allowed:
            raise RuntimeError("can't start new thread")
        alive[0] += 1
        real(thread)

    for name in threads.BLAS_VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "numpy")
    monkeypatch.setattr(threading.Thread, "start", start)
    assert threads.limit_environment() == []
    assert {os.environ.get(name) for name in threads.BLAS_VARIABLES} == {libraries}
    alive[0] = 0
    threads.limit_blas(4)
    assert {os.environ[name] for name in threads.BLAS_VARIABLES} == {libraries or "4"}
    alive[0] = 0
    assert threads.startable(3) == allowed
    assert not [thread for thread in threading.enumerate() if thread.name == "zsl-probe"]


MEASURED = """
import os, sys, threading, time
most = [0]
def watch():
    while True:
        most[0] = max(most[0], len(os.listdir("/proc/self/task")))
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
from zsl_runtime.cli.infer import main
code = main()
print("MOST", most[0], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc here")  # noqa: PTH112
@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_command_that_is_asked_for_10000_threads_starts_a_handful(own_bundle, tmp_path, backend):
    from PIL import Image

    for number in range(64):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number:02d}.png")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "10000",
    }
    words = [
        tmp_path,
        "--engine",
        own_bundle("b"),
        "--backend",
        backend,
        "--threads",
        "10000",
        "--batch-size",
        "10000000",
    ]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, words), "--topk", "1000000000"],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 64 * 8
    *lines, most = done.stderr.splitlines()
    has = f"this machine has {threads.cpus(threads.most_threads())}, so it is {threads.most_threads()}"
    assert lines[:3] == [
        f"note: --threads 10000: {has}",
        f"note: OMP_NUM_THREADS asks for 10000 threads; {has}",
        "note: --batch-size 10000000: that is more than there may be memory for, so it is 4096",
    ]
    assert int(most.split()[1]) < 20 + 5 * threads.most_threads()


@pytest.mark.parametrize(
    "rubbish", ["²² 100000", "100000", "1 2 3", "max max", "-1 100000", f"{'9' * 400} 1", "9" * 5000]
)
def test_rubbish_in_a_cgroup_is_no_quota(system, rubbish):
    write(system / "own", "0::/app\n")
    write(system / "fs/app/cpu.max", rubbish)
    assert limit(system) is None
    write(system / "own", "0::/a\0pp\n:::\n\n3:cpu\n")
    assert limit(system) is None


def test_the_kernels_for_pixels_get_no_more_than_the_machine_has(monkeypatch):
    from types import SimpleNamespace

    from zsl_runtime.pixels import pixels

    asked, native = [], pixels.load_native()
    counting = SimpleNamespace(
        kernels=native.kernels,
        resize_crop_batch=lambda *given: asked.append(given[3]) or native.resize_crop_batch(*given),
    )
    monkeypatch.setattr(pixels, "load_native", lambda: counting)
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8))
    spec = pixels.PixelSpec(8, 8)
    many = pixels.resize_crop_batch(pictures, spec, threads=10**9)
    assert asked == [threads.most_threads()]
    assert np.array_equal(many, np.stack([pixels.resize_crop_reference(picture, spec) for picture in pictures]))


def test_a_classifier_says_how_many_threads_it_has(shared_bundle):
    from zsl_runtime.labelling.classifier import Classifier

    most = threads.most_threads()
    with Classifier.open(shared_bundle(), backend="ort", threads=10**9) as classifier:
        assert classifier.threads == most
        classifier.switch("ort", threads=1)
        assert classifier.threads == 1
        classifier.switch("ort", threads=10**9)
        assert classifier.threads == most
        for wrong in (0, -1, 1.5, "many"):
            with pytest.raises(UsageError, match="E-THREADS"):
                classifier.switch("ort", threads=wrong)
    for wrong in (0, -1, 1.5, "many", True):
        with pytest.raises(UsageError, match="E-THREADS"):
            Classifier.open(shared_bundle(), threads=wrong)
