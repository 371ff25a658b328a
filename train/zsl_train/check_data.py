"""The split doctor (`zsl-train --check-data DIR`): what a data folder holds, and all that is odd about it.

It says what a training would find, list by list, and holds published splits against the published counts
(docs/methods.md 1.1). What the readers refuse is BROKEN; what they only tell is a note.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.cli.finding import BROKEN, NOTE, OK, Finding
from zsl_runtime.errors import UsageError, ZslError, from_os_error, listed
from zsl_runtime.machine.untrusted import MIB, UnfitError, read_given
from zsl_train.data import archives, cub
from zsl_train.data.att_splits import (
    FILE,
    NEVER_USED,
    PARTS,
    PUBLISHED,
    TUNING,
    index_base,
    looks_like,
    read_split_file,
)
from zsl_train.data.attributes import odd_notes, rule_notes, semantic_rule
from zsl_train.data.doubles import double_notes
from zsl_train.data.feature_file import feature_files
from zsl_train.data.image_set import MANY_NEGATIVE, alike
from zsl_train.data.open import open_image_set
from zsl_train.data.xlsa17 import OWN, find_split_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zsl_runtime.head.class_table import ClassTable
    from zsl_train.data.att_splits import SplitFile
    from zsl_train.data.image_set import ImageSet

LARGEST_LIST = 16 * MIB  # of names of classes
SHOWN_GROUPS = 3  # of classes that are described alike
UNIT_TOLERANCE = 1e-3  # how far the length of an attribute vector may be from 1 to count as unit length


def check_data(
    directory: Path, features: Path | None = None, splits: Path | None = None, *, attributes: str = "att", seed: int = 0
) -> Iterator[Finding]:
    """Everything to be said about a data folder, one finding after the other; usable unless one is BROKEN.

    Args:
        directory: as of `zsl-train --data`.
        features: a feature file; None takes all in `directory` where it holds no photographs.
        splits: as of `zsl-train --splits`.
        attributes: as of the recipe.
        seed: of a split that is made where there is none.

    Raises:
        UsageError: E-DATA-LAYOUT when there is no such folder.

    """
    if not directory.is_dir():
        raise UsageError("E-DATA-LAYOUT", f"{directory} is not a folder; give the one that zsl-train --data would get")
    if features is None and not _of_feature_files(directory):
        yield from _opened(directory, None, splits, attributes=attributes, seed=seed)
        return
    try:
        split = read_split_file(find_split_file((directory, *((features.parent,) if features else ())), splits))
    except ZslError as error:
        yield Finding(BROKEN, str(error))
    else:
        yield from split_findings(split)
    files = [features] if features is not None else [path.relative_to(directory) for path in feature_files(directory)]
    if not files:
        yield Finding(
            BROKEN,
            f"E-FEATURES-FILE: {directory} holds no feature file (.mat with features and labels) to go with {FILE}; "
            "put res101.mat there, or name another with --features",
        )
    for file in files:
        yield from _opened(directory, file, splits, attributes=attributes, seed=seed)


def _of_feature_files(directory: Path) -> bool:
    """Whether the folder is one for feature files: att_splits.mat or a feature file, and no photographs."""
    found = cub.find_archive(directory) or archives.find_archive(directory)
    if (directory / "classes.csv").is_file() or found is not None:
        return False
    return (directory / FILE).is_file() or bool(feature_files(directory))


def _opened(
    directory: Path, features: Path | None, splits: Path | None, *, attributes: str, seed: int
) -> Iterator[Finding]:
    """What the training would see."""
    try:
        images = open_image_set(directory, splits, seed, features=features, attributes=attributes)
    except ZslError as error:
        yield Finding(BROKEN, str(error))
        return
    yield from image_findings(images)
    yield from class_list_findings(directory, images.table)
    given = (("--data", directory), ("--features", features), ("--splits", splits))
    flags = " ".join(f"{flag} {shlex.quote(str(value))}" for flag, value in given if value is not None)
    yield Finding(OK, f"usable: zsl-train {flags} --out RUN")


def class_list_findings(directory: Path, table: ClassTable) -> Iterator[Finding]:
    """The lists of class names beside a published split, held against the classes that the split makes seen and unseen.

    trainvalclasses.txt are the seen classes, testclasses.txt the unseen ones; trainclassesN.txt and valclassesN.txt
    divide the former.
    """
    lists = {path.stem: _names_in(path) for path in sorted(directory.glob("*classes*.txt")) if path.is_file()}
    flags = dict(zip(table.names, table.seen, strict=True))
    parts = {"trainvalclasses": True, "testclasses": False}
    for stem, seen in parts.items():
        if stem in lists:
            of_split = {name for name, flag in flags.items() if flag == seen}
            kind = "seen" if seen else "unseen"
            yield _compared(f"{stem}.txt", lists[stem], f"the {kind} classes of the split", of_split)
    for stem, train in lists.items():
        number = stem.removeprefix("trainclasses")
        val = lists.get(f"valclasses{number}")
        if stem != f"trainclasses{number}" or val is None or "trainvalclasses" not in lists:
            continue
        both = f"{stem}.txt and valclasses{number}.txt"
        if train & val:
            yield Finding(NOTE, f"{both} share {listed(sorted(train & val))}; they are not used")
        yield _compared(f"{both} together", train | val, "trainvalclasses.txt", lists["trainvalclasses"])


def _names_in(path: Path) -> set[str]:
    try:
        text = read_given(path, LARGEST_LIST, pipes=False).decode(errors="replace")
    except UnfitError as error:
        raise UsageError("E-CSV", f"{path} {error}; give a list of class names, or remove it") from None
    except OSError as error:
        raise from_os_error(error, "read the list of classes") from error
    return {line.strip() for line in text.splitlines() if line.strip()}


def _compared(what: str, names: set[str], other: str, wanted: set[str]) -> Finding:
    if names == wanted:
        return Finding(OK, f"{what}: the {len(names)} of {other}")
    off = [
        f"{listed(sorted(more))} only {where}"
        for more, where in ((names - wanted, "there"), (wanted - names, f"in {other}"))
        if more
    ]
    return Finding(NOTE, f"{what} differs from {other}: {'; '.join(off)}; the list of names is not used")


def split_findings(split: SplitFile) -> Iterator[Finding]:
    """An att_splits.mat for itself: version, keys, index base, counts, overlaps, attributes."""
    yield Finding(OK, f"{split.path}: {split.version}")
    missing = [key for key in TUNING if key not in split.lists]
    missing += [key for key in OWN if key not in split.attributes]
    missing += ["allclasses_names"] if split.names is None else []
    if missing:
        yield Finding(NOTE, f"keys that some files have and this one lacks: {', '.join(missing)}")
    named = np.unique(np.concatenate([split.lists[key] for key in PARTS]))
    base = index_base(split, int(named.max()) + 1 if named.min() == 0 else int(named.max()))
    yield Finding(OK if base == 1 else NOTE, f"its lists count from {base}; {len(named)} pictures are named")
    gaps = int(named.max()) - base + 1 - len(named)
    if gaps:
        yield Finding(NOTE, f"{gaps} positions up to {named.max()} are in none of {', '.join(PARTS)}")
    classes = next((array.shape[1] for array in split.attributes.values() if np.ndim(array) == 2), 0)
    yield from _against_published(split, classes, len(named))
    yield from _overlaps(split)
    for key, array in split.attributes.items():
        if np.ndim(array) == 2 and array.dtype.kind in "fiu":
            yield from attribute_findings(f"{key} of {split.path.name}", np.asarray(array.T, np.float64))


def _against_published(split: SplitFile, classes: int, images: int) -> Iterator[Finding]:
    name = looks_like(classes, images)
    if not name:
        yield Finding(NOTE, f"{classes} classes: none of the published data sets ({', '.join(PUBLISHED)})")
        return
    known = PUBLISHED[name]
    sizes = {key: len(values) for key, values in split.lists.items()}
    wanted = {"trainval_loc": known.trainval, "test_seen_loc": known.test_seen, "test_unseen_loc": known.test_unseen}
    if split.leaked:  # only version 1 has its train_loc and val_loc published
        wanted |= {"train_loc": known.train, "val_loc": known.val}
    off = [f"{key} {sizes.get(key, 0)} (published {count})" for key, count in wanted.items() if sizes.get(key) != count]
    if off:
        yield Finding(NOTE, f"looks like {name}, and differs from the published split: {', '.join(off)}")
    else:
        counts = ", ".join(f"{key} {count}" for key, count in wanted.items())
        yield Finding(OK, f"the pictures of each list are as many as published for {name}: {counts}")
    widths = {array.shape[0] for array in split.attributes.values() if np.ndim(array) == 2}
    if widths - {known.attributes}:
        yield Finding(NOTE, f"{sorted(widths)} attributes, {name} has {known.attributes}")


def _overlaps(split: SplitFile) -> Iterator[Finding]:
    for key in (key for key in TUNING if key in split.lists):
        leaked, clean = split.overlap(key, "test_seen_loc"), split.overlap(key, "trainval_loc")
        unseen = split.overlap(key, "test_unseen_loc")
        state = NOTE if leaked or unseen else OK
        yield Finding(
            state,
            f"{key}: {len(split.lists[key])} pictures, {leaked} of them in test_seen_loc, {unseen} in test_unseen_loc, "
            f"{clean} in trainval_loc",
        )
    if split.leaked:
        yield Finding(NOTE, NEVER_USED)


def attribute_findings(what: str, raw: NDArray[np.float64], names: Sequence[str] = ()) -> Iterator[Finding]:
    """Attribute vectors (C, A): width, lengths, negatives, and what nobody could train on."""
    broken = int((~np.isfinite(raw)).sum())
    lengths = np.linalg.norm(np.nan_to_num(raw), axis=1)
    unit = bool((np.abs(lengths - 1) < UNIT_TOLERANCE).all())
    negative = int((raw < 0).sum())
    about = "unit length" if unit else f"lengths {lengths.min():.3g} to {lengths.max():.3g}"
    yield Finding(
        OK, f"{what}: {raw.shape[0]} classes, {raw.shape[1]} attributes, {about}, {negative} negative numbers"
    )
    if negative > MANY_NEGATIVE * raw.size:
        yield Finding(
            NOTE,
            f"{what}: {negative / raw.size:.0%} of the numbers are negative; train with --set clamp_negative=false",
        )
    if broken:
        yield Finding(NOTE, f"{what}: {broken} numbers are NaN or infinite")
    zero = int((lengths == 0).sum())
    if zero:
        yield Finding(NOTE, f"{what}: {zero} classes have no attribute at all (all 0)")
    groups = alike(raw)
    if groups:
        some = "; ".join(" = ".join(_named(int(row), names) for row in group) for group in groups[:SHOWN_GROUPS])
        more = f"; and {len(groups) - SHOWN_GROUPS} more groups" if len(groups) > SHOWN_GROUPS else ""
        yield Finding(
            NOTE,
            f"{what}: {sum(map(len, groups))} classes have the same attributes as another: {some}{more}. Attributes "
            "cannot tell them apart: of the unseen ones in a group only one can ever be named; describe what sets them "
            "apart",
        )


def _named(row: int, names: Sequence[str]) -> str:
    return names[row] if names else f"class {row + 1}"


def image_findings(images: ImageSet) -> Iterator[Finding]:
    """What was opened: kind, classes, pictures by role, features, and every note of the reader."""
    table, unit, file = images.table, images.unit, images.features
    seen = int(table.seen.sum())
    yield Finding(
        OK,
        f"{unit} in {images.root}: {len(images)}, {seen} seen and {len(table) - seen} unseen classes, "
        f"{len(table.attributes)} attributes",
    )
    if file is not None:
        regions = "" if file.regions == 1 else f"{file.regions} regions, "
        low, high = float(file.values.min()), float(file.values.max())
        yield Finding(
            OK,
            f"{file.path.name}: {regions}{file.width} wide, from {low:.4g} to {high:.4g}, no NaN or infinity, "
            f"{file.constant} constant dimensions, sha256 {file.sha256[:12]}",
        )
    counts = {
        "train": len(images.rows("train")),
        "val": len(images.rows("val")),
        "test of seen classes": len(images.rows("test", seen=True)),
        "test of unseen classes": len(images.rows("test", seen=False)),
        "in no list": int((images.role == "").sum()),
    }
    yield Finding(OK, f"{images.split_version}: " + ", ".join(f"{role} {count}" for role, count in counts.items()))
    yield from _class_findings(images)
    if file is None:
        yield Finding(OK, "pictures are found by name and were not decoded; zsl-train names those that cannot be read")
        yield from (Finding(NOTE, note) for note in double_notes(images))
        yield from attribute_findings("attributes", table.raw, table.names)
    rule = semantic_rule(table, clamp_negative=True, unit_l2=True, attribute_scale="auto")
    odd = (*odd_notes(rule, table), *(note for note in rule_notes(rule, table) if "by the semantic rule" not in note))
    yield from (Finding(NOTE, note) for note in odd)
    yield from (Finding(NOTE, note) for note in images.notes if NEVER_USED not in note)  # said of the split file


def _class_findings(images: ImageSet) -> Iterator[Finding]:
    table = images.table
    trained = np.isin(images.role, ("train", "val"))
    per_class = np.bincount(images.labels[trained], minlength=len(table))[table.seen]
    yield Finding(
        OK,
        f"training {images.unit} a seen class: {per_class.min()} to {per_class.max()}, median {np.median(per_class):g}",
    )
    single = [table.names[int(i)] for i in np.flatnonzero(table.seen)[per_class == 1]]
    if single:
        yield Finding(NOTE, f"{len(single)} seen classes have one training picture: {listed(single)}")
    tested = np.bincount(images.labels[images.role == "test"], minlength=len(table))
    untested = [table.names[int(i)] for i in np.flatnonzero(tested == 0)]
    if untested:
        yield Finding(NOTE, f"{len(untested)} classes have nothing to test on: {listed(untested)}")
    known = PUBLISHED.get(images.data_set)
    if known is None:
        return
    seen, unseen = int(table.seen.sum()), int((~table.seen).sum())
    state = OK if (seen, unseen) == (known.seen, known.unseen) else NOTE
    yield Finding(
        state,
        f"looks like {images.data_set}: {seen} seen and {unseen} unseen classes, published {known.seen} and "
        f"{known.unseen}",
    )
