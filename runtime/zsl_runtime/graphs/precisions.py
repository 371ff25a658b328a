"""In which precisions a model can run, and which file of a bundle each is run from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsl_runtime.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from zsl_runtime.bundle.bundle import Bundle


PRECISIONS = ("fp32", "fp16", "bf16", "int8")
FILES = {"fp32": "fp32", "fp16": "fp16", "bf16": "fp32", "int8": "int8-cpu"}  # precision -> key of Bundle.precisions
# Precision of the model graph -> key of Bundle.precisions. The graphs of the other parts are float32 alone.
TENSORRT_FILES = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-trt"}


def file_key(name: str, precision: str) -> str:
    """Key of Bundle.precisions for the file that the backend `name` runs `precision` from; '' for none."""
    if name == "tensorrt":
        return TENSORRT_FILES.get(precision, "")
    return FILES.get(precision, "")


def model_file(bundle: Bundle, precision: str) -> Path:
    """The file that the model graph runs from in `precision`; UsageError E-PRECISION-NAME, E-PRECISION."""
    if precision not in PRECISIONS:
        raise no_precision(precision)
    path = bundle.model_graph(FILES[precision])
    if path is None:
        held = held_precisions(bundle)
        needed = FILES[precision].partition("-")[0]
        raise UsageError(
            "E-PRECISION",
            f"{bundle.path} holds {', '.join(held) or 'no precision for a CPU'} and no {needed}"
            f"{f', which {precision} is run from' if needed != precision else ''}; take one of those, or export it: "
            f"zsl-export RUN --precision {','.join([*held, needed])} --out {bundle.path} --force",
        )
    return path


def no_precision(name: str) -> UsageError:
    """What is said of a word that is no precision."""
    return UsageError("E-PRECISION-NAME", f"there is no precision {name!r}; choose {', '.join(PRECISIONS)}")


def held_precisions(bundle: Bundle) -> list[str]:
    """The precisions whose files the bundle holds for a CPU, its default first; bf16, which is no file, is left out."""
    held = [precision for precision in PRECISIONS if precision != "bf16" and FILES[precision] in bundle.precisions]
    return sorted(held, key=lambda precision: precision != bundle.default_precision)
