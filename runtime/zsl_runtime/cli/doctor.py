"""`zsl-doctor`: what this machine can run, and whether a bundle is whole and still answers as it was shipped."""

from __future__ import annotations

import os
import platform
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zsl_runtime.cli.command import Command
from zsl_runtime.cli.examples import DOCTOR
from zsl_runtime.cli.finding import BROKEN, FAILED, NOTE, OK, Finding, guarded, said
from zsl_runtime.cli.options import REQUIRE_SIGNATURE
from zsl_runtime.errors import ArtefactError, BackendError, SystemProblem, UsageError, ZslError, run_command
from zsl_runtime.extras import EXTRAS, install
from zsl_runtime.machine.memory import memory_bytes
from zsl_runtime.streams import one_line, print_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.bundle.generation import Generation

MEANS_TOLERANCE = 1e-3  # of the largest coordinate of a class's mean: other CPUs round other sums
NO_CARDS = Finding(
    OK, "cards, CUDA and TensorRT are left out: there is no NVIDIA card here, nor a driver; --cards speaks of them"
)
LOOKS = 3  # at a bundle that others change meanwhile
# Distributions that all bring the module onnxruntime: with two of them its files are a mixture.
ALL_ORT = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-training"),
    *("onnxruntime-qnn", "onnxruntime-rocm", "onnxruntime-silicon", "ort-nightly", "ort-nightly-gpu"),
)
FORMATS = {"jpg": ".jpg", "zlib": ".png", "webp": ".webp", "libtiff": "compressed .tif", "jpg_2000": ".jp2"}


