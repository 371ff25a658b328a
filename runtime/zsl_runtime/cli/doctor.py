"""`zsl-doctor`: what this machine can run, and whether a bundle is whole and still answers as it was shipped."""

from __future__ import annotations

import os
import platform
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zsl_runtime.cli.command import Command
from zsl_runtime.cli.finding import BROKEN, NOTE, OK, Finding
from zsl_runtime.errors import ArtefactError, BackendError, UsageError, run_command
from zsl_runtime.extras import install

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.bundle.generation import Generation

FEATURE_TOLERANCE = 1e-3  # of the largest expected feature: other CPUs round other sums
MEANS_TOLERANCE = 1e-3  # of the largest coordinate of a class's mean: likewise
SCORE_TOLERANCE = 1e-3  # log-probability: a top-1 that was closer than this may change
NO_CARDS = Finding(
    OK, "cards, CUDA and TensorRT are left out: there is no NVIDIA card here, nor a driver; --cards speaks of them"
)
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@click.command("zsl-doctor", cls=Command)
@click.argument("bundle", required=False, metavar="[BUNDLE]")
@click.option("--cards", is_flag=True, help="Speak of cards, CUDA and TensorRT even if there is no NVIDIA card here.")
@click.option("--explain", "word", metavar="WORD", help="Only say what a word of the commands' messages means.")
def cli(bundle: str | None, *, cards: bool, word: str | None) -> int:
    """Say what this machine can run, and examine BUNDLE. Exit code 5 when the bundle is broken."""
    if word is not None:
        if bundle is not None or cards:
            raise click.UsageError("--explain only explains a word: leave BUNDLE and --cards out.")
        from zsl_runtime.cli.glossary import explain

        click.echo(explain(word))
        return 0
    from zsl_runtime.machine.cards import has_nvidia

    cards = cards or has_nvidia()
    broken = False
    report = chain(machine(cards=cards), examine(bundle, cards=cards) if bundle is not None else ())
    for finding in chain(report, () if cards else (NO_CARDS,)):
        print(f"{finding.state:<6}  {finding.text}", flush=True)  # noqa: T201  # the report is the result
        broken = broken or finding.state == BROKEN
    return ArtefactError.exit_code if broken else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run zsl-doctor; returns the exit code."""
    return run_command(cli, argv)


def machine(*, cards: bool = True) -> Iterator[Finding]:
    """Python, platform, CPUs, memory, libraries and backends, with the install line for what is missing.

    Args:
        cards: speak of cards, and of what runs on them.

    """
    import numpy as np
    import PIL

    from zsl_runtime.machine.threads import usable_cpus

    yield Finding(OK, f"Python {platform.python_version()} on {platform.platform()}, {platform.machine()}")
    yield Finding(OK, f"{usable_cpus()} CPUs usable of {os.cpu_count()}, {memory_bytes() / 2**30:.1f} GiB of memory")
    yield Finding(OK, f"Pillow {PIL.__version__}, NumPy {np.__version__}")
    yield _core(cards=cards)
    if cards:
        from zsl_runtime.cli import doctor_cards

        yield from doctor_cards.cards()
        yield from doctor_cards.libraries()
    yield from _backends(cards=cards)


def memory_bytes(limits: Sequence[str] = CGROUP_LIMITS) -> int:
    """Memory of the machine, or of this container where a cgroup file in `limits` says less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        try:
            found.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such cgroup version here, or "max"
            continue
    return min(found)


def examine(path: str, *, cards: bool = True) -> Iterator[Finding]:
    """Everything that can be wrong with a bundle, one finding after the other.

    Args:
        path: of the bundle.
        cards: speak of what runs on cards.

    Raises:
        UsageError: E-BUNDLE-PATH when nothing is there.
        BackendError: a whole bundle cannot be run here.

    """
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.cli.doctor_cards import damaged_engines, engines

    try:
        bundle = Bundle.open(path, verify=False)
        current = bundle.current()
    except ArtefactError as error:
        yield Finding(BROKEN, str(error))
        return
    seen = int(current.table.seen.sum())
    yield Finding(OK, f"{bundle.path}: method {bundle.manifest['method']}, exported {bundle.manifest['created']}")
    yield Finding(
        OK,
        f"{len(current.table)} classes, {seen} seen and {len(current.table) - seen} unseen; this state of them is "
        f"generation {current.number}",
    )
    yield Finding(OK, _takes(bundle))
    yield _precisions(bundle, cards=cards)
    yield from engines(bundle) if cards else damaged_engines(bundle)
    files = list(_files(bundle))
    yield from files
    first, generations = _generations(bundle, current)
    yield from generations
    yield from _leftovers(bundle)
    if all(finding.state != BROKEN for finding in files):  # a graph that was changed is not loaded
        yield from _means(bundle, current)
        yield from _probe(bundle, first)


def _takes(bundle: Bundle) -> str:
    """What the model labels."""
    given, made_by = bundle.manifest["input"], bundle.manifest["backbone"]
    shape = ", ".join(str(axis) for axis in given["shape"])
    if given["name"] == "images":
        return f"takes pictures, prepared as ({shape}), through {made_by.get('name')}"
    file = made_by.get("file")
    like = f", features as in {file} (sha256 {str(made_by.get('sha256'))[:12]})" if file else ""
    return f"takes rows of features ({shape}){like}, and no pictures"


