"""How much memory this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_bytes(limits: Sequence[str] = CGROUP_LIMITS) -> int | None:
    """Memory of the machine, or less where a cgroup file in `limits` or `ulimit -v` says so; None if nothing says."""
    found: list[int] = []
    try:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # not on this system
        found = []
    with suppress(ImportError, OSError, ValueError):  # not on this system
        import resource

        found.append(resource.getrlimit(resource.RLIMIT_AS)[0])  # below zero where there is none
    for path in limits:
        try:
            found.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such cgroup version here, or "max"
            continue
    return min((size for size in found if size > 0), default=None)