@click.command("zsl-doctor", cls=Command, examples=DOCTOR)
@click.argument("bundle", required=False, metavar="[BUNDLE]")
@click.option("--cards", is_flag=True, help="Speak of cards, CUDA and TensorRT even if there is no NVIDIA card here.")
@REQUIRE_SIGNATURE
@click.option("--explain", "word", metavar="WORD", help="Only say what a word of the commands' messages means.")
def cli(bundle: str | None, *, cards: bool, word: str | None) -> int:
    """Say what this machine can run, and examine BUNDLE: its files, its classes, and its answers in each precision.

    Exit code 5 when the bundle is broken; 4 when it is whole, but something of it does not work on this machine.
    """
    if word is not None:
        if bundle is not None or cards:
            raise click.UsageError("--explain only explains a word: leave BUNDLE and --cards out.")
        from zsl_runtime.cli.glossary import explain

        click.echo(explain(word))
        return 0
    from zsl_runtime.cli.doctor_trial import kept_out

    states: set[str] = set()
    with kept_out() as findings:
        cards = cards or _has_nvidia()
        _show(findings)
        _show(machine(cards=cards))
        try:
            if bundle is not None:
                states = _show(examine(bundle, cards=cards))
        finally:  # where nothing is there that could be examined, the report is whole all the same
            _show(() if cards else (NO_CARDS,))
    if BROKEN in states:
        return ArtefactError.exit_code
    return BackendError.exit_code if FAILED in states else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run zsl-doctor; returns the exit code."""
    return run_command(cli, argv)


def _show(findings: Iterable[Finding]) -> set[str]:
    """Print findings as they come; returns their states."""
    states = set()
    for finding in findings:
        print_line(f"{finding.state:<6}  {one_line(finding.text)}")
        states.add(finding.state)
    return states


def _has_nvidia() -> bool:
    from zsl_runtime.machine import cards

    try:
        return cards.has_nvidia()
    except (Exception, SystemExit):
        return True  # why it cannot be told is said where cards are looked at


# --- the machine ----------------------------------------------------------------------------------------------------


def machine(*, cards: bool = True) -> Iterator[Finding]:
    """Python, platform, CPUs, memory, libraries and backends, with the install line for what is missing.

    What breaks off is told, and the rest goes on.

    Args:
        cards: speak of cards, and of what runs on them.

    """
    yield from guarded("Python and platform", _python)
    yield from guarded("CPUs and memory", _cpus)
    yield from guarded("the CPU's instructions", _instructions)
    yield from guarded("NumPy and Pillow", _libraries)
    yield from guarded("the compiled core", partial(_core, cards=cards))
    if cards:
        from zsl_runtime.cli import doctor_cards

        yield from guarded("cards", doctor_cards.cards)
        yield from guarded("libraries for cards", doctor_cards.libraries)
    yield from guarded("backends", partial(_backends, cards=cards))
    yield from guarded("packages for training", _training)


def _python() -> Iterator[Finding]:
    yield Finding(OK, f"Python {platform.python_version()} on {platform.platform()}, {platform.machine()}")


def _cpus() -> Iterator[Finding]:
    from zsl_runtime.machine.threads import usable_cpus

    memory = memory_bytes()
    told = "memory of unknown size" if memory is None else f"{memory / 2**30:.1f} GiB of memory"
    yield Finding(OK, f"{usable_cpus()} CPUs usable of {os.cpu_count() or 'an unknown number'}, {told}")


def _instructions() -> Iterator[Finding]:
    """What the CPU has for low precisions."""
    from zsl_runtime.machine.processor import processor

    cpu = processor()
    kinds = {"int8": cpu.int8, "bf16": cpu.bf16} if cpu.flags else {}
    has = (f"{kind} by {' and '.join(of)}" if of else f"no instructions for {kind}" for kind, of in kinds.items())
    yield Finding(OK, ", ".join([cpu.name or "a CPU without a name", *has]))


def _libraries() -> Iterator[Finding]:
    """NumPy and Pillow, without which nothing runs; and what this Pillow cannot read."""
    told = []
    for name, module in (("Pillow", "PIL"), ("NumPy", "numpy")):
        try:
            told.append(f"{name} {_version_of(module)}")
        except (Exception, SystemExit) as error:
            mend = f"pip install --force-reinstall {name.lower()}"
            yield Finding(NOTE, f"{name} cannot be imported ({said(error)}), and nothing runs without it: {mend}")
    if told:
        yield Finding(OK, ", ".join(told))
    if told and told[0].startswith("Pillow"):
        from PIL import features

        lacking = [suffix for feature, suffix in FORMATS.items() if not features.check(feature)]
        if lacking:
            mend = "pip install --force-reinstall pillow"
            yield Finding(NOTE, f"this Pillow was built without what reads {', '.join(lacking)} files: {mend}")


def _version_of(module: str) -> str:
    """Version of NumPy or Pillow once its compiled part was imported, which is what fails."""
    from importlib import import_module

    import_module("PIL.Image" if module == "PIL" else module)
    return str(getattr(import_module(module), "__version__", "of unknown version"))


def _core(*, cards: bool) -> Iterator[Finding]:
    from importlib.util import find_spec

    if find_spec("zsl_runtime._native") is None:
        yield Finding(NOTE, "the compiled core is missing, so pictures cannot be read: pip install zsl-deploy")
        return
    from zsl_runtime.machine.native import load_native

    try:
        native = load_native()
    except BackendError as error:
        yield Finding(NOTE, f"pictures cannot be read: {error.message}")
        return
    text = f"compiled core present, for {', '.join(native.kernels())}"
    if cards:
        kernels = "with" if native.has_cuda_kernels() else "without (built where nvcc was not found)"
        text += f", {kernels} kernels for a card"
    yield Finding(OK, text)


def _backends(*, cards: bool) -> Iterator[Finding]:
    """Each backend with its library and what it runs, or the line that installs it; of the CPU's alone one for all."""
    from zsl_runtime.backends.table import BACKENDS, installed_of, version_of
    from zsl_runtime.cli.doctor_cards import on_card

    absent: dict[str, list[str]] = {}  # by what installs them
    both = [found for package in ALL_ORT if (found := version_of([package]))]
    if len(both) > 1:
        yield Finding(NOTE, f"{' and '.join(both)} overwrite each other's files: uninstall all, then install one")
    for name, kind in BACKENDS.items():
        if kind.device == "cuda":
            if cards:
                yield from guarded(f"backend {name}", lambda name=name: [on_card(name)])  # type: ignore[misc]
        elif not cards and not installed_of([name]):
            absent.setdefault(kind.extra, []).append(name)
        else:
            yield from guarded(f"backend {name}", partial(_on_cpu, name))
    if absent:
        told = (f"{' and '.join(names)} ({install(extra)})" for extra, names in absent.items())
        yield Finding(NOTE, f"backends that are not installed here: {', '.join(told)}")


def _on_cpu(name: str) -> Iterator[Finding]:
    """A backend of the CPU: the precisions that it runs, or why it cannot be used."""
    from zsl_runtime.backends.opening import open_graphs
    from zsl_runtime.backends.table import BACKENDS

    able, library = [], ""
    for precision in BACKENDS[name].precisions:
        try:
            library = open_graphs(name, {}, 1, precision).library
            able.append(precision)
        except BackendError as error:
            if error.code != "E-PRECISION-CPU":
                yield Finding(NOTE, f"no backend {name}: {error.message}")
                return
        except (Exception, SystemExit) as error:  # a library that is there and not whole fails in any way
            mend = f"pip install --force-reinstall {BACKENDS[name].packages[0]}"
            yield Finding(NOTE, f"no backend {name}: its library cannot be used ({said(error)}); mend it: {mend}")
            return
    yield Finding(OK, f"backend {name} on the CPU, by {library}: {', '.join(able)}")