def _core(*, cards: bool) -> Finding:
    from importlib.util import find_spec

    if find_spec("zsl_runtime._native") is None:
        return Finding(NOTE, "the compiled core is missing, so pictures cannot be read: pip install zsl-deploy")
    from zsl_runtime.machine.native import load_native

    native = load_native()
    if not cards:
        return Finding(OK, "compiled core present")
    kernels = "with" if native.has_cuda_kernels() else "without (built where nvcc was not found)"
    return Finding(OK, f"compiled core present, {kernels} kernels for a card")


def _backends(*, cards: bool) -> Iterator[Finding]:
    """Each backend with its library and what it runs, or the line that installs it; of the CPU's alone one for all."""
    from zsl_runtime.backends.opening import open_graphs
    from zsl_runtime.backends.table import BACKENDS, ORT_PACKAGES, installed_of, version_of
    from zsl_runtime.cli.doctor_cards import on_card

    absent: dict[str, list[str]] = {}  # by what installs them
    both = [found for package in ORT_PACKAGES if (found := version_of([package]))]
    if len(both) == 2:
        yield Finding(NOTE, f"{' and '.join(both)} overwrite each other's files: uninstall both, then install one")
    for name, kind in BACKENDS.items():
        if kind.device == "cuda":
            if cards:
                yield on_card(name)
            continue
        if not cards and not installed_of([name]):
            absent.setdefault(kind.extra, []).append(name)
            continue
        try:
            able = []
            for precision in kind.precisions:
                try:
                    library = open_graphs(name, {}, 1, precision).library
                    able.append(precision)
                except BackendError as error:
                    if error.code != "E-PRECISION-CPU":
                        raise
            yield Finding(OK, f"backend {name} on the CPU, by {library}: {', '.join(able)}")
        except BackendError as error:
            yield Finding(NOTE, f"no backend {name}: {error.message}")
    if absent:
        told = (f"{' and '.join(names)} ({install(extra)})" for extra, names in absent.items())
        yield Finding(NOTE, f"backends that are not installed here: {', '.join(told)}")


def _precisions(bundle: Bundle, *, cards: bool) -> Finding:
    """What the model can be run in, and what `auto` stands for and why."""
    from zsl_runtime.backends.auto import ROWS, remembered
    from zsl_runtime.backends.opening import candidates_for
    from zsl_runtime.graphs.precisions import held_precisions

    held, default = held_precisions(bundle), bundle.default_precision
    try:
        candidates, passed_over = candidates_for(bundle, "auto" if cards else "cpu", default)
    except UsageError:
        return Finding(NOTE, f"holds no {default} model for a CPU ({', '.join(bundle.precisions)})")
    text = f"holds {', '.join(held)}, and runs {default} by default"
    over = "".join(f"; {name} cannot be: {why}" for name, why in passed_over.items())
    if len(candidates) < 2:
        return Finding(OK, f"{text}; auto is {candidates[0]}, the only one that can be used{over}")
    choice = remembered(bundle, candidates, precision=default)
    if choice is None:
        names = f"{', '.join(candidates[:-1])} and {candidates[-1]}"
        return Finding(OK, f"{text}; auto will be the fastest one of {names}, measured at first use{over}")
    times = [f"{name} {1000 * seconds:.0f} ms" for name, seconds in choice.seconds.items()]
    others = [f"{name} left out: {why}" for name, why in choice.left_out.items()]
    return Finding(
        OK if not others else NOTE,
        f"{text}; auto is {choice.chosen} ({', '.join([*times, *others])}; {ROWS} inputs a batch), "
        f"remembered in {choice.path}{over}",
    )


def _files(bundle: Bundle) -> Iterator[Finding]:
    """Hash of every file that the manifest lists, and what heads are made from."""
    names = bundle.manifest["files"]
    intact = 0
    for name in names:
        try:
            bundle.verify_file(name)
            intact += 1
        except ArtefactError as error:
            yield Finding(BROKEN, str(error))
    yield Finding(OK if intact == len(names) else NOTE, f"{intact} of {len(names)} files are as exported")
    if bundle.head_rule == "rows":
        yield Finding(OK, "head: rows are computed from attributes; no features of training pictures are kept")
    elif bundle.head_rule == "fit" and intact == len(names):
        try:
            replay = bundle.replay()
        except ArtefactError as error:
            yield Finding(BROKEN, str(error))
            return
        yield Finding(
            OK, f"head: fitted; {len(replay.features)} features of {len(replay.names)} seen classes are kept (replay)"
        )


