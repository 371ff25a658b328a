"""How accurate is every method on one data set, photographs or a feature file? One command, over days if need be.

    python benchmarks/accuracy/table.py --data xlsa17/CUB --features resnet_fc1000.mat --runs runs/cub_fc1000 \
        --plan benchmarks/accuracy/cub_fc1000.toml [--only acmr --only lisgan] [--seeds 0,1,2] [--report]
    python benchmarks/accuracy/table.py --data CUB20 --runs runs/cub20 --plan benchmarks/accuracy/cub20.toml

The plan is a TOML file of [[rows]] (`Row` below); without one there is a row of preset `default` for every method.
Finished runs are not repeated, an interrupted one resumes, a run whose row was changed is another run. After each run
the table so far goes to stdout as Markdown, and all figures to benchmarks/results/NAME.json; --report only does that.
Of a run made on another machine it needs scores.json, recipe.toml and log.jsonl alone, in a folder of the same name.
`--option=--device=cuda` hands an option to zsl-train that is no part of what a run is; `--jobs 4` trains four runs at a
time, each in a process of its own whose messages go to a .log beside its folder.

Under our protocol nothing is chosen on test data. The columns that are marked optimistic come from the runs' snapshots
(`literature` in scores.json), are picked on test data as the papers' are, and choose nothing. `compare_heads = true` in
the settings of a row adds a line: the published head on the very features of the first, or the Gaussian head where the
published one ships. Classifiers inside a training have lines of their own as well. `cascade = true` adds a line for
`zsl-infer --cascade` on the test rows of a feature file, which is transductive.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OURS = ("T1", "U", "S", "H", "AUSUC")
FIGURES = (*OURS, "H_uncalibrated", "T1_czsl", "ECE", "gamma", "stop_at", "train_seconds")
FIGURES += ("validation_H", "validation_H_crossfitted")
HEADS = {"gaussian": "Gaussian", "fit": "softmax", "rows": "rows"}
OTHER_HEADS = {"published_head": "published head", "gaussian_head": "Gaussian head"}  # key of scores.json -> name
PROGRAM = "import sys; from zsl_train.cli import main; sys.exit(main())"
HEADINGS = (
    "preset",
    "head",
    "T1",
    "T1_czsl",
    *OURS[1:],
    "last epoch, gamma 0: U / S / H",
    "optimistic*: T1",
    "optimistic*: H",
    "epochs",
    "minutes",
    "seeds",
)
STOPPED = (130, 143)  # exit codes of Ctrl-C and SIGTERM: the user wants no further run


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        method: of zsl-train.
        name: shown; the method and its preset when it is empty.
        preset: of the method, where there is no recipe.
        recipe: a recipe file, relative to the repository, that gives preset and settings.
        settings: further `--set` of the recipe or the method.
        seeds: in place of those of the command line.
        cascade: add a line for the transductive cascade (feature files only).
        reference: what others measured on the same features, as it is to be shown.

    """

    method: str
    name: str = ""
    preset: str = "default"
    recipe: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    cascade: bool = False
    reference: str = ""

    @property
    def shown_preset(self) -> str:
        """The row's preset, or that of its recipe."""
        if not self.recipe:
            return self.preset
        found: str = tomllib.loads((ROOT / self.recipe).read_text(encoding="utf-8")).get("preset", self.preset)
        return found

    @property
    def title(self) -> str:
        return self.name or f"{self.method}, {self.shown_preset}"

    def options(self) -> list[str]:
        """Of zsl-train, without data, seed and folder."""
        chosen = ["--recipe", str(ROOT / self.recipe)] if self.recipe else ["--preset", self.preset]
        sets = [f"--set={key}={_toml(value)}" for key, value in sorted(({"literature": True} | self.settings).items())]
        return ["--method", self.method, *chosen, *sets]

    def told(self) -> list[str]:
        """The options as results tell them: recipes relative to the repository."""
        return [option.removeprefix(f"{ROOT}/") for option in self.options()]

    def folder(self, runs: Path, seed: int) -> Path:
        """The run folder: another one as soon as anything that is asked of zsl-train changes."""
        asked = json.dumps(self.options()).replace(str(ROOT), "")
        if self.recipe:
            asked += (ROOT / self.recipe).read_text(encoding="utf-8")
        return runs / f"{self.method}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}-{seed}"


