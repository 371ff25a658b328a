"""The main job on the drawn demo set: draw, train, export, label, add classes from attributes alone, label again.

Every step is a command a user would type; it is printed before it runs. Usage: python tools/demo.py FOLDER
"""

from __future__ import annotations

import csv
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "train" / "recipes" / "field_guide" / "sc_egg.toml"


def run(*words: str | Path, listed: Path | None = None) -> None:
    """Print and run one command of this environment, perhaps with a list on stdin; stop at the first that fails."""
    shown = " ".join(shlex.quote(str(word)) for word in words)
    print(f"\n$ {shown}{f' < {shlex.quote(str(listed))}' if listed else ''}", flush=True)
    began = time.monotonic()
    program = Path(sys.executable).with_name(str(words[0]))
    given = listed.read_bytes() if listed else None
    code = subprocess.run([program, *map(str, words[1:])], check=False, input=given).returncode
    if code:
        sys.exit(f"demo stopped: {words[0]} ended with exit code {code}")
    print(f"({time.monotonic() - began:.1f} s)", flush=True)


def list_test_pictures(data: Path, chosen: Path) -> None:
    """Write the paths of the pictures that training kept for the test, a line each."""
    with (data / "split.csv").open(encoding="utf-8", newline="") as file:
        names = [row["image"] for row in csv.DictReader(file) if row["role"] == "test"]
    chosen.write_text("".join(f"{data / 'images' / name}\n" for name in names), encoding="utf-8")


def accuracy(labels: Path) -> tuple[int, int]:
    """Pictures whose first label is the name of the folder they lie in, and pictures in all."""
    with labels.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return sum(Path(row["path"]).parent.name == row["class"] for row in rows), len(rows)


def report(title: str, labels: Path) -> None:
    """One line about a labelled folder."""
    right, total = accuracy(labels)
    print(f"==> {title}: {right} of {total} right ({100 * right / total:.0f} %)", flush=True)


def main() -> None:
    """Run the demo in the folder given."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/demo.py FOLDER")
    folder = Path(sys.argv[1])
    began = time.monotonic()
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    data, bundle = folder / "data", folder / "bundle"
    new = data / "new_species"
    run("python", "-m", "zsl_train.data.field_guide", data)
    run("zsl-train", "--data", data, "--recipe", RECIPE, "--out", folder / "run")
    run("zsl-export", folder / "run", "--out", bundle)
    run("zsl-infer", new, "--engine", bundle, "--topk", "1", "--output", folder / "before.csv")
    report("species the model has never heard of, before they are added", folder / "before.csv")
    test = folder / "test.txt"
    list_test_pictures(data, test)
    run("zsl-infer", "-", "--engine", bundle, "--topk", "1", "--output", folder / "known_before.csv", listed=test)
    report("test photographs of the species it knows", folder / "known_before.csv")
    run("zsl-classes", "add", "--engine", bundle, "--attributes", data / "more_classes.csv")
    run("zsl-infer", new, "--engine", bundle, "--topk", "1", "--output", folder / "after.csv")
    report("the photographs of new species, after they were added from their attributes", folder / "after.csv")
    run("zsl-infer", "-", "--engine", bundle, "--topk", "1", "--output", folder / "known_after.csv", listed=test)
    report("and what the newcomers cost: the test photographs of the other species again", folder / "known_after.csv")
    print(f"\nThe whole job took {time.monotonic() - began:.0f} s. In {folder}/ lie run, bundle and labels.")


if __name__ == "__main__":
    main()
