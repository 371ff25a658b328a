"""The graphs that a bundle can hold, by the part that each plays."""

from __future__ import annotations

SMALL_PARTS = ("means", "synthesizer", "rows", "lift")  # what classes are added with: no picture goes through them
PARTS = ("model", *SMALL_PARTS)
EXPLAIN = "explain"  # where attention lies in a picture; no label depends on it, and no engine is made of it
