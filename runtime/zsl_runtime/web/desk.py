"""What the page can ask of a bundle, as plain data: labels of photographs, classes, and changes of them.

Nothing here knows of HTTP. Any thread may call; changes are made one after the other (`zsl_runtime.web.worker`).
"""

from __future__ import annotations

import base64
import io
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from zsl_runtime.classes.changes import (
    add_classes,
    check_absent,
    check_addable,
    check_new,
    check_taught,
    check_teachable,
    grown,
    list_classes,
    remove_classes,
    teach_classes,
    undo,
)
from zsl_runtime.classes.newcomers import Neighbour, confusable, neighbours, twins
from zsl_runtime.classes.odd_attributes import odd_attributes, training_ranges
from zsl_runtime.classes.similar import similar_classes
from zsl_runtime.errors import UsageError
from zsl_runtime.head.class_file import read_class_csv
from zsl_runtime.head.distance import FAR, Distances
from zsl_runtime.head.gaussian import Evidence
from zsl_runtime.head.head import fold
from zsl_runtime.head.names import doubtful
from zsl_runtime.labelling.numbers import finite, no_answer
from zsl_runtime.labelling.snapshot import Snapshot
from zsl_runtime.machine.storage import exclusive
from zsl_runtime.web.asked import MOST_PHOTOGRAPHS
from zsl_runtime.web.sliders import sliders
from zsl_runtime.web.steps import added_names, steps
from zsl_runtime.web.vectors import Vectors, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.classes.changes import Change
    from zsl_runtime.classes.similar import Alike
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.web.sliders import Slider

TOPK = 5
MOST_SPOKEN = 12  # attributes that are sent with an explanation
PATIENCE, LOOK = 5.0, 0.1  # seconds for which another writer is waited for, and between two looks
PREVIEW_QUALITY = 88  # of JPEG


