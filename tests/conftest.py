"""What all tests need."""

import signal


def pytest_configure() -> None:
    """Let Ctrl-C interrupt, which a shell switches off for what it starts in the background, and children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
