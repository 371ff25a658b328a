"""The CPU count follows affinity and cgroup quotas, and survives systems that have neither."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from zsl_runtime.machine import threads
from zsl_runtime.machine.threads import cgroup_cpu_limit, readers, usable_cpus

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
