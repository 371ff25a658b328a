"""The main job on the drawn demo set: draw, train, export, label, add classes, label again, teach them, label again.

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


def accuracy(labels: Path, leave_out: frozenset[str] = frozenset()) -> tuple[int, int]:
    """Pictures whose first label is the name of the folder they lie in, and pictures in all.

    Args:
        labels: what zsl-infer wrote.
        leave_out: file names that do not count.

    """
    with labels.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if Path(row["path"]).name not in leave_out]
    return sum(Path(row["path"]).parent.name == row["class"] for row in rows), len(rows)


def report(title: str, right: int, total: int) -> None:
    """One line about labelled pictures."""
    print(f"==> {title}: {right} of {total} right ({100 * right / total:.0f} %)", flush=True)


def copy_some(photographs: Path, chosen: Path, count: int) -> frozenset[str]:
    """Copy the first photographs of every class into a folder of their own; returns their file names."""
    names = set()
    for folder in sorted(path for path in photographs.iterdir() if path.is_dir()):
        (chosen / folder.name).mkdir(parents=True)
        for picture in sorted(folder.iterdir())[:count]:
            shutil.copy(picture, chosen / folder.name)
            names.add(picture.name)
    return frozenset(names)


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
    new, few, test = data / "new_species", folder / "two_photographs_each", folder / "test.txt"

    def label(when: str) -> tuple[tuple[int, int], Path]:
        """Label both sets: how many of the old species' test pictures are right, and the labels of the new ones."""
        known, strangers = folder / f"known_{when}.csv", folder / f"new_{when}.csv"
        run("zsl-infer", new, "--engine", bundle, "--topk", "1", "--quiet", "--output", strangers)
        run("zsl-infer", "-", "--engine", bundle, "--topk", "1", "--quiet", "--output", known, listed=test)
        return accuracy(known), strangers

    run("python", "-m", "zsl_train.data.field_guide", data)
    list_test_pictures(data, test)
    run("zsl-train", "--data", data, "--recipe", RECIPE, "--out", folder / "run")
    run("zsl-export", folder / "run", "--out", bundle)
    before, strangers = label("before")
    report("photographs of species that the model has never heard of", *accuracy(strangers))
    report("test photographs of the species it knows", *before)
    run("zsl-classes", "add", "--engine", bundle, "--attributes", data / "more_classes.csv")
    added, described = label("added")
    report("the new species, known by a row of attributes each", *accuracy(described))
    report("and what they cost: the species it knew before", *added)
    shown = copy_some(new, few, 2)
    run("zsl-classes", "teach", "--engine", bundle, "--photos", few)
    taught, learned = label("taught")
    report("the new species' other photographs, from attributes alone", *accuracy(described, shown))
    report("and with two photographs of each", *accuracy(learned, shown))
    right = [
        f"{one[0]} {when}" for one, when in ((before, "before"), (added, "after"), (taught, "after two photographs"))
    ]
    print(f"==> the species it knew before, of {before[1]} test photographs right: {', '.join(right)}")
    print(f"\nThe whole job took {time.monotonic() - began:.0f} s. In {folder}/ lie run, bundle and labels.")
    print(f"Try it in your browser: {Path(sys.executable).with_name('zsl-demo')} --engine {bundle} --open")


if __name__ == "__main__":
    main()
