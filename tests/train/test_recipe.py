"""Recipes: every key checked, every way to be wrong one line; what is shipped loads."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.errors import SystemProblem, UsageError
from zsl_train.backbones import BACKBONES
from zsl_train.methods import METHODS
from zsl_train.recipe import RECIPE_TYPES, Recipe, make_recipe, method_config, parse_overrides, read_recipe

SHIPPED = sorted((Path(__file__).parents[2] / "train" / "recipes").rglob("*.toml"))


@dataclass(frozen=True)
class Settings:
    """Settings of a method of every kind there is."""

    width: int = 8
    rate: float = 0.5
    mode: Literal["slow", "fast"] = "slow"
    on: bool = False
    name: str = "x"


TYPES = {"": {}, "quick": {"mode": "fast", "width": 2}}


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(action) -> str:
    with pytest.raises(UsageError) as caught:
        action()
    assert caught.value.code == "E-RECIPE"
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught.value.message


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_gives_its_keys_and_the_rest_keeps_its_default(tmp_path):
    text = 'preset = "code"\nseed = 7\nsnapshots = [1, 0.5]\nunit_l2 = false\n[settings]\nhidden = 64\n'
    recipe = make_recipe(read_recipe(written(tmp_path, text)), {}, {})
    assert recipe == Recipe(preset="code", seed=7, snapshots=(1.0, 0.5), unit_l2=False, settings={"hidden": 64})


def test_a_byte_order_mark_is_no_trouble(tmp_path):
    assert read_recipe(written(tmp_path, "\ufeffseed = 7\n")) == {"seed": 7}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("sede = 1", "unknown key 'sede'"),
        ("seed = '1'", "seed = '1' is str; expected int"),
        ("seed = 1.0", "is float; expected int"),
        ("seed = true", "is bool; expected int"),
        ("seed = -1", "from 0 to 4294967295"),
        ("seed = 4294967296", "from 0 to 4294967295"),
        ("folds = -1", "from 0 to"),
        ("image_size = -224", "from 0 to"),
        ("folds = 0x" + "f" * 5000, "from 0 to"),
        ("folds = 1" + "0" * 5000, "not valid TOML"),
        ("replay_per_class = -1", "from 0 to"),
        ("probe_pictures = 0", "from 1 to"),
        ("parity_pictures = 63", "from 64 to"),
        ("word_width = 0", "from 1 to 65536"),
        ("unit_l2 = 1", "is int; expected bool"),
        ("method = 3", "is int; expected str"),
        ("settings = 3", "is int; expected dict"),
        ("snapshots = []", "expected shares"),
        ("snapshots = [0.5, 0]", "expected shares"),
        ("snapshots = [1.5]", "expected shares"),
        ("snapshots = [nan]", "expected shares"),
        ("snapshots = [true]", "expected shares"),
        ("snapshots = ['a']", "expected shares"),
        ("snapshots = 0.5", "expected shares"),
        ("seed", "not valid TOML"),
        ("seed = 1\nseed = 2", "not valid TOML"),
        ("seed = " + "[" * 5000, "not valid TOML"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, part):
    message = refusal(lambda: read_recipe(written(tmp_path, text)))
    assert part in message
    assert str(tmp_path / "recipe.toml") in message


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path):
    for path in (tmp_path / "no.toml", tmp_path):
        with pytest.raises(SystemProblem, match="could not read the recipe"):
            read_recipe(path)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=150)
def test_no_bytes_lead_to_anything_but_our_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(data)
    try:
        found = read_recipe(path)
    except UsageError as error:
        assert error.code == "E-RECIPE"  # noqa: PT017  # hypothesis finds both outcomes
    else:
        assert set(found) <= set(RECIPE_TYPES)


KEYS = {
    "method": st.text(max_size=8),
    "seed": st.integers(0, 2**32 - 1),
    "folds": st.integers(0, 9),
    "snapshots": st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
    "clamp_negative": st.booleans(),
    "settings": st.dictionaries(st.text("abc_", min_size=1, max_size=4), st.integers(0, 9) | st.booleans()),
}


@given(st.fixed_dictionaries({}, optional=KEYS))
@settings(max_examples=50)
def test_a_recipe_survives_its_file(tmp_path_factory, data):
    recipe = make_recipe(data | ({"snapshots": tuple(data["snapshots"])} if "snapshots" in data else {}), {}, {})
    path = tmp_path_factory.getbasetemp() / "again.toml"
    path.write_text(tomli_w.dumps(recipe.to_dict()), encoding="utf-8")
    assert make_recipe(read_recipe(path), {}, {}) == recipe


# --- --set ----------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text("abcdefgh_", min_size=1, max_size=8),
        st.integers(-5, 5) | st.booleans() | st.floats(-1e6, 1e6) | st.text("xyz ä", min_size=1).map(str.strip),
        max_size=5,
    )
)
def test_overrides_are_toml_values(values):
    values = {key: value for key, value in values.items() if value != ""}
    items = [f" {key} = {tomli_w.dumps({'v': value}).partition('=')[2].strip()} " for key, value in values.items()]
    assert parse_overrides(items) == values


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("a=1e-4", 1e-4),
        ("a=weighted-l1", "weighted-l1"),
        ("a=x=y", "x=y"),
        ("a=[1, 2]", [1, 2]),
        ("a=True", "True"),
        ("a=1\nb = 2", "1\nb = 2"),
        ("a=" + "[" * 5000, "[" * 5000),
    ],
)
def test_what_is_no_toml_value_is_text(item, value):
    assert parse_overrides([item]) == {"a": value}


def test_of_the_same_key_the_last_counts():
    assert parse_overrides(["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize("item", ["a", "=1", "a=", " = ", "", "a= "])
def test_an_override_without_key_or_value_is_refused(item):
    assert "expected key=value" in refusal(lambda: parse_overrides([item]))


@given(st.text(max_size=40))
def test_no_override_leads_to_anything_but_our_error(text):
    try:
        make_recipe({}, parse_overrides([text]), {})
    except UsageError as error:
        assert error.code == "E-RECIPE"  # noqa: PT017


def test_flags_go_before_overrides_before_the_file():
    base = {"seed": 1, "folds": 1, "preset": "paper", "settings": {"a": 1, "b": 1, "c": 1}}
    overrides = {"seed": 2, "folds": 2, "b": 2, "settings": {"c": 2}}
    recipe = make_recipe(base, overrides, {"seed": 3})
    assert (recipe.seed, recipe.folds, recipe.preset) == (3, 2, "paper")
    assert recipe.settings == {"a": 1, "b": 2, "c": 2}


def test_overrides_and_flags_are_checked_like_a_file():
    assert refusal(lambda: make_recipe({}, {"seed": "x"}, {})).startswith("--set: seed")
    assert refusal(lambda: make_recipe({}, {}, {"image_size": -1})).startswith("--image-size: image_size")


# --- settings of a method ------------------------------------------------------------------------------------------


def configured(preset: str = "", **given) -> Settings:
    return method_config(Settings, TYPES, Recipe(method="toy", preset=preset, settings=given))


def test_settings_go_before_the_preset_before_the_defaults():
    assert configured() == Settings()
    assert configured("quick") == Settings(mode="fast", width=2)
    assert configured("quick", width=5, on=True) == Settings(mode="fast", width=5, on=True)
    assert configured(rate=2) == Settings(rate=2.0)
    assert type(configured(rate=2).rate) is float


@pytest.mark.parametrize(
    ("settings_", "part"),
    [
        ({"wdith": 1}, "wdith is no setting of toy; it knows width, rate, mode, on, name"),
        ({"width": 1.5}, "width = 1.5 is float; expected int"),
        ({"width": True}, "is bool; expected int"),
        ({"width": -1}, "from 0 to"),
        ({"rate": "fast"}, "rate = 'fast' is str; expected float"),
        ({"rate": True}, "is bool; expected float"),
        ({"rate": -0.5}, "from 0 to"),
        ({"rate": float("nan")}, "from 0 to"),
        ({"rate": float("inf")}, "from 0 to"),
        ({"mode": "medium"}, "mode = 'medium'; expected one of 'slow', 'fast'"),
        ({"mode": 1}, "expected one of 'slow', 'fast'"),
        ({"mode": ["slow"]}, "expected one of 'slow', 'fast'"),
        ({"on": "yes"}, "is str; expected bool"),
        ({"name": 3}, "is int; expected str"),
        ({"name": "x" * 9000, "mode": "y" * 9000}, "expected one of"),
    ],
)
def test_a_wrong_setting_is_one_line(settings_, part):
    assert part in refusal(lambda: configured(**settings_))


def test_an_integer_beyond_all_floats_is_refused():
    assert "rate = inf" in refusal(lambda: configured(rate=10**400))


def test_an_unknown_preset_names_the_known_ones():
    message = refusal(lambda: configured("papre"))
    assert message == "toy has no preset 'papre'; expected one of , quick"


def test_a_resolved_recipe_gives_its_settings_whatever_the_presets_become():
    recipe = Recipe(method="toy", preset="quick", settings={"rate": 0.25})
    config = method_config(Settings, TYPES, recipe)
    resolved = recipe.resolved(config)
    assert resolved.settings == asdict(config)
    assert method_config(Settings, {"quick": {"name": "changed"}}, resolved) == config


# --- what is shipped --------------------------------------------------------------------------------------------------


def test_there_are_recipes():
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_recipe_gives_a_config(path):
    recipe = make_recipe(read_recipe(path), {}, {})
    method = METHODS[recipe.method]
    config = method_config(method.Config, method.PRESETS, recipe)
    given = tomllib.loads(path.read_text(encoding="utf-8")).get("settings", {})
    assert {key: getattr(config, key) for key in given} == given
    assert recipe.backbone in BACKBONES
    assert recipe.image_size in (0, *BACKBONES[recipe.backbone].sizes)
    assert path.read_text(encoding="utf-8").startswith("#")  # what it is, its source, the command


def test_every_field_of_the_recipe_is_documented():
    for field in fields(Recipe):
        assert f"{field.name}:" in Recipe.__doc__
