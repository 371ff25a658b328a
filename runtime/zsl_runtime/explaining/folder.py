"""The folder of `zsl-infer --explain`: a sheet for each picture, and one page for all.

Every file is whole or absent. A sheet is there before its picture's answer is written; the page comes at the end, also
of a run that was stopped.
"""

from __future__ import annotations

import os
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zsl_runtime.errors import SystemProblem, UsageError, from_os_error
from zsl_runtime.explaining.page import MOST_PICTURES, About, article, whole_page
from zsl_runtime.explaining.sheet import sheet_bytes
from zsl_runtime.machine.storage import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.explaining.explanation import Explanation

PAGE, SHEETS = "index.html", "sheets"
LONGEST = 60  # letters of a sheet's name that come from the picture's


class Told(NamedTuple):
    """What is told of one picture.

    Attributes:
        explanation: of it.
        picture: as the model saw it, uint8 (P, P, 3); None for a row of features.
        note: what else there is to know; '' for nothing.

    """

    explanation: Explanation
    picture: NDArray[np.uint8] | None
    note: str = ""


class SheetFolder:
    """Writes sheets, and the page behind them.

    Use it in a `with` block: where that ends before `finish`, the page is written of what is there; a folder without
    sheets is removed.

    Args:
        path: of a folder that is made, or is there and empty.
        threads: that draw.

    Attributes:
        about: what the page says of itself, once that is known.
        count: pictures that have a sheet.
        unread: pictures that could not be read.

    Raises:
        UsageError: E-EXPLAIN-FOLDER when it is no folder, or holds something.
        SystemProblem: it cannot be made or written to.

    """

    def __init__(self, path: str, threads: int = 1) -> None:
        self.path = Path(path)
        self._threads = threads
        self._articles: list[str] = []
        self._entries: list[tuple[str, str]] = []
        self._finished = False
        self._made = not self.path.exists()
        self.about = About("", 0, (0, 0))
        self.count = self.unread = 0
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            empty = not any(self.path.iterdir())
            if empty:
                (self.path / SHEETS).mkdir()  # of two that begin at once, one is first
        except (FileExistsError, NotADirectoryError):
            empty = False
        except OSError as error:
            raise from_os_error(error, "make the folder of --explain") from error
        if not empty:
            raise UsageError(
                "E-EXPLAIN-FOLDER", f"{path!r} holds something, which is not replaced; give an empty or a new folder"
            )

    def add(self, told: Sequence[Told]) -> None:
        """Write the sheets of some pictures; SystemProblem when the system said no."""
        first = self.count + 1
        names = [sheet_name(place, one.explanation.name) for place, one in enumerate(told, first)]
        with ThreadPoolExecutor(max(1, min(self._threads, len(told))), thread_name_prefix="zsl-sheet") as pool:
            drawn = [pool.submit(sheet_bytes, *one) for one in told]
            for name, one, sheet in zip(names, told, drawn, strict=True):
                try:
                    write_whole(self.path / SHEETS / name, sheet.result())
                except OSError as error:
                    raise from_os_error(error, "write a sheet") from error
                self.count += 1
                if len(self._articles) < MOST_PICTURES:
                    self._articles.append(article(*one[:2], self.count, f"{SHEETS}/{name}", one.note))
                    self._entries.append((one.explanation.name, one.explanation.answer))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.count == 0:
            with suppress(OSError):
                (self.path / SHEETS).rmdir()
                if self._made:
                    self.path.rmdir()
        elif not self._finished:
            with suppress(SystemProblem):  # what ended it is the one to tell
                self.finish(stopped=True)

    @property
    def page(self) -> Path:
        """Where the page lies."""
        return self.path / PAGE

    def finish(self, *, stopped: bool = False) -> None:
        """Write the page; SystemProblem when the system said no.

        Args:
            stopped: before all pictures had their turn.

        """
        about = self.about._replace(explained=self.count, unread=self.unread, stopped=stopped)
        page = whole_page(about, self._articles, self._entries)
        try:
            write_whole(self.page, page.encode("utf-8"))
        except OSError as error:
            raise from_os_error(error, "write the page") from error
        self._finished = True


def sheet_name(place: int, name: str) -> str:
    """What the sheet of a picture is called: its number, so that no two are the same, and its folder and name."""
    parts = re.split(r"[/\\]", os.path.splitext(name)[0])  # noqa: PTH122  # no path of this system, perhaps
    stem = "-".join(parts[-2:])
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-")[:LONGEST].strip("-")
    return f"{place:06d}{'-' + words if words else ''}.png"
