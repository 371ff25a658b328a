"""The recipe: everything one training run depends on. A TOML file, a frozen dataclass, and nothing outside them."""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from zsl_runtime.errors import UsageError, from_os_error, nearest, shown
from zsl_runtime.machine.untrusted import MIB, UnfitError, read_given

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Recipe:
    """What one run depends on besides the photographs themselves.

    Attributes:
        method: key of `zsl_train.methods.METHODS`.
        preset: named settings of the method: default, paper or code.
        backbone: key of `zsl_train.backbones.BACKBONES`.
        image_size: picture side P the backbone is run at; 0 is the backbone's own.
        seed: of everything random, below 2^32.
        folds: validation folds that choose epochs, gamma and temperature; 0 selects nothing. A method may have a number
            of its own for recipes that name none (FOLDS in its module).
        snapshots: shares of the last stage that are compared on the validation classes; likewise (SNAPSHOTS).
        head: `gaussian`, every class a mean; `published`, the method's own; `preset`, which is the Gaussian one for
            preset `default` of the methods that say so (HEAD in their module), else the published one.
        compare_heads: also fit the published head to the same features, choose for it on the same folds, and score it.
        literature: also score the snapshots of the final training on the test pictures, for the optimistic figure of
            the papers; nothing is chosen by it.
        replay_per_class: real features of each seen class that a published head is fitted on, at most; 0 for all. They
            are kept for the fits of later classes, too.
        parity_pictures: pictures kept for the parity gate of the export, beside the probe; 64 or more.
        probe_pictures: pictures kept in the bundle to prove that an engine computes what it should; at least 1.
        clamp_negative: semantic rule: negative attributes (AWA's "missing") become 0.
        unit_l2: semantic rule: class vectors of unit L2 norm.
        attribute_scale: semantic rule: `range` divides every attribute by its range over the seen classes, `none`
            leaves them as they are; `auto` divides where they seem to be in different units, such as 0/1 and
            millimetres.
        words: a word-vector file (GloVe or word2vec text); empty: attribute_vectors.npy of the data, or learned ones.
        word_width: width of word vectors learned from scratch.
        attributes: of a feature file: `att`, `original_att`, or a file with the attribute vectors.
        data_set: the published data set that this recipe was made for, such as CUB; training on another one is warned
            of. Empty: for any.
        settings: settings of the method that differ from its preset.

    """

    method: str = "gfzsl"
    preset: str = "default"
    backbone: str = "resnet101"
    image_size: int = 0
    seed: int = 0
    folds: int = 4
    snapshots: tuple[float, ...] = (0.25, 0.5, 1.0)
    head: Literal["preset", "gaussian", "published"] = "preset"
    compare_heads: bool = False
    literature: bool = False
    replay_per_class: int = 0
    parity_pictures: int = 96
    probe_pictures: int = 4
    clamp_negative: bool = True
    unit_l2: bool = True
    attribute_scale: Literal["auto", "none", "range"] = "auto"
    words: str = ""
    word_width: int = 300
    attributes: str = "att"
    data_set: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for recipe.toml and the manifest."""
        return asdict(self) | {"snapshots": list(self.snapshots)}

    def resolved(self, config: Any) -> Recipe:
        """The same with all settings of the method written out: it gives `config` again whatever the presets say.

        Args:
            config: the method's Config, a flat dataclass of plain values.

        """
        return replace(self, settings=asdict(config))


RECIPE_TYPES = get_type_hints(Recipe)
LARGEST = 2**31  # no size, count, rate or weight is beyond that
# Keys with a range of their own: (least, most).
RANGES = {
    "seed": (0, 2**32 - 1),  # what the random generators of both NumPy and torch take, a few added
    "probe_pictures": (1, LARGEST),
    "parity_pictures": (64, LARGEST),  # with fewer the export's gate proves little
    "word_width": (1, 2**16),
}


def _checked(name: str, value: Any, wanted: Any, source: str) -> Any:
    """`value` as type `wanted`, or UsageError E-RECIPE naming key, type and source."""
    if name == "snapshots":
        return _checked_shares(value, source)
    if get_origin(wanted) is Literal:
        choices = get_args(wanted)
        if value in choices:
            return value
        raise UsageError(
            "E-RECIPE", f"{source}: {name} = {shown(value, 60)}; expected one of {', '.join(map(repr, choices))}"
        )
    if wanted is float and type(value) is int:
        value = _as_float(value)
    plain = get_origin(wanted) or wanted  # dict[str, Any] -> dict
    if type(value) is not plain:
        raise UsageError(
            "E-RECIPE", f"{source}: {name} = {shown(value, 60)} is {type(value).__name__}; expected {plain.__name__}"
        )
    if plain in {int, float}:
        _check_number(name, value, source)
    return value


def _checked_shares(value: Any, source: str) -> tuple[float, ...]:
    if isinstance(value, (list, tuple)) and value and all(type(x) in {int, float} and 0 < x <= 1 for x in value):
        return tuple(float(x) for x in value)
    raise UsageError(
        "E-RECIPE", f"{source}: snapshots = {shown(value, 60)}; expected shares in (0, 1], such as [0.5, 1.0]"
    )


def _as_float(value: int) -> float:
    """The nearest float; infinity for what is beyond all of them (refused later like any other)."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _check_number(name: str, value: float, source: str) -> None:
    least, most = RANGES.get(name, (0, LARGEST))
    if not least <= value <= most:  # NaN compares false
        wanted = f"a {'whole ' if type(value) is int else ''}number from {least} to {most}"
        raise UsageError("E-RECIPE", f"{source}: {name} = {shown(value, 60)}; expected {wanted}")


