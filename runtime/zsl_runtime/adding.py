"""The fast way to add classes: the rows of the new ones alone, fitted on a sample of the features of the old ones.

What a new class must be told from is mostly like it. So its synthetic features are scored by the head in force; the
classes that take most of them, its rivals, are there with many of their rows, all others with a few, and every row
counts for those that it stands for. Rows of a class, once lifted, are kept in the bundle's cache.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.errors import ArtefactError
from zsl_runtime.extend import extend_head, log_sum_exp
from zsl_runtime.head import BLOCK_ROWS, class_noise, lifted, silent
from zsl_runtime.row_cache import Block, RowCache, block_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.backends import Backend
    from zsl_runtime.bundle import Bundle
    from zsl_runtime.class_table import ClassTable
    from zsl_runtime.head import Advance, Head, Replay

    Floats = NDArray[np.float32]
    Integers = NDArray[np.int64]

OWN_ROWS = 128  # synthetic features of a new class, at most
RIVALS, MORE_RIVALS = 48, 8  # for the first new class, and for every further one that is fitted with it
RIVAL_ROWS = 6144  # of all rivals together, at most
FEW, MANY = 8, 64  # rows of a class: its first block; both blocks, at most
OTHER_ROWS = 1536  # of all that are no rivals together, about
BLOCK_BYTES = 1 << 28  # that the blocks of all classes should not exceed: with many classes, each keeps less
TOGETHER = 64  # new classes that are fitted at once; more go one group after the other
GROUP_ROWS = 4096  # synthetic features of one group, about


class Added(NamedTuple):
    """What adding gave.

    Attributes:
        head: of all classes.
        fits: class -> share of its own synthetic features that the calibrated head takes for it, among the classes
            that are there when its group has been added.

    """

    head: Head
    fits: dict[str, float]


def groups(count: int) -> Iterator[slice]:
    """The new classes that are fitted together."""
    return (slice(start, min(start + TOGETHER, count)) for start in range(0, count, TOGETHER))


def add_rows(
    bundle: Bundle,
    backend: Backend,
    old: ClassTable,
    head: Head,
    *,
    new: ClassTable,
    seed: int,
    advance: Advance = silent,
) -> tuple[Added, RowCache]:
    """Fit the rows of new classes; the old rows stay as they are.

    Args:
        bundle: with the head rule `fit`; only its cache is written, and that by `save` of what is returned.
        backend: of the bundle; only synthesizer and lift are used.
        old: C classes.
        head: of these.
        new: the classes to add.
        seed: of the new classes' synthetic features.
        advance: called with 1 after each group.

    Raises:
        ArtefactError: E-REPLAY-CLASS, E-GRAPH-OUTPUT, E-BUNDLE-...: the bundle is damaged.
        BackendError: the backend cannot run its graphs.

    """
    cache = RowCache(bundle.path, bundle.manifest_sha256, bundle.manifest["dims"]["D"])
    fits: dict[str, float] = {}
    for group in groups(len(new)):
        part = new.take(np.arange(len(new))[group])
        rows = _Rows(bundle, backend, cache, len(old) + len(new))
        added = _add_group(rows, old, head, part, seed)
        old, head = old.append(part), added.head
        fits |= added.fits
        advance(1)
    return Added(head, fits), cache


def kept_keys(bundle: Bundle, tables: Sequence[ClassTable]) -> set[str]:
    """Keys of the blocks that belong to the classes of these tables, for every seed of the bundle itself."""
    return {_key(table, j, bundle.seed, part) for table in tables for j in range(len(table)) for part in (0, 1)}


def _add_group(rows: _Rows, old: ClassTable, head: Head, new: ClassTable, seed: int) -> Added:
    count = max(FEW, min(rows.count, OWN_ROWS, GROUP_ROWS // len(new))) if rows.count > FEW else rows.count
    own = rows.synthetic(new, np.arange(len(new)), count, seed)
    rows.keep(new, own, seed)
    flat = own.reshape(-1, own.shape[2])
    chances, own_sums = _old_scores(head, old, flat)
    sample, x = _sample(rows, old, head, chances.reshape(len(new), count, -1).mean(axis=1), flat)
    labels = np.concatenate([sample.labels, len(old) + np.repeat(np.arange(len(new)), count)])
    counts = np.concatenate([sample.counts, np.full(len(flat), rows.count / count, dtype=np.float32)])
    frozen = [np.concatenate([sample.sums[:, k], own_sums[:, k]]) for k in range(len(head.views))]
    whole = extend_head(head, x, labels, len(new), counts=counts, frozen=frozen, seed=seed)
    more = whole.take(np.arange(len(old), len(whole)))
    rows.remember(head, sample, sample.sums)
    rows.remember(whole, sample, _with_new(sample, more))
    return Added(whole, _own_shares(whole, old.append(new), flat, count))


def _old_scores(head: Head, table: ClassTable, x: Floats) -> tuple[Floats, Floats]:
    """Of rows x: calibrated probabilities (N, C) among the old classes, and per-view log-sum-exps (N, K)."""
    total = np.zeros((len(x), len(table)), dtype=np.float32)
    sums = np.empty((len(x), len(head.views)), dtype=np.float32)
    for k, view in enumerate(head.views):
        logits = x[:, view.start : view.stop] @ head.weights[k].T + head.biases[k]
        top = logits.max(axis=1)
        sums[:, k] = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        total += np.float32(view.weight / head.temperature) * logits
    total -= np.where(table.seen, np.float32(head.gamma / head.temperature), np.float32(0))
    total -= total.max(axis=1, keepdims=True)
    np.exp(total, out=total)
    total /= total.sum(axis=1, keepdims=True)
    return total, sums


def _own_shares(head: Head, table: ClassTable, x: Floats, count: int) -> dict[str, float]:
    """Name -> share of its rows that the last classes of the table take; x holds `count` rows of each, in order."""
    first = len(table) - len(x) // count
    chances, _ = _old_scores(head, table, x)
    right = chances.argmax(axis=1).reshape(-1, count) == np.arange(first, len(table))[:, None]
    return {table.names[first + j]: float(share) for j, share in enumerate(right.mean(axis=1))}


@dataclass(frozen=True)
class _Sample:
    """Rows of old classes.

    Attributes:
        x: (m, D) float32.
        labels: (m,) int64.
        counts: (m,) float32, how many rows each stands for.
        sums: (m, K) float32, log-sum-exps under the head in force.
        blocks: keys of the blocks they came from, and how many rows of each; in the order of x.

    """

    x: Floats
    labels: Integers
    counts: Floats
    sums: Floats
    blocks: list[tuple[str, int]]


def _sample(rows: _Rows, table: ClassTable, head: Head, confusion: Floats, own: Floats) -> tuple[_Sample, Floats]:
    """Many rows of the rivals, a few of the others.

    Args:
        rows: where they come from.
        table: C old classes.
        head: of these.
        confusion: (n, C) mean probability that the new classes' features have of being an old class.
        own: (m', D) the new classes' features.

    Returns:
        The sample, and its rows followed by `own`, (m + m', D) float32: one array, of which the sample's is a part.

    """
    many = min(len(table), RIVALS + MORE_RIVALS * (len(confusion) - 1))
    rivals = np.sort(np.argsort(-confusion.max(axis=0), kind="stable")[:many])
    others = np.setdiff1d(np.arange(len(table)), rivals)
    wanted: list[tuple[int, int]] = [(int(j), max(FEW, RIVAL_ROWS // many)) for j in rivals]
    chosen = _spread(table, others)
    wanted += [(int(j), max(1, min(FEW, OTHER_ROWS // max(len(others), 1)))) for j in chosen]
    blocks = rows.blocks(table, wanted)
    # Each class that is left out is stood for by those that are not.
    scale = len(others) / max(len(chosen), 1)
    parts, labels, counts, sources = [], [], [], []
    for place, ((j, limit), (first, second)) in enumerate(zip(wanted, blocks, strict=True)):
        taken = [(key, block.rows[: max(0, limit - before)]) for before, (key, block) in ((0, first), (FEW, second))]
        some = sum(len(part) for _, part in taken)
        if some == 0:
            continue
        parts += [part for _, part in taken if len(part)]
        sources += [(key, len(part)) for key, part in taken if len(part)]
        labels.append(np.full(some, j, dtype=np.int64))
        share = first[1].total / some * (1.0 if place < len(rivals) else scale)
        counts.append(np.full(some, share, dtype=np.float32))
    some = sum(len(part) for part in parts)
    whole = np.empty((some + len(own), own.shape[1]), dtype=np.float32)
    np.concatenate(parts, out=whole[:some], casting="unsafe")
    whole[some:] = own
    x = whole[:some]
    return _Sample(x, np.concatenate(labels), np.concatenate(counts), rows.sums(head, x, sources), sources), whole


def _spread(table: ClassTable, others: Integers) -> Integers:
    """Of the classes `others` at most OTHER_ROWS; the same ones from change to change, as far as they are there."""
    if len(others) <= OTHER_ROWS:
        return others
    order = sorted(others.tolist(), key=lambda j: hashlib.sha256(table.names[j].encode()).digest())
    return np.array(sorted(order[:OTHER_ROWS]), dtype=np.int64)


def _with_new(sample: _Sample, more: Head) -> Floats:
    """The sample's log-sum-exps (m, K) once the classes of `more` have joined."""
    sums = np.empty_like(sample.sums)
    for k, view in enumerate(more.views):
        added = log_sum_exp(sample.x[:, view.start : view.stop], more.weights[k], more.biases[k])
        sums[:, k] = np.logaddexp(sample.sums[:, k], added)
    return sums


class _Rows:
    """Lifted rows of classes: from the cache, or made from Replay and synthesizer."""

    def __init__(self, bundle: Bundle, backend: Backend, cache: RowCache, classes: int) -> None:
        self._bundle, self._backend, self._cache = bundle, backend, cache
        self._width = int(bundle.manifest["dims"]["D"])
        self._noise = int(bundle.manifest["dims"]["Z"])
        self._lift = backend.lift if bundle.graph("lift") else None
        self.count = int(bundle.manifest["head"]["synthetic_per_class"])
        room = BLOCK_BYTES // (2 * self._width * max(classes, 1))
        self._many = int(np.clip(room, FEW, MANY))

    @cached_property
    def _replay(self) -> Replay:
        return self._bundle.replay()

    @cached_property
    def _replay_rows(self) -> dict[str, Integers]:
        """Seen class at training time -> its rows in the Replay."""
        order = np.argsort(self._replay.labels, kind="stable")
        bounds = np.searchsorted(self._replay.labels[order], np.arange(len(self._replay.names) + 1))
        return {name: order[bounds[j] : bounds[j + 1]] for j, name in enumerate(self._replay.names)}

    def synthetic(self, table: ClassTable, columns: Integers, count: int, seed: int, start: int = 0) -> Floats:
        """Lifted synthetic features `start` to `count` of the classes at `columns`: (n, count - start, D) float32."""
        semantic = self._bundle.rule.apply(table.raw[columns])
        noise = [class_noise(seed, table.names[int(j)], count, self._noise)[start:] for j in columns]
        vectors = np.repeat(semantic, count - start, axis=0)
        draws = np.concatenate(noise)
        x = np.empty((len(vectors), self._width), dtype=np.float32)
        for begin in range(0, len(x), BLOCK_ROWS):
            block = slice(begin, begin + BLOCK_ROWS)
            of = f"class {table.names[int(columns[begin // (count - start)])]!r}"
            x[block] = lifted(self._backend.synthesize(vectors[block], draws[block]), self._lift, x[block].shape, of)
        return x.reshape(len(columns), count - start, self._width)

    def keep(self, table: ClassTable, own: Floats, seed: int) -> None:
        """Put synthetic features own (n, count, D) of a table's classes into the cache."""
        if seed != self._bundle.seed:
            return  # rivals are looked for under the bundle's own seed
        for j in range(len(table)):
            if own.shape[1] >= min(self._many, self.count):
                self._put(table, j, 0, own[j, :FEW], self.count)
                self._put(table, j, 1, own[j, FEW : self._many], self.count)

    def _put(self, table: ClassTable, j: int, part: int, x: Floats, total: int) -> Block:
        with np.errstate(over="ignore"):
            rows = x.astype(np.float16)
        if not np.isfinite(rows).all():
            # Features beyond 65504: nothing that a network with normalised inputs gives; they are cut off there.
            rows = np.clip(x, -65504, 65504).astype(np.float16)
        block = Block(rows, total)
        self._cache.put(_key(table, j, self._bundle.seed, part), block)
        return block

    def blocks(
        self, table: ClassTable, wanted: Sequence[tuple[int, int]]
    ) -> list[tuple[tuple[str, Block], tuple[str, Block]]]:
        """For every (column, rows wanted): key and block of its first FEW rows and of the next ones, as far as needed.

        Raises:
            ArtefactError: E-REPLAY-CLASS when a seen class has no Replay row; E-GRAPH-OUTPUT.

        """
        found: dict[tuple[int, int], Block] = {}
        missing: list[tuple[int, int]] = []
        for j, limit in wanted:
            for part in (0, 1) if limit > FEW else (0,):
                block = self._cache.get(_key(table, j, self._bundle.seed, part))
                if block is None:
                    missing.append((j, part))
                else:
                    found[j, part] = block
        for start in range(0, len(missing), BLOCK_ROWS // FEW):
            found |= self._make(table, missing[start : start + BLOCK_ROWS // FEW])
        nothing = "", Block(np.empty((0, self._width), dtype=np.float16), 0)
        out = []
        for j, _ in wanted:
            keys = (_key(table, j, self._bundle.seed, part) for part in (0, 1))
            first, second = ((key, found[j, part]) if (j, part) in found else nothing for part, key in enumerate(keys))
            out.append((first, second))
        return out

    def _make(self, table: ClassTable, missing: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Block]:
        """Make blocks and put them into the cache."""
        bounds = ((0, FEW), (FEW, self._many))
        made: dict[tuple[int, int], Block] = {}
        for part, (start, stop) in enumerate(bounds):
            drawn = [j for j, p in missing if p == part and not table.seen[j]]
            last = min(stop, self.count)
            empty = np.empty((len(drawn), 0, self._width), dtype=np.float32)
            columns = np.array(drawn, dtype=np.int64)
            x = self.synthetic(table, columns, last, self._bundle.seed, start) if drawn and last > start else empty
            for j, own in zip(drawn, x, strict=True):
                made[j, part] = self._put(table, j, part, own, self.count)
        kept = [(j, part) for j, part in missing if table.seen[j]]
        chosen = [self._of_replay(table.names[j])[slice(*bounds[part])] for j, part in kept]
        if kept:
            x = self._from_replay(np.concatenate(chosen))
            ends = np.cumsum([len(rows) for rows in chosen])
            for (j, part), rows, end in zip(kept, chosen, ends, strict=True):
                total = len(self._replay_rows[table.names[j]])
                made[j, part] = self._put(table, j, part, x[end - len(rows) : end], total)
        return made

    def _of_replay(self, name: str) -> Integers:
        """The Replay rows of a seen class, in an order that is the same every time."""
        rows = self._replay_rows.get(name)
        if rows is None or not len(rows):
            raise ArtefactError(
                "E-REPLAY-CLASS",
                f"no replay features are kept for the seen class {name!r}, so a head cannot be fitted; "
                "export the model again",
            )
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"))
        return rows[rng.permutation(len(rows))]

    def _from_replay(self, rows: Integers) -> Floats:
        x = np.empty((len(rows), self._width), dtype=np.float32)
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            features = self._replay.features[rows[block]].astype(np.float32)
            x[block] = lifted(features, self._lift, x[block].shape, "the replay")
        return x

    def sums(self, head: Head, x: Floats, sources: Sequence[tuple[str, int]]) -> Floats:
        """Log-sum-exps (m, K) of rows x under a head; those that are kept are not computed."""
        kept = self._cache.sums(head_digest(head))
        out = np.empty((len(x), len(head.views)), dtype=np.float32)
        missing = np.ones(len(x), dtype=np.bool_)
        start = 0
        for key, count in sources:
            known = kept.get(key)
            if known is not None and len(known) >= count and known.shape[1] == out.shape[1]:
                out[start : start + count] = known[:count]
                missing[start : start + count] = np.isnan(known[:count]).any(axis=1)
            start += count
        if missing.any():
            rest = x if missing.all() else x[missing]
            for k, view in enumerate(head.views):
                out[missing, k] = log_sum_exp(rest[:, view.start : view.stop], head.weights[k], head.biases[k])
        return out

    def remember(self, head: Head, sample: _Sample, sums: Floats) -> None:
        """Keep the log-sum-exps (m, K) of a sample under the head that is about to be in force."""
        start, values = 0, {}
        for key, count in sample.blocks:
            # Only some rows of a block may be in the sample: the others are marked as not known.
            whole = np.full((self._cache.rows(key), sums.shape[1]), np.nan, dtype=np.float32)
            whole[:count] = sums[start : start + count]
            values[key] = whole
            start += count
        self._cache.put_sums(head_digest(head), values)


def head_digest(head: Head) -> str:
    """Of weights and biases; gamma and temperature do not change log-sum-exps."""
    digest = hashlib.sha256()
    for array in (*head.weights, *head.biases):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def _key(table: ClassTable, j: int, seed: int, part: int) -> str:
    """A seen class's rows are those of the Replay; an unseen one's follow from name, attributes and seed."""
    source = ["replay"] if table.seen[j] else [seed, hashlib.sha256(table.raw[j].tobytes()).hexdigest()]
    return block_key(table.names[j], part, *source)
