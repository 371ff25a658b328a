"""What all tests need."""

import signal

from hypothesis import HealthCheck, settings

# How long an example takes says nothing here: the machine may be busy.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure() -> None:
    """Let Ctrl-C interrupt, which a shell switches off for what it starts in the background, and children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
