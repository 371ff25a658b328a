"""Label a batch of pictures with its own help, in two passes (Li et al., CVPR 2019, section 3.4: cascade classifier).

The head in force labels every picture. Those of lowest entropy, the confident part, keep their label and join, under
that label, the rows that heads are fitted on; a head is fitted on all of these from the start, for this batch only; it
labels the rest. Nothing in the bundle changes.

The labels are transductive: what a picture is called depends on which other pictures were there. It helps where the
features synthesized for a class lie beside its photographs, and the photographs that are labelled rightly show where.

As in the paper, every picture may become confident, whatever class it is taken for, and classes are not balanced. What
the paper leaves open is settled so: entropy and labels are those of the probabilities that users see, so with gamma,
temperature and class filter; the second head keeps gamma and temperature of the generation; its settings and its seed
are the generation's, so that without new rows it would be the head of a full refit.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from array import array
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.arrays import BLOCK_ROWS, row_blocks
from zsl_runtime.classes.changes import bundle_rows
from zsl_runtime.errors import InputError, UsageError, from_os_error
from zsl_runtime.head.fitting import fit_head, silent
from zsl_runtime.head.head import fold
from zsl_runtime.labelling.numbers import answered, without_answer
from zsl_runtime.labelling.snapshot import Scored
from zsl_runtime.machine.storage import mapped_or_read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Advance, Floats, Ints, Lift
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.head.head import FoldedHead
    from zsl_runtime.labelling.snapshot import Labelled, Snapshot

    Entries = list[tuple[str, InputError | None]]


def entropy(scores: Floats) -> NDArray[np.float64]:
    """Entropy of softmax outputs, E = -sum_c p_c log p_c (Li et al., Eq. 9), with 0 log 0 = 0.

    Args:
        scores: (N, C) log-probabilities; -inf for classes left out.

    Returns:
        (N,) nats, from 0 (certain) to log C.

    """
    logs = scores.astype(np.float64)
    chances = np.exp(logs)
    terms = np.multiply(chances, logs, out=np.zeros_like(logs), where=chances > 0)
    total: NDArray[np.float64] = np.abs(terms.sum(axis=1))  # the sum is 0 or below; abs, because -0.0 is no answer
    return total


def confident_part(entropies: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """Which pictures are confident: the `share` of lowest entropy, rounded down, ties in input order.

    With a share of 0.5 and no ties, these are the pictures of an entropy below the median.

    Args:
        entropies: (N,).
        share: in [0, 1].

    Returns:
        (N,) bool with floor(share * N) True.

    """
    count = math.floor(round(share * len(entropies), 6))  # 0.29 * 100 is a little below 29
    chosen = np.zeros(len(entropies), dtype=np.bool_)
    chosen[np.argsort(entropies, kind="stable")[:count]] = True
    return chosen


class Refit(NamedTuple):
    """What `Cascade.refit` did.

    Attributes:
        total: pictures that could be read.
        confident: of these, how many keep the label of the first pass.
        threshold: nats; the highest entropy among them, NaN when there is none.
        fitted: rows that the second head was fitted on, pictures included; 0 when there was nothing to fit: nobody is
            confident, so it would be the first head again, or everybody is.

    """

    total: int
    confident: int
    threshold: float
    fitted: int


class Cascade:
    """Two passes over one batch of pictures: `add` all of them, `refit`, read the `answers`. Use it in a `with` block.

    Features, scores and names lie in temporary files that have no name, so that nothing is left behind however the
    process ends; they are in the folder for temporary files ($TMPDIR). Memory grows by some 30 bytes a picture.

    Args:
        snapshot: generation, folded head and class filter of the first pass.
        base: makes the rows that a head of this generation is fitted on, (n, D) float32 and labels (n,).
        lift: features (M, F) -> (M, D).
        confident: share in [0, 1] of the pictures that keep their label and teach.

    Raises:
        UsageError: E-CONFIDENT.
        SystemProblem: E-SYSTEM: there is no space for the temporary files; all methods raise it.

    """

    def __init__(
        self, snapshot: Snapshot, base: Callable[[], tuple[Floats, Ints]], lift: Lift, confident: float
    ) -> None:
        if not 0 <= confident <= 1:  # false for NaN too
            raise UsageError("E-CONFIDENT", f"the confident share is {confident}; give a number from 0 to 1")
        self._snapshot = snapshot
        self._lift = lift
        self._share = confident
        self._entropies = array("d")
        self._confident = np.zeros(0, dtype=np.bool_)
        self._second: FoldedHead | None = None
        self._files = ExitStack()
        try:
            # Now, so that a bundle that cannot be fitted is refused before a picture is looked at.
            x, self._labels = base()
            with _on_disk():
                self._fitting = self._files.enter_context(_FloatFile())
                self._features = self._files.enter_context(_FloatFile())
                self._scores = self._files.enter_context(_FloatFile())
                self._entries = self._files.enter_context(_Entries())
                self._fitting.append(x)
        except BaseException:
            self._files.close()
            raise

    def add(self, batch: Scored) -> None:
        """Take over what the first pass says about some pictures."""
        with _on_disk():
            self._entries.append(batch.entries)
            if len(batch.scores):
                self._features.append(batch.features)
                self._scores.append(batch.scores)
                self._entropies.frombytes(entropy(batch.scores).tobytes())

    def refit(self, advance: Advance = silent) -> Refit:
        """Choose the confident part and fit the second head; call it once, after the last `add`.

        Args:
            advance: called with 1 after each epoch of the fit.

        """
        entropies = np.frombuffer(self._entropies, dtype=np.float64)
        self._confident = confident_part(entropies, self._share)
        total, count = len(entropies), int(self._confident.sum())
        fitted = 0
        if 0 < count < total:
            with _on_disk():
                labels = [self._labels, *(self._teach(block) for block in row_blocks(total))]
                x = self._fitting.read()
            fitted = len(x)
            self._second = self._fit(x, np.concatenate(labels), advance)
        return Refit(total, count, float(entropies[self._confident].max()) if count else math.nan, fitted)

    def _teach(self, block: slice) -> NDArray[np.int64]:
        """Append the confident pictures of one block to the rows to fit on; returns their labels."""
        chosen = np.flatnonzero(self._confident[block])
        if chosen.size:
            self._fitting.append(self._lift(self._features.read(block)[chosen]))
        best: NDArray[np.int64] = self._scores.read(block)[chosen].argmax(axis=1)
        return best

    def _fit(self, x: Floats, labels: NDArray[np.int64], advance: Advance) -> FoldedHead:
        generation = self._snapshot.generation
        first, table = generation.head, generation.table
        head = fit_head(x, labels, len(table), first.views, generation.seed, advance=advance)
        folded = fold(replace(head, gamma=first.gamma, temperature=first.temperature), table.seen)
        return folded.only(np.isfinite(self._snapshot.head.class_bias))

    def answers(self, topk: int) -> Iterator[list[Labelled]]:
        """The labels in input order, errors among them; call it after `refit`.

        Args:
            topk: classes per picture.

        Yields:
            Blocks of any length, of Predictions with `confident` set.

        """
        start = 0
        with _on_disk():
            for entries in self._entries.blocks():
                block = slice(start, start + sum(error is None for _, error in entries))
                start = block.stop
                confident = self._confident[block]
                scores = self._final_scores(block)
                good = answered(scores)
                predictions = self._snapshot.best(scores[good], topk)
                marked = (replace(p, confident=bool(c)) for p, c in zip(predictions, confident[good], strict=True))
                yield Scored.fill(without_answer(entries, good), marked)

    def _final_scores(self, block: slice) -> Floats:
        """Scores of the first pass for the confident, of the second for the rest."""
        scores = np.array(self._scores.read(block)).reshape(-1, len(self._snapshot.table))
        rest = ~self._confident[block]
        if self._second is not None and rest.any():
            scores[rest] = self._second.scores(self._lift(self._features.read(block)[rest]))
        return scores

    def close(self) -> None:
        """Give the temporary files back."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_cascade(bundle: Bundle, backend: Backend, snapshot: Snapshot, confident: float) -> Cascade:
    """The cascade of a bundle's generation: the rows that its head is fitted on are what the bundle keeps.

    Args:
        bundle: only read.
        backend: of the bundle; synthesizes and lifts.
        snapshot: of the bundle.
        confident: as for `Cascade`.

    Raises:
        UsageError: E-CONFIDENT; E-HEAD-RULE for a model whose head is not fitted.
        ArtefactError: E-REPLAY-CLASS, E-GRAPH-OUTPUT, E-BUNDLE-...: the bundle cannot make those rows.
        BackendError: the backend cannot run its graphs.
        SystemProblem: E-SYSTEM: there is no space.

    """
    if bundle.head_rule != "fit":
        taught = bundle.head_rule == "gaussian"
        instead = "teach its classes with `zsl-classes teach --photos DIR`, or label" if taught else "label"
        raise UsageError(
            "E-HEAD-RULE",
            f"the head of {bundle.path} is made by the rule {bundle.head_rule!r} and not fitted, so unlabelled "
            f"pictures cannot teach it: {instead} without a cascade",
        )
    seed = snapshot.generation.seed
    return Cascade(snapshot, lambda: bundle_rows(bundle, backend, snapshot.table, seed), backend.lift, confident)


