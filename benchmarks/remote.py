"""Benchmark of actors over a socket: SAC on Pendulum, fed by two processes, of which one is killed in mid-run.

    python -m benchmarks.remote                # five seeds, one after the other
    python -m benchmarks.remote --seeds 1

Each seed is a learner and two actors, by experiments/remote_sac.py. After a quarter of the steps an actor is killed
with -9, and comes back under its name; meanwhile a stranger tries with a wrong token, and a member sends rubbish, a
wrong shape and NaN. The return is that of the last policy, over 1,000 episodes. Beside it stands what
experiments/sac.py reaches with the same settings in its own simulator (`python -m benchmarks.sac --tasks pendulum`).
"""

import contextlib
import csv
import dataclasses
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import campaign
from experiments import remote_sac
from rljax.remote import handshake
from rljax.remote.protocol import HEADER, TAG, Channel, Kind
from rljax.remote.schema import Schema
from rljax.types import Refused

TARGET = -160.0
EXPECTED = {
    "wrong token": "a stranger, with another token",
    "what was sent is no frame of this protocol": "rubbish in place of a frame",
    "action has the shape": "actions of another shape",
    "obs is not finite": "an observation of NaN",
    "the middle of a frame": "an end in the middle of a frame",
}
"""What the learner must have refused, or noted, by what its log says of it."""


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    seeds: int = 5
    """Number of seeds."""
    total_steps: int = 20_000
    """Transitions of a run, of both actors together."""
    runs: Path = campaign.ROOT / "runs" / "benchmarks"
    """Folder of the seeds' runs."""


def main(settings: Settings) -> None:
    rows, returns = [], []
    for seed in range(settings.seeds):
        folder = settings.runs / "remote_sac" / f"pendulum-seed{seed}"
        if campaign.finished(folder, [seed], total_steps=settings.total_steps) is None:
            one_run(folder, seed, settings)
        found = read(folder)
        returns.append(found["return"])
        rows.append(
            {
                "seed": seed,
                "return": found["return"],
                "stochastic": found["stochastic"],
                "transitions of left, which was killed": found["transitions"]["left"],
                "of right": found["transitions"]["right"],
                "of the troublemaker": found["transitions"]["troublemaker"],
                "connections of left": found["connections"]["left"],
                "updates": found["updates"],
                "mean lag in transitions": found["mean_lag"],
                "seconds": found["seconds"],
                "refused": len(found["refused"]),
            }
        )
        campaign.show(rows[-1])
    own = campaign.read(settings.results / "sac-pendulum-cpu.json")
    beside = (
        ""
        if own is None
        else (
            f" Its own simulator brings `experiments/sac.py`, with the same settings and the same number of steps, to "
            f"{campaign.with_interval(own['returns_deterministic'])}."
        )
    )
    notes = (
        f"{settings.total_steps:,} transitions of two processes, 800 random ones first, then an update for each; the "
        f"return is the mean over {found['episodes']:,} episodes of the last policy. A quarter of the way the actor "
        "left is killed by `kill -9`, and half of the way it comes back; a wrong token, rubbish, a wrong shape and NaN "
        "are refused, each with its line in actors.log. The lag is that of the policy that acted, in transitions that "
        f"the learner has taken in since. The mean return is {campaign.with_interval(returns)}; at least {TARGET:g} "
        f"is asked for.{beside}"
    )
    title = "SAC on Pendulum, fed by two actor processes over sockets, of which one is killed in mid-run"
    more = {"target": {"return": TARGET}, "refused": found["refused"]}
    campaign.write(settings, "remote-pendulum", campaign.table("remote", title, rows, notes, **more))


