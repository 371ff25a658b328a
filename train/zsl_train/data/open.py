"""Open a data set, whatever its layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zsl_runtime.errors import UsageError, listed

if TYPE_CHECKING:
    from zsl_train.data.image_set import ImageSet

LAYOUTS = (
    "either a data folder (images/<class>/*.jpg and classes.csv with the columns name, split (seen|unseen) and one per "
    "attribute) or the CUB-200-2011 archive (images/, images.txt, image_class_labels.txt, classes.txt, "
    "attributes/class_attribute_labels_continuous.txt) or that of AWA2 (JPEGImages/, classes.txt, predicates.txt, "
    "predicate-matrix-continuous.txt), SUN (SUNAttributeDB/, images/), aPY (attribute_data/) or FLO (jpg/, "
    "imagelabels.mat)"
)


def open_image_set(
    directory: str | Path,
    splits: str | Path | None = None,
    seed: int = 0,
    *,
    features: str | Path | None = None,
    attributes: str = "att",
) -> ImageSet:
    """Open a data folder, an original archive, or a feature file with its split.

    Args:
        directory: the data folder (`zsl_train.data.folder`); or an extracted archive, such as CUB's folder CUB_200_2011
            or the one around it; or, for a feature file, the folder with att_splits.mat.
        splits: for a data folder, a CSV file used in place of split.csv; otherwise att_splits.mat or its folder.
        seed: of the splits we make where none is given.
        features: a feature file, as given or inside `directory`, in place of photographs.
        attributes: of a feature file: `att`, `original_att` or a file (`zsl_train.data.xlsa17`).

    Raises:
        UsageError: E-DATA-LAYOUT when it is none of them; E-ATTRIBUTES when `attributes` is given for photographs;
            otherwise what the reader of the layout raises.

    """
    where = Path(directory)
    chosen = None if splits is None else Path(splits)
    found = _open(where, chosen, seed, features=features, attributes=attributes)
    return replace(found, directory=where.resolve())


def _open(where: Path, chosen: Path | None, seed: int, *, features: str | Path | None, attributes: str) -> ImageSet:
    from zsl_train.data import archives, cub, folder, xlsa17
    from zsl_train.data.att_splits import FILE
    from zsl_train.data.feature_file import feature_files

    if not where.is_dir():
        raise UsageError("E-DATA-LAYOUT", f"{where} is not a folder; expected {LAYOUTS}")
    if features is not None:
        return xlsa17.open_xlsa17(where, Path(features), chosen, attributes)
    if attributes != "att":
        raise UsageError(
            "E-ATTRIBUTES",
            f"attributes = {attributes!r} is for feature files (--features); those of photographs lie beside them",
        )
    if (where / "classes.csv").is_file():
        return folder.open_folder(where, chosen, seed)
    archive = cub.find_archive(where)
    if archive is not None:
        return cub.open_cub(archive, chosen, seed)
    other = archives.find_archive(where)
    if other is not None:
        return archives.open_archive(*other, chosen, seed)
    names = sorted(entry.name for entry in where.iterdir())
    hint = ""
    if FILE in names:
        hint = f"; with {FILE} goes a feature file: add --features " + next(
            (path.name for path in feature_files(where)), "FILE.mat"
        )
    raise UsageError("E-DATA-LAYOUT", f"{where} holds {listed(names) or 'nothing'}; expected {LAYOUTS}{hint}")
