"""Label what several callers asked for, together, and every answer by one generation."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from zsl_runtime.errors import ArtefactError, InputError, UsageError, ZslError
from zsl_runtime.head.head import best_columns
from zsl_runtime.labelling.ahead import in_order
from zsl_runtime.labelling.numbers import Judge
from zsl_runtime.labelling.reading import BATCHES_AHEAD, ReadItem, batch_of, check_counts, reader_of
from zsl_runtime.labelling.scoring import score
from zsl_runtime.labelling.snapshot import CLASS_FILTERS
from zsl_runtime.machine.threads import readers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Bools, Doubles, Floats
    from zsl_runtime.bundle.generation import Generation
    from zsl_runtime.head.gaussian import Gaussian
    from zsl_runtime.inputs.item import Source
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.labelling.snapshot import Snapshot

    Tell = Callable[[str], None]

MOST_PICTURE_BYTES = 64 * 2**20  # of one encoded picture; a larger one is refused before it is decoded
_FARTHEST = float(np.finfo(np.float32).max)


class Square(NamedTuple):
    """A picture that was prepared before it came: uint8 (P, P, 3), or a row float32 (R, V)."""

    pixels: NDArray[np.generic]


@dataclass(frozen=True)
class Asked:
    """What one caller wants.

    Attributes:
        sources: the bytes of picture files, or what is prepared.
        topk: classes of each.
        classes: `all`, `seen` or `unseen`: only these compete.

    Raises:
        UsageError: E-TOPK, E-FILTER.

    """

    sources: Sequence[bytes | Square]
    topk: int = 5
    classes: str = "all"

    def __post_init__(self) -> None:
        check_counts(self.topk, None)
        if self.classes not in CLASS_FILTERS:
            raise UsageError("E-FILTER", f"class filter {self.classes!r}: expected {', '.join(CLASS_FILTERS)}")


class Told(NamedTuple):
    """The answer to one caller: n pictures, k classes of each.

    A picture that could not be read has an error, names '', ids -1, probabilities 0 and distances -1, and is not far:
    numbers that JSON has, too.

    Attributes:
        names: (n, k) str.
        ids: (n, k) int64: the class's place among the classes of this generation.
        seen: (n, k) bool: whether the model was trained on photographs of it.
        probabilities: (n, k) float32.
        distances: (n, k) float32, from the picture to the class's mean, in standard deviations
            (`zsl_runtime.head.distance`); None where the head has no means.
        errors: n texts, '' for what could be read.
        generation: of all of it.
        distance: (n,) float32, to the nearest of all classes, whichever compete; None likewise.
        far: (n,) bool, whether it is unlike anything known; None where that is not known.

    """

    names: NDArray[np.object_]
    ids: NDArray[np.int64]
    seen: NDArray[np.bool_]
    probabilities: Floats
    distances: Floats | None
    errors: tuple[str, ...]
    generation: int
    distance: Floats | None = None
    far: Bools | None = None


class Batcher:
    """Answers callers with a Classifier, and takes over what `zsl-classes` does to its bundle between two answers."""

    def __init__(self, classifier: Classifier, tell: Tell, most_bytes: int = MOST_PICTURE_BYTES) -> None:
        """`tell` gets one line for the log; `most_bytes` is of one encoded picture."""
        self._classifier = classifier
        self._tell = tell
        self._most_bytes = most_bytes
        self._trouble = ""
        self._reader = reader_of(classifier.bundle)
        gaussian = classifier.bundle.gaussian() if classifier.bundle.head_rule == "gaussian" else None
        self._means = None if gaussian is None else _Means(gaussian)

    def answer(self, asked: Sequence[Asked]) -> list[Told | ZslError]:
        """Label all that is asked, by the generation in force now; errors are those of one caller alone.

        Callers with the same class filter go through the graph together.
        """
        self._follow()
        whole = self._classifier.snapshot()
        told: dict[int, Told | ZslError] = {}
        for classes in dict.fromkeys(one.classes for one in asked):
            places = [place for place, one in enumerate(asked) if one.classes == classes]
            try:
                answers: Sequence[Told | ZslError] = self._label(whole, classes, [asked[place] for place in places])
            except ZslError as error:
                answers = [error] * len(places)
            told |= dict(zip(places, answers, strict=True))
        return [told[place] for place in range(len(asked))]

    def _follow(self) -> None:
        """Take over the generation in force; where that fails, go on with the one in use and tell why, once."""
        try:
            if self._classifier.reload():
                self._tell(f"generation {self._classifier.generation}: {len(self._classifier.class_table)} classes")
            self._trouble = ""
        except (ZslError, OSError) as error:
            if str(error) != self._trouble:
                self._tell(f"generation {self._classifier.generation} stays in use: {error}")
            self._trouble = str(error)

    def _label(self, whole: Snapshot, classes: str, asked: Sequence[Asked]) -> list[Told]:
        """Answer callers with the same class filter."""
        snapshot = whole.only(classes)
        sources = [source for one in asked for source in one.sources]
        size = batch_of(None, self._reader)
        ahead = in_order(self._read, sources, workers=readers(self._classifier.threads), ahead=BATCHES_AHEAD * size)
        with closing(ahead) as rows:
            # That one answer was a number before: none of what strangers send says anything about the model.
            judge = Judge(lambda _: "this one", before=1)
            scored = list(score(self._classifier, snapshot, rows, batch_size=size, judge=judge))
        errors = [error for batch in scored for _, error in batch.entries]
        filled = [batch for batch in scored if len(batch.scores)]
        scores = np.concatenate([np.empty((0, len(snapshot.table)), np.float32), *(batch.scores for batch in filled)])
        lifted = None
        if self._means is not None and filled:
            lifted = self._classifier.backend.lift(np.concatenate([batch.features for batch in filled]))
        told, start, row = [], 0, 0
        for one in asked:
            own = errors[start : start + len(one.sources)]
            rows_of_it = slice(row, row + own.count(None))
            answer = _best(snapshot, scores[rows_of_it], own, one.topk)
            if self._means is not None:
                answer = self._with_distances(answer, whole, None if lifted is None else lifted[rows_of_it])
            told.append(answer)
            start, row = start + len(own), rows_of_it.stop
        return told

    def _with_distances(self, answer: Told, whole: Snapshot, lifted: Floats | None) -> Told:
        """The answer with how far its pictures are; `lifted` (n, D) are those that could be read, None for none."""
        assert self._means is not None
        assert whole.distances is not None
        good = answer.ids[:, 0] >= 0
        distances, distance = np.full(answer.ids.shape, -1, np.float32), np.full(len(good), -1, np.float32)
        far = None if whole.distances.beyond is None else np.zeros(len(good), np.bool_)
        if lifted is not None:
            distances[good] = self._means.distances(whole.generation, lifted, answer.ids[good])
            found = whole.distances(lifted)
            distance[good] = _finite(found.distances)
            if far is not None and found.far is not None:
                far[good] = found.far
        return answer._replace(distances=distances, distance=distance, far=far)

    def _read(self, source: bytes | Square) -> ReadItem:
        """One source as the graph takes it; what cannot be read is an answer, too."""
        try:
            if not isinstance(source, Square):
                self._check_size(source)
                return ReadItem("", self._classifier.read(source))
            if self._classifier.pixels is None:  # a row: looked at for what is no number
                return ReadItem("", self._classifier.read(cast("Source", source.pixels)))
        except InputError as error:
            return ReadItem("", error)
        return ReadItem("", source.pixels)  # as it is: resizing it again would change it

    def _check_size(self, source: bytes) -> None:
        if len(source) > self._most_bytes:
            raise InputError(
                "E-IMAGE-HUGE",
                f"picture of {len(source)} bytes; at most {self._most_bytes} are taken here, make it smaller first",
            )


class _Means:
    """Where the classes of the generation in use lie."""

    def __init__(self, gaussian: Gaussian) -> None:
        self._gaussian = gaussian
        self._number = 0
        self._where: Doubles = np.empty((0, 0))

    def distances(self, generation: Generation, lifted: Floats, columns: NDArray[np.int64]) -> Floats:
        """From pictures (n, D), in canonical coordinates, to the means of classes (n, k): (n, k) float32.

        As a root mean square over the coordinates, which counts standard deviations.
        """
        if generation.number != self._number:
            if generation.means is None:
                raise ArtefactError("E-BUNDLE-GENERATION", "a generation without means; export the model again")
            self._where, self._number = self._gaussian.posterior(generation.means), generation.number
        off = lifted[:, None, :].astype(np.float64) - self._where[columns]
        return _finite(np.sqrt(np.einsum("nkd,nkd->nk", off, off) / off.shape[2]))


def _finite(distances: Doubles) -> Floats:
    """For JSON has no infinity."""
    told: Floats = np.nan_to_num(distances, nan=_FARTHEST).clip(max=_FARTHEST).astype(np.float32)
    return told


def _best(snapshot: Snapshot, scores: Floats, errors: Sequence[InputError | None], topk: int) -> Told:
    """The best classes of each picture that could be read, in the places of those; no distances."""
    count = snapshot.count(topk)
    shape = len(errors), count
    names = np.full(shape, "", np.object_)
    ids, seen = np.full(shape, -1, np.int64), np.zeros(shape, np.bool_)
    probabilities = np.zeros(shape, np.float32)
    good = np.array([error is None for error in errors], np.bool_)
    columns = best_columns(scores, count)  # (n, k)
    table = snapshot.table
    ids[good] = columns
    names[good] = np.array(table.names, np.object_)[columns]
    seen[good] = table.seen[columns]
    probabilities[good] = np.exp(np.take_along_axis(scores, columns, axis=1).astype(np.float64))
    told = tuple("" if error is None else str(error) for error in errors)
    return Told(names, ids, seen, probabilities, None, told, snapshot.generation.number)
