"""zsl-train: photographs, or rows of a feature file, and class attributes in, a run folder out."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zsl_runtime.cli.command import Command
from zsl_runtime.cli.completion import devices, offered
from zsl_runtime.errors import run_command
from zsl_runtime.streams import one_line, print_line, printable, reporting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_train.recipe import Recipe


EXAMPLES = (
    ("whether the data can be trained on, and what is odd about it", "zsl-train --check-data birds"),
    ("the closed form, first of all: seconds to minutes", "zsl-train --data birds --out run"),
    ("a method that attends to regions of each photograph", "zsl-train --data birds --method sc-egg --out run-sc-egg"),
    ("the best method that fits into 20 minutes", "zsl-train --data birds --budget 20m --out run-20m"),
)
# For the shell, at once: `zsl_train.methods` has them, and loads torch.
METHODS = (
    *("gfzsl", "eszsl", "sc-egg", "sp-aen", "dcr-gan", "lisgan", "acmr"),
    *("f-clswgan", "tf-vaegan", "cada-vae"),
)
MOST_EPOCHS = 1_000_000
FEATURES = "features"  # the recipe's backbone where there is none, as `zsl_train.data.given` calls it


def _possible_epochs(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Refuse what click's own range would let through: NaN, and numbers of steps that are none."""
    if value is not None and not 0 < value <= MOST_EPOCHS:
        raise click.BadParameter(f"{value} is not a number above 0, up to {MOST_EPOCHS:,}.")
    return value


