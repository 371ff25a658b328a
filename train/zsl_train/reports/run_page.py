"""The page of a run: report.html."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import ArtefactError, UsageError
from zsl_train.reports.page import Html, Page, advice, code, folded, joined, name, note, paragraph, said, table, text
from zsl_train.reports.run_classes import classes_part, confusion_part
from zsl_train.reports.run_losses import losses_part
from zsl_train.reports.run_pictures import attention_part, photographs_part, plane_part, rebuilt_part
from zsl_train.reports.run_scores import calibration_part, curve_part, scores_part
from zsl_train.reports.text import measured
from zsl_train.training.run_info import DAMAGED, UNFIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zsl_train.reports.run_files import RunFiles
    from zsl_train.training.material import Material

OLDER = "the run was trained by a version that did not keep what this needs; train it again to have it"


def run_page(run: RunFiles) -> bytes:
    """The file report.html of a run folder.

    Raises:
        ArtefactError: E-RUN when scores.json holds something else than zsl-train writes.

    """
    try:
        return (_unfinished(run) if run.scores is None else _finished(run, run.scores)).to_bytes()
    except (UsageError, *UNFIT) as error:
        reason = error.message if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        raise ArtefactError("E-RUN", f"{run.folder} cannot be reported on ({reason}); {DAMAGED}") from error


def _finished(run: RunFiles, scores: Mapping[str, Any]) -> Page:
    page = Page(f"Training report: {run.title}")
    page.lead = [note(advice(one), warning=True) for one in scores["warnings"]]
    verdict = "H cannot be measured here; see what is missing" if scores["H"] is None else measured(scores)
    page.lead.append(paragraph(Html("<strong>Verdict:</strong> "), text(verdict), text(".")))
    page.add("What was trained", trained_part(run, scores))
    page.add("Scores", scores_part(scores))
    _pictured(page, run, scores, run.material)
    page.add("Losses", losses_part(run.log))
    page.add("Settings", settings_part(run))
    page.add("What this report lacks", lacking_part(run))
    return page


def _pictured(page: Page, run: RunFiles, scores: Mapping[str, Any], material: Material | None) -> None:
    """The sections that need more than scores.json."""
    answers = None if material is None else material.answers
    if answers is not None:
        page.add("Seen against unseen", curve_part(scores, answers, run.seen))
    page.add("Class by class", classes_part(scores))
    if answers is not None:
        page.add("What is taken for what", confusion_part(answers, run.names, run.seen))
    else:
        page.add("What is taken for what", _pairs(scores))
    if material is not None and answers is not None:
        page.add("Can probabilities be believed", calibration_part(answers))
        if material.photographs:
            page.add("The surest answers", photographs_part(run, material))
        if material.maps is not None:
            page.add("Where attention looks", attention_part(run, material))
    if material is not None and material.plane is not None:
        used = scores.get("head") != "gaussian" or bool((scores.get("head_settings") or {}).get("share"))
        page.add("Features and class means", plane_part(material.plane, run.names, run.seen, generator_used=used))
    if run.sheet is not None:
        page.add("Rebuilt pictures", rebuilt_part(run.sheet))


def _unfinished(run: RunFiles) -> Page:
    """What there is of a run that was interrupted or is still going on."""
    page = Page(f"Training report: {run.title}")
    page.lead = [
        note(
            text(
                "this run is not finished: it is going on, or was interrupted. There are no scores yet. The command "
                "that began it, repeated, goes on from its last checkpoint."
            ),
            warning=True,
        )
    ]
    page.add("Losses so far", losses_part(run.log))
    page.add("Settings", settings_part(run))
    return page


def trained_part(run: RunFiles, scores: Mapping[str, Any]) -> Html:
    """What was trained, on what, for how long, by which version."""
    protocol, info = scores["protocol"], run.info
    versions = info.get("versions", {})
    classes, pictures = protocol["classes"], protocol["pictures"]
    rows = {
        "Method": text(f"{scores['method']}, preset {scores['preset']}"),
        "Head": text(HEADS.get(scores.get("head", ""), scores.get("head", "not noted"))),
        "Data": text(info.get("data", "not noted")),
        "Classes": text(f"{classes['seen']} seen, {classes['unseen']} unseen"),
        "Training pictures": text(pictures["train"]),
        "Split": text(protocol["split"]),
        "Features": text(protocol["features"]),
        "Attributes": text(protocol["attributes"]),
        "Training took": text(f"{scores['train_seconds']:.0f} s, selection included"),
        "Machine": text(_machine(scores.get("machine", {}))),
        "Seed": text(protocol["seed"]),
        "Written by": text(f"zsl-deploy {versions.get('zsl-deploy', '?')}, Python {versions.get('python', '?')}"),
    }
    parts = [table("The run", ("", ""), [[text(word), value] for word, value in rows.items()])]
    chosen = scores.get("settings_chosen") or {}
    chosen = {**chosen, **(scores.get("head_settings") or {})}
    if chosen:
        rows_chosen = [[text(key), text(_short(value))] for key, value in chosen.items()]
        parts.append(
            folded("What validation classes chose", table("Chosen on folds", ("setting", "value"), rows_chosen))
        )
    trials = scores.get("leaderboard") or []
    if trials:
        tried = [
            [
                text(one["method"]),
                text("-" if one["validation_H"] is None else f"{one['validation_H']:.1f}"),
                text(f"{one.get('seconds', 0) or 0:.0f}"),
                text("kept" if one["method"] == scores["method"] else one.get("why", "")),
            ]
            for one in trials
        ]
        parts.append(table("What --budget tried, by H on validation classes", ("method", "H", "seconds", ""), tried))
    return joined(parts)


HEADS = {
    "gaussian": "Gaussian: a class is its mean, told by its attributes or by photographs",
    "fit": "softmax regression, fitted on real and synthetic features",
    "rows": "linear, each class's row made of its attributes",
}


def _machine(known: Mapping[str, Any]) -> str:
    words = [str(known["processor"])] if "processor" in known else []
    return ", ".join([*words, *(f"{key} {value}" for key, value in known.items() if key != "processor")]) or "not noted"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pairs(scores: Mapping[str, Any]) -> Html:
    """The worst pairs, where nothing but scores.json is known."""
    if not scores["mixups"]:
        return Html("")
    rows = [
        [name(one["of"]), name(one["given"]), text(one["pictures"]), text(f"{100 * one['share']:.0f}")]
        for one in scores["mixups"]
    ]
    columns = ("pictures of", "are called", "pictures", "percent of the class")
    return table("The pairs that take most pictures the wrong way", columns, rows, numbers=2)


def settings_part(run: RunFiles) -> Html:
    """Every setting of the recipe."""
    flat = {key: value for key, value in run.recipe.items() if not isinstance(value, dict)}
    own = run.recipe.get("settings", {})
    rows = [[code(key), text(value)] for key, value in flat.items()]
    rows += [[code(f"settings.{key}"), text(value)] for key, value in (own.items() if isinstance(own, dict) else ())]
    if not rows:
        return Html("")
    return folded(f"All {len(rows)} settings (recipe.toml)", table("recipe.toml", ("setting", "value"), rows))


def lacking_part(run: RunFiles) -> Html:
    """Which parts are missing, and why."""
    if run.material is None:
        parts = (
            "the seen-unseen curve, the confusion matrix, calibration, photographs, attention and the plane of features"
        )
        return said(f"Missing are {parts}: {OLDER}.")
    names = {"answers": "answers to test pictures", "photographs": "photographs", "maps": "maps of attention"}
    lines = [f"No {names.get(part, part)}: {why}." for part, why in run.material.lacking.items()]
    if run.material.plane is None:
        lines.append("No plane of features: fewer than three classes have pictures.")
    return joined(said(line) for line in lines)
