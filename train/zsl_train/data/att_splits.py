"""att_splits.mat of Xian et al.: what it holds, which kind it is, and the published counts to hold it against.

Source: Xian et al., Zero-Shot Learning - A Comprehensive Evaluation of the Good, the Bad and the Ugly (TPAMI 2019);
counts of the published files in docs/methods.md 1.1. Lists hold positions in the `image_files` of the feature file
published with it, counted from 1 in the published files and from 0 in some copies; here they are 0-based.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.errors import UsageError, from_os_error, listed
from zsl_runtime.inputs.matfile import MatError, read_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Ints


FILE = "att_splits.mat"
PARTS = {"trainval_loc": "train", "test_seen_loc": "test", "test_unseen_loc": "test"}
TUNING = ("train_loc", "val_loc")
NEVER_USED = (
    "train_loc and val_loc are not used: validation folds are drawn from trainval_loc, so that no picture of "
    "test_seen_loc is ever looked at before the test"
)


class Published(NamedTuple):
    """Counts of a published split (docs/methods.md 1.1): pictures, attributes, classes, and pictures of each list."""

    images: int
    attributes: int
    seen: int
    unseen: int
    trainval: int
    test_seen: int
    test_unseen: int
    train: int  # train_loc of PS v1
    val: int
    leaked_train: int  # pictures of test_seen_loc inside train_loc of PS v1
    leaked_val: int


PUBLISHED = {
    "CUB": Published(11788, 312, 150, 50, 7057, 1764, 2967, 5875, 2946, 1173, 591),
    "SUN": Published(14340, 102, 645, 72, 10320, 2580, 1440, 11600, 1300, 2320, 260),
    "AWA1": Published(30475, 85, 40, 10, 19832, 4958, 5685, 16864, 7926, 3404, 1554),
    "AWA2": Published(37322, 85, 40, 10, 23527, 5882, 7913, 20218, 9191, 4031, 1851),
    "APY": Published(15339, 64, 20, 12, 5932, 1483, 7924, 6086, 1329, 1180, 303),
    "FLO": Published(8189, 1024, 82, 20, 5631, 1403, 1155, 5878, 1156, 1173, 230),
}


def looks_like(classes: int, images: int) -> str:
    """The published data set with this many classes, and, of those, the one nearest in pictures; '' for none."""
    near = [name for name, known in PUBLISHED.items() if known.seen + known.unseen == classes]
    return min(near, key=lambda name: abs(PUBLISHED[name].images - images), default="")


@dataclass(frozen=True)
class SplitFile:
    """Content of an att_splits.mat, checked for itself but not yet against pictures.

    Attributes:
        path: of the file.
        lists: name -> positions as they stand in the file, whole numbers, all different within a list.
        attributes: `att` and `original_att` where they are there: (A, C) float64, a column a class.
        names: C class names, or None where the file has none (FLO).

    """

    path: Path
    lists: dict[str, Ints]
    attributes: dict[str, NDArray[np.float64]]
    names: tuple[str, ...] | None

    def overlap(self, one: str, other: str) -> int:
        """Pictures that two lists share; 0 where either is absent."""
        return len(np.intersect1d(self.lists[one], self.lists[other])) if {one, other} <= self.lists.keys() else 0

    @property
    def leaked(self) -> int:
        """Pictures of test_seen_loc in train_loc or val_loc."""
        return len(np.intersect1d(self._tuning(), self.lists["test_seen_loc"]))

    @property
    def version(self) -> str:
        """Which file it is: PS v1 holds every test_seen picture in train_loc and val_loc, PS2 none."""
        if not set(TUNING) <= self.lists.keys():
            return "proposed split, without train_loc and val_loc (PS v1 or PS2)"
        if self.leaked:
            return f"proposed split PS v1 (train_loc and val_loc hold {self.leaked} test_seen pictures; not used)"
        whole = np.array_equal(np.unique(self._tuning()), np.sort(self.lists["trainval_loc"]))
        how = "train_loc + val_loc = trainval_loc" if whole else "train_loc and val_loc hold no test_seen picture"
        return f"proposed split PS2, the later kind ({how})"

    def _tuning(self) -> Ints:
        return np.concatenate([self.lists[key] for key in TUNING if key in self.lists] or [np.zeros(0, np.int64)])


def read_split_file(path: Path) -> SplitFile:
    """Read an att_splits.mat.

    Raises:
        UsageError: E-SPLITS when it cannot be read, lacks one of the three lists that everything depends on, or has a
            list that is none.

    """
    content = load_mat(path, code="E-SPLITS")
    lacking = [key for key in PARTS if key not in content]
    if lacking:
        raise UsageError(
            "E-SPLITS",
            f"{path} lacks {', '.join(lacking)} (it holds {listed(variables(content))}); expected {FILE} of the "
            "proposed split",
        )
    lists = {key: _whole_numbers(path, key, content[key]) for key in (*PARTS, *TUNING) if key in content}
    keys = tuple(PARTS)
    for number, one in enumerate(keys):
        for other in keys[number + 1 :]:
            shared = np.intersect1d(lists[one], lists[other])
            if len(shared):
                raise UsageError(
                    "E-SPLITS",
                    f"{path}: {other} has {len(shared)} pictures of another list ({one}); the file is damaged: "
                    "get it again",
                )
    attributes: dict[str, NDArray[np.float64]] = {
        key: content[key] for key in ("att", "original_att") if key in content
    }
    names = texts(content["allclasses_names"]) if "allclasses_names" in content else None
    return SplitFile(path, lists, attributes, None if names is None else tuple(names))


def positions(split: SplitFile, count: int, base: int) -> dict[str, Ints]:
    """The lists as 0-based positions among `count` pictures; UsageError E-SPLITS when one lies outside."""
    found = {}
    for key, values in split.lists.items():
        if not len(values) or values.min() < base or values.max() >= count + base:
            given = f"{values.min()}..{values.max()}" if len(values) else "nothing"
            raise UsageError(
                "E-SPLITS",
                f"{split.path}: {key} must hold positions {base}..{count - 1 + base} and holds {given}; the file "
                "belongs to another set of pictures",
            )
        found[key] = values - base
    return found


def index_base(split: SplitFile, count: int, labels: Ints | None = None) -> int:
    """Whether the lists count pictures from 1, as published, or from 0.

    Args:
        split: the file.
        count: pictures there are.
        labels: (count,) their classes; they decide where the numbers alone do not, because under the wrong base
            classes are torn between seen and unseen.

    Returns:
        1 or 0; 1 where neither numbers nor labels decide.

    """
    low = min(int(values.min()) for values in split.lists.values() if len(values))
    high = max(int(values.max()) for values in split.lists.values() if len(values))
    fitting = [base for base in (1, 0) if low >= base and high < count + base]
    if len(fitting) < 2 or labels is None:
        return fitting[0] if fitting else 1
    return next((base for base in fitting if not torn_classes(positions(split, count, base), labels)), 1)


def torn_classes(lists: Mapping[str, Ints], labels: Ints) -> list[int]:
    """Classes that are both trained on and tested as unseen, or tested as seen and not trained on: [] in a fit.

    Args:
        lists: 0-based positions of the three lists.
        labels: (n,) classes.

    """
    trained, seen, unseen = (np.unique(labels[lists[key]]) for key in PARTS)
    return [int(i) for i in np.union1d(np.intersect1d(trained, unseen), np.setdiff1d(seen, trained))]


def load_mat(path: Path, wanted: Sequence[str] | None = None, *, code: str) -> dict[str, Any]:
    """Variables of a MATLAB file of any version, by name, as labelling reads them (`zsl_runtime.inputs.matfile`).

    Args:
        path: the file.
        wanted: variables to read, where they are there; None reads all.
        code: of the error.

    Raises:
        UsageError: `code` for a damaged file, or something else.
        SystemProblem: E-SYSTEM when it cannot be opened.
        BackendError: E-MAT-MISSING for version 7.3 where h5py is not installed.

    """
    try:
        return read_variables(path, wanted)
    except OSError as error:
        raise from_os_error(error, "read the MATLAB file") from error
    except MemoryError:
        raise UsageError(code, f"{path} is too large for the memory here; save its features as .npy") from None
    except MatError as error:
        raise UsageError(
            code, f"{path} cannot be read as a MATLAB file ({error}); it is damaged or cut off: get it again"
        ) from error


def variables(content: Mapping[str, Any]) -> list[str]:
    """Names of the variables, sorted."""
    return sorted(content)


def texts(cells: Any) -> list[str]:
    """Strings of a MATLAB cell array."""
    return [str(np.ravel(cell)[0]) if np.size(cell) else "" for cell in np.ravel(cells)]


def _whole_numbers(path: Path, key: str, values: Any) -> Ints:
    """One list as it stands; UsageError E-SPLITS unless it is one of different whole numbers."""
    array = np.ravel(values)
    if array.dtype.kind not in "iuf" or (array != np.floor(array)).any() or (np.abs(array) > 2**53).any():
        raise UsageError("E-SPLITS", f"{path}: {key} is no list of whole numbers; get the file again")
    whole = array.astype(np.int64)
    if len(np.unique(whole)) != len(whole):
        raise UsageError("E-SPLITS", f"{path}: {key} names a picture twice; get the file again")
    return whole
