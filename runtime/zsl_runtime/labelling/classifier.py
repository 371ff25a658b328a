"""Label pictures with a bundle from Python: open once, predict from as many threads as you like."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from zsl_runtime.backends.base import lifted, overlapping
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ArtefactError, InputError, UsageError
from zsl_runtime.explaining.explainer import Answered, Explainer
from zsl_runtime.graphs.answers import Answer, Done
from zsl_runtime.head.class_file import read_class_csv
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.distance import Distances
from zsl_runtime.head.head import fold
from zsl_runtime.labelling.ahead import in_order
from zsl_runtime.labelling.numbers import Judge, refuse_unanswered
from zsl_runtime.labelling.reading import BATCHES_AHEAD, ReadItem, batch_of, check_counts, reader_of
from zsl_runtime.labelling.scoring import label, score, score_ahead
from zsl_runtime.labelling.snapshot import Classes, Labelled, Prediction, Snapshot
from zsl_runtime.machine.processes import OfThisProcess
from zsl_runtime.machine.threads import checked_threads, readers
from zsl_runtime.pixels.pixels import PixelSpec

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.classes.changes import Change
    from zsl_runtime.classes.similar import Similar
    from zsl_runtime.explaining.explanation import Explanation
    from zsl_runtime.graphs.answers import Pending
    from zsl_runtime.graphs.ports import InputPort
    from zsl_runtime.head.distance import Found
    from zsl_runtime.head.gaussian import Evidence
    from zsl_runtime.inputs.item import Item, Source
    from zsl_runtime.labelling.cascade import Cascade

    AnyPath = str | os.PathLike[str]
    Photographs = Mapping[str, Iterable[Source]] | AnyPath


# Of a cascade: "smaller than the median of all entropies" (Li et al., CVPR 2019, section 4.2). The shares published
# with their code for single data sets are 0.1 to 0.7.
CONFIDENT = 0.5
ON_ERROR = ("raise", "skip")  # what to do about a picture that cannot be read


class Classifier(OfThisProcess):
    """An opened bundle that labels pictures. Use `Classifier.open`, in a `with` block or with `close`.

    All methods may be called from several threads. Each call works on the generation that was in force when it began.

    It belongs to its process: pickling and copying it, or labelling with it in a forked child, is UsageError E-PROCESS.
    Let each worker of a pool open the bundle itself, once, in its initializer. What calls return, and all errors, can
    be sent between processes.
    """

    def __init__(self, bundle: Bundle, backend: Backend, threads: int) -> None:
        super().__init__()
        self._bundle = bundle
        self._backend = backend
        self._threads = threads
        self._port = backend.input_port()
        self._pixels = _pixels(bundle, self._port)
        self._reader = reader_of(bundle)
        self._snapshot = _read(bundle)
        self._reloading = threading.Lock()
        self._closed = False
        self._explainer: Explainer | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | Bundle,
        backend: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        precision: str | None = None,
        *,
        trust_engine: bool = False,
        require_signature: AnyPath | None = None,
    ) -> Classifier:
        """Open a bundle: check every hash, load the graph and the generation in force.

        Args:
            path: the bundle's folder; or a Bundle, whose hashes were checked when or after it was opened.
            backend: `auto` or a key of `zsl_runtime.backends.table.BACKENDS`. `auto` is the fastest one that can be
                used on `device`, measured when the bundle is first used on this machine (some seconds) and then
                remembered.
            device: `cpu`, `cuda:N` for the card N, or `auto`, which looks at the CPU and at card 0. A card that is
                named is used or is an error; with `auto`, one that cannot be used is passed over.
            threads: for the graph, and as many that decode pictures, cut to the CPUs of the machine (`threads` says how
                many they are); None for all CPUs this process may use.
            precision: `fp32`, `fp16`, `bf16` or `int8`, as far as the bundle holds it; None for the bundle's default.
                `backend.precision` says which it is.
            trust_engine: load a TensorRT engine that was not built here by this user; loading one runs its code.
            require_signature: a file or folder of public keys and certificates (PEM), by one of which the bundle, and
                every generation that `reload` finds, must be signed; None for those of $ZSL_REQUIRE_SIGNATURE, if it
                is set. A Bundle was opened with its own.

        Raises:
            UsageError: E-KEY, E-BUNDLE-PATH, E-BACKEND-NAME, E-THREADS, E-PRECISION-NAME, E-DEVICE-NAME;
                E-DEVICE-BACKEND for a backend that does not run there; E-PRECISION when the bundle does not hold it.
            BackendError: E-BACKEND-MISSING, E-BACKEND-LOAD, E-BACKEND-PROBE, E-DEVICE; E-PRECISION-BACKEND and
                E-PRECISION-CPU when backend or CPU do not run this precision.
            ArtefactError: E-BUNDLE-..., when the bundle is damaged or does not fit together.

        """
        threads = checked_threads(threads)
        bundle = path if isinstance(path, Bundle) else Bundle.open(path, require_signature=require_signature)
        opened = open_backend(
            backend, bundle, device=device, threads=threads, precision=precision, trust_engine=trust_engine
        )
        return cls(bundle, opened, threads)

    @property
    def generation(self) -> int:
        """Number of the generation in use."""
        return self._snapshot.generation.number

    @property
    def class_table(self) -> ClassTable:
        """The classes in use."""
        return self._snapshot.table

    @property
    def pixels(self) -> PixelSpec | None:
        """How pictures are prepared; None for a model of feature vectors."""
        return self._pixels

    @property
    def feature_file(self) -> str:
        """Name of the feature file that a model of feature vectors was trained on; '' where the bundle has none."""
        return self._reader.like

    @property
    def input_port(self) -> InputPort:
        """Name, dtype and row shape of what `score` takes."""
        return self._port

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The bundle's manifest.json."""
        return self._bundle.manifest

    @property
    def bundle(self) -> Bundle:
        """What was opened."""
        return self._bundle

    @property
    def threads(self) -> int:
        """How many may run the graph, and as many decode pictures."""
        return self._threads

    @property
    def backend(self) -> Backend:
        """What runs the graph."""
        return self._backend

    def snapshot(self, classes: Classes = "all") -> Snapshot:
        """Generation and folded head for a series of `score_with` calls that must not change under way.

        Raises:
            UsageError: E-FILTER, E-CLASS-UNKNOWN, E-FILTER-EMPTY.

        """
        return self._snapshot.only(classes)

    def predict(
        self,
        images: Iterable[Source],
        topk: int = 5,
        classes: Classes = "all",
        batch_size: int | None = None,
        *,
        errors: str = "raise",
    ) -> list[Prediction]:
        """Label pictures.

        Args:
            images: paths, bytes of files, PIL images or uint8 arrays (H, W, 3), in any mixture. For a model of feature
                vectors: float arrays (R, V), or (V,) where R is 1.
            topk: how many classes to give for each; more than there are gives all.
            classes: `all`, `seen`, `unseen` or class names: only these compete.
            batch_size: pictures in memory and in the graph at once, cut to what memory is enough for; None for
                BATCH_SIZE.
            errors: `raise` ends the call with the first picture that cannot be read or whose answer is no number;
                `skip` goes on, and that picture's Prediction has no names and says why in `error`. What `images` itself
                raises ends the call.

        Returns:
            One Prediction per picture, in order.

        Raises:
            InputError: E-IMAGE-... or E-ROW-...: the first picture that cannot be read; E-ANSWER-VALUE: scores that
                are NaN or infinite.
            UsageError: E-TOPK, E-BATCH, E-IMAGES (a single picture), E-ERRORS, E-FILTER..., E-CLASS-UNKNOWN, E-CLOSED.
            BackendError: E-BACKEND-RUN; E-BACKEND-VALUE where no picture of several has an answer.

        """
        _check_call(images, topk, batch_size, errors)
        snapshot, size = self.snapshot(classes), batch_of(batch_size, self._reader)
        with closing(self._rows(images, size, errors)) as rows:
            scored = score_ahead(self, snapshot, rows, batch_size=size, topk=topk, judge=Judge(str))
            return _predictions((one for block in label(self, snapshot, scored, topk=topk) for one in block), errors)

    def cascade(
        self,
        images: Iterable[Source],
        confident: float = CONFIDENT,
        topk: int = 5,
        classes: Classes = "all",
        batch_size: int | None = None,
        *,
        errors: str = "raise",
    ) -> list[Prediction]:
        """Label pictures with each other's help: the confident ones teach a head of their own for the rest.

        The labels are transductive: a picture's label depends on which others were given. The bundle is not changed.
        See `zsl_runtime.labelling.cascade`. Features are kept in temporary files meanwhile, not in memory.

        Args:
            images: as for `predict`.
            confident: share of the pictures, in [0, 1], that keep their label and teach; those of lowest entropy.
            topk: as for `predict`.
            classes: as for `predict`; the pictures take labels from these in both passes.
            batch_size: as for `predict`.
            errors: as for `predict`; what cannot be read teaches nothing.

        Returns:
            One Prediction per picture, in order, with `confident` set.

        Raises:
            InputError: as `predict`.
            UsageError: as `predict`; E-CONFIDENT; E-HEAD-RULE for a model whose head is not fitted.
            ArtefactError: the bundle cannot make the rows that its head is fitted on.
            BackendError: E-BACKEND-RUN.
            SystemProblem: E-SYSTEM when the disk is full.

        """
        _check_call(images, topk, batch_size, errors)
        snapshot, size = self.snapshot(classes), batch_of(batch_size, self._reader)
        with self.open_cascade(snapshot, confident) as cascade, closing(self._rows(images, size, errors)) as rows:
            for batch in score(self, snapshot, rows, batch_size=size, judge=Judge(str)):
                cascade.add(batch)
            cascade.refit()
            return _predictions((one for block in cascade.answers(topk) for one in block), errors)

    def open_cascade(self, snapshot: Snapshot, confident: float = CONFIDENT) -> Cascade:
        """The cascade of a series of `score_with` calls with `snapshot`; errors as in `cascade`."""
        from zsl_runtime.labelling.cascade import open_cascade

        return open_cascade(self._bundle, self._backend, snapshot, confident)

    def score(self, inputs: NDArray[np.generic], classes: Classes = "all") -> tuple[Floats, Floats]:
        """Log-probabilities and features of prepared inputs.

        Args:
            inputs: uint8 (N, P, P, 3) made by `zsl_runtime.pixels.prepare`, or float32 (N, R, V); N >= 1, and all N go
                through the graph at once.
            classes: as for `predict`; the others get -inf.

        Returns:
            scores (N, C) and features (N, F), float32; column j is class j of `class_table`.

        Raises:
            UsageError: E-INPUT-ARRAY, E-FILTER..., E-CLASS-UNKNOWN, E-CLOSED.
            InputError: E-ANSWER-VALUE for the first input whose scores are NaN or infinite.
            BackendError: E-BACKEND-RUN; E-BACKEND-VALUE where those of all inputs are.

        """
        scores, features = self.score_with(self.snapshot(classes), inputs)
        refuse_unanswered(scores)
        return scores, features

    def score_with(self, snapshot: Snapshot, inputs: NDArray[np.generic]) -> tuple[Floats, Floats]:
        """As `score`, with classes and head of `snapshot`; scores that are no numbers are given as they are."""
        self._check_open()
        return self._backend.run(inputs, snapshot.head)

    def explain(self, image: Source, classes: Classes = "all") -> Explanation:
        """Why a picture gets its label and not the next one.

        Args:
            image: as one of `predict`.
            classes: as for `predict`.

        Returns:
            What each attribute says for the answer or for its strongest rival, and of models with attention where it
            was looked for (`zsl_runtime.explaining.Explanation`).

        Raises:
            InputError: E-IMAGE-... or E-ROW-...: the picture cannot be read; E-ANSWER-VALUE.
            UsageError: E-EXPLAIN for a bundle that was exported without what this takes; E-FILTER..., E-CLASS-UNKNOWN,
                E-CLOSED.
            ArtefactError: what the bundle explains with is damaged.
            BackendError: E-BACKEND-RUN; E-BACKEND-MISSING.

        """
        snapshot, inputs = self.snapshot(classes), self.read(image)[None]
        scores, features = self.score_with(snapshot, inputs)
        refuse_unanswered(scores)
        name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else ""
        return self.explained(snapshot, (str(name),), inputs, (scores, features))[0]

    def explained(
        self,
        snapshot: Snapshot,
        names: Sequence[str],
        inputs: NDArray[np.generic],
        answers: tuple[Floats, Floats],
    ) -> list[Explanation]:
        """Explain what `score_with` gave: scores (N, C) and features (N, F) of inputs (N, ...); errors as `explain`."""
        scores, features = answers
        x = lifted(self._backend.lift, features)
        return self.explainer.explain(snapshot.generation, snapshot.head, Answered(names, inputs, scores, x))

    @property
    def explainer(self) -> Explainer:
        """What explains labels; opened when it is first asked for. Errors as of `explain`."""
        self._check_open()
        with self._reloading:
            if self._explainer is None:
                self._explainer = Explainer(self._bundle, self._threads)
            return self._explainer

    def canonical(self, inputs: NDArray[np.generic]) -> Floats:
        """What the head looks at: the lifted features of prepared inputs.

        Args:
            inputs: as for `score`.

        Returns:
            (N, D) float32; by the head rule `gaussian` canonical coordinates, in which classes are means. NaN for an
            input whose features are no numbers.

        Raises:
            UsageError: E-INPUT-ARRAY, E-CLOSED.
            BackendError: E-BACKEND-RUN.

        """
        self._check_open()
        backend = self._backend
        return lifted(backend.lift, backend.features(inputs))

    def measure(self, snapshot: Snapshot, features: Floats) -> Found | None:
        """How far pictures are from the nearest class of `snapshot`, whatever its filter.

        Args:
            snapshot: of a Gaussian head, or of another one.
            features: (N, F) of finite numbers, as of `score_with`; (0, 0) for no picture.

        Returns:
            Distances and whether they are far; None where the head is not Gaussian.

        Raises:
            UsageError: E-CLOSED.
            BackendError: E-BACKEND-RUN.

        """
        if snapshot.distances is None:
            return None
        self._check_open()
        if not len(features):
            return snapshot.distances(np.empty((0, snapshot.generation.head.width), np.float32))
        return snapshot.distances(self._backend.lift(features))

    @property
    def in_flight(self) -> int:
        """How many batches a caller does well to have begun: 1 where the backend works in the caller's own time."""
        backend = overlapping(self._backend)
        return 1 if backend is None else backend.in_flight

    def begin(
        self, snapshot: Snapshot, rows: Sequence[NDArray[np.generic]] | NDArray[np.generic], topk: int | None = None
    ) -> Pending:
        """Begin a batch. On a card it is at work when this returns; elsewhere it is done.

        Args:
            snapshot: whose classes and head.
            rows: n prepared inputs as `read` gives them, or an array of them; they may be changed afterwards.
            topk: the best so many classes are wanted, and what `measure` takes: a card that can finds them itself. None
                wants scores and features.

        Returns:
            What gives the `Answer`; `snapshot.named` and `snapshot.best` turn it into predictions.

        Raises:
            UsageError: as `score`.
            BackendError: as `score`; also raised by the answer.

        """
        self._check_open()
        backend = self._backend
        card = overlapping(backend)
        if card is not None:
            best = 0 if topk is None else snapshot.count(topk)
            ranked = best if best and card.ranks(best) else 0
            return card.begin(rows, snapshot.head, ranked, features=snapshot.distances is not None)
        inputs = rows if isinstance(rows, np.ndarray) else np.stack(rows)
        return Done(Answer(*backend.run(inputs, snapshot.head)))

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("E-CLOSED", "this classifier is closed; open the bundle again")
        self.check_at_home()

    def read(self, source: Source) -> NDArray[np.generic]:
        """One picture or row as `score` takes it, without the first axis: uint8 (P, P, 3) or float32 (R, V).

        Raises:
            InputError: E-IMAGE-..., or E-ROW-SHAPE, E-ROW-VALUE for a model of feature vectors.

        """
        return self._reader(source)

    def similar(self, table: ClassTable | AnyPath) -> Similar:
        """Tell what classes would be mixed up with if they were added now; the bundle is not changed.

        Args:
            table: as for `add`.

        Returns:
            Likely mix-ups, the notes that `add` would give, and `advice` (`zsl_runtime.classes.similar.Similar`).

        Raises:
            UsageError: as `add`.
            ArtefactError: as `add`.
            BackendError: nothing can run the bundle's small graphs.
            SystemProblem: a file cannot be read.

        """
        from zsl_runtime.classes.similar import similar_classes

        self._check_open()
        return similar_classes(self._bundle, self._table(table))

    def add(
        self, table: ClassTable | AnyPath, photographs: Photographs | None = None, *, errors: str = "raise"
    ) -> Change:
        """Add classes to the bundle, for everybody who uses it, and go on with them.

        Args:
            table: the new classes, all unseen: the path of a .csv or .xlsx file, as of `zsl-classes add --attributes`;
                or a ClassTable, with the model's attributes in its order.
            photographs: of some of them, by the head rule `gaussian`: class -> at least one of what `predict` takes; or
                the path of a folder, as of `--photos`: FOLDER/CLASS/...
            errors: `raise` ends the call with the first photograph that cannot be read; `skip` leaves such out, and
                `notes` of the change say how many of which class.

        Returns:
            What was committed: names, likely mix-ups, and notes on odd attributes and on what was left out
            (`zsl_runtime.classes.changes.Change`).

        Raises:
            InputError: E-IMAGE-... or E-ROW-...: the first photograph that cannot be read; nothing was changed.
            UsageError: E-PHOTOS-FOLDER, E-PHOTOS-EMPTY (a class without one that can be read), E-ERRORS, E-CLOSED, what
                `zsl_runtime.head.class_table.read_class_csv` says of a file, or as `zsl_runtime.add_classes`; nothing
                was changed. E-HEAD-CLASSES, as `reload`: the change was made, and the classes before stay in use here.
            ArtefactError: the bundle is damaged.
            BackendError: E-BACKEND-RUN.
            SystemProblem: a file cannot be read, or the bundle cannot be written; it is unchanged then.

        """
        from zsl_runtime.classes.changes import add_classes, check_addable, distances_with

        self._check_open()
        _check_errors(errors)
        table = self._table(table)
        pictures, notes = self._found({} if photographs is None else photographs)
        check_addable(self._bundle, table, pictures)
        distances = distances_with(self._bundle, table) if pictures else None
        evidence, more = self._evidence(pictures, errors, distances) if pictures else (None, ())
        return self._changed(add_classes(self._bundle, table, photographs=evidence), *notes, *more)

    def teach(self, photographs: Photographs, *, errors: str = "raise") -> Change:
        """Show the bundle photographs of classes that it has, for everybody who uses it, and go on with what it learnt.

        Photographs may come in portions; each of them counts once more whenever it is given.

        Args:
            photographs: as for `add`.
            errors: as for `add`.

        Returns:
            What was committed (`zsl_runtime.classes.changes.Change`).

        Raises:
            InputError: as `add`.
            UsageError: E-HEAD-RULE for a bundle whose head rule is not `gaussian`, E-CLASS-UNKNOWN, E-CLASSES-EMPTY,
                E-PHOTOS-FOLDER, E-PHOTOS-EMPTY, E-ERRORS, E-CLOSED; nothing was changed.
            ArtefactError: as `add`.
            BackendError: as `add`.
            SystemProblem: as `add`.

        """
        from zsl_runtime.classes.changes import check_taught, check_teachable, teach_classes

        self._check_open()
        _check_errors(errors)
        check_teachable(self._bundle)
        pictures, notes = self._found(photographs)
        check_taught(self._bundle, pictures)
        evidence, more = self._evidence(pictures, errors, self._snapshot.distances)
        return self._changed(teach_classes(self._bundle, evidence), *notes, *more)

    def remove(self, names: str | Sequence[str]) -> Change:
        """Take classes out of the bundle, for everybody who uses it, and go on without them.

        Args:
            names: of the classes, or of one.

        Returns:
            What was committed (`zsl_runtime.classes.changes.Change`).

        Raises:
            UsageError: E-CLASS-UNKNOWN; E-CLASSES-EMPTY when none is named or none would be left;
                E-CLOSED. Nothing was changed.
            ArtefactError: the bundle is damaged.
            SystemProblem: it cannot be written; it is unchanged then.

        """
        from zsl_runtime.classes.changes import remove_classes

        self._check_open()
        return self._changed(remove_classes(self._bundle, [names] if isinstance(names, str) else names))

    def undo(self) -> Change:
        """Take the last change of the bundle back, whoever made it; again, and it goes one change further.

        Returns:
            What was committed (`zsl_runtime.classes.changes.Change`).

        Raises:
            UsageError: E-UNDO-NONE at the exported state, E-UNDO-PRUNED when the state before is gone, E-CLOSED;
                nothing was changed.
            ArtefactError: the bundle is damaged.
            SystemProblem: it cannot be written; it is unchanged then.

        """
        from zsl_runtime.classes.changes import undo

        self._check_open()
        return self._changed(undo(self._bundle))

    def _table(self, table: ClassTable | AnyPath) -> ClassTable:
        """New classes, those of a file too."""
        if isinstance(table, ClassTable):
            return table
        return read_class_csv(table, attributes=self._bundle.attributes, need_split=False)

    def _found(self, photographs: Photographs) -> tuple[Mapping[str, Iterable[Source | Item]], tuple[str, ...]]:
        """Photographs by class, those of a folder too, and notes on what lies there besides."""
        from zsl_runtime.labelling.photographs import class_folders

        if not isinstance(photographs, (str, os.PathLike)):
            return photographs, ()
        found = class_folders(photographs, self._reader)
        return found.pictures, found.notes

    def _evidence(
        self, pictures: Mapping[str, Iterable[Source | Item]], errors: str, distances: Distances | None
    ) -> tuple[dict[str, Evidence], list[str]]:
        """What photographs say, and a note on each class of which some cannot be read; or InputError for the first.

        And a note on each class of which some are far from all that `distances` knows.
        """
        from zsl_runtime.labelling.photographs import Lookout, gather

        for name, given in pictures.items():
            if isinstance(given, (str, bytes, os.PathLike, Image.Image)):
                raise UsageError(
                    "E-IMAGES", f"class {name!r} has one {type(given).__name__}; expected a list of photographs: [...]"
                )
        lookout = Lookout(distances)
        evidence, skipped = gather(self, pictures, lookout=lookout)
        if skipped and errors == "raise":
            raise skipped[0][1]
        first = dict(reversed(skipped))
        return evidence, lookout.notes() + [
            f"photographs of class {name!r} left out, because they cannot be read: {count}; the first: {first[name]}"
            for name, count in Counter(name for name, _ in skipped).items()
        ]

    def _changed(self, change: Change, *notes: str) -> Change:
        """Go on with what was committed; notes of our own come last."""
        self.reload()
        return replace(change, notes=(*change.notes, *notes)) if notes else change

    def reload(self) -> bool:
        """Take over the generation that is now in force in the bundle; graphs are not loaded again.

        Returns:
            True when classes or head are other than before.

        Raises:
            ArtefactError: E-BUNDLE-...; the generation in use stays in use.
            BackendError: E-CUDA-..., the head does not fit on the card; likewise.
            UsageError: E-HEAD-CLASSES, there are more classes than the engine takes; likewise.

        """
        with self._reloading:
            if self._bundle.pointer()[0] == self.generation:
                return False
            snapshot = _read(self._bundle)
            card = overlapping(self._backend)
            if card is not None:
                card.hold(snapshot.head)  # calls go on with the head before until this one is there
            self._snapshot = snapshot
            return True

    def switch(
        self,
        backend: str,
        device: str = "auto",
        threads: int | None = None,
        precision: str | None = None,
        *,
        trust_engine: bool = False,
    ) -> None:
        """Go on with another backend, for example when a card is lost; classes and head stay as they are.

        Calls in flight finish on the backend before, which is then closed, or fail with it.

        Args:
            backend: as for `open`; so are the others.
            device: where it runs.
            threads: that it may use; None for those of this classifier.
            precision: None for the bundle's default.
            trust_engine: as for `open`.

        Raises:
            UsageError: as `open`; E-CLOSED.
            BackendError: as `open`; the backend before stays in use.
            ArtefactError: as `open`.

        """
        self._check_open()
        threads = self._threads if threads is None else checked_threads(threads)
        opened = open_backend(
            backend,
            self._bundle,
            device=device,
            threads=threads,
            precision=precision,
            trust_engine=trust_engine,
        )
        _pixels(self._bundle, opened.input_port())
        with self._reloading:
            before, self._backend = self._backend, opened
            self._threads = threads
        before.close()

    def warmup(self) -> None:
        """Run one empty input, so that the first real one does not pay for memory and lazy initialisation."""
        self.score(np.zeros((1, *self._port.shape), dtype=self._port.dtype))

    def close(self) -> None:
        """Let go of the graphs; predicting afterwards is an error. A call in flight in another thread may finish."""
        self._closed = True
        if self.is_at_home:
            self._backend.close()
            if self._explainer is not None:
                self._explainer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, images: Iterable[Source], size: int, errors: str) -> Generator[ReadItem]:
        """Prepared inputs, some batches of `size` ahead of the graph; what cannot be read is raised, or is a row."""
        self._check_open()

        def read(numbered: tuple[int, Source]) -> ReadItem:
            index, source = numbered
            try:
                return ReadItem(f"image {index}", self.read(source))
            except InputError as error:
                told = InputError(error.code, f"image {index}: {error.message}")
            if errors == "raise":
                raise told
            return ReadItem("", told)

        return in_order(read, enumerate(images), workers=readers(self._threads), ahead=BATCHES_AHEAD * size)


