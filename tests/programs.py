"""Counts the programs that a test run compiles, by file, and says so at its end: compilation dominates the tests' time.

Programs that tests start as processes of their own are not counted.
"""

from collections import Counter

import jax
import pytest

compiled: Counter[str] = Counter()
"""Programs by test file; with xdist, a worker's until it ends, then the sum of all workers in the controller."""
_current = ["collection"]
SUM, CACHED = "all files", "found in the disk cache"


def _on_duration(event: str, duration: float, **_: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.update([SUM, _current[0]])


def _on_event(event: str, **_: object) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        compiled[CACHED] += 1


def pytest_configure(config: pytest.Config) -> None:
    jax.monitoring.register_event_duration_secs_listener(_on_duration)
    jax.monitoring.register_event_listener(_on_event)


def pytest_runtest_logstart(nodeid: str) -> None:
    _current[0] = nodeid.partition("::")[0]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["programs"] = dict(compiled)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    compiled.update(getattr(node, "workeroutput", {}).get("programs", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    files = compiled.copy()
    total, cached = files.pop(SUM, 0), files.pop(CACHED, 0)
    most = ", ".join(f"{name.removeprefix('tests/')} {count}" for name, count in files.most_common(8))
    terminalreporter.write_line(f"programs compiled: {total}, of which {cached} were {CACHED}; most in {most}")
