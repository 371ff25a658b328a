"""The accuracy table: what is asked of zsl-train, what is not repeated, and what the lines say."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from pathlib import Path

import pytest

import zsl_train.cli
from zsl_train.methods import METHODS
from zsl_train.recipe import make_recipe, method_config, parse_overrides, read_recipe

FILE = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "table.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("accuracy_table", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def scores(height: float, *, literature: bool = True) -> dict:
    figures = {"T1": height + 5, "U": height - 1, "S": height + 1, "H": height, "AUSUC": height / 2}
    content = figures | {
        "H_uncalibrated": height - 10,
        "T1_czsl": None,
        "ECE": 1.0,
        "validation_H": 30.0,
        "gamma": 0.5,
        "stop_at": 0.5,
        "train_seconds": 600.0,
        "baselines": {"eszsl": figures | {"H": 48.0}},
        "protocol": {
            "split": "PS v1",
            "features": "x.mat",
            "attributes": "312 (att)",
            "selection": "folds",
            "seed": 1,
            "pictures": {"train": 1000},
        },
        "machine": {"processor": "p"},
    }
    if literature:
        content["literature"] = {
            "best": {"share": 0.5, "H": height + 7},
            "best_T1": height + 9,
            "last": {"share": 1.0, "U": 1.0, "S": 2.0, "H": 3.0},
        }
    return content


def write_run(folder: Path, content: dict) -> None:
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(content))
    (folder / "recipe.toml").write_text("method = 'm'\n[settings]\nbatch = 50\n")
    lines = [
        {"session": "fold 1/1", "stage": "gan", "step": 999, "of": 999},
        {"session": "final", "stage": "classifier", "step": 7, "of": 7},
        {"session": "final", "stage": "gan", "step": 180, "of": 200},
        {"session": "final", "stage": "gan", "step": 200, "of": 200},
        {"session": "final", "stage": "gan", "steps": 20, "seconds": 3.0},
        {"session": "literature", "stage": "gan", "step": 400, "of": 400},
    ]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def run(bench, monkeypatch, capsys, *arguments: object) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", ["table.py", *map(str, arguments)])
    bench.main()
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_plan_is_read_and_what_cannot_be_meant_is_refused(bench, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[[rows]]\nmethod = "sc-egg"\nseeds = [3, 4]\n[rows.settings]\nhidden = 8\n')
    (row,) = bench.read_plan(plan, ["sc-egg"])
    assert (row.title, row.seeds, row.settings) == ("sc-egg, default", (3, 4), {"hidden": 8})
    for text in (
        '[[rows]]\nmethod = "sc-eg"\n',
        '[[rows]]\nmethod = "sc-egg"\nepoch = 3\n',
        "",
        '[[rows]]\nmethod = "sc-egg"\n[[rows]]\nmethod = "sc-egg"\n',
    ):
        plan.write_text(text)
        with pytest.raises(SystemExit, match=r"plan\.toml"):
            bench.read_plan(plan, ["sc-egg"])
    assert [row.method for row in bench.read_plan(None, list(METHODS))] == list(METHODS)


def test_every_row_of_the_plan_can_be_trained(bench):
    for plan in FILE.parent.glob("*.toml"):
        rows = bench.read_plan(plan, list(METHODS))
        if plan.stem in {"cub20", "cub_fc1000"}:
            assert {row.method for row in rows} == set(METHODS)
        for row in rows:
            base = read_recipe(bench.ROOT / row.recipe) if row.recipe else {}
            sets = [one.removeprefix("--set=") for one in row.options() if one.startswith("--set=")]
            chosen = {"method": row.method} | ({} if row.recipe else {"preset": row.preset})
            method_config(
                METHODS[row.method].Config,
                METHODS[row.method].PRESETS,
                make_recipe(base, parse_overrides(sets), chosen),
            )


def test_options_are_what_the_recipe_understands(bench):
    row = bench.Row("sc-egg", preset="code", settings={"hidden": 8, "snapshots": [0.5, 1.0], "words": "a b"})
    options = row.options()
    assert options[:4] == ["--method", "sc-egg", "--preset", "code"]
    recipe = make_recipe({}, parse_overrides([one.removeprefix("--set=") for one in options[4:]]), {})
    assert (recipe.literature, recipe.snapshots, recipe.words) == (True, (0.5, 1.0), "a b")
    assert recipe.settings == {"hidden": 8}
    off = bench.Row("sc-egg", settings={"literature": False})
    assert "--set=literature=false" in off.options()


def test_a_changed_row_is_another_run(bench, tmp_path):
    row = bench.Row("sc-egg", preset="code")
    changed = bench.Row("sc-egg", preset="code", settings={"hidden": 8})
    renamed = bench.Row("sc-egg", preset="code", name="ours", reference="1", seeds=(4,))
    folders = {one.folder(tmp_path, 0) for one in (row, changed, renamed)}
    assert len(folders) == 2
    assert row.folder(tmp_path, 0) == renamed.folder(tmp_path, 0) != row.folder(tmp_path, 1)
    recipe = next((bench.ROOT / "train" / "recipes").rglob("sc_egg_code.toml")).relative_to(bench.ROOT)
    by_recipe = bench.Row("sc-egg", recipe=str(recipe))
    assert by_recipe.folder(tmp_path, 0) not in folders
    assert by_recipe.title == "sc-egg, code"
    assert by_recipe.told()[2:4] == ["--recipe", str(recipe)]  # no folder of somebody's machine


def test_finished_runs_are_not_repeated_and_a_failure_stops_nobody_else(bench, tmp_path, monkeypatch, capsys):
    runs, plan = tmp_path / "runs", tmp_path / "plan.toml"
    plan.write_text('[[rows]]\nmethod = "sc-egg"\n[[rows]]\nname = "other"\nmethod = "sc-egg"\npreset = "code"\n')
    asked = []

    def fake(arguments: list[str]) -> int:
        asked.append(arguments)
        out, seed = Path(arguments[-1]), int(arguments[arguments.index("--seed") + 1])
        print(out)
        if seed == 1 and "code" in arguments:
            return 3
        write_run(out, scores(40 + 2 * seed))
        return 0

    monkeypatch.setattr(zsl_train.cli, "main", fake)
    arguments = ("--data", "D", "--features", "x.mat", "--runs", runs, "--plan", plan, "--seeds", "0,1")
    arguments += ("--out", tmp_path / "out.json")
    out, err = run(bench, monkeypatch, capsys, *arguments)
    order = [(one[one.index("--preset") + 1], one[one.index("--seed") + 1]) for one in asked]
    assert order == [("default", "0"), ("code", "0"), ("default", "1"), ("code", "1")]
    assert asked[0][:4] == ["--data", "D", "--features", "x.mat"]
    assert "other, seed 1 ended with exit code 3" in err
    assert "not in the table yet: other, seed 1" in err
    assert str(runs) not in out
    run(bench, monkeypatch, capsys, *arguments)
    assert len(asked) == 5  # the one that failed, again
    run(bench, monkeypatch, capsys, *arguments, "--report")
    assert len(asked) == 5
    run(bench, monkeypatch, capsys, *arguments, "--only", "sc-egg, default")
    assert len(asked) == 5
    run(bench, monkeypatch, capsys, *arguments, "--only", "other")
    assert len(asked) == 6


@pytest.mark.parametrize("code", [130, 143])
def test_ctrl_c_ends_it(bench, tmp_path, monkeypatch, capsys, code):
    monkeypatch.setattr(zsl_train.cli, "main", lambda _: code)
    with pytest.raises(SystemExit) as caught:
        run(bench, monkeypatch, capsys, "--data", "D", "--features", "x.mat", "--runs", tmp_path / "r")
    assert caught.value.code == code


def test_the_table_and_the_figures(bench, tmp_path, monkeypatch, capsys):
    runs, out, plan = tmp_path / "runs", tmp_path / "out.json", tmp_path / "plan.toml"
    plan.write_text('[[rows]]\nmethod = "sc-egg"\ncascade = true\nreference = "44.4"\n')
    (row,) = bench.read_plan(plan, ["sc-egg"])
    for seed, height in ((0, 40.0), (1, 43.0)):
        write_run(row.folder(runs, seed), scores(height))
    passes = {"plain": {}, "cascade": {"T1": 50.0, "U": 36.0, "S": 54.0, "H": 43.2}}
    row.folder(runs, 1).with_suffix(".cascade.json").write_text(json.dumps(passes))
    arguments = ("--data", "D", "--features", "x.mat", "--runs", runs, "--plan", plan, "--seeds", "0,1,2", "--report")
    text, err = run(bench, monkeypatch, capsys, *arguments, "--out", out)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert {len(line) for line in lines} == {16}
    by_name = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
    own = by_name["sc-egg, default"]
    std = f"{statistics.stdev([40, 43]):.1f}"
    assert own["H"] == f"41.5 ± {std}"
    assert own["optimistic*: H"] == f"48.5 ± {std}"
    assert own["optimistic*: T1"] == f"50.5 ± {std}"
    assert own["last epoch, gamma 0: U / S / H"] == "1.0 ± 0.0 / 2.0 ± 0.0 / 3.0 ± 0.0"
    assert own["epochs"] == "5 of 10"  # 200 steps of 50 rows of 1000 in two loops, half of the schedule
    assert (own["minutes"], own["seeds"], own["authors' code"]) == ("10", "2", "44.4")
    two = by_name["sc-egg, default, cascade (transductive)"]
    assert (two["H"], two["seeds"], two["AUSUC"], two["optimistic*: H"]) == ("43.2", "1", "-", "-")
    assert by_name["eszsl (closed form)"]["H"] == "48.0 ± 0.0"
    assert "Optimistic" in text
    assert "PS v1; x.mat; 312 (att)" in text
    assert "not in the table yet: sc-egg, default, seed 2" in err
    stored = json.loads(out.read_text())
    assert stored["results"]["sc-egg, default"]["figures"]["H"]["values"] == [40.0, 43.0]
    assert stored["results"]["sc-egg, default"]["steps"][0] == {"classifier": 7, "gan": 200}
    assert stored["results"]["sc-egg, default, cascade"]["setting"] == "transductive"


def test_runs_without_the_optimistic_column_have_a_gap(bench, tmp_path, monkeypatch, capsys):
    row = bench.Row("sc-egg")
    write_run(row.folder(tmp_path / "runs", 0), scores(40.0, literature=False))
    arguments = ("--data", "D", "--features", "x.mat", "--runs", tmp_path / "runs", "--report", "--out", tmp_path / "o")
    text, _ = run(bench, monkeypatch, capsys, *arguments)
    line = next(one for one in text.splitlines() if one.startswith("| sc-egg"))
    cells = "45.0 | - | 39.0 | 41.0 | 40.0 | 20.0 | - | - | - | 5 of 10 | 10 | 1"
    assert line == f"| sc-egg, default | default | fit or rows | {cells} |"


def test_the_published_head_on_the_same_features_has_a_line_of_its_own(bench, tmp_path, monkeypatch, capsys):
    row = bench.Row("sc-egg", settings={"compare_heads": True})
    other = {"rule": "fit", "T1": 30.0, "T1_czsl": 33.0, "U": 20.0, "S": 60.0, "H": 30.5, "AUSUC": 15.0}
    content = scores(40.0, literature=False) | {"head": "gaussian", "published_head": other}
    write_run(row.folder(tmp_path / "runs", 0), content)
    plan, out = tmp_path / "plan.toml", tmp_path / "o"
    plan.write_text('[[rows]]\nmethod = "sc-egg"\n[rows.settings]\ncompare_heads = true\n')
    arguments = ("--data", "D", "--features", "x.mat", "--runs", tmp_path / "runs", "--plan", plan, "--report")
    text, _ = run(bench, monkeypatch, capsys, *arguments, "--out", out)
    line = next(one for one in text.splitlines() if "published head" in one)
    assert line.startswith(
        "| sc-egg, default: published head | default | softmax | 30.0 | 33.0 | 20.0 | 60.0 | 30.5 | 15.0 |"
    )
    stored = json.loads(out.read_text())["results"]
    assert stored["sc-egg, default"]["head"] == ["gaussian"]
    assert stored["sc-egg, default: published head"]["head"] == ["fit"]
    assert stored["sc-egg, default: published head"]["of"] == "sc-egg, default"


def test_the_gaussian_head_and_classifiers_inside_have_lines_of_their_own(bench, tmp_path):
    row = bench.Row("sc-egg", preset="code", seeds=(0, 1), reference="44")
    figures = {"T1": 30.0, "T1_czsl": 30.0, "U": 20.0, "S": 60.0, "H": 30.0, "AUSUC": 15.0, "gamma": 0.1}
    for seed in (0, 1):
        other = {key: value + 2 * seed for key, value in figures.items()}
        parts = {"local network": other, **({"guide": other} if seed else {})}
        content = scores(40.0) | {"head": "fit", "gaussian_head": other | {"rule": "gaussian"}, "parts": parts}
        content["protocol"]["head_rows"] = {"real": 1000 - seed, "synthetic": 20}
        write_run(row.folder(tmp_path, seed), content)
    found = bench.collect(row, [0, 1], tmp_path)
    assert list(found) == ["sc-egg, code", "sc-egg, code: Gaussian head", "sc-egg, code: local network"]
    own, head, part = found.values()
    assert (own["method"], own["preset"], own["machine"], own["head"]) == ("sc-egg", "code", ["p"], ["fit"])
    assert [one["real"] for one in own["head_rows"]] == [1000, 999]
    assert "of" not in own
    assert (head["of"], head["name"], head["head"]) == ("sc-egg, code", "Gaussian head", ["gaussian"])
    assert (part["of"], part["name"], part["head"]) == ("sc-egg, code", "local network", [])
    assert head["figures"]["H"]["values"] == part["figures"]["H"]["values"] == [30.0, 32.0]
    assert (own["reference"], head["reference"], part["reference"]) == ("44", "", "")


def test_closed_forms_of_older_runs_have_t1_as_their_t1_czsl(bench, tmp_path):
    row = bench.Row("sc-egg")
    content = scores(40.0)
    content["baselines"] = {"eszsl": {"T1": 45.0, "H": 48.0}, "gfzsl": {"T1": 50.0, "T1_czsl": 49.0, "seconds": 3.0}}
    write_run(row.folder(tmp_path, 0), content)
    found = bench.baselines([row], [0], tmp_path)
    assert found["eszsl (closed form)"]["figures"]["T1_czsl"]["mean"] == 45.0
    assert found["gfzsl (closed form)"]["figures"]["T1_czsl"]["mean"] == 49.0
    assert found["gfzsl (closed form)"]["figures"]["train_seconds"]["mean"] == 3.0
    assert [one["head"] for one in found.values()] == [["rows"], ["gaussian"]]


def test_options_are_handed_on_and_are_no_part_of_what_a_run_is(bench, tmp_path, monkeypatch, capsys):
    asked = []

    def fake(arguments: list[str]) -> int:
        asked.append(arguments)
        write_run(Path(arguments[-1]), scores(40.0))
        return 0

    monkeypatch.setattr(zsl_train.cli, "main", fake)
    plan = tmp_path / "plan.toml"
    plan.write_text('[[rows]]\nmethod = "sc-egg"\n')
    arguments = ("--data", "D", "--runs", tmp_path / "r", "--plan", plan, "--out", tmp_path / "o")
    run(bench, monkeypatch, capsys, *arguments, "--option=--device=cuda", "--option=--verbose")
    assert asked[0][:4] == ["--data", "D", "--device=cuda", "--verbose"]
    assert Path(asked[0][-1]) == bench.Row("sc-egg").folder(tmp_path / "r", 0)
    run(bench, monkeypatch, capsys, *arguments)
    assert len(asked) == 1


def test_several_runs_at_a_time_are_processes_with_a_log_each(bench, tmp_path, monkeypatch, capsys):
    program = (
        "import json, sys, pathlib, os; out = pathlib.Path(sys.argv[-1]); print('said', os.environ['OMP_NUM_THREADS']);"
        "seed = sys.argv[sys.argv.index('--seed') + 1]; seed == '2' and sys.exit(3); out.mkdir(parents=True);"
        f"content = json.loads({json.dumps(json.dumps(scores(40.0)))}); content['H'] = 40.0 + int(seed);"
        "(out / 'recipe.toml').write_text('[settings]'); (out / 'log.jsonl').write_text('');"
        "(out / 'scores.json').write_text(json.dumps(content))"
    )
    monkeypatch.setattr(bench, "PROGRAM", program)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plan = tmp_path / "plan.toml"
    plan.write_text('[[rows]]\nmethod = "sc-egg"\n')
    arguments = ("--data", "D", "--runs", tmp_path / "r", "--plan", plan, "--seeds", "0,1,2", "--jobs", "2")
    _, err = run(bench, monkeypatch, capsys, *arguments, "--out", tmp_path / "o")
    stored = json.loads((tmp_path / "o").read_text())["results"]["sc-egg, default"]
    assert stored["figures"]["H"]["values"] == [40.0, 41.0]
    assert "seed 2 ended with exit code 3" in err
    for seed in (0, 1, 2):
        assert bench.Row("sc-egg").folder(tmp_path / "r", seed).with_suffix(".log").read_text().startswith("said ")
    monkeypatch.setattr(bench, "PROGRAM", "import sys; sys.exit(130)")
    with pytest.raises(SystemExit) as caught:
        run(bench, monkeypatch, capsys, *arguments, "--out", tmp_path / "o")
    assert caught.value.code == 130


def test_nothing_finished_is_said(bench, tmp_path, monkeypatch, capsys):
    arguments = ("--data", "D", "--features", "x.mat", "--runs", tmp_path / "r", "--report", "--out", tmp_path / "o")
    assert run(bench, monkeypatch, capsys, *arguments)[0] == "no run is finished\n"
    assert not (tmp_path / "o").exists()


def test_photographs_need_no_feature_file_and_have_no_cascade(bench, tmp_path, monkeypatch, capsys):
    plan, asked = tmp_path / "plan.toml", []

    def fake(arguments: list[str]) -> int:
        asked.append(arguments)
        write_run(Path(arguments[-1]), scores(40.0))
        return 0

    monkeypatch.setattr(zsl_train.cli, "main", fake)
    arguments = ("--data", "D", "--runs", tmp_path / "r", "--plan", plan, "--out", tmp_path / "o")
    plan.write_text('[[rows]]\nmethod = "sc-egg"\ncascade = true\n')
    with pytest.raises(SystemExit, match="give --features"):
        run(bench, monkeypatch, capsys, *arguments)
    plan.write_text('[[rows]]\nmethod = "sc-egg"\n')
    assert "| sc-egg, default | default | fit or rows | 45.0 |" in run(bench, monkeypatch, capsys, *arguments)[0]
    assert asked[0][:4] == ["--data", "D", "--method", "sc-egg"]
