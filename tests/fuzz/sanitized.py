"""Puts another build of the compiled core in the place of the installed one: that of $ZSL_FUZZ_NATIVE.

As a plugin of pytest (`-p fuzz.sanitized`), or imported before anything of ours. With a core that was built with
ZSL_SANITIZE the sanitizer's library has to be in the process first: `environment` says how.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

CORE = "zsl_runtime._native"
LIBRARIES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}


def environment(core: Path, kind: str, reports: Path | None = None) -> dict[str, str]:
    """Variables for a process that is to run with a sanitized core; `kind` is address or thread.

    Args:
        core: the shared library that was built.
        kind: of sanitizer, as the first word of ZSL_SANITIZE.
        reports: where reports go, with the number of the process behind; None for stderr.

    """
    paths = []
    for name in LIBRARIES[kind]:
        said = subprocess.run(
            [os.environ.get("CXX", "g++"), f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        paths.append(str(Path(said.stdout.strip()).resolve()))
    log = "" if reports is None else f":log_path={reports}"
    return {
        **os.environ,
        "LD_PRELOAD": ":".join(paths),
        "ZSL_FUZZ_NATIVE": str(core),
        # Python keeps memory to its end; and what a core cannot reserve is an error of Python's, as it is without.
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:abort_on_error=1:quarantine_size_mb=16{log}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:abort_on_error=1{log}",
        "TSAN_OPTIONS": f"report_bugs=1:halt_on_error=1:abort_on_error=1{log}",
        "OMP_NUM_THREADS": "1",
        "PYTHONMALLOC": "malloc",  # so that a sanitizer sees each of Python's blocks
    }


def take_place() -> None:
    """Load $ZSL_FUZZ_NATIVE as the core."""
    path = os.environ.get("ZSL_FUZZ_NATIVE")
    if not path or CORE in sys.modules:
        return
    import zsl_runtime

    spec = importlib.util.spec_from_file_location(CORE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[CORE] = module
    spec.loader.exec_module(module)
    zsl_runtime._native = module


take_place()
