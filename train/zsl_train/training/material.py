"""What report.html shows of a run and no other file of its folder holds: `report.safetensors`.

Answers to the test pictures, a flat view of features and class means, small photographs and maps of attention. Each
part may be missing; `lacking` says why. A run folder may come from anybody, so all of it is checked when it is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import ArtefactError
from zsl_runtime.machine.storage import parse_tensors, tensor_bytes
from zsl_runtime.machine.untrusted import MIB, UnfitError, parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Bools, Floats

MATERIAL = "report.safetensors"
MOST_OF_MATERIAL = 256 * MIB
MOST_OF_A_PHOTOGRAPH = MIB  # bytes
MOST_MAPS = 64  # photographs with maps
KNOWN = 3  # classes that are kept of each answer


@dataclass(frozen=True)
class Answers:
    """What the shipped head said of every test picture, all classes competing.

    Attributes:
        lines: (n,) int32, which line of split.csv each picture is, the column names not counted.
        labels: (n,) int32, its class.
        best: (n, k) int32, the k <= 3 classes of the highest probability, best first.
        probability: (n, k) float32, theirs.
        of_truth: (n,) float32, the probability of its own class.
        best_seen: (n,) int32, the best seen class, and `best_unseen` the best unseen one; -1 where there is no such
            class.
        lead: (n,) float32, the score of the first less that of the second, before gamma and temperature.

    """

    lines: NDArray[np.int32]
    labels: NDArray[np.int32]
    best: NDArray[np.int32]
    probability: Floats
    of_truth: Floats
    best_seen: NDArray[np.int32]
    best_unseen: NDArray[np.int32]
    lead: Floats

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(n,) int64 class of each picture."""
        return self.best[:, 0].astype(np.int64)

    @property
    def right(self) -> Bools:
        """(n,) whether it is the picture's own."""
        right: Bools = self.best[:, 0] == self.labels
        return right

    def check(self, classes: int) -> bool:
        """Whether shapes and ranges agree, for a run of so many classes."""
        if self.labels.ndim != 1:
            return False
        n = len(self.labels)
        columns = (self.lines, self.labels, self.of_truth, self.best_seen, self.best_unseen, self.lead)
        if any(one.shape != (n,) for one in columns) or self.best.shape != self.probability.shape:
            return False
        if self.best.ndim != 2 or len(self.best) != n or not 1 <= self.best.shape[1] <= KNOWN:
            return False
        whole = (self.lines, self.labels, self.best, self.best_seen, self.best_unseen)
        parts = (self.of_truth, self.probability, self.lead)
        if any(one.dtype != np.int32 for one in whole) or any(one.dtype != np.float32 for one in parts):
            return False
        shares = (self.of_truth, self.probability)
        return (
            bool(np.isfinite(self.lead).all())
            and all(bool(((one >= 0) & (one <= 1.001)).all()) for one in shares)  # NaN is neither
            and bool((self.lines >= 0).all())
            and all(bool(((one >= 0) & (one < classes)).all()) for one in (self.labels, self.best))
            and all(bool(((one >= -1) & (one < classes)).all()) for one in (self.best_seen, self.best_unseen))
        )


@dataclass(frozen=True)
class Plane:
    """Features and class means on two pairs of axes: columns 0 and 1 tell seen classes apart best, 2 and 3 unseen ones.

    Attributes:
        seen: (m, 4) float32 pictures of seen classes, and `seen_labels` (m,) int32.
        unseen: (k, 4) test pictures of unseen classes, and `unseen_labels`.
        synthetic: (j, 4) what the generator makes of unseen classes, and `synthetic_labels`; no rows without one.
        means: (C, 4) of every class: of its photographs where it has some, else `told`; NaN where it is not known.
        told: (C, 4) as attributes tell it; NaN where nothing tells it.
        shares: (4,) float32, how much each axis has of the spread between the class means that it was made of, in
            [0, 1]; 0 for an axis that could not be made.

    """

    seen: Floats
    seen_labels: NDArray[np.int32]
    unseen: Floats
    unseen_labels: NDArray[np.int32]
    synthetic: Floats
    synthetic_labels: NDArray[np.int32]
    means: Floats
    told: Floats
    shares: Floats

    def check(self, classes: int) -> bool:
        """Whether shapes and ranges agree, for a run of so many classes."""
        for rows, labels in (
            (self.seen, self.seen_labels),
            (self.unseen, self.unseen_labels),
            (self.synthetic, self.synthetic_labels),
        ):
            if labels.ndim != 1 or rows.shape != (len(labels), 4):
                return False
            if rows.dtype != np.float32 or labels.dtype != np.int32 or not np.isfinite(rows).all():
                return False
            if not ((labels >= 0) & (labels < classes)).all():
                return False
        flat = (self.means, self.told, self.shares)
        shapes = ((classes, 4), (classes, 4), (4,))
        if any(one.dtype != np.float32 for one in flat) or tuple(one.shape for one in flat) != shapes:
            return False
        if any(bool(np.isinf(one).any()) for one in flat):
            return False
        return bool(((self.shares >= 0) & (self.shares <= 1.001)).all())


