"""The field guide as a data folder (`zsl_train.data.folder`)."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.bundle.writing import clean_siblings
from zsl_runtime.errors import UsageError, from_os_error
from zsl_runtime.machine.storage import LOCK, claimed_folder, new_sibling, sync_folder, write_synced
from zsl_train.data.field_guide.picture import draw_picture, to_jpeg
from zsl_train.data.field_guide.species import NEW, SEEN, UNSEEN, read_species
from zsl_train.data.field_guide.traits import (
    TRAITS,
    attribute_names,
    attribute_row,
    attribute_vectors,
    attribute_words,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from zsl_train.data.field_guide.species import Species

PER_CLASS = 24
TEST_EVERY = 4  # of a seen species' pictures one in four is for testing
PHOTOGRAPHED = 2  # new species that have pictures, for trying out a model to which they were added


def draw_field_guide(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    per_class: int = PER_CLASS,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the field guide into a new folder.

    It gets `images/<species>/NNN.jpg`, `classes.csv`, `split.csv`, `attributes.csv` and `attribute_vectors.npy`
    (A, 50) float32; further `more_classes.csv`, the attributes of species that are in no picture below `images/`, and
    `new_species/<species>/NNN.jpg`, photographs of two of those. The same seed and count give the same bytes (with one
    version of Pillow). The species are always the same ones; `seed` decides the pictures.

    The word vectors are not learned from any text: they say which attributes share a word (`traits.word_vector`).

    Args:
        out: the folder; it must not exist, or be empty. It is there, whole, when this returns, and not before.
        seed: 0 or more.
        per_class: pictures of each species, at least 4.
        progress: called with (pictures drawn, pictures in all) after each one.

    Returns:
        `out` as a path.

    Raises:
        UsageError: E-FIELD-GUIDE-OUT when `out` is there and not an empty folder, E-FIELD-GUIDE-SEED,
            E-FIELD-GUIDE-COUNT.
        SystemProblem: E-SYSTEM when it cannot be written.

    """
    target = Path(out)
    _check(target, seed, per_class)
    place = target.absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        clean_siblings(place)
        with claimed_folder(lambda: new_sibling(place)) as part:
            try:
                _fill(part, seed, per_class, progress or _silent)
                (part / LOCK).unlink()
                part.rename(place)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        sync_folder(place.parent)
    except OSError as error:
        raise from_os_error(error, "write the field guide") from error
    return target


def choose_looks(species: Species, count: int, rng: np.random.Generator) -> list[dict[str, str]]:
    """What `count` birds of a species look like: each value is shown by its share of them, to within one bird.

    Args:
        species: its shares.
        count: how many birds.
        rng: decides which birds get which value, for each trait on its own.

    """
    birds: list[dict[str, str]] = [{} for _ in range(count)]
    for trait in TRAITS:
        values, shares = zip(*species.looks[trait.name].items(), strict=True)
        ends = np.cumsum(shares)
        ends[-1] = 1.0
        places = (rng.permutation(count) + 0.5) / count
        for bird, place in zip(birds, places, strict=True):
            bird[trait.name] = values[int(np.searchsorted(ends, place))]
    return birds


def _check(target: Path, seed: int, per_class: int) -> None:
    if seed < 0:
        raise UsageError("E-FIELD-GUIDE-SEED", f"the seed is {seed}; give a whole number from 0 on")
    if per_class < TEST_EVERY:
        raise UsageError(
            "E-FIELD-GUIDE-COUNT",
            f"{per_class} pictures a species were asked for; give at least {TEST_EVERY}, so that each seen species has "
            "some for training and one for testing",
        )
    try:
        taken = target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir())))
    except OSError as error:
        raise from_os_error(error, "look into the folder") from error
    if taken:
        raise UsageError(
            "E-FIELD-GUIDE-OUT",
            f"{str(target)!r} is there already and is not an empty folder; give a new name or move it away",
        )


def _silent(_done: int, _total: int) -> None:
    """Progress nobody asked for."""


def _fill(folder: Path, seed: int, per_class: int, progress: Callable[[int, int], None]) -> None:
    seen, unseen, new = read_species(SEEN), read_species(UNSEEN), read_species(NEW)
    homes = [("images", species) for species in (*seen, *unseen)]
    homes += [("new_species", species) for species in new[:PHOTOGRAPHED]]
    total = per_class * len(homes)
    for number, (home, species) in enumerate(homes):
        below = folder / home / species.name
        below.mkdir(parents=True)
        for picture, data in enumerate(_photographs(species, seed, per_class)):
            write_synced(below / _file_name(picture), data)
            progress(number * per_class + picture + 1, total)
        sync_folder(below)
    names = attribute_names()
    classes = [(s.name, split, *_cells(s)) for group, split in ((seen, "seen"), (unseen, "unseen")) for s in group]
    _write_csv(folder / "classes.csv", ("name", "split", *names), classes)
    _write_csv(folder / "more_classes.csv", ("name", *names), [(s.name, *_cells(s)) for s in new])
    _write_csv(folder / "attributes.csv", ("name", "words"), zip(names, attribute_words(), strict=True))
    roles = [(s.name, picture, _role(picture)) for s in seen for picture in range(per_class)]
    roles += [(s.name, picture, "test") for s in unseen for picture in range(per_class)]
    split = [(f"{name}/{_file_name(picture)}", role) for name, picture, role in roles]
    _write_csv(folder / "split.csv", ("image", "role"), split)
    vectors = io.BytesIO()
    np.save(vectors, attribute_vectors())
    write_synced(folder / "attribute_vectors.npy", vectors.getvalue())
    for home in ("images", "new_species", "."):
        sync_folder(folder / home)


def _photographs(species: Species, seed: int, count: int) -> Iterable[bytes]:
    """JPEG files of a species; its pictures do not depend on which other species there are."""
    own = int.from_bytes(hashlib.sha256(species.name.encode()).digest()[:8], "little")
    for number, looks in enumerate(choose_looks(species, count, np.random.default_rng([seed, own]))):
        rng = np.random.default_rng([seed, own, number + 1])
        picture = draw_picture(looks, rng)
        yield to_jpeg(picture, rng)


def _file_name(picture: int) -> str:
    return f"{picture:03d}.jpg"


def _role(picture: int) -> str:
    """Role of a seen species' picture."""
    return "test" if picture % TEST_EVERY == TEST_EVERY - 1 else "train"


def _cells(species: Species) -> tuple[str, ...]:
    return tuple(f"{share:.4g}" for share in attribute_row(species.looks))


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_synced(path, text.getvalue().encode())
