"""The user's cache folder: what can be made again and has no place in a bundle or a run folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where derived files go: ``$ZSL_CACHE``, else ``$XDG_CACHE_HOME/zsl-deploy``, else ``~/.cache/zsl-deploy``.

    A relative ``$XDG_CACHE_HOME`` is ignored, as its specification asks. The folder is not created here.
    """
    chosen = os.environ.get("ZSL_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = xdg if xdg.is_absolute() else Path.home() / ".cache"
    return base / "zsl-deploy"