@dataclass(frozen=True)
class Maps:
    """Where attention looked in some test pictures.

    Attributes:
        pictures: (p,) int32, which test pictures: rows of `Answers`.
        attributes: (p, a) int32, which attributes of the class table.
        values: (p, a, side, side) float32, attention over the picture's square; each map sums to 1.

    """

    pictures: NDArray[np.int32]
    attributes: NDArray[np.int32]
    values: Floats

    def check(self, answers: int, attributes: int) -> bool:
        """Whether shapes and ranges agree, for so many test pictures and attributes."""
        if self.attributes.ndim != 2 or self.values.ndim != 4 or len(self.attributes) > MOST_MAPS:
            return False
        shape = (*self.attributes.shape, self.values.shape[3], self.values.shape[3])
        if self.pictures.shape != self.attributes.shape[:1] or self.values.shape != shape or not shape[-1]:
            return False
        if self.values.dtype != np.float32 or not np.isfinite(self.values).all() or (self.values < 0).any():
            return False
        return all(
            one.dtype == np.int32 and bool(((one >= 0) & (one < most)).all())
            for one, most in ((self.pictures, answers), (self.attributes, attributes))
        )


@dataclass(frozen=True)
class Material:
    """All of it.

    Attributes:
        answers: of the test pictures; None where there are none.
        plane: None where no picture could be placed.
        maps: None for a method without attention.
        photographs: row of `answers` -> a JPEG file of what the model sees of that picture, small.
        lacking: part -> why it is missing, in words.

    """

    answers: Answers | None = None
    plane: Plane | None = None
    maps: Maps | None = None
    photographs: Mapping[int, bytes] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The file."""
        tensors: dict[str, NDArray[Any]] = {}
        for prefix in ("answers", "plane", "maps"):
            part = getattr(self, prefix)
            if part is not None:
                tensors |= {f"{prefix}.{one.name}": getattr(part, one.name) for one in fields(part)}
        rows = sorted(self.photographs)
        blobs = [self.photographs[row] for row in rows]
        tensors["photographs.rows"] = np.array(rows, np.int32)
        tensors["photographs.ends"] = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
        tensors["photographs.jpeg"] = np.frombuffer(b"".join(blobs), np.uint8)
        return tensor_bytes(tensors, {"lacking": json.dumps(dict(self.lacking))})

    @classmethod
    def from_bytes(cls, data: bytes, *, classes: int, attributes: int, where: str) -> Material:
        """Read what `to_bytes` wrote.

        Args:
            data: the file.
            classes: C of the run.
            attributes: A of the run.
            where: its path, for messages.

        Raises:
            ArtefactError: E-RUN for anything that `to_bytes` cannot have written of such a run.

        """
        tensors, metadata = parse_tensors(data, code="E-RUN", where=where)
        try:
            lacking = parse_object(metadata.get("lacking", "{}").encode(errors="surrogatepass"), deepest=1)
        except UnfitError as error:
            raise _damaged(where, f"its metadata {error}") from None
        answers: Answers | None = _part(Answers, "answers", tensors, where)
        plane: Plane | None = _part(Plane, "plane", tensors, where)
        maps: Maps | None = _part(Maps, "maps", tensors, where)
        count = 0 if answers is None else answers.labels.size  # checked below
        good = (
            (answers is None or answers.check(classes))
            and (plane is None or plane.check(classes))
            and (maps is None or maps.check(count, attributes))
            and all(isinstance(text, str) for text in lacking.values())
        )
        if not good:
            raise _damaged(where, "its arrays do not go together, or not with the classes of this run")
        return cls(answers, plane, maps, _photographs(tensors, count, where), lacking)


def _part(kind: type[Any], prefix: str, tensors: Mapping[str, NDArray[Any]], where: str) -> Any:
    """One part of a Material; None where the file has nothing of it."""
    names = [one.name for one in fields(kind)]
    found = {name: tensors[f"{prefix}.{name}"] for name in names if f"{prefix}.{name}" in tensors}
    if not found:
        return None
    if len(found) < len(names):
        raise _damaged(where, f"some of {prefix} is missing")
    return kind(**found)


def _photographs(tensors: Mapping[str, NDArray[Any]], count: int, where: str) -> dict[int, bytes]:
    """The JPEG files, each by the test picture it is of."""
    names = ("photographs.rows", "photographs.ends", "photographs.jpeg")
    if any(name not in tensors for name in names):
        raise _damaged(where, "the list of photographs is missing")
    rows, ends, blob = (tensors[name] for name in names)
    if rows.ndim != 1 or rows.dtype != np.int32 or blob.ndim != 1 or blob.dtype != np.uint8:
        raise _damaged(where, "its photographs are no such list")
    if ends.dtype != np.int64 or ends.shape != rows.shape or not ((rows >= 0) & (rows < count)).all():
        raise _damaged(where, "its photographs belong to no test picture")
    sizes = np.diff(ends, prepend=0)
    if (ends < 0).any() or (ends > len(blob)).any() or (sizes < 0).any() or (sizes > MOST_OF_A_PHOTOGRAPH).any():
        raise _damaged(where, "its photographs do not lie one behind the other")
    starts = ends - sizes
    return {int(row): blob[start:end].tobytes() for row, start, end in zip(rows, starts, ends, strict=True)}


def _damaged(where: str, what: str) -> ArtefactError:
    return ArtefactError("E-RUN", f"{where} is not what zsl-train wrote: {what}; train the run again with --force")
