"""The ways to run the graphs of a bundle, by name, and which of them can be used. Imports none of their libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zsl_runtime.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Kind(NamedTuple):
    """What is known of a backend before its library is imported.

    Attributes:
        module: where it is.
        packages: any of these distributions brings its library.
        extra: of zsl-deploy that installs it.
        precisions: of the model graph that it runs.
        fast: `auto` may choose it.
        device: `cpu` or `cuda`: where the model graph runs. The module of a backend of the CPU has `open_graphs(graphs,
            threads, precision)`, that of a card `open_on_card(bundle, threads, precision, card)` and `check(bundle,
            precision, card)`, which raises what stands against it and loads nothing onto the card.
        library: its import name, where it is the only thing that the backend needs.

    """

    module: str
    packages: tuple[str, ...]
    extra: str
    precisions: tuple[str, ...]
    fast: bool
    device: str = "cpu"
    library: str = ""


ORT_PACKAGES = ("onnxruntime", "onnxruntime-gpu")  # never both: they overwrite each other's files
TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13-bindings", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings")
# In the order in which they are preferred where nothing was measured.
BACKENDS = {
    "tensorrt": Kind(
        "zsl_runtime.backends.tensorrt",
        TENSORRT_PACKAGES,
        "tensorrt",
        ("fp32", "fp16", "int8"),
        fast=True,
        device="cuda",
    ),
    "ort-cuda": Kind(
        "zsl_runtime.backends.ort_cuda", ("onnxruntime-gpu",), "gpu", ("fp32", "fp16"), fast=True, device="cuda"
    ),
    "ort": Kind(
        "zsl_runtime.backends.ort", ORT_PACKAGES, "cpu", ("fp32", "fp16", "int8"), fast=True, library="onnxruntime"
    ),
    "openvino": Kind(
        "zsl_runtime.backends.openvino",
        ("openvino",),
        "openvino",
        ("fp32", "fp16", "bf16", "int8"),
        fast=True,
        library="openvino",
    ),
    "reference": Kind(
        "zsl_runtime.backends.reference",
        ORT_PACKAGES,
        "cpu",
        ("fp32", "fp16", "int8"),
        fast=False,
        library="onnxruntime",
    ),
}


def check_precision(name: str, precision: str) -> None:
    """BackendError E-PRECISION-BACKEND unless the backend `name` runs `precision`."""
    if precision not in BACKENDS[name].precisions:
        others = [other for other, kind in BACKENDS.items() if precision in kind.precisions]
        raise BackendError(
            "E-PRECISION-BACKEND",
            f"backend {name} does not run {precision} (but {', '.join(BACKENDS[name].precisions)}); "
            f"use --backend {' or '.join(others)}, or another precision",
        )


def fast(precision: str) -> list[str]:
    """The fast backends of the CPU that run `precision` and are installed, in order; when none is, the first one."""
    able = fast_of(precision, "cpu")
    return installed_of(able) or able[:1]


def fast_of(precision: str, device: str) -> list[str]:
    """The fast backends of this kind of device that run `precision`, in order of preference, installed or not."""
    kinds = BACKENDS.items()
    return [name for name, kind in kinds if kind.fast and kind.device == device and precision in kind.precisions]


def installed_of(names: Iterable[str]) -> list[str]:
    """Those of these backends whose library is installed; it is not imported."""
    return [name for name in names if version_of(BACKENDS[name].packages) or is_found(BACKENDS[name].library)]


def version_of(packages: Iterable[str]) -> str | None:
    """Name and version of the first of these distributions that is installed; nothing of it is imported."""
    from importlib.metadata import PackageNotFoundError, version

    for package in packages:
        try:
            found: str | None = version(package)
        except PackageNotFoundError:
            continue
        except Exception:  # whatever damaged metadata lead to: the package itself may be whole
            found = None
        return f"{package} {found or 'of unknown version'}"
    return None


def is_found(library: str) -> bool:
    """Whether a module is there, though no package manager knows of it: copied, or packed into a program.

    A folder of that name without a module in it is what some uninstalled packages leave.
    """
    from importlib.util import find_spec

    if not library:
        return False
    try:
        spec = find_spec(library)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None