@dataclass(frozen=True)
class Source:
    """The data set: a folder, and perhaps a feature file in place of its photographs."""

    data: Path
    features: Path | None = None
    splits: Path | None = None

    def options(self) -> list[str]:
        features = [] if self.features is None else ["--features", str(self.features)]
        splits = [] if self.splits is None else ["--splits", str(self.splits)]
        return ["--data", str(self.data), *features, *splits]


def _toml(value: Any) -> str:
    """A value as `--set` reads it: TOML, whose arrays, strings, numbers and booleans are JSON's."""
    return json.dumps(value)


def read_plan(path: Path | None, methods: list[str]) -> list[Row]:
    """The rows of a plan, or one for each method; ends the program for a plan that cannot be meant."""
    if path is None:
        return [Row(method) for method in methods]
    listed = tomllib.loads(path.read_text(encoding="utf-8")).get("rows", [])
    known = {one.name for one in fields(Row)}
    rows = []
    for number, given in enumerate(listed, start=1):
        unknown = sorted(set(given) - known)
        if unknown or given.get("method") not in methods:
            sys.exit(
                f"{path}, row {number}: {', '.join(unknown) or 'method = ' + repr(given.get('method'))} is not known; "
                f"a row has {', '.join(sorted(known))}, methods are {', '.join(methods)}"
            )
        rows.append(Row(**given | {"seeds": tuple(given.get("seeds", ()))}))
    titles = [row.title for row in rows]
    if not rows or len(set(titles)) < len(titles):
        sys.exit(f"{path} has {len(rows)} rows with {len(set(titles))} names; expected [[rows]] of different names")
    return rows


