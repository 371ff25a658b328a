"""What all tests need."""

import gc
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

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


@pytest.fixture(autouse=True)
def torch_on_one_thread():
    """Commands that run in this process give torch every CPU, and leave it so.

    Two threads that wait for each other on a busy machine are up to thirty times slower than one.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the garbage collector need not go through it again."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Let Ctrl-C interrupt, which a shell switches off for what it starts in the background, and children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
