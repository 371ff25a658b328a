"""What is kept of photographs between two looks at them: where the model sees them, and nothing to look at."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from zsl_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.arrays import Floats

MOST_BYTES = 64 * 2**20  # of all vectors together; 12,000 photographs of 1,314 numbers
DIGEST = re.compile("[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    """By what a photograph is known: sha256 of its file."""
    return hashlib.sha256(data).hexdigest()


class Vectors:
    """Photographs by digest, each as the D numbers that the head looks at; those not asked for the longest go first.

    So a change of classes gives new labels to all of them at once, and photographs teach, without the model and
    without anybody keeping the pictures. Any thread may call.

    Args:
        width: D.
        most: bytes.

    """

    def __init__(self, width: int, most: int = MOST_BYTES) -> None:
        self._most = max(1, most // (4 * width))
        self._held: OrderedDict[str, Floats] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def put(self, digest: str, x: Floats) -> None:
        """Keep the vector (D,) float32 of a photograph."""
        with self._lock:
            self._held[digest] = x
            self._held.move_to_end(digest)
            while len(self._held) > self._most:
                self._held.popitem(last=False)

    def get(self, digest: str) -> Floats | None:
        """The vector of a photograph; None for one that is not known, or no longer."""
        with self._lock:
            if digest in self._held:
                self._held.move_to_end(digest)
            return self._held.get(digest)

    def all_of(self, digests: Sequence[str]) -> list[Floats]:
        """The vectors of photographs; UsageError E-PAGE-FORGOTTEN when one of them is not known."""
        found = [self.get(digest) for digest in digests]
        known = [x for x in found if x is not None]
        if len(known) < len(found):
            raise UsageError(
                "E-PAGE-FORGOTTEN",
                f"{len(found) - len(known)} of {len(found)} photographs are not known here any more; drop them again",
            )
        return known
