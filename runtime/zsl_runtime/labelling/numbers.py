"""Answers that are numbers, and those that are not: NaN or infinity where scores or features should be.

A model gives such for what is far from everything it was trained on (a row of 3e38), and a damaged one for all. An
answer that is none is told like an input that cannot be read: it must neither vanish nor be counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import BackendError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Bools, Floats
    from zsl_runtime.graphs.answers import Answer
    from zsl_runtime.labelling.reading import ReadItem

FEW = 2  # of one answer alone nothing can be said about the model
MOST_IN_VAIN = 1000  # answers, none of them a number, after which the others are not asked for


def answered(scores: Floats) -> Bools:
    """Which rows of log-probabilities (n, C) say something, as (n,): their best score is a number.

    Classes that a filter leaves out have -inf; NaN anywhere in a row is its maximum.
    """
    if not scores.shape[1]:
        return np.zeros(len(scores), np.bool_)
    return np.asarray(np.isfinite(scores.max(axis=1)), np.bool_)


def finite(rows: Floats) -> Bools:
    """Which rows (n, F) hold numbers only, as (n,)."""
    return np.asarray(np.isfinite(rows).all(axis=1), np.bool_)


def no_answer(where: str) -> InputError:
    """What to say of an input whose answer is no number; `where` names the input."""
    return InputError(
        "E-ANSWER-VALUE",
        f"{where}: the model gives NaN or infinity for it, so there is no answer; it may lie far from all that the "
        "model was trained on: check it, or try another --precision",
    )


class Judge:
    """Takes answers that are no numbers out of batches, and says so where a model gives no others.

    Args:
        named: how a message names an item, of its name.
        before: answers that were numbers before this began, of the same run.

    """

    def __init__(self, named: Callable[[str], str] = repr, before: int = 0) -> None:
        self._named = named
        self._good, self._bad = before, 0

    def sort(
        self, batch: Iterable[ReadItem], answer: Answer
    ) -> tuple[list[tuple[str, InputError | None]], NDArray[np.bool_] | None]:
        """The entries of a batch, with an error for each answer that is no number.

        Args:
            batch: as it was read.
            answer: of its readable items, in their order.

        Returns:
            The entries, and which rows of the answer are numbers; None where all are.

        Raises:
            BackendError: E-BACKEND-VALUE after MOST_IN_VAIN answers of which none is a number.

        """
        entries = [(name, value if isinstance(value, InputError) else None) for name, value in batch]
        if answer.best is not None:  # a card found them
            good = finite(answer.best.scores[:, :1]) & ~np.isnan(answer.best.scores).any(axis=1)
        else:
            assert answer.scores is not None
            good = answered(answer.scores)
        if answer.features is not None and len(answer.features):
            good &= finite(answer.features)
        count = int(good.sum())
        self._good += count
        self._bad += len(good) - count
        if count == len(good):
            return entries, None
        if not self._good and self._bad >= MOST_IN_VAIN:
            raise self._hopeless()
        return without_answer(entries, good, self._named), good

    def end(self) -> None:
        """BackendError E-BACKEND-VALUE when there were answers, and none was a number."""
        if not self._good and self._bad >= FEW:
            raise self._hopeless()

    def _hopeless(self) -> BackendError:
        return all_in_vain(self._bad)


def without_answer(
    entries: Iterable[tuple[str, InputError | None]], good: NDArray[np.bool_], named: Callable[[str], str] = repr
) -> list[tuple[str, InputError | None]]:
    """Entries with an error for each readable one whose row is not `good` (n,); `named` names it in messages."""
    rows = iter(good.tolist())
    return [(name, error if error is not None or next(rows) else no_answer(named(name))) for name, error in entries]


def all_in_vain(count: int) -> BackendError:
    """What to say where none of `count` answers is a number."""
    return BackendError(
        "E-BACKEND-VALUE",
        f"the model gives NaN or infinity for all of {count} inputs; check the inputs, run zsl-doctor on the bundle, "
        "or try another --backend or --precision",
    )


def refuse_unanswered(scores: Floats, what: Sequence[str] | None = None) -> None:
    """For a call that gives scores (n, C) as they are.

    Raises:
        InputError: E-ANSWER-VALUE for the first row without an answer.
        BackendError: E-BACKEND-VALUE where no row has one.

    """
    bad = np.flatnonzero(~answered(scores))
    if len(bad) >= FEW and len(bad) == len(scores):
        raise all_in_vain(len(bad))
    if len(bad):
        raise no_answer(f"row {bad[0]}" if what is None else what[int(bad[0])])