def _means(bundle: Bundle, current: Generation) -> Iterator[Finding]:
    """By the rule `gaussian`: whether the statistics can be read, and whether means and rows follow from them."""
    import numpy as np

    from zsl_runtime.classes.changes import priors

    means = current.means
    if means is None:
        return
    try:
        gaussian = bundle.gaussian()
        weight, bias = gaussian.rows(means)
        found = priors(bundle, current.table)
    except ArtefactError as error:
        yield Finding(BROKEN, str(error))
        return
    except BackendError as error:
        yield Finding(NOTE, f"head: means of classes not worked out, {error.message}")
        return
    taught = int(np.count_nonzero(means.counts))
    text = f"head: every class is a mean, {taught} of {len(means)} with photographs; {len(gaussian.scale)} coordinates"
    head = current.head
    rows = np.allclose(head.weights[0], weight, rtol=MEANS_TOLERANCE, atol=MEANS_TOLERANCE * np.abs(weight).max())
    rows = rows and np.allclose(head.biases[0], bias, rtol=MEANS_TOLERANCE, atol=MEANS_TOLERANCE * np.abs(bias).max())
    if not rows:
        yield Finding(BROKEN, f"{text}; the rows of the head do not follow from them: export the model again")
        return
    off = float(np.abs(found - means.prior).max()) / (float(np.abs(means.prior).max()) or 1.0)
    yield Finding(
        OK if off <= MEANS_TOLERANCE else BROKEN,
        f"{text}; worked out again from attributes they differ by {off:.1e} of their scale",
    )


def _generations(bundle: Bundle, current: Generation) -> tuple[Generation | None, list[Finding]]:
    """Generation 1, when it is there and whole, and what is to be said about all generation files."""
    hashes = {entry.get("number"): entry.get("sha256") for entry in bundle.history()[0]}
    first = current if current.number == 1 else None
    back, unchecked, findings = current, [], []  # `back`: how far undo can go
    steps = 0
    older = [number for number in bundle.generation_numbers() if number < current.number]
    for number in reversed(older):
        digest = back.parent_sha256 if number == back.parent else hashes.get(number)
        if not isinstance(digest, str):
            unchecked.append(number)
            continue
        try:
            generation = bundle.generation(number, digest)
        except ArtefactError as error:
            findings.append(Finding(BROKEN, str(error)))
            continue
        if number == back.parent:
            back, steps = generation, steps + 1
        if number == 1:
            first = generation
    findings.append(
        Finding(OK, f"states of the classes kept: {len(older) + 1}; changes that undo can take back: {steps}")
    )
    if unchecked:
        listed = ", ".join(map(str, sorted(unchecked)))
        findings.append(
            Finding(NOTE, f"generations {listed} cannot be checked: history.jsonl does not know their hash")
        )
    return first, findings


def _leftovers(bundle: Bundle) -> Iterator[Finding]:
    from zsl_runtime.bundle.writing import export_leftovers

    for path in (*bundle.leftovers(), *export_leftovers(bundle.path.resolve())):
        yield Finding(
            NOTE,
            f"{path} is of a writer at work, a killed one or an older version; the next change or export removes it",
        )
    broken = bundle.history()[1]
    if broken:
        yield Finding(
            NOTE, f"history.jsonl cannot be read in line {', '.join(map(str, broken))}; nothing depends on it"
        )


def _probe(bundle: Bundle, first: Generation | None) -> Iterator[Finding]:
    """Run the probe and compare with what the exported model gave."""
    import numpy as np

    from zsl_runtime.backends.opening import open_backend
    from zsl_runtime.backends.table import fast
    from zsl_runtime.graphs.precisions import held_precisions
    from zsl_runtime.head.head import fold

    try:
        probe = bundle.probe()
    except ArtefactError as error:
        yield Finding(BROKEN, str(error))
        return
    inputs = probe.pixels if probe.pixels is not None else probe.inputs
    kind = "pictures" if bundle.manifest["pixels"] is not None else "rows"
    if inputs is None:
        yield Finding(NOTE, f"probe: no {kind} were kept at export, so the model's answers cannot be checked")
        return
    if "fp32" not in held_precisions(bundle):
        yield Finding(NOTE, "probe: its answers are those of fp32, which the bundle does not hold")
        return
    try:
        backend = open_backend(fast("fp32")[0], bundle, precision="fp32")
    except BackendError as error:
        yield Finding(NOTE, f"probe: not run, {error.message}")
        return
    features = backend.features(inputs)
    scale = float(np.abs(probe.features).max()) or 1.0
    fits = features.shape == probe.features.shape
    off = float(np.abs(features - probe.features).max()) / scale if fits else float("inf")
    state = OK if off <= FEATURE_TOLERANCE else BROKEN
    yield Finding(
        state, f"probe: {len(inputs)} {kind} with recorded answers, features differ by {off:.1e} of their scale"
    )
    if first is None:
        yield Finding(NOTE, "probe: the exported generation is gone or unchecked, so top-1 answers are not compared")
        return
    scores, _ = backend.run(inputs, fold(first.head, first.table.seen))
    backend.close()
    rows = np.arange(len(inputs))
    top = scores.argmax(axis=1)
    same = (top == probe.top1) | (probe.scores.max(axis=1) - probe.scores[rows, top] <= SCORE_TOLERANCE)
    yield Finding(OK if same.all() else BROKEN, f"probe: {int(same.sum())} of {len(same)} top-1 answers are as shipped")