@click.command("zsl-train", cls=Command, examples=EXAMPLES, context_settings={"max_content_width": 120})
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Data folder: images/<class>/*.jpg and classes.csv; or an original archive; or the folder of att_splits.mat.",
)
@click.option("--features", type=click.Path(path_type=Path), help="Feature file (.mat, .npy) in place of photographs.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to write.  [default: run]")
@click.option("--check-data", type=click.Path(path_type=Path), metavar="DIR", help="Only say what this data holds.")
@click.option("--recipe", type=click.Path(path_type=Path), help="TOML recipe; see train/recipes.")
@click.option(
    "--method",
    shell_complete=offered(*METHODS),
    help="gfzsl or eszsl (closed forms), sc-egg, sp-aen, dcr-gan, lisgan, acmr, f-clswgan, tf-vaegan or cada-vae.  "
    "[default: gfzsl]",
)
@click.option(
    "--budget",
    metavar="TIME",
    help="In place of --method: try what fits into 20m, 90s or 2h (a plain number is minutes), and keep the best by "
    "validation classes.",
)
@click.option(
    "--preset",
    shell_complete=offered("default", "paper", "code"),
    help="Method's settings: default (sized to the data), paper or code.  [default: default]",
)
@click.option(
    "--backbone",
    shell_complete=offered("resnet101", "efficientnet_lite2"),
    help="resnet101 or efficientnet_lite2.  [default: the one whose weights are here]",
)
@click.option("--image-size", type=int, help="Picture side in pixels, such as 224 or 448.  [default: the backbone's]")
@click.option(
    "--weights",
    help="Backbone weight file; otherwise the published ImageNet weights (those of resnet101 need a network once).",
)
@click.option(
    "--splits", type=click.Path(path_type=Path), help="split.csv, or att_splits.mat for all but a data folder."
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    shell_complete=devices,
    help="Where to compute: auto (a card, if there is one), cpu, cuda, cuda:N.",
)
@click.option("--epochs", type=float, callback=_possible_epochs, help="No stage longer than this many epochs.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random.  [default: 0]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting of the recipe or the method.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished run, and fail if there is none.")
@click.option("--force", is_flag=True, help="Replace the run that is there.")
@click.option("--verbose", "-v", is_flag=True, help="Show the losses, too; RUN/log.jsonl has them in any case.")
def command(**options: Any) -> int:
    """Train a zero-shot classifier on photographs of the seen classes and the attributes of all classes.

    With --features, the rows of a feature file stand in for photographs: .mat as res101.mat (features, labels), or .npy
    (N, V); classes, attributes and split come from att_splits.mat in DIR. What is trained so labels such rows.

    An unfinished run with the same recipe is resumed. Photographs that cannot be read are reported and left out (exit
    code 6 at the end). Next: zsl-export RUN --out BUNDLE.

    With --check-data nothing is trained: it says what the data holds and what is odd about it (exit code 2 when it
    cannot be used).
    """
    if options["check_data"] is not None:
        return check(options)
    if options["data"] is None:
        raise click.UsageError("Missing option '--data'.")
    if options["out"] is None:
        options["out"] = Path("run")
    if options["resume"] and options["force"]:
        raise click.UsageError("--resume and --force contradict each other; give one")
    return train(options)


def check(options: dict[str, Any]) -> int:
    """Run --check-data: the report goes to stdout. Returns 0, or 2 when nothing could be trained on this data."""
    from zsl_runtime.cli.finding import BROKEN
    from zsl_runtime.errors import UsageError
    from zsl_train.check_data import check_data
    from zsl_train.recipe import make_recipe, parse_overrides, read_recipe

    for name in ("data", "out"):
        if options[name] is not None:
            raise click.UsageError(f"--check-data DIR only looks and trains nothing: leave --{name} out.")
    base = read_recipe(options["recipe"]) if options["recipe"] else {}
    chosen = {} if options["seed"] is None else {"seed": options["seed"]}
    recipe = make_recipe(base, parse_overrides(options["overrides"]), chosen)
    found = check_data(
        options["check_data"],
        options["features"],
        options["splits"],
        attributes=recipe.attributes,
        seed=recipe.seed,
    )
    broken = False
    for finding in found:
        print_line(f"{finding.state:<6}  {one_line(finding.text)}")
        broken = broken or finding.state == BROKEN
    return UsageError.exit_code if broken else 0


def train(options: dict[str, Any]) -> int:
    """Run the command's options.

    Args:
        options: of the command, by name.

    Returns:
        The exit code: 0, or 6 when photographs were left out because they cannot be read.

    """
    began = time.monotonic()
    wait_quietly()
    from zsl_runtime.machine.libraries import check_place_for_torch

    check_place_for_torch()
    from zsl_runtime.errors import InputError, UsageError
    from zsl_runtime.machine.storage import write_whole
    from zsl_runtime.machine.threads import usable_cpus
    from zsl_runtime.machine.untrusted import MIB, UnfitError, read_file
    from zsl_train.recipe import make_recipe, parse_overrides, read_recipe
    from zsl_train.training.run_folder import RunWriter
    from zsl_train.training.run_info import REPORT

    base = read_recipe(options["recipe"]) if options["recipe"] else {}
    flags = ("method", "preset", "backbone", "image_size", "seed")
    chosen = {name: options[name] for name in flags if options[name] is not None}
    overrides = parse_overrides(options["overrides"])
    recipe = make_recipe(base, overrides, chosen)
    named = {*base, *overrides, *chosen}
    if options["features"] is not None:
        recipe = without_backbone(recipe, options)
        if base.get("backbone", FEATURES) != FEATURES:
            _say(f"note: the backbone of {options['recipe']} is not used with --features")
    out: Path = options["out"]
    if options["resume"] and finished(out):
        with contextlib.suppress(OSError, UnfitError):  # it is for people alone
            _say(read_file(out / REPORT, MIB).decode(errors="replace"))
        _say(one_line(f"{out} is a finished run: nothing to resume; next: zsl-export {out} --out BUNDLE"))
        _say_where(out)
        return 0
    writer = RunWriter(out, force=options["force"])
    if options["resume"] and not (out / "run.json").is_file():
        raise UsageError("E-RUN", f"--resume: {out} holds no unfinished run; leave --resume out to begin one")

    from dataclasses import replace

    from zsl_train.data.given import GivenFeatures
    from zsl_train.data.open import open_image_set
    from zsl_train.devices import described, find_device
    from zsl_train.methods import find_method
    from zsl_train.progress import TrainingProgress
    from zsl_train.recipe import method_config
    from zsl_train.reports.text import report
    from zsl_train.training.budget import alternative, parse_length, run_budget
    from zsl_train.training.prepared import prepare
    from zsl_train.training.runner import carry_out, make_task, open_backbone, with_defaults
    from zsl_train.training.shipped import ships_gaussian
    from zsl_train.training.side_by_side import torch_threads

    device = find_device(options["device"])
    seconds = None if options["budget"] is None else parse_length(options["budget"])
    if seconds is not None and named & {"method", "preset"}:
        given = "preset" if "preset" in named else "method"
        raise UsageError("E-BUDGET", f"--budget tries several methods: leave --{given} out, or --budget")
    if seconds is not None and options["epochs"] is not None:
        raise UsageError("E-BUDGET", "--budget says how long stages are: leave --epochs out, or --budget")
    if options["features"] is None and "backbone" not in named:
        recipe = replace(recipe, backbone=at_hand(options, out))
    method = find_method(recipe.method)
    ships_gaussian(recipe)  # so is a head that the method has not
    if seconds is None:
        recipe = with_defaults(recipe, named)
        method_config(method.Config, method.PRESETS, recipe)  # a wrong setting is told before minutes of extraction
    if "OMP_NUM_THREADS" not in os.environ:  # torch reads that itself
        click.get_current_context().with_resource(torch_threads(usable_cpus()))
    images = open_image_set(
        options["data"], options["splits"], recipe.seed, features=options["features"], attributes=recipe.attributes
    )
    seen = int(images.table.seen.sum())
    _say(
        f"{len(images)} {images.unit}, {seen} seen and {len(images.table) - seen} unseen classes, "
        f"{len(images.table.attributes)} attributes"
    )
    backbone = GivenFeatures.of(images.features) if images.features else open_backbone(recipe, options["weights"])
    if device.type != "cpu":
        _say(f"computing on {described(device)}")
    progress = TrainingProgress(verbose=options["verbose"])
    try:
        with writer.exclusive():
            prepared = prepare(images, backbone, recipe, device)
            for note in prepared.notes:
                _say(one_line(f"note: {note}"))
            if seconds is None:
                task = make_task(prepared, recipe, most_epochs=options["epochs"])
                scores = carry_out(task, backbone, writer, say=_say, progress=progress)
            else:
                scores = run_budget(
                    prepared,
                    backbone,
                    recipe,
                    writer,
                    seconds=seconds,
                    began=began,
                    named=named,
                    say=_say,
                    progress=progress,
                )
    except KeyboardInterrupt:
        progress.close()
        _say(one_line(f"stopped; repeat the command to go on from the last checkpoint in {out}"))
        raise
    finally:
        progress.close()
    said = report(scores, str(out))
    _say(f"\n{said}")
    write_whole(out / REPORT, f"{said}\n".encode())
    draw_page(out)
    _say_where(out)
    if seconds is None and "method" not in named:
        _say("timing some steps of a longer training; Ctrl-C leaves this out ...")
        with contextlib.suppress(KeyboardInterrupt):  # the run is finished
            _say(alternative(prepared, recipe))
    return InputError.exit_code if scores["protocol"]["pictures"]["unreadable"] else 0


def draw_page(out: Path) -> None:
    """Write report.html. The run is finished: what goes wrong here is told, and nothing is lost by it."""
    from zsl_runtime.machine.storage import write_whole
    from zsl_train.reports.run_files import read_run
    from zsl_train.reports.run_page import run_page
    from zsl_train.training.run_info import PAGE

    try:
        write_whole(out / PAGE, run_page(read_run(out)))
    except (Exception, KeyboardInterrupt) as error:
        why = str(error) or type(error).__name__
        _say(one_line(f"note: {out / PAGE} was not written ({why}); zsl-report run {out} writes it"))
    else:
        _say(one_line(f"the same with curves, classes and pictures: {out / PAGE}"))


def wait_quietly() -> None:
    """Keep threads from spinning while they wait for each other. Call it before NumPy and torch are loaded.

    Where another program has one of the CPUs, spinning threads cost far more than they bring: on two CPUs with one
    taken, torch's took 2 to 4 times as long, and NumPy's closed forms 2 to 5 times as long on two threads as on one. On
    a quiet machine neither makes a difference. What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if platform.machine().lower() in {"x86_64", "amd64"}:  # elsewhere torch's own products are OpenBLAS's, too
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def finished(out: Path) -> bool:
    """Whether a folder holds a finished run. ArtefactError E-RUN when it is damaged."""
    from zsl_train.training.run_info import read_info

    return (out / "run.json").is_file() and read_info(out).get("state") == "finished"


def at_hand(options: dict[str, Any], out: Path) -> str:
    """The backbone where none is named: that of the unfinished run, or one whose weights are on this machine."""
    from zsl_train import backbones
    from zsl_train.recipe import read_recipe

    if options["weights"] is not None:
        return "resnet101"
    if not options["force"] and (out / "recipe.toml").is_file():
        begun = read_recipe(out / "recipe.toml").get("backbone", FEATURES)
        if begun != FEATURES:
            return str(begun)
    name = backbones.on_board()
    if name == "efficientnet_lite2":
        _say(
            "backbone efficientnet_lite2, whose weights came with the packages; --backbone resnet101 is larger and "
            "needs a network once, to fetch its weights (171 MB)"
        )
    else:
        _say(f"backbone {name}, whose weights are in the cache folder")
    return name


def without_backbone(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """The recipe of a run on a feature file, where no backbone runs.

    Raises:
        click.UsageError: an option of the backbone was given as well.

    """
    from dataclasses import replace

    flags = {"--backbone": "backbone", "--image-size": "image_size", "--weights": "weights"}
    given = [flag for flag, name in flags.items() if options[name] is not None]
    if given:
        raise click.UsageError(f"{' and '.join(given)} contradict --features: no backbone runs; give one or the other")
    return replace(recipe, backbone=FEATURES, image_size=0)


def _say(text: str) -> None:
    click.echo(printable(text), err=True)


def _say_where(out: Path) -> None:
    """The result on stdout: the run is finished, whether that can be printed or not."""
    with reporting(f"the run in {out} is finished"):
        click.echo(os.fsencode(out))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of zsl-train."""
    return run_command(command, argv)
