"""Commands in processes of their own, with nothing of this one's environment but where Python finds the packages."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from support.command_lines import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

IMPORTS = os.pathsep.join(path for path in sys.path if path)


def program(name: str, before: str = "") -> list[str]:
    """Words that run the command `name`, after the statements `before`."""
    module = SCRIPTS[name].partition(":")[0]
    return [sys.executable, "-c", f"{before}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"]


def run_alone(
    name: str,
    *words: object,
    environment: Mapping[str, str],
    before: str = "",
    prefix: Sequence[object] = (),
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command with exactly this environment, and PATH; `prefix` may run it under something else."""
    line = [*prefix, *program(name, before), *words]
    return subprocess.run(
        [str(word) for word in line],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": IMPORTS,
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
