"""How many CPUs this process may really use.

`os.cpu_count()` counts the machine. A container or a batch system gives less, by an affinity mask or a cgroup quota; a
pool sized for the machine then runs slower than a single thread, because the kernel stops all of them in turn.
"""

from __future__ import annotations

import contextlib
import operator
import os
import sys
import threading
from pathlib import Path

from zsl_runtime.errors import UsageError, shown

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
READERS = 32


def usable_cpus() -> int:
    """Number of CPUs this process may use, at least 1: the affinity mask bounded by the cgroup quota."""
    limit = cgroup_cpu_limit(OWN_CGROUPS, CGROUP_ROOT)
    affinity = _affinity()
    return affinity if limit is None else max(1, min(affinity, int(limit)))


def most_threads() -> int:
    """More threads than this are never started, whatever is asked for: as many as the machine has CPUs.

    Thousands of them would take the machine's memory and processes from everybody; beyond one for each CPU they only
    wait for each other.
    """
    return max(os.cpu_count() or 1, usable_cpus())


def checked_threads(threads: object) -> int:
    """How many threads to use; the one rule for every option and argument that counts threads.

    Args:
        threads: asked for; what is beyond `most_threads` is cut. None for all CPUs that this process may use.

    Raises:
        UsageError: E-THREADS for anything but a whole number of at least 1.

    """
    if threads is None:
        return usable_cpus()
    count = whole(threads)
    if count is None or count < 1:
        raise UsageError("E-THREADS", f"threads is {shown(threads)}; give a whole number of at least 1")
    return min(count, most_threads())


def whole(value: object) -> int | None:
    """A whole number as int, also one of NumPy; None for anything else, True and False included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        return None


def _affinity() -> int:
    with contextlib.suppress(AttributeError, OSError):  # a system without it, a sandbox that refuses it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cpu_limit(own_cgroups: Path, root: Path) -> float | None:
    """The tightest CPU quota over this process's cgroups, version 1 and 2.

    Args:
        own_cgroups: /proc/self/cgroup: one `ID:CONTROLLERS:PATH` a line; version 2 has ID 0 and no controllers.
        root: /sys/fs/cgroup. Inside a container PATH may name a folder of the host; then the root itself is ours.

    Returns:
        CPUs, such as 1.5, or None when nothing limits them (or the system has no cgroups).

    """
    limits = []
    for line in _read(own_cgroups).splitlines():
        identifier, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if identifier == "0" and not controllers:
            limits += [_quota_v2(folder) for folder in _up_to(root, path)]
        elif "cpu" in controllers.split(","):
            limits += [_quota_v1(folder) for folder in _up_to(root / controllers, path)]
    return min((limit for limit in limits if limit is not None), default=None)


def _up_to(root: Path, path: str) -> list[Path]:
    """The cgroup's folder and its parents: a quota holds for everything below it."""
    folder = root / path.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _quota_v2(folder: Path) -> float | None:
    """cpu.max: `QUOTA PERIOD` in microseconds, QUOTA being `max` when there is none."""
    return _ratio(_read(folder / "cpu.max").split())


def _quota_v1(folder: Path) -> float | None:
    """cpu.cfs_quota_us (-1 when there is none) over cpu.cfs_period_us."""
    return _ratio([_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()])


def _ratio(words: list[str]) -> float | None:
    try:
        quota, period = (int(word) for word in words)
        return quota / period if quota >= 0 and period > 0 else None
    except (ValueError, OverflowError):  # "max", another number of words, or no such thing at all
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # the latter: a path with a zero byte
        return ""


def readers(threads: int) -> int:
    """Threads that decode beside an engine of `threads` threads.

    As many: where pictures are large and the engine is quick, decoding needs all CPUs; where the engine is what takes
    long, the readers are ahead and sleep, and what they use of its time is the work there is, whatever their number.
    More than READERS would only wait for Python's lock.
    """
    return max(1, min(threads, READERS))


def limit_environment() -> list[str]:
    """Cut what the environment asks of the libraries' threads to `most_threads`, and say so, a line each.

    For the beginning of a command: the libraries read their environment when they are imported. Where NumPy is there
    already, the process is another program's, and so is its environment.
    """
    if "numpy" in sys.modules:
        return []
    notes = []
    most = most_threads()
    for name in BLAS_VARIABLES:
        given = os.environ.get(name)
        if given is None:
            continue
        words = [word.strip() for word in given.split(",")]  # OpenMP's has one number for each level of nesting
        if not all(word.isascii() and word.isdecimal() and word.strip("0") for word in words):
            del os.environ[name]  # the libraries would say something of it, each in its own words
            if given.strip():
                notes.append(f"note: {name} is {shown(given)}, which is no number of threads; it is passed over")
        elif float(words[0]) > most:
            asked = shown(words[0]).strip("'")
            notes.append(f"note: {name} asks for {asked} threads; this machine has {cpus(most)}, so it is {most}")
            os.environ[name] = ",".join([str(most), *words[1:]])
    if startable(most - 1) < most - 1:
        os.environ.update(dict.fromkeys(BLAS_VARIABLES, "1"))
    return notes


def startable(count: int) -> int:
    """How many more threads the system lets this process have at once, as far as `count`.

    Where it does not let the libraries have all that they want, OpenBLAS interrupts the process when NumPy is imported,
    by the very signal of Ctrl-C, and libgomp ends it.
    """
    end, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, name="zsl-probe", daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:  # no more of them: what was found out
        pass
    finally:
        end.set()
        for thread in started:
            thread.join()
    return len(started)


def cpus(count: int) -> str:
    """A number of CPUs in words."""
    return "1 CPU" if count == 1 else f"{count} CPUs"


def limit_blas(threads: int | None) -> None:
    """Let NumPy's matrix products use as many threads as the command, instead of one for each CPU of the machine.

    The libraries read their environment when NumPy is imported, so this is for the beginning of a command; where NumPy
    is there already it does nothing. What a user has set stays, unless a number was asked for.

    Args:
        threads: asked for, or None for all CPUs that this process may use. More than the system lets it have are one.

    """
    if "numpy" in sys.modules:
        return
    used = threads or usable_cpus()
    if startable(used - 1) < used - 1:
        used = 1
    for name in BLAS_VARIABLES:
        if threads is not None or name not in os.environ:
            os.environ[name] = str(used)
