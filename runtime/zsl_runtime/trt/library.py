"""The two libraries that build and run TensorRT engines. They have one API, so the rest of the package has one path.

`tensorrt` is the full library: it builds on the card that will run the engine. `tensorrt-rtx` builds for named compute
capabilities without a card, and runs on GeForce and RTX cards. Where they differ, callers ask the module what it has.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from zsl_runtime.errors import BackendError, UsageError
from zsl_runtime.extras import install, reason

CHOICES = ("auto", "tensorrt", "rtx")
KEPT_LINES = 5  # of the library's own errors, in ours


class _Known(NamedTuple):
    """What is known of a library before it is imported.

    Attributes:
        flavour: its name in facts and messages.
        choice: its name on the command line.
        modules: import names. The first is that of a package without content of its own, which closed networks may not
            have; the second is that of the binding, which does everything.
        versions: major versions whose API we call.
        install: the command that installs it.

    """

    flavour: str
    choice: str
    modules: tuple[str, ...]
    versions: tuple[int, ...]
    install: str


KNOWN = (
    _Known("tensorrt", "tensorrt", ("tensorrt", "tensorrt_bindings"), (10, 11), install("tensorrt")),
    _Known("tensorrt-rtx", "rtx", ("tensorrt_rtx", "tensorrt_rtx_bindings"), (1,), install("rtx")),
)


@dataclass(frozen=True)
class Library:
    """One imported TensorRT library.

    Attributes:
        flavour: `tensorrt` or `tensorrt-rtx`.
        version: as its module says, such as 11.4.0.106.
        module: the Python module.

    """

    flavour: str
    version: str
    module: Any

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"

    @property
    def choice(self) -> str:
        """What stands for it after `--trt`."""
        return next(known.choice for known in KNOWN if known.flavour == self.flavour)

    @property
    def names_capabilities(self) -> bool:
        """Whether an engine can be built for named compute capabilities; else it is for the card it is built on."""
        return hasattr(self.module, "ComputeCapability")


class Installed(NamedTuple):
    """Whether a library can be used here; one of `version` and `reason` is None.

    Attributes:
        name: `tensorrt` or `tensorrt-rtx`.
        version: of the module that was imported.
        reason: why it cannot be used, in a few words.
        install: the command that installs it.

    """

    name: str
    version: str | None
    reason: str | None
    install: str


def find_library(choice: str = "auto") -> Library:
    """Import a TensorRT library.

    Args:
        choice: `tensorrt`, `rtx`, or `auto`: the full library where it can be imported, else TensorRT-RTX.

    Raises:
        UsageError: E-TRT-NAME for another choice.
        BackendError: E-BACKEND-MISSING, with the line that installs it.

    """
    if choice not in CHOICES:
        raise UsageError("E-TRT-NAME", f"there is no TensorRT library {choice!r}; choose {', '.join(CHOICES)}")
    reasons = []
    for known in KNOWN:
        if choice in {"auto", known.choice}:
            found = _import(known)
            if isinstance(found, Library):
                return found
            reasons.append(f"{known.flavour}: {found}; {known.install}")
    raise BackendError("E-BACKEND-MISSING", f"no TensorRT library can be used here: {'; or '.join(reasons)}")


def installed() -> list[Installed]:
    """What there is of each library, in the order of `auto`; this imports them."""
    states = []
    for known in KNOWN:
        found = _import(known)
        usable = isinstance(found, Library)
        states.append(
            Installed(
                known.flavour,
                found.version if isinstance(found, Library) else None,
                None if usable else str(found),
                known.install,
            )
        )
    return states


def _import(known: _Known) -> Library | str:
    """The library, or why there is none."""
    why = "not installed here"
    for name in known.modules:
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                why = f"{name} needs {error.name}, which is not installed here"
            continue
        except Exception as error:  # a shared library of it is missing, or of another version; or it is damaged
            why = f"{name} is installed here but cannot be imported ({reason(error)})"
            continue
        version = str(getattr(module, "__version__", ""))
        if not hasattr(module, "Runtime"):  # a folder of that name, not the library
            why = f"{name} is not the library"
        elif _major(version) not in known.versions:
            wanted = " or ".join(f"{major}.x" for major in known.versions)
            why = f"{name} is version {version or 'unknown'}, expected {wanted}"
        else:
            return Library(known.flavour, version, module)
    return why


def _major(version: str) -> int:
    first = version.partition(".")[0]
    return int(first) if first.isascii() and first.isdigit() else -1


class Messages:
    """The library's own log: it tells there why it failed, and returns None.

    Args:
        library: whose ILogger is made.

    Attributes:
        logger: to be given to its Builder, OnnxParser or Runtime. It must live as long as they do.
        errors: the last lines of errors, oldest first.

    """

    def __init__(self, library: Library) -> None:
        self.errors: deque[str] = deque(maxlen=KEPT_LINES)
        self.warnings: deque[str] = deque(maxlen=KEPT_LINES)
        base: Any = library.module.ILogger
        errors, warnings = self.errors, self.warnings
        severe = (base.Severity.INTERNAL_ERROR, base.Severity.ERROR)

        class Logger(base):  # type: ignore[misc]  # known when the library is
            """Keeps errors and warnings, and prints nothing."""

            def __init__(self) -> None:
                base.__init__(self)  # the binding does not take super()

            def log(self, severity: Any, message: str) -> None:
                """Called by the library, from any thread."""
                if severity in severe:
                    errors.append(" ".join(message.split()))
                elif severity == base.Severity.WARNING:
                    warnings.append(" ".join(message.split()))

        self.logger: Any = Logger()

    def text(self) -> str:
        """The last errors in one line, or that there were none."""
        return "; ".join(self.errors) or "it gave no reason"

    def clear(self) -> None:
        """Forget what was said so far."""
        self.errors.clear()
        self.warnings.clear()