def _predictions(answers: Iterable[Labelled], errors: str) -> list[Prediction]:
    """What is returned of all answers; with `raise` the first one that is no number ends it, when all are known."""
    found = [one.prediction() for one in answers]
    for one in found:
        if one.error is not None and errors == "raise":
            raise one.error
    return found


def _check_errors(errors: str) -> None:
    if errors not in ON_ERROR:
        raise UsageError("E-ERRORS", f"errors={errors!r}: expected 'raise' or 'skip'")


def _check_call(images: object, topk: int, batch_size: int | None, errors: str) -> None:
    check_counts(topk, batch_size)
    _check_errors(errors)
    if isinstance(images, (str, bytes, os.PathLike, Image.Image)):
        raise UsageError("E-IMAGES", f"got one {type(images).__name__}; expected a list of pictures: [picture]")


def _read(bundle: Bundle) -> Snapshot:
    generation = bundle.current()
    head = generation.head
    distances = Distances(head, bundle.gaussian()) if bundle.head_rule == "gaussian" else None
    return Snapshot(generation, fold(head, generation.table.seen), distances)


def _pixels(bundle: Bundle, port: InputPort) -> PixelSpec | None:
    """The pixel spec of a model of pictures; ArtefactError E-BUNDLE-INPUT unless graph and manifest say the same."""
    declared = bundle.manifest["input"]
    pixels = PixelSpec.from_dict(bundle.manifest["pixels"]) if declared["name"] == "images" else None
    square = (pixels.crop, pixels.crop, 3) if pixels else port.shape
    wanted = (declared["name"], declared["dtype"], tuple(declared["shape"][1:]))
    if tuple(port) != wanted or port.shape != square:
        raise ArtefactError(
            "E-BUNDLE-INPUT",
            f"the graph of {bundle.path} takes {port.name} {port.dtype} {port.shape}, its manifest says "
            f"{declared!r} and pixels {bundle.manifest['pixels']!r}; export the model again",
        )
    return pixels