# --- runs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Desk:
    """How runs are trained: nothing of it is part of what a run is.

    Attributes:
        source: the data.
        runs: folder of the runs.
        options: of zsl-train, handed on.
        jobs: so many at a time; more than one in processes of their own.

    """

    source: Source
    runs: Path
    options: tuple[str, ...] = ()
    jobs: int = 1

    def train(self, row: Row, seed: int) -> int:
        """Train one run unless it is finished; a run that fails is said on stderr and leaves its place empty."""
        out = row.folder(self.runs, seed)
        if (out / "scores.json").is_file():
            return 0
        print(f"== {row.title}, seed {seed}: {out}", file=sys.stderr, flush=True)
        asked = [*self.source.options(), *self.options, *row.options(), "--seed", str(seed), "--out", str(out)]
        code = self._in_process(asked) if self.jobs == 1 else self._beside(asked, out)
        if code and code not in STOPPED:
            print(f"== {row.title}, seed {seed} ended with exit code {code}; going on", file=sys.stderr, flush=True)
        return code

    @staticmethod
    def _in_process(asked: list[str]) -> int:
        from zsl_train.cli import main as zsl_train

        with redirect_stdout(sys.stderr):  # stdout is for the table
            return zsl_train(asked)

    def _beside(self, asked: list[str], out: Path) -> int:
        """In a process of its own, with its share of the processors."""
        threads = max(1, len(os.sched_getaffinity(0)) // self.jobs)
        self.runs.mkdir(parents=True, exist_ok=True)
        with out.with_suffix(".log").open("a", encoding="utf-8") as log:
            process = [sys.executable, "-c", PROGRAM, *asked]
            # A number that was set from outside stays.
            environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
            return subprocess.run(process, stdout=log, stderr=log, env=environment, check=False).returncode


def finished(row: Row, seed: int, runs: Path) -> dict[str, Any] | None:
    """scores.json of one run, with the epochs that it ran; None while there is none."""
    out = row.folder(runs, seed)
    if not (out / "scores.json").is_file():
        return None
    scores: dict[str, Any] = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    return scores | {"length": length_of(out, scores, loops_of(row.method))}


def loops_of(method: str) -> int:
    """How often an epoch of the method's last stage goes over the pictures."""
    from zsl_train.methods import find_method
    from zsl_train.methods.base import Dims
    from zsl_train.methods.lengths import Stage

    found = find_method(method)
    stages = found.stages(found.Config(), Dims(regions=1, channels=1, attributes=1, word_width=1, classes=2))
    return next((stage.loops for stage in reversed(stages) if isinstance(stage, Stage)), 1)


def length_of(run: Path, scores: dict[str, Any], loops: int = 1) -> dict[str, Any]:
    """What the final training ran: steps of every stage, and epochs of its last one.

    An epoch is (training rows) / batch steps, times the loops that it has; the schedule is longer than what ran where
    the validation classes chose a share of the last stage.
    """
    stages: dict[str, int] = {}
    for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry.get("session") == "final" and "step" in entry:
            stages[entry["stage"]] = max(entry["step"], stages.get(entry["stage"], 0))
    settings = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8")).get("settings", {})
    if not stages or "batch" not in settings:
        return {"steps": stages, "epochs": None, "of": None}
    epochs = list(stages.values())[-1] * settings["batch"] / scores["protocol"]["pictures"]["train"] / loops
    return {"steps": stages, "epochs": epochs, "of": epochs / scores["stop_at"]}


def cascade(row: Row, seed: int, source: Source, runs: Path) -> None:
    """Label the test rows by the run's bundle with and without a cascade, unless that was done."""
    import numpy as np

    from zsl_export.cli import main as zsl_export
    from zsl_runtime.accuracy import harmonic_mean, per_class_accuracy
    from zsl_runtime.labelling.classifier import CONFIDENT, Classifier
    from zsl_train.data.open import open_image_set

    run = row.folder(runs, seed)
    result, bundle = run.with_suffix(".cascade.json"), run.with_suffix(".bundle")
    if result.is_file() or not (run / "scores.json").is_file():
        return
    with redirect_stdout(sys.stderr):
        code = 0 if bundle.is_dir() else zsl_export([str(run), "--out", str(bundle)])
    if code in STOPPED:
        sys.exit(code)
    if code:
        print(f"== {row.title}, seed {seed}: the export ended with exit code {code}", file=sys.stderr, flush=True)
        return
    images = open_image_set(source.data, source.splits, seed, features=source.features)
    assert images.features is not None
    rows, values = images.rows("test"), images.features.values
    seen = images.table.seen[images.labels[rows]]
    figures: dict[str, Any] = {"confident": CONFIDENT}
    with Classifier.open(bundle) as classifier:
        table = classifier.class_table
        truth = np.array([table.index(images.table.names[label]) for label in images.labels[rows]])

        def labelled(chosen: Any, classes: str, *, twice: bool) -> Any:
            """Predicted and true classes of the rows `chosen` (n,) bool."""
            inputs = (values[i].astype("float32") for i in rows[chosen])
            label = classifier.cascade if twice else classifier.predict
            found = label(inputs, topk=1, classes=classes, batch_size=64)
            return np.array([table.index(one.names[0]) for one in found]), truth[chosen]

        for name, twice in (("plain", False), ("cascade", True)):
            predicted, _ = labelled(np.ones(len(rows), bool), "all", twice=twice)
            unseen, of_seen = (per_class_accuracy(predicted[kind], truth[kind]) for kind in (~seen, seen))
            first = per_class_accuracy(*labelled(~seen, "unseen", twice=twice))
            figures[name] = {"T1": first, "U": unseen, "S": of_seen, "H": harmonic_mean(unseen, of_seen)}
    result.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


# --- the table ------------------------------------------------------------------------------------------------------


def spread(values: list[float | None]) -> dict[str, Any] | None:
    """Mean, standard deviation over seeds and the values; None when a run has no such figure."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return {
        "mean": statistics.fmean(known),
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "values": known,
    }


def collect(row: Row, seeds: list[int], runs: Path) -> dict[str, dict[str, Any]]:
    """Title -> figures of one row, and of its cascade; empty while no seed is finished."""
    found = {seed: scores for seed in seeds if (scores := finished(row, seed, runs)) is not None}
    if not found:
        return {}
    scores = list(found.values())
    literature = [one.get("literature") or {} for one in scores]
    figures = {name: spread([one.get(name) for one in scores]) for name in FIGURES}
    figures["epochs"] = spread([one["length"]["epochs"] for one in scores])
    figures["epochs_scheduled"] = spread([one["length"]["of"] for one in scores])
    figures["optimistic_T1"] = spread([one.get("best_T1") for one in literature])
    figures["optimistic_H"] = spread([(one.get("best") or {}).get("H") for one in literature])
    for name in ("U", "S", "H"):
        figures[f"last_{name}"] = spread([(one.get("last") or {}).get(name) for one in literature])
    common = {
        "method": row.method,
        "preset": row.shown_preset,
        "seeds": list(found),
        "setting": "inductive",
        "options": row.told(),
        "reference": row.reference,
        "machine": sorted({one["machine"]["processor"] for one in scores}),
    }
    rows = {row.title: common | {"figures": figures, "steps": [one["length"]["steps"] for one in scores]}}
    rows[row.title]["head"] = sorted({one.get("head", "fit or rows") for one in scores})
    rows[row.title]["head_rows"] = [one["protocol"].get("head_rows") for one in scores]
    rows[row.title]["head_settings"] = [one.get("head_settings") for one in scores]
    of = common | {"of": row.title, "reference": ""}
    for name, others in inside(scores).items():
        figures = {figure: spread([one.get(figure) for one in others]) for figure in FIGURES if figure in others[0]}
        heads = sorted({one["rule"] for one in others if "rule" in one})
        rows[f"{row.title}: {name}"] = of | {"name": name, "figures": figures, "head": heads}
    files = {seed: row.folder(runs, seed).with_suffix(".cascade.json") for seed in found}
    done = {
        seed: json.loads(file.read_text(encoding="utf-8"))["cascade"] for seed, file in files.items() if file.is_file()
    }
    if row.cascade and done:
        figures = {name: spread([one[name] for one in done.values()]) for name in ("T1", "U", "S", "H")}
        rows[f"{row.title}, cascade"] = of | {
            "name": "cascade",
            "seeds": list(done),
            "setting": "transductive",
            "head": rows[row.title]["head"],
            "figures": figures,
        }
    return rows


def inside(scores: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Name -> figures by seed of what else was scored of the same trainings: the other head, classifiers inside.

    What is not there for every seed is left out: its mean would be over other trainings.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for one in scores:
        more = {name: one[key] for key, name in OTHER_HEADS.items() if key in one} | one.get("parts", {})
        for name, figures in more.items():
            found.setdefault(name, []).append(figures)
    return {name: figures for name, figures in found.items() if len(figures) == len(scores)}


def baselines(rows: list[Row], seeds: list[int], runs: Path) -> dict[str, dict[str, Any]]:
    """The closed forms of the first finished run of every seed: between seeds only their choices differ."""
    by_seed: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        one = next((found for row in rows if (found := finished(row, seed, runs)) is not None), None)
        if one is not None:
            by_seed[seed] = one["baselines"]
    names = list(dict.fromkeys(name for one in by_seed.values() for name in one))
    return {
        f"{name} (closed form)": {
            "method": name,
            "preset": "",
            "head": ["gaussian" if name == "gfzsl" else "rows"],
            "seeds": list(by_seed),
            "setting": "inductive",
            "reference": "",
            "figures": closed_figures([one[name] for one in by_seed.values()]),
        }
        for name in names
    }


def closed_figures(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a closed form by seed; no class depends on another, so T1_czsl is T1 where none was told."""
    figures = {key: spread([one.get(key) for one in found]) for key in (*OURS, "H_uncalibrated", "validation_H")}
    figures["T1_czsl"] = spread([one.get("T1_czsl", one["T1"]) for one in found])
    figures["train_seconds"] = spread([one.get("seconds") for one in found])
    return figures


def cell(figure: dict[str, Any] | None, digits: int = 1) -> str:
    """`mean ± std`."""
    if figure is None:
        return "-"
    deviation = "" if figure["std"] is None else f" ± {figure['std']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{deviation}"


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown, as the README shows it."""
    referenced = any(row["reference"] for row in results.values())
    headings = [*HEADINGS, *(["authors' code"] if referenced else [])]
    lines = ["| | " + " | ".join(headings) + " |", "|---" * (len(headings) + 1) + "|"]
    for title, row in results.items():
        figures = row["figures"]
        last = [cell(figures.get(f"last_{name}")) for name in ("U", "S", "H")]
        cells = [row["preset"] or "-", ", ".join(HEADS.get(one, one) for one in row["head"]) or "-"]
        cells += [cell(figures.get(name)) for name in ("T1", "T1_czsl", *OURS[1:])]
        cells.append("-" if last == ["-"] * 3 else " / ".join(last))
        cells += [cell(figures.get("optimistic_T1")), cell(figures.get("optimistic_H"))]
        cells += [_epochs(figures), _minutes(figures.get("train_seconds")), str(len(row["seeds"]))]
        cells += [row["reference"] or "-"] if referenced else []
        mark = " (transductive)" if row["setting"] == "transductive" else ""
        lines.append(f"| {title}{mark} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _epochs(figures: dict[str, Any]) -> str:
    ran, whole = figures.get("epochs"), figures.get("epochs_scheduled")
    return "-" if ran is None else f"{ran['mean']:.0f} of {whole['mean']:.0f}"


def _minutes(seconds: dict[str, Any] | None) -> str:
    return "-" if seconds is None else f"{seconds['mean'] / 60:.0f}"


NOTE = (
    "T1: unseen classes by the shipped head; T1_czsl: by a head fitted for them alone, the same where none is fitted. "
    "\\* Optimistic: gamma 0 and the best of the snapshots, picked on the test rows themselves as published codes do. "
    "For all other figures epoch, gamma and temperature were chosen on validation classes, nothing on test rows. "
    "Epochs: of the last stage, run of scheduled. Minutes: validation folds and final training."
)


def report(rows: list[Row], seeds: list[int], runs: Path, out: Path) -> str:
    """Write the JSON of all that is finished and give the Markdown; empty while nothing is."""
    results: dict[str, dict[str, Any]] = {}
    for row in rows:
        results |= collect(row, list(row.seeds) or seeds, runs)
    if not results:
        return ""
    every = sorted({seed for row in rows for seed in (row.seeds or seeds)})
    results |= baselines(rows, every, runs)
    runs_done = [one for row in rows for seed in every if (one := finished(row, seed, runs)) is not None]
    # Runs of a table that grows over days may come from more than one machine; what differs is told.
    protocols = {json.dumps(one["protocol"] | {"seed": None, "selection": None}) for one in runs_done}
    machines = {json.dumps(one["machine"]) for one in runs_done}
    content = {
        "protocol": [json.loads(one) for one in sorted(protocols)],
        "selection": sorted({one["protocol"]["selection"] for one in runs_done}),
        "machine": [json.loads(one) for one in sorted(machines)],
        "note": NOTE,
        "results": results,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    facts = [f"{one['split']}; {one['features']}; {one['attributes']}" for one in content["protocol"]]
    return "\n".join([table(results), "", *dict.fromkeys(facts), "", NOTE])


def in_rounds(rows: list[Row], seeds: list[int]) -> list[tuple[Row, int]]:
    """Rows and seeds to train, every row once before any row twice: the table says something early."""
    of = [(row, list(row.seeds or seeds)) for row in rows]
    rounds = max((len(own) for _, own in of), default=0)
    return [(row, seed) for number in range(rounds) for row, own in of for seed in own[number : number + 1]]


def main() -> None:
    """Train what is missing, seed by seed, and print the table after each run."""
    from zsl_train.methods import METHODS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--only", action="append", default=[], help="name or method of rows to train; repeatable")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--jobs", type=int, default=1, help="runs that are trained at a time")
    parser.add_argument("--option", action="append", default=[], help="handed to zsl-train; repeatable")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    rows = read_plan(options.plan, list(METHODS))
    out = options.out or ROOT / "benchmarks" / "results" / f"{options.runs.name}.json"
    source = Source(options.data, options.features, options.splits)
    chosen = [row for row in rows if not options.only or {row.title, row.method} & set(options.only)]
    if source.features is None and any(row.cascade for row in chosen):
        sys.exit("cascade = true is for feature files: give --features, or take it out of the plan")
    desk = Desk(source, options.runs, tuple(options.option), max(1, options.jobs))
    wanted = [] if options.report else in_rounds(chosen, seeds)
    with ThreadPoolExecutor(desk.jobs) as pool:
        running = [pool.submit(desk.train, row, seed) for row, seed in wanted] if desk.jobs > 1 else []
        try:
            for place, (row, seed) in enumerate(wanted):
                code = running[place].result() if running else desk.train(row, seed)
                if code in STOPPED:
                    sys.exit(code)
                if row.cascade:
                    cascade(row, seed, source, options.runs)
                print(report(rows, seeds, options.runs, out), file=sys.stderr, flush=True)
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C nothing new begins
    print(report(rows, seeds, options.runs, out) or "no run is finished")
    absent = [
        f"{row.title}, seed {seed}"
        for row in rows
        for seed in row.seeds or seeds
        if finished(row, seed, options.runs) is None
    ]
    if absent:
        print(f"not in the table yet: {'; '.join(absent)}", file=sys.stderr)


if __name__ == "__main__":
    main()