# --- temporary files ------------------------------------------------------------------------------------------------


class _Nameless:
    """An open file without a name: the system takes it away with the process, even with a killed one."""

    def __init__(self) -> None:
        # Unbuffered: a full disk is an error of the write that met it, not of a later close.
        self._file = tempfile.TemporaryFile(prefix="zsl-cascade-", buffering=0)  # noqa: SIM115  # closed by __exit__

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[self._file.write(data) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class _FloatFile(_Nameless):
    """float32 rows of one width: written at the end, so that a full disk is an error and no crash, read as a map."""

    def __init__(self) -> None:
        super().__init__()
        self._count = self._width = 0

    def append(self, rows: Floats) -> None:
        """Write rows (n, width), n >= 1."""
        dense = np.ascontiguousarray(rows, dtype=np.float32)
        self._write(dense.data.cast("B"))
        self._count += len(dense)
        self._width = dense.shape[1]

    def read(self, rows: slice = slice(None)) -> Floats:
        """Map rows that were written; what is not touched takes no memory."""
        start, stop, _ = rows.indices(self._count)
        if start >= stop or not self._width:
            return np.empty((0, self._width), dtype=np.float32)
        shape = stop - start, self._width
        first = 4 * start * self._width
        return mapped_or_read(
            lambda: np.memmap(self._file, np.float32, mode="r", offset=first, shape=shape),
            lambda: self._copy(first, shape),
        )

    def _copy(self, first: int, shape: tuple[int, int]) -> Floats:
        """Rows from byte `first` on, in memory; where the file is written to next stays as it was."""
        rows = np.empty(shape, dtype=np.float32)
        left, at = rows.data.cast("B"), first
        while left:
            read = os.preadv(self._file.fileno(), [left], at)
            left, at = left[read:], at + read
        return rows


class _Entries(_Nameless):
    """Names and errors of the items, a JSON line each: a name may hold surrogates, which UTF-8 cannot."""

    def append(self, entries: Iterable[tuple[str, InputError | None]]) -> None:
        """Write some."""
        lines = [json.dumps([name] if error is None else [name, error.code, error.message]) for name, error in entries]
        self._write(memoryview("".join(f"{line}\n" for line in lines).encode()))

    def blocks(self) -> Iterator[list[tuple[str, InputError | None]]]:
        """All of them from the first one on, at most BLOCK_ROWS at once."""
        self._file.seek(0)
        block: list[tuple[str, InputError | None]] = []
        with open(self._file.fileno(), encoding="ascii", closefd=False) as lines:
            for line in lines:
                name, *error = json.loads(line)
                block.append((name, InputError(*error) if error else None))
                if len(block) == BLOCK_ROWS:
                    yield block
                    block = []
        if block:
            yield block


@contextmanager
def _on_disk() -> Iterator[None]:
    """Turn what the system says about the temporary files into one line."""
    try:
        yield
    except OSError as error:
        where = repr(tempfile.tempdir) if tempfile.tempdir else "a folder for temporary files"  # there may be none
        raise from_os_error(
            error, f"keep the features of the first pass in {where} (set TMPDIR to change this):"
        ) from error
