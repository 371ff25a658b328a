"""What may end or hold up the whole program is tried in another process first: libraries that a CPU cannot run."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from zsl_runtime.backends.table import is_found
from zsl_runtime.cli.finding import NOTE, Finding
from zsl_runtime.machine import cards

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER_FILE = cards.VERSION_FILE  # only where the driver is loaded can it hang
# OpenVINO's device is loaded as well as imported: where neither /proc nor /sys tells of CPUs, that never ends.
OPENVINO = "from zsl_runtime.backends.openvino import import_openvino as x, _open_core as y; y(x())"
# Module -> the distribution that brings it, and a line that imports it as we do.
LIBRARIES = {
    "onnxruntime": ("onnxruntime", "from zsl_runtime.backends.ort import import_onnxruntime as x; x()"),
    "openvino": ("openvino", OPENVINO),
}
SECONDS = 60.0  # that a trial may take: slow disks are not broken ones


def trial(code: str, seconds: float = SECONDS) -> str:
    """Why a line of Python must not be run in this process; '' when nothing stands against it.

    An exception stands against nothing: it can be caught here.

    Args:
        code: may import from the places that this process imports from.
        seconds: that it may take.

    """
    if not sys.executable:
        return ""
    program = f"import sys; sys.path[:] = {sys.path!r}; {code}"
    try:
        done = subprocess.run(  # noqa: S603  # this Python, and lines of ours
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it does not come to an end ({seconds:g} s)"
    except OSError:  # no process, no memory
        return ""
    if done.returncode >= 0:
        return ""
    return f"it ends Python with {_signal_name(-done.returncode)}"


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name}, an instruction that this CPU does not have" if name == "SIGILL" else name


@contextmanager
def kept_out() -> Iterator[list[Finding]]:
    """Keep what ends Python or holds it up out of this process while the block runs.

    Yields:
        What is to be said of it.

    """
    findings = []
    with ExitStack() as stack:
        if DRIVER_FILE.exists():
            problem = trial("from zsl_runtime.machine.cards import driver; driver()")
            if problem:
                stack.enter_context(_no_driver(f"NVIDIA's driver cannot be asked: {problem}"))
        for module, (distribution, code) in LIBRARIES.items():
            problem = "" if module in sys.modules or not _is_found(module) else trial(code)
            if problem:
                mend = f"pip install --force-reinstall {distribution}, or a version that this CPU can run"
                findings.append(Finding(NOTE, f"{distribution} cannot be used: {problem}; {mend}"))
                stack.enter_context(_stand_in(module, problem))
        yield findings


def _is_found(module: str) -> bool:
    try:
        return is_found(module)
    except Exception:  # what is so damaged is told where it is used
        return False


@contextmanager
def _stand_in(name: str, problem: str) -> Iterator[None]:
    """Let a module be one in which everything is missing, for this reason."""
    module = ModuleType(name)

    def missing(_: str) -> NoReturn:
        raise AttributeError(problem)

    module.__getattr__ = missing  # type: ignore[method-assign]
    sys.modules[name] = module
    try:
        yield
    finally:
        sys.modules.pop(name, None)


@contextmanager
def _no_driver(problem: str) -> Iterator[None]:
    """Let NVIDIA's driver show no card, for this reason."""
    real = cards.driver
    found = cards.Driver(cards.driver_version(), "", (), f"{problem}; {cards.INSTALL_DRIVER}", damaged=True)
    cards.driver = lambda: found  # type: ignore[assignment]  # asked by all rooms
    try:
        yield
    finally:
        cards.driver = real
