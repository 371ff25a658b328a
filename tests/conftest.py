"""What all tests need."""

import gc
import shutil
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.tiny_bundle import make_tiny_bundle
from support.tiny_precisions import add_precisions
from support.usable import auto_chooses_among

# How long an example takes says nothing here: the machine may be busy.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True, scope="session")
def auto_has_no_choice():
    """Where several fast backends are installed, `auto` is the first: what a test sees must not depend on speed here.

    The tests of the choice itself put the table back. Processes that tests start are users', and choose.
    """
    with pytest.MonkeyPatch.context() as patch:
        auto_chooses_among(patch, "ort")
        yield


@pytest.fixture(autouse=True, scope="session")
def trainings_draw_no_page():
    """report.html takes a second or two, more than a tiny training; tests/train/reports has it drawn.

    Processes that tests start are users', and draw it. Gives the function that does.
    """
    from zsl_train.cli import draw_page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zsl_train.cli.draw_page", lambda _out: None)
        yield draw_page


@pytest.fixture(scope="session")
def shared_bundle(tmp_path_factory):
    """`shared_bundle(rule="rows")`: the folder of the tiny bundle with these options, made once for all tests.

    They are those of `make_tiny_bundle`, and `precisions`. In the end every file must be what it was: whoever changes
    the bundle takes `own_bundle`, and so does who lets another process open it, for `auto` keeps there what it found.
    """
    made, before = {}, {}

    def shared(*, precisions: tuple[str, ...] = (), **options) -> Path:
        key = (precisions, *sorted(options.items()))
        if key not in made:
            path = make_tiny_bundle(tmp_path_factory.mktemp("shared") / "tiny", **options)
            made[key] = add_precisions(path, precisions) if precisions else path
            before[key] = contents(path)
        return made[key]

    yield shared
    assert [key for key, path in made.items() if contents(path) != before[key]] == [], "a test changed a shared bundle"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def own_bundle(shared_bundle, tmp_path):
    """`own_bundle("b", rule="rows")`: a copy of such a bundle in `tmp_path`, which the test may change."""

    def copied(name: str = "tiny", **options) -> Path:
        return Path(shutil.copytree(shared_bundle(**options), tmp_path / name))

    return copied


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder of the test's own: this user has seen and trusts nothing yet. No signatures are demanded."""
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZSL_REQUIRE_SIGNATURE", raising=False)


@pytest.fixture
def signing(own_cache, monkeypatch):
    """Sign with the stand-in for model-signing, which not everybody has."""
    from support.signing import stand_in

    stand_in(monkeypatch)


@pytest.fixture
def maker(tmp_path):
    """Who signs: `maker.key`, and the files `maker.private` and `maker.public` in keys/."""
    from support.signing import write_keys

    return write_keys(tmp_path / "keys", "maker")


@pytest.fixture(autouse=True)
def torch_on_one_thread():
    """Torch takes every CPU by itself, and what a test sets is set for the next one, too.

    Two threads that wait for each other on a busy machine are up to thirty times slower than one.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the garbage collector need not go through it again."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Let Ctrl-C and a closed terminal end things, which nohup and `&` of a script switch off, and children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
