"""`zsl-export`: turn a run into a bundle, build the engines of a bundle, or compare all that can run one.

What was made goes to stdout: the bundle's path, the engines', or the table of the comparison; all else to stderr.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from zsl_export.precisions import LARGEST_DROP, parse_precisions
from zsl_runtime.cli.command import Command
from zsl_runtime.cli.completion import devices
from zsl_runtime.cli.options import REQUIRE_SIGNATURE, SIGN, SIGN_CERTIFICATE, demanded_by_option, signer_of, together
from zsl_runtime.errors import run_command
from zsl_runtime.streams import one_line, print_line, printable, reporting
from zsl_runtime.trt.library import CHOICES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zsl_runtime.bundle.signing import Signer
    from zsl_train.training.run_folder import Run


def _precisions(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    try:
        return None if value is None else parse_precisions(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def _points(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Refuse what click's own range would let through: NaN."""
    if value is not None and not 0 <= value <= LARGEST_DROP:
        raise click.BadParameter(f"{value} is not a number of points from 0 to {LARGEST_DROP:g}.")
    return value


EXAMPLES = (
    ("what labels photographs without torch", "zsl-export run --out bundle"),
    ("in two precisions, the first its default", "zsl-export run --out bundle-int8 --precision fp32,int8"),
    ("whether every backend here gives the answers of the export", "zsl-export bundle --verify"),
    ("a model repository for NVIDIA's Triton", "zsl-export bundle --format triton --out models"),
    ("TensorRT engines, on a machine with the card", "zsl-export bundle --format engine"),
)