@dataclass
class Desk:
    """A bundle that is open, and the photographs that the page has shown it.

    Attributes:
        classifier: of photographs.
        origin: the bundle that was copied; '' where changes are made in the bundle itself.
        vectors: of photographs.

    """

    classifier: Classifier
    origin: str = ""
    vectors: Vectors = field(init=False)
    _sliders: list[Slider] = field(init=False)
    _added: tuple[int, frozenset[str]] = field(default=(0, frozenset()), init=False)
    _changing: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        if self.classifier.pixels is None:
            raise UsageError(
                "E-PAGE-INPUT",
                f"{self.classifier.bundle.path} takes feature vectors, and the page shows photographs; give a bundle "
                "that was trained on photographs, or label rows with zsl-infer",
            )
        self._sliders = sliders(self.classifier.bundle)
        self.vectors = Vectors(int(self.classifier.manifest["dims"]["D"]))

    # --- what is there ----------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """What does not change while the page is open."""
        bundle, backend = self.classifier.bundle, self.classifier.backend
        return {
            "bundle": os.path.basename(self.origin or bundle.path.resolve()),  # noqa: PTH119  # text
            "path": self.origin or str(bundle.path.resolve()),
            "trial": bool(self.origin),
            "runs": f"{backend.name}, {backend.precision}",
            "teachable": bundle.head_rule == "gaussian",
            "explains": self.explains,
            "far": self._far(),
            "most_photographs": MOST_PHOTOGRAPHS,
            "sliders": [one._asdict() for one in self._sliders],
        }

    @property
    def explains(self) -> bool:
        """Whether the bundle can say why a photograph got its label."""
        return "explain" in self.classifier.manifest

    def _far(self) -> dict[str, float] | None:
        """From what distance a photograph is far, and what that is a percentile of; None where it is not known."""
        distances = self.classifier.snapshot().distances
        beyond = None if distances is None else distances.beyond
        return None if beyond is None else {"distance": beyond, "percent": FAR}

    def state(self, known: int = 0) -> dict[str, Any]:
        """Classes and changes of the generation in force; another process may have made it.

        Args:
            known: generation that the asker knows: if it is still in force, its number is all that is said.

        Raises:
            ArtefactError: the bundle is damaged, or was replaced by another one.

        """
        self.classifier.reload()
        bundle, number = self.classifier.bundle, self.classifier.generation
        if number == known:
            return {"generation": number}
        added = self._added_names()
        return {
            "generation": number,
            "closed": self.closed(),
            "classes": [
                {
                    "name": one.name,
                    "kind": "added" if one.name in added else one.split,
                    "photographs": one.photographs,
                }
                for one in list_classes(bundle)
            ],
            "steps": [one._asdict() for one in steps(bundle, number)],
        }

    def closed(self) -> str:
        """Why the bundle cannot be changed; '' where it can."""
        bundle = self.classifier.bundle
        try:
            bundle.check_signable()
        except UsageError as error:
            return error.message
        if all(os.access(folder, os.W_OK | os.X_OK) for folder in (bundle.path, bundle.path / "classes")):
            return ""
        return f"{bundle.path} may not be written by whoever started this page; zsl-demo --try works on a copy of it"

    def _added_names(self) -> frozenset[str]:
        """Classes that were added on site; read again where the generation is another one."""
        number = self.classifier.generation
        if self._added[0] != number:
            self._added = number, added_names(self.classifier.bundle)
        return self._added[1]

    def row(self, name: str) -> list[float]:
        """The attributes (A,) of a class; UsageError E-CLASS-UNKNOWN."""
        table = self.classifier.class_table
        return [float(value) for value in table.raw[table.index(name)]]

    # --- photographs ------------------------------------------------------------------------------------------------

    def look_at(self, data: bytes) -> dict[str, Any]:
        """Label a photograph, and keep what the head looks at.

        Args:
            data: bytes of a file.

        Returns:
            Its digest, the square that the model sees as the address of a picture, and its labels.

        Raises:
            InputError: E-IMAGE-..., E-ANSWER-VALUE.
            BackendError: E-BACKEND-RUN.

        """
        pixels = np.asarray(self.classifier.read(data))
        digest = digest_of(data)
        x = self.classifier.canonical(pixels[None])
        if not finite(x)[0]:
            raise no_answer("the photograph")
        self.vectors.put(digest, x[0])
        return {"digest": digest, "preview": _preview(pixels), **self.labels([digest])}

    def explain(self, data: bytes, called: str) -> dict[str, Any]:
        """Why a photograph gets its label and not the next one (`zsl_runtime.explaining.Explanation`), in short.

        Args:
            data: bytes of a file.
            called: what messages call it.

        Returns:
            As `Explanation.to_dict`, with the first MOST_SPOKEN attributes, their labels and their maps; `others` is
            the sum of what the others contribute, `count` how many have a say.

        Raises:
            UsageError: E-EXPLAIN, the bundle was exported without what this takes.
            InputError: E-IMAGE-..., E-ANSWER-VALUE.
            BackendError: E-BACKEND-RUN.

        """
        told = self.classifier.explain(data).to_dict()
        labels = {one.name: one for one in self._sliders}
        spoken = [
            {**one, "label": f"{labels[one['attribute']].group}: {labels[one['attribute']].label}".removeprefix(": ")}
            for one in told["spoken"][:MOST_SPOKEN]
        ]
        maps = told["maps"] and {one["attribute"]: told["maps"].get(one["attribute"]) for one in spoken}
        others = sum(one["contribution"] for one in told["spoken"][MOST_SPOKEN:])
        return {**told, "name": called, "spoken": spoken, "others": others, "count": len(told["spoken"]), "maps": maps}

    def labels(self, digests: Sequence[str]) -> dict[str, Any]:
        """Labels of photographs that were looked at; None for those that are not known any more."""
        return _labels(self.classifier.snapshot(), self._vectors(digests), self._added_names())

    def _vectors(self, digests: Sequence[str]) -> dict[str, Floats | None]:
        return {digest: self.vectors.get(digest) for digest in digests}

    def _evidence(self, photographs: Mapping[str, Sequence[str]]) -> dict[str, Evidence]:
        """What photographs say of their classes, as `zsl_runtime.labelling.photographs.gather` sums it up."""
        found = {}
        for name, digests in photographs.items():
            rows = np.stack(self.vectors.all_of(digests)).astype(np.float64)
            found[name] = Evidence(len(rows), rows.sum(axis=0))
        return found

    # --- classes ----------------------------------------------------------------------------------------------------

    def table(self, data: bytes, called: str) -> dict[str, Any]:
        """Read a table of new classes; nothing is added.

        Raises:
            UsageError: as `zsl_runtime.head.class_file.read_class_csv`.

        """
        table = read_class_csv(called, attributes=self.classifier.bundle.attributes, need_split=False, data=data)
        rows = zip(table.names, table.raw.tolist(), strict=True)
        return {"classes": [{"name": name, "values": values} for name, values in rows], "notes": list(table.notes)}

    def rehearse(
        self, table: ClassTable, photographs: Mapping[str, Sequence[str]], digests: Sequence[str]
    ) -> dict[str, Any]:
        """What adding classes would do: whom they would be mixed up with, and labels as they would be.

        Args:
            table: the new classes.
            photographs: of some of them.
            digests: of the photographs on the page.

        Returns:
            Lines about mix-ups, lines of warning, and labels; where the head would have to be fitted, which takes a
            while, the labels are None.

        Raises:
            UsageError: as `add`.

        """
        bundle, old = self.classifier.bundle, self.classifier.snapshot().generation
        check_new(bundle, table, photographs)
        check_absent(table, old.table)
        near: Mapping[str, Sequence[Neighbour | Alike]]
        distances = None
        if bundle.head_rule == "gaussian":
            after = grown(bundle, old, "", table, photographs=self._evidence(photographs), seed=old.seed)
            gaussian = bundle.gaussian()
            expected = neighbours(after, gaussian, range(len(old.table), len(after.table)))
            near, notes = expected, [*_notes(bundle, old.table, table), *confusable(expected).values()]
            distances = Distances(after.head, gaussian)
        else:
            found = similar_classes(bundle, table)
            near, notes = found.neighbours, list(found.notes)
            if bundle.head_rule == "fit":
                return {"said": _said_of(near), "notes": notes, "labels": None}
            after = grown(bundle, old, "", table, photographs={}, seed=old.seed)
        snapshot = Snapshot(after, fold(after.head, after.table.seen), distances)
        added = self._added_names() | set(table.names)
        return {"said": _said_of(near), "notes": notes, **_labels(snapshot, self._vectors(digests), added)}

    def add(self, table: ClassTable, photographs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Add classes, for everybody who uses the bundle.

        Raises:
            UsageError: as `zsl_runtime.add_classes`; E-PAGE-FORGOTTEN, E-PAGE-LOCKED, E-PAGE-CLOSED.

        """
        bundle = self.classifier.bundle
        check_addable(bundle, table, photographs)
        evidence = self._evidence(photographs)
        return self._changed(lambda: [add_classes(bundle, table, photographs=evidence)], "added")

    def teach(self, photographs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Show the bundle photographs of classes that it has.

        Raises:
            UsageError: as `zsl_runtime.teach_classes`; E-PAGE-FORGOTTEN, E-PAGE-LOCKED, E-PAGE-CLOSED.

        """
        bundle = self.classifier.bundle
        check_teachable(bundle)
        check_taught(bundle, photographs)
        evidence = self._evidence(photographs)
        return self._changed(lambda: [teach_classes(bundle, evidence)], "taught")

    def remove(self, names: Sequence[str]) -> dict[str, Any]:
        """Take classes out; errors as of `Classifier.remove`, and E-PAGE-LOCKED, E-PAGE-CLOSED."""
        return self._changed(lambda: [remove_classes(self.classifier.bundle, names)], "removed")

    def undo(self, generation: int, count: int) -> dict[str, Any]:
        """Take changes back.

        Args:
            generation: that the page shows: what it would take back is not asked for where another one is in force.
            count: of changes.

        Raises:
            UsageError: E-PAGE-CHANGED, E-UNDO-NONE, E-UNDO-PRUNED, E-PAGE-LOCKED, E-PAGE-CLOSED.

        """
        bundle = self.classifier.bundle

        def back() -> list[Change]:
            if bundle.pointer()[0] != generation:
                raise UsageError(
                    "E-PAGE-CHANGED",
                    "the classes were changed meanwhile; nothing was undone: look at the changes again",
                )
            known = len(steps(bundle, generation))
            if count > known:
                raise UsageError(
                    "E-UNDO-NONE",
                    f"{count} changes were to be taken back, and {known} can be; nothing was undone: look at the "
                    "changes again",
                )
            return [undo(bundle) for _ in range(count)]

        return self._changed(back, "undone")

    def _changed(self, change: Callable[[], list[Change]], verb: str) -> dict[str, Any]:
        """Make changes when nobody else does, and go on with them; lines that say what happened."""
        closed = self.closed()
        if closed:
            raise UsageError("E-PAGE-CLOSED", closed)
        with self._changing:
            self._wait_for_others()
            try:
                made = change()
            finally:
                self.classifier.reload()  # also where only some of several were made
        said = {name: line for one in made for name, line in zip(one.names, _said(one, verb), strict=True)}
        return {
            "generation": made[-1].generation.number,
            "said": list(said.values()),  # of a class that several undos touch: what the last one made of it
            "notes": [note for one in made for note in one.notes],
        }

    def _wait_for_others(self) -> None:
        """UsageError E-PAGE-LOCKED where another process goes on changing the bundle."""
        bundle, end = self.classifier.bundle, time.monotonic() + PATIENCE
        while True:
            try:
                with exclusive(bundle.path, wait=False):
                    return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise UsageError(
                        "E-PAGE-LOCKED",
                        f"another program is changing {bundle.path}, and goes on for more than {PATIENCE:g} s; nothing "
                        "was changed: try again when it is done",
                    ) from None
                time.sleep(LOOK)


def _notes(bundle: Bundle, old: ClassTable, new: ClassTable) -> list[str]:
    """What `zsl_runtime.add_classes` would note of the attributes and names of new classes."""
    odd = odd_attributes(new, old, training_ranges(bundle, old), bundle.rule)
    return [*new.notes, *doubtful(new.names, old.names), *odd.values(), *twins(new, old, bundle.rule).values()]


def _labels(snapshot: Snapshot, vectors: Mapping[str, Floats | None], added: frozenset[str]) -> dict[str, Any]:
    """The best classes of photographs by what the head looks at, and the generation that says so."""
    found = {
        digest: None if x is None else _label(snapshot, x[None], added)  # by itself: it must not depend on the others
        for digest, x in vectors.items()
    }
    return {"generation": snapshot.generation.number, "labels": found}


def _label(snapshot: Snapshot, x: Floats, added: frozenset[str]) -> dict[str, Any]:
    """The best classes of a photograph (1, D), and how far it is from the nearest."""
    distances = None if snapshot.distances is None else snapshot.distances(x)
    (one,) = snapshot.best(snapshot.head.scores(x), TOPK, distances)
    return {
        "classes": [
            {"name": name, "kind": "added" if name in added else "seen" if seen else "unseen", "probability": chance}
            for name, seen, chance in zip(one.names, one.seen, one.probabilities, strict=True)
        ],
        "distance": one.distance,
        "nearest": None if distances is None else snapshot.table.names[int(distances.nearest[0])],
        "far": one.far,
    }


def _preview(pixels: NDArray[np.generic]) -> str:
    """A square as the address of a picture, which a page shows without asking anybody for it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=PREVIEW_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


# --- words ------------------------------------------------------------------------------------------------------------


def _said(change: Change, verb: str) -> list[str]:
    """A line for each class, as far as there is something to say of it."""
    there = set(change.generation.table.names)
    if verb == "undone":
        return [_back(change, name, there) for name in change.names]
    return [f"{verb} {name}{_shown(change, name)}{_near(change.neighbours.get(name, ()))}" for name in change.names]


def _back(change: Change, name: str, there: set[str]) -> str:
    if name in change.photographs:
        return f"{name}: back to {_photographs(change.photographs[name])}"
    return f"{name}: {'back' if name in there else 'gone'}"


def _shown(change: Change, name: str) -> str:
    return f", {_photographs(change.photographs[name])} in all" if name in change.photographs else ""


def _said_of(near: Mapping[str, Sequence[Neighbour | Alike]]) -> list[str]:
    """Lines about classes that are not there yet; of a single one, a line for each of its neighbours."""
    if len(near) != 1:
        return [f"{name}{_near(found)}" for name, found in near.items()]
    ((name, found),) = near.items()
    return [f"{name}{_near([one])}" for one in found]


def _near(near: Sequence[Neighbour | Alike]) -> str:
    """Which class one will be mixed up with most, for the middle of a line."""
    if not near:
        return ""
    worst = near[0]
    if not isinstance(worst, Neighbour):
        return f": most like {worst.name} by its attributes (cosine {worst.cosine:.2f})"
    return (
        f": most like {worst.name}, {worst.distance:.1f} standard deviations away; expected to lose {worst.lost:.0%} "
        f"of its photographs to it, and to take {worst.taken:.0%} of its"
    )


def _photographs(count: int) -> str:
    return f"{count} photograph" if count == 1 else f"{count} photographs"