LARGEST_RECIPE = MIB
UNPARSABLE = (ValueError, RecursionError)  # TOMLDecodeError, numbers of thousands of digits, nests of as many brackets


def read_recipe(path: Path) -> dict[str, Any]:
    """The keys of a recipe file, checked; UsageError E-RECIPE for anything unknown or of the wrong type."""
    try:
        text = read_given(path, LARGEST_RECIPE).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UsageError("E-RECIPE", f"{path} is not UTF-8 text ({error}); give a TOML recipe") from error
    except UnfitError as error:
        raise UsageError("E-RECIPE", f"{path} {error}; give a TOML recipe") from None
    except OSError as error:
        raise from_os_error(error, "read the recipe") from error
    try:
        data = tomllib.loads(text)
    except UNPARSABLE as error:
        raise UsageError("E-RECIPE", f"{path} is not valid TOML: {error}; see train/recipes for examples") from error
    return {name: _recipe_key(name, value, str(path)) for name, value in data.items()}


def _recipe_key(name: str, value: Any, source: str) -> Any:
    if name not in RECIPE_TYPES:
        known = ", ".join(sorted(RECIPE_TYPES))
        raise UsageError(
            "E-RECIPE", f"{source}: unknown key {name!r}; a recipe knows {known}{nearest(name, RECIPE_TYPES)}"
        )
    return _checked(name, value, RECIPE_TYPES[name], source)


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """``key=value`` strings to values: TOML on the right-hand side, otherwise a plain string."""
    values: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        name, text = name.strip(), text.strip()
        if not equals or not name or not text:
            raise UsageError("E-RECIPE", f"--set {item!r}; expected key=value, such as --set hidden=1024")
        values[name] = _value_of(text)
    return values


def _value_of(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except UNPARSABLE:
        return text
    return parsed["value"] if len(parsed) == 1 else text  # more keys: a line break was in it


def make_recipe(base: Mapping[str, Any], overrides: Mapping[str, Any], chosen: Mapping[str, Any]) -> Recipe:
    """Put a recipe together; later parts win: file, then --set, then the command's own flags.

    Args:
        base: keys of a recipe file.
        overrides: of --set; names that are not the recipe's own go to the method's settings.
        chosen: flags that were given on the command line.

    """
    own = {k: _recipe_key(k, v, "--set") for k, v in overrides.items() if k in RECIPE_TYPES}
    flags = {k: _recipe_key(k, v, f"--{k.replace('_', '-')}") for k, v in chosen.items()}
    settings = {k: v for k, v in overrides.items() if k not in RECIPE_TYPES}
    merged = {**base.get("settings", {}), **own.get("settings", {}), **settings}
    return Recipe(**{**base, **own, **flags, "settings": merged})


def method_config(config_type: Any, presets: Mapping[str, Mapping[str, Any]], recipe: Recipe) -> Any:
    """The method's Config for a recipe: its defaults, then the preset, then the recipe's settings, all checked.

    Args:
        config_type: the method's frozen dataclass.
        presets: of the method.
        recipe: names the preset and the settings.

    Raises:
        UsageError: E-RECIPE for an unknown preset or setting, or a value of the wrong type.

    """
    if recipe.preset not in presets:
        known = ", ".join(presets)
        hint = nearest(recipe.preset, presets)
        raise UsageError("E-RECIPE", f"{recipe.method} has no preset {recipe.preset!r}; expected one of {known}{hint}")
    types = get_type_hints(config_type)
    unknown = sorted(set(recipe.settings) - set(types))
    if unknown:
        names = [one.name for one in fields(config_type)]
        hint = nearest(unknown[0], [*names, *RECIPE_TYPES])
        known = ", ".join(names)
        raise UsageError("E-RECIPE", f"{', '.join(unknown)} is no setting of {recipe.method}; it knows {known}{hint}")
    settings = {k: _checked(k, v, types[k], f"settings of {recipe.method}") for k, v in recipe.settings.items()}
    return replace(config_type(), **{**presets[recipe.preset], **settings})