def _training() -> Iterator[Finding]:
    """The packages of zsl-train and zsl-export, by their metadata: importing torch takes seconds."""
    from zsl_runtime.backends.table import ORT_PACKAGES, version_of

    packages = (package for package in EXTRAS["train"].values() if package not in ORT_PACKAGES)  # that is a backend's
    found = {package: version_of([package]) for package in packages}
    lacking = [package for package, version in found.items() if not version]
    if not found["torch"]:
        yield Finding(OK, f"training and export are left out: they need {', '.join(lacking)}; {install('train')}")
        return
    there = ", ".join(version for version in found.values() if version)
    if lacking:
        yield Finding(NOTE, f"training and export: {there}; not installed are {', '.join(lacking)}: {install('train')}")
    else:
        yield Finding(OK, f"training and export: {there}")


# --- a bundle -------------------------------------------------------------------------------------------------------


def examine(path: str, *, cards: bool = True) -> Iterator[Finding]:
    """Everything that can be wrong with a bundle, one finding after the other; what breaks off is told.

    A bundle that is replaced, or whose classes are changed, while it is looked at would seem broken: then it is looked
    at once more.

    Args:
        path: of the bundle.
        cards: speak of what runs on cards.

    Raises:
        UsageError: E-BUNDLE-PATH when nothing is there.
        SystemProblem: the bundle cannot be read.

    """
    for look in range(LOOKS):
        before = _identity(path)
        for finding in _examine(path, cards=cards):
            if finding.state in {BROKEN, FAILED} and look + 1 < LOOKS and _identity(path) != before:
                yield Finding(NOTE, f"{path} was changed while it was looked at, so it is looked at once more")
                break
            yield finding
        else:
            return


def _identity(path: str) -> tuple[bytes | None, ...]:
    """What changes with every export and every change of the classes."""
    from zsl_runtime.bundle.manifest import CLASSES, CURRENT, MANIFEST
    from zsl_runtime.bundle.reading import MOST_OF_MANIFEST, read_whole

    def content(file: Path) -> bytes | None:
        try:
            return read_whole(file, folder, MOST_OF_MANIFEST)
        except ZslError:
            return None

    folder = Path(path)
    return content(folder / MANIFEST), content(folder / CLASSES / CURRENT)


def _examine(path: str, *, cards: bool) -> Iterator[Finding]:
    """What is there, and everything about it."""
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.cli.doctor_answers import answers
    from zsl_runtime.cli.doctor_cards import damaged_engines, engines

    try:
        bundle = Bundle.open(path, verify=False)
        current = bundle.current()
    except ArtefactError as error:
        yield Finding(BROKEN, str(error))
        return
    except (UsageError, SystemProblem):
        raise
    except (Exception, SystemExit) as error:
        yield Finding(FAILED, f"{path} cannot be opened here, {said(error)}")
        return
    yield from guarded("what is in it", partial(_contents, bundle, current), FAILED)
    yield from guarded("signatures", partial(_signatures, bundle, current), FAILED)
    yield from guarded("precisions", lambda: [_precisions(bundle, cards=cards)], FAILED)
    yield from guarded("engines", partial(engines if cards else damaged_engines, bundle), FAILED)
    whole = True
    for finding in guarded("files", partial(_files, bundle), FAILED):
        whole = whole and finding.state not in {BROKEN, FAILED}
        yield finding
    if whole:
        for finding in guarded("graphs", partial(_graphs, bundle), FAILED):
            whole = whole and finding.state not in {BROKEN, FAILED}
            yield finding
    kept: list[Generation] = []
    yield from guarded("states of the classes", partial(_generations, bundle, current, kept), FAILED)
    yield from guarded("leftovers", partial(_leftovers, bundle), FAILED)
    if whole:  # a graph that was changed, or that no library should see, is not loaded
        yield from guarded("means", partial(_means, bundle, current), FAILED)
        first = kept[0] if kept else None
        yield from guarded("probe", partial(answers, bundle, first, cards=cards), FAILED)


