"""`zsl-infer --format label-studio`: tasks with pre-annotations, and the labelling configuration that fits them.

A task has the picture's URL, and the best class as its one prediction, which Label Studio shows as chosen: whoever
agrees submits it. What else was asked for with --topk is text beside the picture, for several predictions of one model
would be several answers to page through. (Label Studio: guide/predictions, guide/tasks, tags/choices, tags/filter.)
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from zsl_runtime.inputs.item import SHARD_SUFFIXES, has_suffix, in_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zsl_runtime.labelling.made import Origin

CHOICE, IMAGE = "choice", "image"  # what the tags of the configuration are called


class LabelStudioMaker:
    """Writes answers as one JSON array of tasks; pictures that could not be read, or shown, are none.

    Args:
        stream: written to.
        origin: is the version of the model.
        prefix: of URLs, before the path of a picture.
        root: paths are relative to this folder.
        tell: takes a line for the user: what was left out.

    """

    def __init__(
        self,
        stream: IO[bytes],
        origin: Origin,
        *,
        prefix: str,
        root: str,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._stream = stream
        self._version = f"{origin.bundle} {origin.sha256[:12]} generation {origin.generation}".strip()
        self._prefix, self._root, self._tell = prefix, root, tell
        self._before = "[\n"
        self._archived = self._outside = 0

    def add(self, answers: Sequence[dict[str, Any]]) -> None:
        """Take some answers."""
        for answer in answers:
            if "error" in answer:
                continue
            if in_archive(answer["path"]):
                self._archived += 1
                continue
            url = url_of(answer["path"], self._prefix, self._root)
            if url is None:
                self._outside += 1
                continue
            text = json.dumps(self._task(answer, url), ensure_ascii=False)
            self._stream.write((self._before + text).encode("utf-8", "backslashreplace"))
            self._before = ",\n"

    def finish(self) -> None:
        """End the array, and tell what is not in it."""
        self._stream.write(b"[]\n" if self._before == "[\n" else b"\n]\n")
        if self._archived:
            self._tell(f"no tasks for {self._archived} pictures in zip or tar files: extract them, and label the files")
        if self._outside:
            self._tell(f"no tasks for {self._outside} pictures that do not lie in {self._root!r}")

    def _task(self, answer: dict[str, Any], url: str) -> dict[str, Any]:
        path, predictions = answer["path"], answer["predictions"]
        said = ", ".join(f"{one['class']} {one['probability']:.2f}" for one in predictions)
        if answer.get("far"):
            said += f" (unlike anything known: {answer['distance']:.1f} standard deviations from the nearest class)"
        data = {"image": url, "path": path, "candidates": said}
        return {"data": data, "predictions": [self._prediction(path, predictions[0])] if predictions else []}

    def _prediction(self, path: str, best: dict[str, Any]) -> dict[str, Any]:
        identity = hashlib.sha256(os.fsencode(path)).hexdigest()[:10]  # all results of a file must have different ones
        result = {"id": identity, "type": "choices", "from_name": CHOICE, "to_name": IMAGE}
        return {
            "model_version": self._version,
            "score": best["probability"],
            "result": [{**result, "value": {"choices": [best["class"]]}}],
        }


def url_of(path: str, prefix: str, root: str) -> str | None:
    """The URL by which a browser gets a picture: what lies in a store under its own, which Label Studio may resolve.

    Args:
        path: of the picture, as it was given.
        prefix: before the path.
        root: the folder that this is relative to. Links count as they are called, and else by where they lead.

    Returns:
        None for a picture that does not lie in `root`.

    """
    if in_store(path):
        return path
    for whole in (os.path.abspath, os.path.realpath):
        relative = os.path.relpath(whole(path), whole(root))
        if relative.split(os.sep, 1)[0] != os.pardir:
            return prefix + quote(os.fsencode(relative.replace(os.sep, "/")))
    return None


def in_archive(path: str) -> bool:
    """Whether a picture is a member of a zip or tar file."""
    folder = os.path.dirname(path)  # noqa: PTH120
    while folder and folder != os.path.dirname(folder):  # noqa: PTH120
        if has_suffix(folder, SHARD_SUFFIXES) and not os.path.isdir(folder):  # noqa: PTH112
            return True
        folder = os.path.dirname(folder)  # noqa: PTH120
    return False


def configuration(names: Sequence[str]) -> str:
    """The labelling configuration (XML): the picture, and beside it what the model holds likely and all classes."""
    choices = "\n".join(f"      <Choice value={quoteattr(name)}/>" for name in names)
    return f"""<View style="display: flex; gap: 1em; align-items: flex-start">
  <View style="flex: 2 1 0">
    <Image name="{IMAGE}" value="$image" zoom="true"/>
  </View>
  <View style="flex: 1 1 0; max-height: 80vh; overflow-y: auto">
    <Text name="candidates" value="$candidates"/>
    <Filter name="filter" toName="{CHOICE}" minlength="0" placeholder="Type to find a class"/>
    <Choices name="{CHOICE}" toName="{IMAGE}" choice="single-radio" required="true">
{choices}
    </Choices>
  </View>
</View>
"""
