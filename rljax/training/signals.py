"""Signals that ask a run to stop."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collects SIGTERM, SIGINT and SIGHUP while it lasts; a second SIGINT interrupts at once.

    SIGHUP says that the terminal has gone, unless the user wants it ignored (`nohup`).
    """
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere signals cannot be handled
        before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
