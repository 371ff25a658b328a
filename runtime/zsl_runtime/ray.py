"""Label pictures in Ray Data: one Classifier an actor, paths or bytes in, answers out as columns.

    import ray
    from zsl_runtime.ray import label, unanswered

    paths = unanswered(paths, "labels")                      # those that an earlier run has no answers of
    photos = ray.data.from_items([{"path": path} for path in paths])
    label(photos, "birds.bundle", workers=8, num_cpus=4).write_parquet("labels")

Ray is imported where it is used, and its usage statistics are off unless RAY_USAGE_STATS_ENABLED asks for them: import
zsl_runtime before ray.init(). Where a cluster is started by `ray start`, set RAY_USAGE_STATS_ENABLED=0 there, since the
head node is what sends them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.bundle.signatures import REQUIRE
from zsl_runtime.errors import BackendError, UsageError, from_os_error
from zsl_runtime.extras import wanting
from zsl_runtime.inputs.item import Item, in_store
from zsl_runtime.labelling.ahead import in_order
from zsl_runtime.labelling.reading import BATCH_SIZE, FETCHED_AT_ONCE, fetched

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from zsl_runtime.inputs.item import Source
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.labelling.snapshot import Classes, Prediction

PATH, BYTES = "path", "bytes"
ANSWERS = ("names", "ids", "probabilities", "seen", "generation", "error", "distance", "far")
PARQUET, DAMAGED = ".parquet", ".damaged"


class Labeller:
    """Labels batches of rows: a class for `Dataset.map_batches`, which makes one in each actor; `label` does it all.

    The bundle is opened with the first batch, in the process that labels. So this can be pickled, copied and sent
    anywhere, before and after: what arrives opens the bundle again, in whatever generation is in force then.

    Args:
        bundle: its folder, where every worker finds it.
        column: what holds the pictures: paths, also in object stores, or bytes of files. For a model of feature
            vectors: arrays.
        topk, classes, batch_size: as of `Classifier.predict`.
        backend, device, threads, precision, trust_engine: as of `Classifier.open`; without `threads`, as many as the
            CPUs that Ray gives the actor.
        require_signature: as of `Classifier.open`. What the environment demands here is demanded by every worker, too,
            which has one of its own; so the keys must be where each of them finds them.

    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        column: str = PATH,
        topk: int = 5,
        classes: Classes = "all",
        batch_size: int | None = None,
        backend: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        precision: str | None = None,
        trust_engine: bool = False,
        require_signature: str | os.PathLike[str] | None = None,
    ) -> None:
        self.bundle = _whole_path(bundle)
        self.column = column
        self._predicting: dict[str, Any] = {"topk": topk, "classes": classes, "batch_size": batch_size}
        self._opening: dict[str, Any] = {"backend": backend, "device": device, "threads": threads}
        self._opening |= {"precision": precision, "trust_engine": trust_engine}
        self._opening["require_signature"] = _demanded(require_signature)
        self._classifier: Classifier | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_classifier": None}

    def __call__(self, batch: Any) -> Any:
        """Label the rows of one batch.

        Args:
            batch: dict of NumPy arrays, or a pyarrow.Table (`batch_format="pyarrow"`, which keeps lists as lists).

        Returns:
            The same kind, with the batch's columns but the one of bytes or arrays, and ANSWERS: the best classes,
            their places in the bundle's class table, their probabilities, whether each is seen; the generation; why a
            row could not be read, in which case it has no classes, else None; its distance to the nearest class, and
            whether it is far, each None where that is not known.

        Raises:
            UsageError: E-RAY for a batch without the column; as `Classifier.open` and `predict`.
            BackendError, ArtefactError: as `Classifier.open`.

        """
        table = not hasattr(batch, "items")
        names = batch.column_names if table else list(batch)
        if self.column not in names:
            raise UsageError(
                "E-RAY", f"the batch has the columns {', '.join(map(str, names)) or 'none'}; expected {self.column!r}"
            )
        sources = batch.column(self.column).to_pylist() if table else list(batch[self.column])
        paths = (
            batch.column(PATH).to_pylist()
            if table and PATH in names
            else list(batch.get(PATH, ()))
            if not table
            else []
        )
        answers = self._answers(sources, paths)
        kept = [name for name in names if name not in ANSWERS and (name == PATH or name != self.column)]
        if table:
            return _as_table(batch.select(kept), answers)
        return {**{name: batch[name] for name in kept}, **_as_arrays(answers)}

    @property
    def classifier(self) -> Classifier:
        """What labels, opened when it is first wanted."""
        if self._classifier is None:
            from zsl_runtime.labelling.classifier import Classifier

            opening = {**self._opening, "threads": self._opening["threads"] or _given_cpus()}
            self._classifier = Classifier.open(self.bundle, **opening)
        return self._classifier

    def _answers(self, sources: Sequence[Any], paths: Sequence[Any]) -> dict[str, list[Any]]:
        """ANSWERS -> what each row has of it."""
        classifier = self.classifier
        given = [_source(source, pixels=classifier.pixels is not None) for source in sources]
        if any(map(in_store, given)):
            items = (Item(str(source), source) for source in given)
            fetch = in_order(fetched, items, workers=FETCHED_AT_ONCE, ahead=0)
            given = [item.source for item in fetch]  # errors stand in their places
        found = _predicted(classifier, given, self._predicting)
        place = classifier.class_table.index
        return {
            "names": [list(one.names) for one in found],
            "ids": [[place(name) for name in one.names] for one in found],
            "probabilities": [list(one.probabilities) for one in found],
            "seen": [list(one.seen) for one in found],
            "generation": [classifier.generation] * len(found),
            "error": [
                _error(one, number, source, paths)
                for number, (one, source) in enumerate(zip(found, sources, strict=True))
            ],
            "distance": [one.distance for one in found],
            "far": [one.far for one in found],
        }