def one_run(folder: Path, seed: int, settings: Settings) -> None:
    """A learner, two actors and a troublemaker; until the learner has finished."""
    token = secrets.token_hex(32)
    environment = os.environ | {"RLJAX_TOKEN": token, "PYTHONPATH": str(campaign.ROOT), "JAX_PLATFORMS": "cpu"}
    port = free_port()
    script = [sys.executable, str(campaign.ROOT / "experiments" / "remote_sac.py")]
    folder.parent.mkdir(parents=True, exist_ok=True)

    def start(name: str, *command: Any) -> subprocess.Popen:
        with (folder.parent / f"{folder.name}-{name}.log").open("a") as log:
            words = [*script, *map(str, command), "--port", str(port)]
            return subprocess.Popen(words, cwd=campaign.ROOT, env=environment, stdout=log, stderr=log)

    def act(name: str) -> subprocess.Popen:
        return start(name, "act", "--env", "pendulum", "--name", name, "--give-up-after", 60)

    where = ("--seed", seed, "--name", folder.name, "--runs", folder.parents[1])
    steps = ("--total-steps", settings.total_steps)
    processes = [start("learner", "learner", "--env", "pendulum", *where, *steps, "--resume", "--no-progress")]
    try:
        processes += [act("left"), act("right")]
        wait_for(folder, settings.total_steps // 4, processes[0])
        trouble(port, token)
        processes[1].send_signal(signal.SIGKILL)
        wait_for(folder, settings.total_steps // 2, processes[0])
        processes[1].wait()
        processes.append(act("left"))
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
    if codes != [0, -signal.SIGKILL, 0, 0]:
        raise Refused(f"{folder.name}: learner and actors ended with the exit codes {codes}; see {folder}-*.log")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def wait_for(folder: Path, steps: int, learner: subprocess.Popen) -> None:
    """Waits until the run has logged this many steps."""
    while learner.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            rows = list(csv.DictReader((folder / "metrics.csv").open()))
            if rows and int(rows[-1]["step"]) >= steps:
                return
        time.sleep(0.2)
    raise Refused(f"{folder.name}: the learner ended with exit code {learner.returncode}; see {folder}-learner.log")


def trouble(port: int, token: str) -> None:
    """All that a learner must refuse."""
    with contextlib.suppress(Refused):
        connect(port, "not the token that is shared")
        raise AssertionError("a wrong token was let in")
    channel = joined(port, token)
    channel.sock.sendall(secrets.token_bytes(HEADER.size + TAG))
    channel.close()
    for change in (wrong_shape, not_finite):
        channel = joined(port, token)
        channel.send(Kind.STEPS, {"version": 0, "dropped": 0, "overruns": 0, "batch": 0}, change(transitions()))
        if channel.receive().kind != Kind.REFUSED:
            raise AssertionError(f"{change.__name__} was not refused")
        channel.close()
    channel = joined(port, token)
    channel.sock.sendall(HEADER.pack(b"RLJX", 1, Kind.STEPS, 100, 1000) + b"the rest never comes")
    channel.close()


def connect(port: int, token: str) -> Channel:
    sock = socket.create_connection(("127.0.0.1", port), timeout=20.0)
    return Channel(sock, handshake.ask(sock, token.encode(), time.monotonic() + 20.0), learner=False, timeout=20.0)


def joined(port: int, token: str) -> Channel:
    """A connection of an actor that knows the token."""
    channel = connect(port, token)
    channel.send(Kind.HELLO, {"name": "troublemaker", "session": secrets.token_hex(8)})
    channel.receive()
    return channel


def transitions() -> dict[str, np.ndarray]:
    """Two transitions of Pendulum that are as they should be."""
    env = remote_sac.environment(remote_sac.TASKS["pendulum"])
    fields = Schema(env.observation_space, env.action_space).fields  # type: ignore[arg-type]
    found = {name: np.zeros((2, *field.shape), field.dtype) for name, field in fields.items()}
    return found | {"episode_length": np.ones(2, np.int32)}


def wrong_shape(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays | {"action": np.zeros((2, 3), np.float32)}


def not_finite(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays | {"obs": np.full_like(arrays["obs"], np.nan)}


def read(folder: Path) -> dict[str, Any]:
    """What a run left."""
    evaluation = campaign.read(folder / "evaluation.json")
    assert evaluation is not None
    log = (folder / "actors.log").read_text()
    if missing := [what for words, what in EXPECTED.items() if words not in log]:
        raise Refused(f"{folder / 'actors.log'} says nothing of {', '.join(missing)}")
    with (folder / "actors.csv").open() as file:
        rows = list(csv.DictReader(file))
    last = {row["actor"]: row for row in rows}
    lags = campaign.logged(folder, "actors/lag")
    member = evaluation["members"][0]
    return {
        "return": member["deterministic"]["mean"],
        "stochastic": member["stochastic"]["mean"],
        "episodes": evaluation["episodes"],
        "transitions": {name: int(row["transitions"]) for name, row in sorted(last.items())},
        "connections": {name: int(row["connections"]) for name, row in sorted(last.items())},
        "updates": round(total(folder, "updates", evaluation["steps"])),
        "mean_lag": float(np.mean([lag for _, lag in lags])),
        "seconds": float(rows[-1]["seconds"]),
        "refused": sorted(line.partition("refused ")[2] for line in log.splitlines() if "refused " in line),
    }


def total(folder: Path, column: str, steps: int) -> float:
    """The sum over a run of what its rows have the means of, an iteration of four steps."""
    rows = campaign.logged(folder, column)
    before: Sequence[int] = [0, *(step for step, _ in rows)]
    return sum(value * (step - last) / 4 for (step, value), last in zip(rows, before, strict=False))


if __name__ == "__main__":
    campaign.main(main, Settings())
