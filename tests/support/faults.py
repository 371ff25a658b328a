"""Commands of ours whose work with files is disturbed at the n-th time: killed, refused, cut short, delayed.

A `Nursery` is a process that has imported a command and what it needs, with faults.c in front of libc. For each run it
forks a child, which runs the command's `main` as a user's process would, with a `Plan` of what is to happen to it. A
run costs the command's own time, not that of a start, so that thousands of points can be tried.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.command_lines import SCRIPTS
from support.lone import IMPORTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

SOURCE = Path(__file__).with_name("faults.c")
COMPILER = shutil.which("cc")
LACKING = "" if COMPILER and sys.platform == "linux" else "disturbing system calls needs Linux and a C compiler, cc"
READ, WRITE, NAME, SYNC, LOCK, OPEN, MAP = 1, 2, 4, 8, 16, 32, 64
CHANGES = WRITE | NAME | SYNC | LOCK  # all that leaves something behind
ACTIONS = ("nothing", "kill", "error", "short", "half then kill", "delay", "signal")  # as in faults.c
PATIENCE = 60.0  # seconds for a command that takes less than one
CODES = {0, 2, 4, 5, 6, 130, 143}  # that a command may end with, whatever the system does to it
ALWAYS = 1 << 40


@dataclass(frozen=True)
class Plan:
    """What happens to a run.

    Attributes:
        root: only operations below this folder count.
        action: of ACTIONS: before the operation is done, or, for `half then kill`, when half of it is.
        value: errno, milliseconds or number of a signal.
        kinds: READ, WRITE ...: only these count.
        at: the first operation that is met, counted from 0.
        times: how many are.
        log: file that takes every operation, with what was written; see `operations`.
        kill_after: seconds after which it is killed, wherever it is.
        limits: names of the module resource -> soft and hard limit.
        clock: reading of the time of day from which on it is off, and by how many seconds.
        threads: how many threads may be started.
        closed: handles that are closed first.
        stdout: file or pipe to print to.

    """

    root: str = ""
    action: str = "nothing"
    value: int = 0
    kinds: int = CHANGES
    at: int = 0
    times: int = 1
    log: str = ""
    kill_after: float | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    clock: tuple[int, int] | None = None
    threads: int | None = None
    closed: tuple[int, ...] = ()
    stdout: str = ""


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: exit code; negative: the signal that ended it.
        out: what it printed.
        err: the same, to stderr.
        met: operations that were counted; -1 where it was killed.
        seconds: that it took.
        left: whether a process that it started was still there a second later.

    """

    code: int
    out: str
    err: str
    met: int
    seconds: float
    left: bool