def _source(value: Any, *, pixels: bool) -> Any:
    """A cell of a batch as `Classifier.predict` takes it."""
    if isinstance(value, np.str_):
        return str(value)
    if isinstance(value, np.bytes_):
        return bytes(value)
    return np.asarray(value) if isinstance(value, list) and not pixels else value


def _predicted(classifier: Classifier, given: Sequence[Any], options: Mapping[str, Any]) -> list[Prediction]:
    """Predictions in order; those that could not be fetched keep their errors."""
    from zsl_runtime.errors import InputError
    from zsl_runtime.labelling.snapshot import Prediction

    there: list[Source] = [one for one in given if not isinstance(one, InputError)]
    following = iter(classifier.predict(there, errors="skip", **options))
    return [Prediction((), (), (), error=one) if isinstance(one, InputError) else next(following) for one in given]


def _error(one: Prediction, number: int, source: Any, paths: Sequence[Any]) -> str | None:
    """In the words of zsl-infer: with the path in place of the number in the call."""
    if one.error is None:
        return None
    message = one.error.message.partition(": ")[2] if one.error.message.startswith("image ") else one.error.message
    name = repr(str(paths[number])) if number < len(paths) else ""
    prefix = f"{name}: " if name and name not in message and not isinstance(source, str) else ""
    return f"{one.error.code}: {prefix}{message}"