def _contents(bundle: Bundle, current: Generation) -> Iterator[Finding]:
    seen = int(current.table.seen.sum())
    yield Finding(OK, f"{bundle.path}: method {bundle.manifest['method']}, exported {bundle.manifest['created']}")
    yield Finding(
        OK,
        f"{len(current.table)} classes, {seen} seen and {len(current.table) - seen} unseen; this state of them is "
        f"generation {current.number}",
    )
    yield Finding(OK, _takes(bundle))


def _signatures(bundle: Bundle, current: Generation) -> Iterator[Finding]:
    """By whom the bundle and the generation in force are signed, and whether that was checked."""
    from zsl_runtime.bundle.manifest import SIGNATURE
    from zsl_runtime.bundle.signatures import generation_signature, read_signature
    from zsl_runtime.machine.untrusted import UnfitError

    told = []
    for what, path, generation in (
        ("what the export fixed", bundle.path / SIGNATURE, False),
        (f"generation {current.number}", generation_signature(bundle.path, current.number), True),
    ):
        try:
            signature = read_signature(path, within=bundle.path)
            who = signature.claims if bundle.keys is None else bundle.keys.check(signature, generation=generation)
            told.append(f"{what} is signed by {who}")
        except UnfitError as error:
            missing = str(error) == "is missing"
            told.append(f"{what} is not signed" if missing else f"{what} has no good signature: {path.name} {error}")
    if bundle.keys is not None:
        yield Finding(OK, f"{', '.join(told)}; checked against {bundle.keys.place}")
    elif all(one.endswith("is not signed") for one in told):
        yield Finding(OK, "not signed: hashes find damage, and do not tell who made it (docs/security.md)")
    else:
        yield Finding(NOTE, f"{', '.join(told)}; not checked: give the public key with --require-signature")


def _takes(bundle: Bundle) -> str:
    """What the model labels."""
    given, made_by = bundle.manifest["input"], bundle.manifest["backbone"]
    shape = ", ".join(str(axis) for axis in given["shape"])
    if given["name"] == "images":
        return f"takes pictures, prepared as ({shape}), through {made_by.get('name')}"
    file = made_by.get("file")
    like = f", features as in {file} (sha256 {str(made_by.get('sha256'))[:12]})" if file else ""
    return f"takes rows of features ({shape}){like}, and no pictures"


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
        except (SystemProblem, OSError) as error:
            yield Finding(FAILED, str(error) if isinstance(error, SystemProblem) else f"{name}: {said(error)}")
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


def _graphs(bundle: Bundle) -> Iterator[Finding]:
    """Graphs that no library should see; nothing is said of the others. Also of those that nothing here can run."""
    from zsl_runtime.graphs.parts import EXPLAIN, SMALL_PARTS
    from zsl_runtime.graphs.sealed import graph_file, sealed

    graphs = [(part, bundle.graph(part)) for part in SMALL_PARTS]
    graphs += [("model", bundle.model_graph(key)) for key in bundle.precisions]
    graphs.append((EXPLAIN, bundle.explain_graph))
    for part, path in graphs:
        file = graph_file(bundle, part, path)
        if file is not None:
            try:
                with sealed(file, part):
                    pass
            except ArtefactError as error:
                yield Finding(BROKEN, str(error))


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


def _generations(bundle: Bundle, current: Generation, kept: list[Generation]) -> Iterator[Finding]:
    """What is to be said about all generation files; Generation 1 goes to `kept`, when it is there and whole."""
    entries = [entry for entry in bundle.history()[0] if type(entry.get("number")) is int]
    hashes = {entry["number"]: entry.get("sha256") for entry in entries}
    if current.number == 1:
        kept.append(current)
    back, unchecked = current, []  # `back`: how far undo can go
    steps = 0
    older = [number for number in bundle.generation_numbers() if number < current.number]
    for number in reversed(older):
        digest = back.parent_sha256 if number == back.parent else hashes.get(number)
        if not isinstance(digest, str):
            unchecked.append(number)
            continue
        try:
            generation = bundle.generation(number, digest)
        except ArtefactError as error:  # one that nobody signed is not in force, and nobody can go back to it
            yield Finding(NOTE if error.code == "E-SIGNATURE" else BROKEN, str(error))
            continue
        if number == back.parent:
            back, steps = generation, steps + 1
        if number == 1:
            kept.append(generation)
    yield Finding(OK, f"states of the classes kept: {len(older) + 1}; changes that undo can take back: {steps}")
    if unchecked:
        listed = ", ".join(map(str, sorted(unchecked)))
        yield Finding(NOTE, f"generations {listed} cannot be checked: history.jsonl does not know their hash")


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
