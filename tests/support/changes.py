"""Changes of a bundle that the fault suite disturbs, and a place where copies of one bundle are changed, each anew."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from support.faults import Ended, Nursery, Plan
from support.tiny_bundle import ATTRIBUTES, SEEN, class_table, draw_pictures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHANGE = {
    "add": ("add", "--attributes", "{folder}/jay.csv"),
    "add with photographs": ("add", "--attributes", "{folder}/jay.csv", "--photos", "{folder}/of_jays"),
    "teach": ("teach", "--photos", "{folder}/of_tits"),
    "remove": ("remove", "wren"),
    "undo": ("undo",),
    "refit": ("refit",),
    "prune": ("prune", "--keep", "1"),
}
IMPORTS = "import onnxruntime, PIL.Image, zsl_runtime.classes.changes, zsl_runtime.labelling.classifier"


def words_of(change: str, bundle: Path, folder: Path) -> list[str]:
    """The arguments of zsl-classes; what they name lies in `folder`."""
    verb, *rest = (word.format(folder=folder) for word in CHANGE[change])
    return [verb, "--engine", str(bundle), *rest]


def write_jay(folder: Path) -> Path:
    """`jay.csv`, the class that is added."""
    path = folder / "jay.csv"
    path.write_text(f"{','.join(('name', *ATTRIBUTES))}\njay,1,1,0,3,1,1\n", encoding="utf-8")
    return path


def draw_photographs(folder: Path, column: int) -> None:
    """Three of one class, 0.png to 2.png."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(draw_pictures(class_table(), np.full(3, column), seed=4)):
        Image.fromarray(picture).save(folder / f"{number}.png")


def change_twice(nursery: Nursery, bundle: Path) -> None:
    """So that there is something to undo and to prune."""
    for name in ("gull", "crow"):
        ended = nursery.run("zsl-classes", "remove", "--engine", bundle, name)
        assert ended.code == 0, ended.err


class Place(NamedTuple):
    """Where changes are tried.

    Attributes:
        nursery: which runs the commands.
        folder: with the class file, of_jays/ and of_tits/ with a folder of photographs each.
        start: a bundle with two changes behind it.
        bundle: where its copies go.

    """

    nursery: Nursery
    folder: Path
    start: Path
    bundle: Path

    def change(self, name: str, plan: Plan | None = None) -> Ended:
        """Make a change, by the plan."""
        return self.nursery.run("zsl-classes", *words_of(name, self.bundle, self.folder), plan=plan)

    def clean(self) -> None:
        """Be the next writer, which removes what one before it left; there is no generation that is too old."""
        ended = self.nursery.run("zsl-classes", "prune", "--engine", self.bundle, "--keep", 9)
        assert ended.code == 0, ended.err

    def again(self) -> None:
        """A fresh copy."""
        shutil.rmtree(self.bundle, ignore_errors=True)
        shutil.copytree(self.start, self.bundle)


@contextmanager
def open_place(folder: Path, bundle: Path, *commands: str) -> Iterator[Place]:
    """A place with copies of this bundle, and with these commands besides zsl-classes."""
    write_jay(folder)
    draw_photographs(folder / "of_jays" / "jay", 2)
    draw_photographs(folder / "of_tits" / SEEN[1], 1)
    with Nursery(folder / "nursery", ["zsl-classes", *commands], IMPORTS) as nursery:
        start = shutil.copytree(bundle, folder / "start")
        change_twice(nursery, start)
        made = Place(nursery, folder, start, folder / "bundle")
        made.again()
        yield made
