"""How far a build is. TensorRT tells of phases inside phases, from threads of its own, and gives no time."""

from __future__ import annotations

import threading
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from zsl_runtime.trt.library import Library

BAR_WIDTH = 24
DRAW_INTERVAL = 0.1  # seconds between two drawings on a terminal
LINE_INTERVAL = 10.0  # and between two lines elsewhere: a build of minutes must not look as if it hung


class BuildProgress:
    """One line on a terminal that is drawn over and over, or a line now and then elsewhere.

    Args:
        stream: where to.
        title: what is being built.
        quiet: say nothing.
        clock: seconds.

    """

    def __init__(
        self,
        stream: IO[str],
        title: str = "engine",
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._title, self._quiet, self._clock = stream, title, quiet, clock
        self._draws = stream.isatty()
        self._phases: dict[str, list[int]] = {}  # name -> steps done, of how many; in the order of their beginning
        self._began = self._told = clock()
        self._lock = threading.Lock()

    def start(self, phase: str, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._phases[phase] = [0, steps]
            self._tell()

    def step(self, phase: str, done: int) -> None:
        """Step number `done`, counted from 0, of a phase is over."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase][0] = done + 1
            self._tell()

    def finish(self, phase: str) -> None:
        """A phase ends, perhaps before its last step."""
        with self._lock:
            self._phases.pop(phase, None)
            self._tell()

    def clear(self) -> None:
        """Take the line away."""
        if self._draws and not self._quiet:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _tell(self) -> None:
        now = self._clock()
        if self._quiet or not self._phases or now - self._told < (DRAW_INTERVAL if self._draws else LINE_INTERVAL):
            return
        self._told = now
        phase, (done, steps) = list(self._phases.items())[-1]  # the innermost
        text = f"{self._title}: {phase} {done}/{steps}, {now - self._began:.0f} s"
        if self._draws:
            filled = min(BAR_WIDTH * done // max(steps, 1), BAR_WIDTH)
            self._stream.write(f"\r\x1b[K[{'#' * filled}{'-' * (BAR_WIDTH - filled)}] {text}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()


def monitor_for(library: Library, progress: BuildProgress) -> Any:
    """An IProgressMonitor of this library.

    What is raised while it is called (Ctrl-C, a closed stderr) must not pass through the library: it asks the build to
    stop, and `raise_cancelled` raises it afterwards.
    """
    base: Any = library.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]  # known when the library is
        """Hands on what the library tells."""

        def __init__(self) -> None:
            base.__init__(self)  # the binding does not take super()
            self.cancelled: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            """Called by the library."""
            self._guarded(lambda: progress.start(phase_name, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Called by the library; False cancels the build."""
            self._guarded(lambda: progress.step(phase_name, step))
            return self.cancelled is None

        def phase_finish(self, phase_name: str) -> None:
            """Called by the library."""
            self._guarded(lambda: progress.finish(phase_name))

        def _guarded(self, tell: Callable[[], None]) -> None:
            try:
                tell()
            except BaseException as error:
                self.cancelled = self.cancelled or error

        def raise_cancelled(self) -> None:
            """Take the progress away, and raise what came up while it was told."""
            if self.cancelled is not None:
                raise self.cancelled
            progress.clear()

    return Monitor()