@click.command("zsl-export", cls=Command, examples=EXAMPLES)
@click.argument("run", metavar="RUN|BUNDLE")
@click.option("--out", metavar="BUNDLE|REPO", help="The folder to make of RUN, or of BUNDLE with --format triton.")
@click.option(
    "--precision",
    callback=_precisions,
    metavar="LIST",
    help="Comma list of fp32, fp16 and int8; the first is what the bundle runs in by default.  [default: fp32; of "
    "BUNDLE its own default]",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "engine", "triton"]),
    default="onnx",
    show_default=True,
    help="engine: TensorRT engines beside the ONNX graphs, one a precision. triton: a model repository that serves "
    "BUNDLE.",
)
@click.option("--trt", type=click.Choice(CHOICES), help="The library that builds engines.  [default: auto]")
@click.option("--min-batch", type=int, metavar="N", help="Smallest batch of an engine's second profile.  [default: 1]")
@click.option("--opt-batch", type=int, metavar="N", help="Batch at which it is fastest.  [default: --max-batch]")
@click.option(
    "--max-batch", type=int, metavar="N", help="Largest batch of an engine, or of a request to Triton.  [default: 64]"
)
@click.option("--workspace", type=float, metavar="GIB", help="Scratch memory that a layer of an engine may take.")
@click.option(
    "--compute-capability",
    metavar="LIST",
    help="Cards to build engines for, such as 8.6,8.9 (with --trt rtx).  [default: the card at hand, else all]",
)
@click.option("--name", metavar="NAME", help="Of the model in Triton.  [default: BUNDLE's, without .bundle]")
@click.option(
    "--variant",
    type=click.Choice(["python", "tensorrt"]),
    help="Who runs the graph in Triton: its Python backend with this package, on CPUs, or its TensorRT backend "
    "with the engine of BUNDLE.  [default: python]",
)
@click.option("--instances", type=int, metavar="N", help="Processes that label in Triton side by side.  [default: 1]")
@click.option(
    "--copy-bundle",
    is_flag=True,
    help="Put a copy of BUNDLE into the model repository; without it, Triton serves BUNDLE from where it is.",
)
@click.option(
    "--verify", is_flag=True, help="Make nothing: compare everything that can run BUNDLE here with what was exported."
)
@click.option(
    "--device",
    metavar="auto|cpu|cuda:N",
    shell_complete=devices,
    help="With --verify: where it is compared.  [default: auto]",
)
@click.option("--data", metavar="DIR", help="The data the run was trained on, if it has moved; labelled pictures.")
@click.option(
    "--max-drop",
    type=float,
    callback=_points,
    metavar="POINTS",
    help="Points of H (or T1) that a lower precision may cost.  [default: 0.5 for fp16, 1 for int8]",
)
@click.option(
    "--replay-per-class",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of a fitted head: features of at most N training photographs of each class go into the bundle.  [default: "
    "all]",
)
@click.option("--no-probe-images", is_flag=True, help="Leave the probe's inputs out of the bundle.")
@click.option(
    "--no-explain",
    is_flag=True,
    help="Leave out what `zsl-infer --explain` needs. For a model with attention (SC-EGG) that is the model's weights "
    "once more, which doubles the bundle's size on disk; for others next to nothing.",
)
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@together(SIGN, SIGN_CERTIFICATE, REQUIRE_SIGNATURE)
def cli(
    run: str,
    out: str | None,
    *,
    precision: tuple[str, ...] | None,
    kind: str,
    verify: bool,
    device: str | None,
    data: str | None,
    max_drop: float | None,
    replay_per_class: int | None,
    no_probe_images: bool,
    no_explain: bool,
    force: bool,
    sign: str | None,
    sign_certificate: str | None,
    name: str | None,
    variant: str | None,
    instances: int | None,
    copy_bundle: bool,
    **engine: Any,
) -> None:
    """Export RUN, the folder that zsl-train wrote, as a bundle that labels pictures without torch.

    The exported graphs are compared with the trained model on the pictures that the run keeps; if they differ, no
    bundle is written (exit code 3).

    Lower precisions are measured against fp32 on the run's test photographs; one that costs more than --max-drop points
    stops the export (exit code 3). int8 is calibrated on training photographs. Both are read again from where the run
    found them, or from --data DIR.

    A head that is fitted comes with the features that it was fitted on: where classes are added, it is fitted again on
    them. --replay-per-class makes the bundle smaller, and such a fit see less than the training's did.

    With --sign the bundle is signed with a private key, whose public half then tells others who made it. Without --out
    that is done to BUNDLE as it is: whoever signs vouches for it.

    With --format engine and without --out, BUNDLE gets TensorRT engines in the precisions that it holds. Each has two
    profiles, one that is fastest for a single picture and one for large batches. Adding classes leaves engines as they
    are.

    With --format triton REPO becomes a model repository for NVIDIA's Triton Inference Server, which labels pictures
    with BUNDLE and sees the classes that zsl-classes adds to it. REPO must not be there yet.

    With --verify every backend and precision that can run BUNDLE on this machine is compared with what was recorded at
    its export, and with --data DIR on labelled pictures: a data folder, or folders that are called like classes. A
    table says how far features and scores are off, how often the best class is the same, and what it does to accuracy.
    Exit code 3 when one is off, or when there was nothing to compare.
    """
    given = {option: value for option, value in engine.items() if value is not None}
    serving = {"--name": name, "--variant": variant, "--instances": instances, "--copy-bundle": copy_bundle or None}
    asked = [flag for flag, value in serving.items() if value is not None]
    if asked and (kind != "triton" or verify):
        raise click.UsageError(f"{' and '.join(asked)}: only for Triton; add --format triton.")
    if kind == "triton" and not verify:
        told = {"--device": device, "--data": data, "--max-drop": max_drop, "--replay-per-class": replay_per_class}
        told |= {"--no-probe-images": no_probe_images, "--no-explain": no_explain, "--force": force, "--sign": sign}
        wrong = [flag for flag, value in told.items() if value]
        wrong += [f"--{option.replace('_', '-')}" for option in sorted(given.keys() - {"max_batch"})]
        if wrong:
            raise click.UsageError(f"{' and '.join(wrong)}: not for --format triton; leave it out.")
        if out is None:
            raise click.UsageError("Missing option '--out': the model repository to make.")
        _serve(
            run,
            out,
            precisions=precision,
            name=name,
            variant=variant or "python",
            instances=1 if instances is None else instances,
            copy=copy_bundle,
            **given,
        )
        return
    if verify:
        makes = {"--out": out, "--precision": precision, "--replay-per-class": replay_per_class}
        makes |= {"--no-probe-images": no_probe_images, "--no-explain": no_explain, "--force": force, "--sign": sign}
        wrong = [*(flag for flag, value in makes.items() if value), *(["--format engine"] if kind != "onnx" else [])]
        if wrong or given:
            raise click.UsageError(f"{' and '.join(wrong) or _flags(given)}: --verify makes nothing; leave it out.")
        from zsl_export.verify import verify_command

        verify_command(run, data=data, device=device or "auto", max_drop=max_drop, say=print_line, tell=_tell)
        return
    if device is not None:
        raise click.UsageError("--device: only for the comparison; add --verify.")
    if kind == "onnx" and given:
        raise click.UsageError(f"{_flags(given)}: only for engines; add --format engine.")
    signer = signer_of(sign, sign_certificate)
    if kind == "onnx" and out is None and signer is not None:
        told = {"--data": data, "--max-drop": max_drop, "--precision": precision is not None}
        told |= {"--replay-per-class": replay_per_class, "--no-probe-images": no_probe_images}
        told |= {"--no-explain": no_explain, "--force": force}
        wrong = [flag for flag, value in told.items() if value]
        if wrong:
            raise click.UsageError(f"{' and '.join(wrong)}: only for the export of a run; add --out.")
        _sign_in_place(run, signer)
        return
    if kind == "onnx" and out is None:
        raise click.UsageError("Missing option '--out': the folder to make (only --format engine works in place).")
    if out is None:
        told = {"--data": data, "--max-drop": max_drop, "--replay-per-class": replay_per_class}
        told |= {"--no-probe-images": no_probe_images, "--no-explain": no_explain, "--force": force, "--sign": sign}
        wrong = [flag for flag, value in told.items() if value]
        if wrong:
            raise click.UsageError(f"{' and '.join(wrong)}: only for the export of a run; add --out.")
        _build_in_place(run, precision, given)
        return
    precision = precision or ("fp32",)
    if precision == ("fp32",):
        lower = [flag for flag, value in (("--data", data), ("--max-drop", max_drop)) if value is not None]
        if lower:
            raise click.UsageError(f"{' and '.join(lower)}: only for fp16 and int8; add --precision fp32,fp16,int8.")
    _export(
        run,
        out,
        precisions=precision,
        data=data,
        max_drop=max_drop,
        probe_images=not no_probe_images,
        explain=not no_explain,
        replay_per_class=replay_per_class,
        force=force,
        signer=signer,
        engine=given if kind == "engine" else None,
    )


def _flags(given: dict[str, Any]) -> str:
    return " and ".join(f"--{name.replace('_', '-')}" for name in sorted(given))


def _sign_in_place(folder: str, signer: Signer) -> None:
    """Sign a bundle that is there, without anything that only training needs."""
    from zsl_runtime.bundle.vouching import open_to_vouch, sign_bundle

    bundle = open_to_vouch(folder, signer, fixed=True, check=demanded_by_option())
    made = sign_bundle(bundle, signer)
    numbers = ", ".join(map(str, made))
    _tell(f"signed by {signer.told}: what the export of {folder} fixed, and generation {numbers} of its classes")
    with reporting(f"{folder} was signed"):
        click.echo(os.fsencode(bundle.path))


def _build_in_place(folder: str, precisions: tuple[str, ...] | None, options: dict[str, Any]) -> None:
    """Build the engines of a bundle that is there, without anything that only training needs."""
    from zsl_export.to_engine import make_engines, next_commands, plan_engines
    from zsl_runtime.bundle.bundle import Bundle

    bundle = Bundle.open(folder, verify=False)  # the files that are used are compared with the manifest
    wanted = plan_engines(**options)
    made = make_engines(bundle, precisions or (bundle.default_precision,), wanted, _tell)
    _tell_all(next_commands(bundle, _inputs(has_pictures=bundle.manifest["pixels"] is not None)))
    with reporting(f"{len(made)} engines were built in {folder}"):
        for stored in made:
            click.echo(os.fsencode(stored.path))


def _serve(
    folder: str,
    out: str,
    *,
    precisions: tuple[str, ...] | None,
    name: str | None,
    variant: str,
    instances: int,
    copy: bool,
    max_batch: int | None = None,
) -> None:
    """Write the model repository of a bundle that is there."""
    from zsl_export.to_triton import Repository, next_commands, write_repository

    if precisions is not None and len(precisions) > 1:
        raise click.UsageError(f"--precision {','.join(precisions)}: Triton serves one of them; give one.")
    if name == "":
        raise click.UsageError("--name is empty; give a name, or leave it out.")
    wanted = Repository(
        name=name or "",
        variant=variant,
        max_batch=max_batch,
        instances=instances,
        precision=None if precisions is None else precisions[0],
        copy=copy,
    )
    repository, model = write_repository(folder, out, wanted)
    _tell(f"wrote {repository}: model {model}")
    _tell_all(next_commands(repository, model))
    with reporting(f"the model repository {repository} was written"):
        click.echo(os.fsencode(repository))


def _inputs(*, has_pictures: bool) -> str:
    """What is labelled, in commands to copy."""
    return "PHOTOS" if has_pictures else "FEATURES.npy"


def _export(
    folder: str,
    out: str,
    *,
    probe_images: bool,
    replay_per_class: int | None,
    force: bool,
    signer: Signer | None,
    engine: dict[str, Any] | None,
    **lower: Any,
) -> None:
    """The command, once its arguments are known.

    `lower` is what `export_run` takes of precisions, `engine` what was said of engines; None for no engine.
    """
    from zsl_runtime.machine.libraries import check_place_for_torch

    check_place_for_torch()
    from pathlib import Path

    from zsl_export.bundle_of_run import export_run
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.bundle.writing import check_dest
    from zsl_runtime.machine.threads import usable_cpus
    from zsl_train.training.run_folder import load_run
    from zsl_train.training.side_by_side import torch_threads

    started = time.perf_counter()
    wanted = None
    if engine is not None:
        from zsl_export.to_engine import make_engines, next_commands, plan_engines

        wanted = plan_engines(**engine)  # before minutes of work
    check_dest(Path(out).resolve(), force=force)
    threads = usable_cpus()
    click.get_current_context().with_resource(torch_threads(threads))
    run = load_run(Path(folder))
    _tell(f"read {folder}: {run.method} on {run.backbone.name}, {len(run.generation.table)} classes")
    warned = [str(text) for text in run.scores.get("warnings", [])]
    for text in warned:
        _tell(f"WARNING, from the training of this run: {one_line(text)}")
    if replay_per_class is not None:
        run = _with_fewer(run, replay_per_class)
    bundle = export_run(
        run, out, probe_images=probe_images, force=force, threads=threads, tell=_tell, signer=signer, **lower
    )
    if signer is not None:
        _tell(f"signed by {signer.told}: what the export fixed, and the classes as they are (generation 1)")
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    kept = run.replay.features.nbytes
    of_that = f", {kept / 1e6:.1f} MB of it features that the head is fitted on again as classes come" if kept else ""
    _tell(f"wrote {bundle} ({size / 1e6:.1f} MB{of_that}) in {time.perf_counter() - started:.1f} s")
    _tell(_whose_data(run, probe_images=probe_images))
    if warned:
        _tell(f"WARNING: {bundle} answers as the run does, and the training warned of that run: see above")
    inputs = _inputs(has_pictures=run.backbone.pixels is not None)
    _tell_all(_next_commands(bundle, inputs, run))
    if wanted is not None:
        opened = Bundle.open(bundle, verify=False)
        make_engines(opened, lower["precisions"], wanted, _tell)
        _tell_all(next_commands(opened, inputs))
    # As bytes: a path need not be text in the encoding of the terminal.
    with reporting(f"the bundle {bundle} was written"):
        click.echo(os.fsencode(bundle))


def _with_fewer(run: Run, per_class: int) -> Run:
    """The run with at most so many training features of each class, and what that means, said."""
    from dataclasses import replace

    from zsl_train.training.shipped import fewer

    if run.trained.head_rule != "fit":
        raise click.UsageError(
            f"--replay-per-class: the head of this run is not fitted (rule {run.trained.head_rule}), so its bundle "
            "keeps no features of training pictures anyway; leave it out."
        )
    made = replace(run, replay=fewer(run.replay, per_class, run.seed))
    count, whole = len(made.replay.features), len(run.replay.features)
    _tell(
        f"--replay-per-class {per_class}: {count} of {whole} training features are kept. The head that ships was "
        f"fitted on all {whole}; where classes are added, it is fitted again on these {count} alone"
    )
    return made


def _whose_data(run: Run, *, probe_images: bool) -> str:
    """What of the user's photographs, or feature rows, is in the bundle."""
    unit = "pictures" if run.backbone.pixels is not None else "feature rows"
    pictures = (
        f"and {run.probe_count} of the {unit} themselves (--no-probe-images leaves those out)"
        if probe_images
        else f"but none of the {unit} themselves"
    )
    if run.trained.head_rule != "fit":
        kept = _statistics(run, unit)
        if not probe_images:
            return f"The bundle holds features of the probe's {unit}{kept}, and none of your {unit}."
        return (
            f"The bundle holds {run.probe_count} of your {unit} (--no-probe-images leaves them out){kept}. "
            "Pass it on only to whom you would give those."
        )
    return (
        f"The bundle holds data of yours: features of {len(run.replay.features)} training {unit} {pictures}. "
        "Pass it on only to whom you would give those."
    )


def _statistics(run: Run, unit: str) -> str:
    """What the rule `gaussian` keeps of the training rows, as part of a sentence; '' by the rule `rows`."""
    means = run.generation.means
    if means is None:
        return ""
    single = int((means.counts == 1).sum())
    alone = f" ({single} with one of them, whose own features the sum is)" if single else ""
    return f", and of {means.counts.sum()} training {unit} each class's mean, count and sum alone{alone}"


def _next_commands(bundle: Path, inputs: str, run: Run) -> str:
    """Commands to copy; `inputs` is what is labelled."""
    place = shlex.quote(str(bundle))
    lines = [
        f"  zsl-infer {inputs} --engine {place}",
        f"  zsl-classes add --engine {place} --attributes NEW_CLASSES.csv",
        f"  zsl-doctor {place}",
    ]
    data = run.info.get("data")
    if run.folder is not None and data is not None and os.path.isfile(os.path.join(data, "classes.csv")):  # noqa: PTH113, PTH118
        split = shlex.quote(str(run.folder / "split.csv"))
        lines.insert(0, f"  zsl-eval {place} {shlex.quote(data)} --split {split}")
    return "\n".join(["Next:", *lines])


def _tell(line: str) -> None:
    click.echo(one_line(line), err=True)


def _tell_all(text: str) -> None:
    """Commands to type next, whose words are quoted for the shell."""
    click.echo(printable(text), err=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `zsl-export`; returns the exit code."""
    return run_command(cli, argv)


if __name__ == "__main__":
    sys.exit(main())
