"""A training session: the loop every stage runs in. It logs, checkpoints, resumes, and stops at NaN or divergence.

Checkpoints hold tensors and numbers only and are read back with ``weights_only=True``: they never unpickle code.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, Protocol

import torch

from zsl_runtime.errors import ArtefactError, GateError, from_os_error
from zsl_runtime.machine.storage import replacing
from zsl_runtime.machine.untrusted import check_archive, opened
from zsl_train.devices import current

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from zsl_train.methods.base import Trained

LOG_EVERY = 20  # steps between two lines of log.jsonl
REMEDY = (
    "lower the learning rate of this stage (--set learning_rate...=...) and run again with --force; "
    "at the first step of all, look for wrong attributes or word vectors instead"
)
DIVERGED = 1e8  # a mean loss beyond this cannot come back: every loss here is of order 1 to 10^4


class Stateful(Protocol):
    """Anything that can be saved and loaded: a module, an optimiser, a random generator."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""

    def load_state_dict(self, state: Any, /) -> Any:
        """What state_dict gave."""


class Rng:
    """A seeded torch generator that can be checkpointed: all randomness of a stage comes from it."""

    def __init__(self, seed: int) -> None:
        self.device = current()
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal float32 of that shape."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform in [0, 1) float32 of that shape."""
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def integers(self, high: int, count: int) -> torch.Tensor:
        """`count` int64 in [0, high)."""
        return torch.randint(high, (count,), generator=self.generator, device=self.device)

    def permutation(self, count: int) -> torch.Tensor:
        """A permutation of range(count), int64."""
        return torch.randperm(count, generator=self.generator, device=self.device)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state."""
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where state_dict was taken."""
        self.generator.set_state(state["state"])


