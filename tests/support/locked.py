"""Folders that cannot be listed, also for root, who may list everything."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def lock(monkeypatch: pytest.MonkeyPatch, folder: str | os.PathLike[str]) -> None:
    """Refuse to list a folder, given whole or by the end of its path."""
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith(os.fspath(folder)):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