def _as_arrays(answers: Mapping[str, list[Any]]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, values in answers.items():
        if name == "generation":
            columns[name] = np.array(values, np.int64)
            continue
        columns[name] = np.empty(len(values), object)
        for row, value in enumerate(values):
            columns[name][row] = value
    return columns


def _as_table(batch: Any, answers: Mapping[str, list[Any]]) -> Any:
    import pyarrow as pa

    lists = pa.list_(pa.string()), pa.list_(pa.int32()), pa.list_(pa.float64()), pa.list_(pa.bool_())
    for name, kind in zip(ANSWERS, (*lists, pa.int64(), pa.string(), pa.float64(), pa.bool_()), strict=True):
        batch = batch.append_column(name, pa.array(answers[name], kind))
    return batch


def _given_cpus() -> int | None:
    """How many CPUs Ray gives this actor, at least one; None outside of Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    given = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
    return max(1, int(given))


# --- whole jobs -----------------------------------------------------------------------------------------------------


def label(
    dataset: Any,
    bundle: str | os.PathLike[str],
    *,
    workers: int | tuple[int, int] = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    rows: int = 8 * BATCH_SIZE,
    **options: Any,
) -> Any:
    """A Dataset of the answers, for `write_parquet`, `iter_rows` and whatever else one does with a Dataset.

    Args:
        dataset: a ray.data.Dataset with the column that is to be labelled.
        bundle: as of `Labeller`.
        workers: actors, each with a Classifier of its own; a pair is the fewest and the most.
        num_cpus: of an actor; as many threads decode and run the graph.
        num_gpus: of an actor; 0.5 lets two share a card. It is cuda:0 to each of them, whichever card it is.
        rows: that an actor is given at once.
        **options: of `Labeller`.

    Raises:
        BackendError: E-PACKAGE without Ray.

    """
    compute = _ray_data().ActorPoolStrategy
    options["require_signature"] = _demanded(options.get("require_signature"))
    size = {"size": workers} if isinstance(workers, int) else {"min_size": workers[0], "max_size": workers[1]}
    return dataset.map_batches(
        Labeller,
        fn_constructor_args=(_whole_path(bundle),),
        fn_constructor_kwargs=options,
        compute=compute(**size),
        num_cpus=num_cpus,
        num_gpus=num_gpus or None,
        batch_size=rows,
        batch_format="pyarrow",
    )


def _whole_path(bundle: str | os.PathLike[str]) -> str:
    """The bundle as an actor in another folder finds it; opening one in a store says that it must be copied first."""
    path = os.fspath(bundle)
    return path if in_store(path) else os.path.abspath(path)  # noqa: PTH100


def _demanded(keys: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """The keys by one of which the bundle must be signed, as every worker is to demand them."""
    if keys is None:
        keys = os.environ.get(REQUIRE) or None
    return os.path.abspath(keys) if keys else keys  # noqa: PTH100


def _ray_data() -> Any:
    try:
        import ray.data
    except Exception as error:
        raise BackendError("E-PACKAGE", f"zsl_runtime.ray needs {wanting('ray', error, 'ray')}") from error
    return ray.data


class Answered(NamedTuple):
    """What is in a folder of answers: paths that have one, and files that were cut off, now called FILE.damaged."""

    paths: frozenset[str]
    damaged: tuple[str, ...]


def unanswered(paths: Iterable[str], folder: str | os.PathLike[str], *, errors_again: bool = False) -> list[str]:
    """The paths that no Parquet file of a folder has an answer of, in order: those to go on with after a fault.

    Args:
        paths: of all that is to be labelled.
        folder: that `write_parquet` wrote to, also in an object store; it need not be there.
        errors_again: what could not be read counts as not answered.

    Raises:
        as `answered`.

    """
    done = answered(folder, errors_again=errors_again).paths
    return [path for path in paths if path not in done]


def answered(folder: str | os.PathLike[str], *, errors_again: bool = False) -> Answered:
    """What a folder of answers holds. A file that a kill cut off would stop every reader, so it is renamed.

    Raises:
        UsageError: E-RAY for a Parquet file without the columns of answers.
        BackendError: E-PACKAGE without pyarrow.
        SystemProblem: the folder, or a file in it, cannot be read: whether it is whole nobody knows.

    """
    try:
        import pyarrow.parquet as pq
    except Exception as error:
        raise BackendError("E-PACKAGE", f"zsl_runtime.ray needs {wanting('pyarrow', error, 'ray')}") from error
    place = os.fspath(folder)
    found: set[str] = set()
    damaged = []
    for path in _parquet_files(place):
        try:
            with _opened(path) as stream, pq.ParquetFile(stream) as file:
                lacking = {PATH, "error"} - set(file.schema_arrow.names)
                if lacking:
                    raise UsageError(
                        "E-RAY", f"{path!r} has no column {lacking.pop()!r}: it holds no answers of label()"
                    )
                for batch in file.iter_batches(columns=[PATH, "error"]):
                    pairs = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
                    found.update(name for name, error in pairs if error is None or not errors_again)
        except (OSError, ValueError) as error:
            # What pyarrow raises of a file that is not whole has no number; it is no reason to rename one that the
            # system does not give just now.
            if isinstance(error, OSError) and error.errno is not None:
                raise from_os_error(error, f"read the answers in {path!r}") from error
            _rename(path)
            damaged.append(path + DAMAGED)
    return Answered(frozenset(found), tuple(damaged))


def _parquet_files(place: str) -> list[str]:
    try:
        if in_store(place):
            from zsl_runtime.inputs import stores

            entries = [entry.name for entry in stores.entries(place) if not entry.is_folder]
            return [stores.join(place, name) for name in entries if name.endswith(PARQUET)]
        return [str(path) for path in sorted(Path(place).iterdir()) if path.name.endswith(PARQUET) and path.is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise from_os_error(error, "look for answers in") from error


def _opened(path: str) -> Any:
    """A file to read; SystemProblem where it cannot be opened, which says nothing about what is in it."""
    try:
        if in_store(path):
            from zsl_runtime.inputs import stores

            return stores.open_ranges(path)
        return open(path, "rb")
    except OSError as error:
        raise from_os_error(error, f"read the answers in {path!r}") from error


def _rename(path: str) -> None:
    if in_store(path):
        from zsl_runtime.inputs import stores

        stores.rename(path, path + DAMAGED)
    else:
        os.replace(path, path + DAMAGED)  # noqa: PTH105


__all__ = ["ANSWERS", "Answered", "Labeller", "answered", "label", "unanswered"]
