"""The field guide: a drawn data set of invented birds whose visible attributes decide the drawing.

Two dozen seen, eight unseen and four new species with attributes as CUB has them (the share of a species' birds that
show each), for demonstrations and tests that need photographs and may not download any. What a bird looks like follows
from its attributes; pose, place, light, habitat, what is in the way and the camera do not.

`python -m zsl_train.data.field_guide OUT` draws it, :func:`draw_field_guide` is the same from Python.
"""

from __future__ import annotations

from zsl_train.data.field_guide.folder import draw_field_guide

__all__ = ["draw_field_guide"]
