"""The user's cache folder: region features and downloaded weights; everything in it can be made again."""

from __future__ import annotations

from zsl_runtime.cache import cache_folder

__all__ = ["cache_folder"]