def build(folder: Path) -> Path:
    """Compile faults.c into `folder`."""
    library = folder / "faults.so"
    if not library.exists():
        assert COMPILER is not None
        words = [COMPILER, "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, SOURCE, "-ldl"]
        subprocess.run(words, check=True, capture_output=True)
    return library


class Nursery:
    """A process that runs commands in children of its own.

    Args:
        folder: for the library and what is printed.
        commands: names, whose modules are imported beforehand.
        before: statements that are executed once, such as further imports.
        environment: of the commands.

    """

    def __init__(
        self, folder: Path, commands: Sequence[str], before: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        code = "from support.faults import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps([list(commands), before, str(folder)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": IMPORTS,
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": "1",
                "HOME": str(folder),
                "ZSL_CACHE": str(folder / "cache"),
                "LD_PRELOAD": str(build(folder)),
                **(environment or {}),
            },
        )
        assert self._answer() == "ready"

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery has died"
        return json.loads(line)

    def run(self, name: str, *words: object, plan: Plan | None = None) -> Ended:
        """Run a command as a process would, by the plan."""
        request = {"name": name, "words": [str(word) for word in words], "plan": asdict(plan or Plan())}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(**self._answer())

    def memory(self) -> int:
        """Bytes of address space that a child begins with."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[0]
        return int(pages) * resource.getpagesize()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE)
        self._process.stdout.close()


def operations(log: Path) -> Iterator[tuple[str, str, str, int, bytes]]:
    """Call, path, second path, offset and data of everything in a log of a Plan, in order."""
    data, place = log.read_bytes(), 0
    while place < len(data):
        end = data.index(b"\n", place)
        call, first, second, offset, length = os.fsdecode(data[place:end]).split("\t")
        place = end + 1 + int(length)
        yield call, first, second, int(offset), data[end + 1 : place]


def decent(ended: Ended, codes: set[int] = CODES) -> bool:
    """Whether a run that failed said so as commands do: the right exit code, and one line of error at the end.

    Photographs that cannot be read have lines of their own.
    """
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ") and "E-IMAGE" not in line]
    plain = "Traceback" not in ended.err and "E-BUG" not in ended.err and not ended.left
    return ended.code in codes and plain and (ended.code not in {2, 4, 5} or len(lines) == 1)


def serve() -> None:
    """Be a nursery: a request is a line on stdin, an answer a line on stdout."""
    import ctypes

    commands, before, folder = json.loads(sys.argv[1])
    shim = ctypes.CDLL(None)
    mains = {name: import_module(SCRIPTS[name].partition(":")[0]).main for name in commands}
    exec(before, {})  # of the test that started this
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        ended = _in_a_child(
            mains[request["name"]], request["name"], request["words"], Plan(**request["plan"]), folder, shim
        )
        print(json.dumps(asdict(ended)), file=answers, flush=True)


def _in_a_child(main: Any, name: str, words: list[str], plan: Plan, folder: str, shim: Any) -> Ended:
    out, err = f"{folder}/out", f"{folder}/err"
    counted, counting = os.pipe()
    for path in (out, err):
        Path(path).write_bytes(b"")
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(counted)
        os.setpgid(0, 0)
        _prepare(plan, out, err)
        sys.argv = [name, *words]
        _run(main, plan, counting, shim)
    os.close(counting)
    killed = _wait(child, plan.kill_after)
    seconds = time.monotonic() - begun
    _, status = os.waitpid(child, 0)
    left = _still_there(child)
    with os.fdopen(counted) as pipe:
        met = pipe.read() if not (left or killed) else ""
    texts = [Path(path).read_text(encoding="utf-8", errors="replace") for path in (out, err)]
    return Ended(os.waitstatus_to_exitcode(status), *texts, int(met or -1), seconds, left)


def _wait(child: int, kill_after: float | None) -> bool:
    """Wait for the end of a child, and kill it after a time; whether it was killed."""
    handle = os.pidfd_open(child)
    try:
        done, _, _ = select.select([handle], [], [], PATIENCE if kill_after is None else kill_after)
        if not done:
            os.kill(child, signal.SIGKILL)
        return not done
    finally:
        os.close(handle)


def _still_there(group: int) -> bool:
    """Whether a process of the group lives on for a second; it is ended then."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.01)
    os.killpg(group, signal.SIGKILL)
    return True


def _prepare(plan: Plan, out: str, err: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for number, handle in ((0, null), (1, os.open(plan.stdout or out, os.O_WRONLY)), (2, os.open(err, os.O_WRONLY))):
        os.dup2(handle, number)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))  # noqa: SIM115
    for number in plan.closed:
        os.close(number)
    for name, limit in plan.limits.items():
        kind = getattr(resource, name)
        resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))


def _run(main: Any, plan: Plan, counting: int, shim: Any) -> None:
    import ctypes

    code = 1
    try:
        log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if plan.log else -1
        if plan.clock is not None:
            shim.zsl_fault_clock(ctypes.c_long(plan.clock[0]), ctypes.c_long(plan.clock[1]))
        if plan.threads is not None:
            shim.zsl_fault_threads(ctypes.c_long(plan.threads))
        number = ACTIONS.index(plan.action)
        shim.zsl_fault_arm(
            os.fsencode(plan.root),
            number,
            plan.value,
            plan.kinds,
            ctypes.c_long(plan.at),
            ctypes.c_long(plan.times),
            log,
        )
        code = main()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for name in plan.limits:  # what follows is not the command's
            kind = getattr(resource, name)
            resource.setrlimit(kind, (resource.getrlimit(kind)[1],) * 2)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        shim.zsl_fault_count.restype = ctypes.c_long
        os.write(counting, str(shim.zsl_fault_count()).encode())
        os._exit(code)


def errors(*names: str) -> list[int]:
    """Numbers of errors by their names."""
    return [getattr(errno, name) for name in names]