class Scalar:
    """A number that is part of a stage's state (an adapted penalty weight); on a card a tensor, which stays there."""

    def __init__(self, value: float) -> None:
        self.value: float | torch.Tensor = value
        if current().type == "cuda":
            self.value = torch.tensor(value)

    def state_dict(self) -> dict[str, Any]:
        """The number."""
        return {"value": float(self.value)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the number back."""
        if isinstance(self.value, torch.Tensor):
            self.value.fill_(state["value"])
        else:
            self.value = float(state["value"])


class Tally:
    """Losses of the steps since the last line of the log, each looked at for divergence.

    On the CPU every step's losses are looked at at once. On a card that would make every step wait for the card, so
    there they are looked at together, when a line is logged or a checkpoint is written.

    Args:
        check: called with a step and its losses; raises where they are not usable.

    """

    def __init__(self, check: Callable[[int, Mapping[str, float]], None]) -> None:
        self.last: dict[str, float] = {}  # losses of the latest step that was looked at
        self._check = check
        self._open: list[tuple[int, tuple[str, ...], torch.Tensor]] = []  # step, names, values; still on the card
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, step: int, losses: Mapping[str, torch.Tensor]) -> None:
        """Take the losses of one step, scalars by name."""
        if not losses:
            return
        values = torch.stack([value.detach().double() for value in losses.values()])
        self._open.append((step, tuple(losses), values))
        if not values.is_cuda:
            self.look()

    def means(self) -> dict[str, float]:
        """Mean of each loss over the steps since the last call."""
        self.look()
        means = {name: round(value / max(self._count, 1), 6) for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def look(self) -> None:
        """Look at the losses of all steps that were not looked at yet."""
        for step, names, values in self._open:
            self.last = dict(zip(names, values.tolist(), strict=True))
            self._check(step, self.last)
            for name, value in self.last.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
        self._open = []


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary sibling of `path`, fsync it, rename it: a reader sees the old file or the new one.

    Raises:
        SystemProblem: E-SYSTEM when the disk is full or may not be written to; nothing is left behind.

    """
    try:
        with replacing(path) as temporary:
            write(temporary)
    except OSError as error:
        raise from_os_error(error, f"write {path.name} in") from error
    except RuntimeError as error:  # torch.save reports a full disk so
        raise from_os_error(OSError(28, f"the writer failed ({error})", str(path)), "write") from error


class Session:
    """Where one training (a fold of the selection, or the final one) keeps its progress.

    Args:
        folder: checkpoint folder of this training; created on demand.
        log: called with a plain dict for every line of log.jsonl.
        name: shown in the log and in progress, such as ``final`` or ``fold 1/3``.
        progress: called with (session, stage, done, total, losses) after every step; several sessions may call at once.
        check: called before every step; may raise to end the training.
        snapshot_at: fractions of the last stage after which `snapshot` is called, in (0, 1]; empty for none.
        snapshot: called with (fraction, trained) at those points.
        stop_at: the share of the last stage that is run, as the selection on validation classes chose it.
        save_seconds: time between two checkpoints inside a stage.
        keep: called with (name, content) of a file that belongs to the run beside its weights.

    Attributes:
        complete: whether stages run to their end. Where they do not, what a network has learned says nothing.

    """

    complete = True

    def __init__(
        self,
        folder: Path,
        log: Callable[[dict[str, Any]], None],
        *,
        name: str = "final",
        progress: Callable[[str, str, int, int, Mapping[str, float]], None] | None = None,
        check: Callable[[], None] = lambda: None,
        snapshot_at: tuple[float, ...] = (),
        snapshot: Callable[[float, Trained], None] | None = None,
        stop_at: float = 1.0,
        save_seconds: float = 20.0,
        keep: Callable[[str, bytes], None] = lambda _name, _content: None,
    ) -> None:
        self.folder = folder
        self.name = name
        self.snapshot_at = snapshot_at
        self.snapshot = snapshot
        self.keep = keep
        self.stop_at = stop_at
        self._log = log
        self._progress = progress
        self._check = check
        self._save_seconds = save_seconds

    def note(self, text: str) -> None:
        """Say something about this training in the log."""
        self._log({"session": self.name, "note": text})

    def loop(
        self,
        stage: str,
        steps: int,
        state: Mapping[str, Stateful],
        body: Callable[[int], Mapping[str, torch.Tensor]],
        trained: Trained | None = None,
    ) -> None:
        """Run `body(step)` for step 0 .. steps-1, resuming from the stage's checkpoint when there is one.

        Args:
            stage: name of the stage, unique in this session.
            steps: number of steps in total.
            state: everything that changes during the stage; all randomness must come from it.
            body: one step; returns its losses, scalars by name.
            trained: given in the last stage only: the modules as they are being trained. The stage then ends at
                `stop_at` and calls `snapshot` on its way.

        Raises:
            GateError: E-DIVERGED when a loss is NaN, infinite or beyond 1e8, or the trained weights are not finite.
            ArtefactError: E-CHECKPOINT when the checkpoint is damaged or belongs to another stage.

        """
        path = self.folder / f"{stage}.pt"
        snapshots: dict[int, list[float]] = {}
        if trained is not None:
            for share in self.snapshot_at:  # in a short stage several shares end at the same step
                snapshots.setdefault(max(1, round(share * steps)), []).append(share)
        whole = steps
        if trained is not None:
            steps = max(1, round(self.stop_at * whole))
        done = self._restore(path, stage, steps, whole, state)
        if done == steps:
            return
        start, saved, began = done, time.monotonic(), time.monotonic()
        tally = Tally(lambda step, losses: self._refuse_divergence(stage, step, losses))
        for step in range(done, steps):
            self._check()
            tally.add(step, body(step))
            count = step + 1
            if trained is not None and self.snapshot is not None and count in snapshots:
                self._refuse_broken_weights(stage, state)
                for share in snapshots[count]:
                    self.snapshot(share, trained)
            logged = count % LOG_EVERY == 0 or count == steps
            means = tally.means() if logged else {}
            if self._progress is not None:
                self._progress(self.name, stage, count, steps, tally.last)
            if logged:
                self._log({"session": self.name, "stage": stage, "step": count, "of": steps, **means})
            if time.monotonic() - saved > self._save_seconds and count < steps:
                tally.look()  # what diverged must not be what an interrupted training goes on from
                self._save(path, count, whole, state)
                saved = time.monotonic()
        self._refuse_broken_weights(stage, state)
        self._save(path, steps, whole, state)
        seconds = round(time.monotonic() - began, 2)
        self._log({"session": self.name, "stage": stage, "steps": steps - start, "seconds": seconds})

    def _restore(self, path: Path, stage: str, steps: int, whole: int, state: Mapping[str, Stateful]) -> int:
        if not os.path.lexists(path):
            return 0
        here, there = current().type, ""
        try:
            with opened(path) as file:
                check_archive(file)
                saved = torch.load(file, map_location="cpu", weights_only=True)
            there = saved.get("device", "cpu")  # older ones are all the CPU's
            if there != here:
                raise RuntimeError(f"it is of a training on {there}, this one is on {here}")  # noqa: TRY301
            if saved["whole"] != whole or saved["step"] > steps or set(saved["state"]) != set(state):
                raise KeyError(stage)  # noqa: TRY301  # one message for every way a checkpoint can be unusable
            for name, part in state.items():
                part.load_state_dict(saved["state"][name])
        except Exception as error:
            first = f"repeat the command with --device {there}, or " if there not in {"", here} else ""
            raise ArtefactError(
                "E-CHECKPOINT",
                f"{path} cannot be resumed ({type(error).__name__}: {error}); "
                f"{first}run zsl-train again with --force to start over",
            ) from error
        return int(saved["step"])

    def _save(self, path: Path, step: int, whole: int, state: Mapping[str, Stateful]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "step": step,
            "whole": whole,
            "device": current().type,  # whose random numbers cannot be gone on with elsewhere
            "state": {name: part.state_dict() for name, part in state.items()},
        }
        write_atomic(path, lambda temporary: torch.save(content, temporary))

    def _refuse_divergence(self, stage: str, step: int, losses: Mapping[str, float]) -> None:
        bad = {k: v for k, v in losses.items() if not abs(v) < DIVERGED}  # NaN compares false
        if bad:
            raise GateError(
                "E-DIVERGED",
                f"{self.name}, stage {stage}, step {step + 1}: {json.dumps({k: str(v) for k, v in bad.items()})} "
                f"is not finite or beyond {DIVERGED:.0e}; {REMEDY}",
            )

    def _refuse_broken_weights(self, stage: str, state: Mapping[str, Stateful]) -> None:
        """Refuse what the last step broke: its own loss was computed before."""
        for name, module in state.items():
            if isinstance(module, torch.nn.Module) and not all(bool(p.isfinite().all()) for p in module.parameters()):
                raise GateError(
                    "E-DIVERGED", f"{self.name}, stage {stage}: {name} has weights that are not finite; {REMEDY}"
                )
