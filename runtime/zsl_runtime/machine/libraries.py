"""What libraries would do behind the user's back, switched off before any of them is imported.

Imported by the three packages first of all, so this file imports nothing that takes time.
"""

from __future__ import annotations

import os
from typing import Any

# ONNX Runtime from 1.29 on: an identifier of the device and a queue of events below the user's cache folder and
# $TMPDIR, and a server that is looked up some seconds after the start. It reads this once, when it is imported; the
# call of its API comes too late for the files. The second name is that of builds before its release.
SILENCE = {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}
# Ray's head node sends what it finds out about a cluster every hour, unless this is 0 where it is started.
SILENCE["RAY_USAGE_STATS_ENABLED"] = "0"
DRIVERS = ("/dev/nvidiactl", "/dev/nvhost-ctrl", "/dev/dxg")  # of NVIDIA cards: desktop and server, Jetson, WSL


def tame_libraries() -> None:
    """Let no library send or keep anything of its own, unless the user's environment asks for it.

    What is set in the environment, and not to nothing, is the user's wish and stays.
    """
    for name, value in SILENCE.items():
        _default(name, value)
    # The driver keeps what it compiles for a card that is newer than the kernels in ~/.nv.
    if any(map(os.path.exists, DRIVERS)):
        from zsl_runtime.machine.cache import cache_folder

        folder = cache_folder()
        if folder is not None:
            _default("CUDA_CACHE_PATH", str(folder / "cuda"))


def tame_onnxruntime(onnxruntime: Any) -> None:
    """Ask the imported library, too: on Windows, and where somebody imported it before us, nothing else does."""
    if os.environ.get("ORT_DISABLE_TELEMETRY") != "0" and hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()


def tame_torch() -> None:
    """Keep torch from making a folder for its compiler in $TMPDIR, as it does when it is asked for an optimiser.

    It gets one in the cache folder, where that can be written to. For the side that has torch; others never call it.
    """
    _in_cache("TORCHINDUCTOR_CACHE_DIR", "torch")


def tame_matplotlib() -> None:
    """Keep matplotlib's list of fonts in the cache folder, where that can be written to, and not in the home folder.

    For the side that draws, before it imports matplotlib.
    """
    _in_cache("MPLCONFIGDIR", "matplotlib")


def _in_cache(name: str, below: str) -> None:
    """Name a folder below the cache folder in the environment, where one can be made."""
    from zsl_runtime.machine.cache import cache_folder

    folder = cache_folder()
    if folder is None:
        return
    there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    if os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK):  # noqa: PTH112
        _default(name, str(folder / below))


def check_place_for_torch() -> None:
    """Refuse to begin where torch could not be imported, or would end the process: for commands that are about to.

    Raises:
        SystemProblem: E-SYSTEM, the current folder was removed, or there is no folder for temporary files.

    """
    import tempfile

    from zsl_runtime.errors import from_os_error

    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise from_os_error(
            error, "begin: the folder that this was started in is gone; change to another one:"
        ) from error
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise from_os_error(error, "begin: torch needs a folder for temporary files; let TMPDIR name one:") from error


def _default(name: str, value: str) -> None:
    if not os.environ.get(name):
        os.environ[name] = value
