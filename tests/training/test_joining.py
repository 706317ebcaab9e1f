"""Processes that a launcher started become one run, and end together, whichever of them ends first."""

import csv
import importlib.util
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest

from rljax.training import joining
from rljax.training.joining import Tasks, join, tasks
from rljax.training.lock import LOCK, locked
from rljax.types import Refused
from tests.training.test_devices import free_address

ROOT = Path(__file__).parents[2]
VARIABLES = ("JAX_", "SLURM_", "OMPI_", "PMI_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JOB_COMPLETION", "WORLD_SIZE")
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_LOCALID": "0", "SLURM_PROCID": "1"}
HAS_KUBERNETES = importlib.util.find_spec("kubernetes") is not None
MEETING = {"JAX_COORDINATOR_ADDRESS": "node1:1234"}


@pytest.fixture
def started_by(monkeypatch):
    """Sets the variables of a launcher, and no other's."""

    def put(variables):
        for name in list(os.environ):
            if name.startswith(VARIABLES):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        # A batch script or an interactive shell, however many tasks it may start.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, None),
        # A shell that is a step of one task in a job of four.
        (STEP | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (STEP | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "2"}, Tasks("Slurm", 2, 1)),
        (STEP | {"SLURM_NTASKS": "2"}, Tasks("Slurm", 2, 1)),
        ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "2"}, Tasks("Open MPI", 3, 2)),
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        (MEETING | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, Tasks("JAX_NUM_PROCESSES", 2, 1)),
        (MEETING | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (MEETING | STEP | {"SLURM_STEP_NUM_TASKS": "2"}, Tasks("Slurm", 2, 1)),
        ({"TPU_WORKER_HOSTNAMES": "one,two", "TPU_WORKER_ID": "1"}, Tasks("a TPU pod", None, None)),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
            Tasks("Kubernetes", None, None, HAS_KUBERNETES),
        ),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"WORLD_SIZE": "2", "RANK": "1"}, Tasks("torchrun", 2, 1, joinable=False)),
    ],
)
def test_tasks_are_found_by_the_variables_of_their_launcher(variables, expected, started_by):
    started_by(variables)
    assert tasks() == expected


@pytest.mark.parametrize(
    ("variables", "how", "called"),
    [
        ({}, "auto", None),
        ({}, "on", (None, None, None)),
        (STEP | {"SLURM_STEP_NUM_TASKS": "2"}, "auto", (None, 2, 1)),
        (STEP | {"SLURM_STEP_NUM_TASKS": "2"}, "off", None),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, "auto", None),
        (MEETING | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "auto", ("node1:1234", 2, 1)),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "auto", None),
    ],
)
def test_processes_are_joined_where_several_were_started_or_where_that_is_asked_for(
    variables, how, called, started_by, monkeypatch
):
    started_by(variables)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: calls.append(given))
    join(how)
    assert calls == ([] if called is None else [called])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, r"distributed = on, but the processes cannot be joined: .*JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM"),
        ({"JAX_COORDINATOR_ADDRESS": "node1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "is no HOST:PORT"),
        (MEETING | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "is task 2 of 2 .JAX_NUM_PROCESSES., but"),
        (MEETING | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES = 'two' is not allowed; it must be a whole number"),
    ],
)
def test_what_cannot_be_joined_is_refused_in_one_line(variables, message, started_by):
    started_by(variables)
    with pytest.raises(Refused, match=message) as error:
        join("on", timeout=1)
    assert "\n" not in str(error.value)


def test_the_port_of_another_program_is_refused(started_by):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        started_by({"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"})
        with pytest.raises(Refused, match="Address already in use"):
            join(timeout=1)


def test_a_folder_held_by_a_task_that_was_not_joined_names_the_flag(tmp_path, started_by):
    started_by(STEP | {"SLURM_STEP_NUM_TASKS": "2"})
    with (
        locked(tmp_path),
        pytest.raises(Refused, match=r"is task 1 of 2 \(Slurm\), and they were not joined: --distributed on") as error,
        locked(tmp_path),
    ):
        pass
    assert "\n" not in str(error.value)


STARTED: list[Any] = []


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    while STARTED:
        each = STARTED.pop()
        each.kill()
        each.communicate()


def process(rank, address, *command):
    """One of two processes with a device each, which knows of the other as from `JAX_COORDINATOR_ADDRESS`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_"))}
    meeting = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(rank)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    each = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, env=own | meeting, **pipes)
    STARTED.append(each)
    return each


AFTER_FAILURE = """
import sys
from rljax.training.joining import end_soon, join, processes
from rljax.training.devices import agreed, decided_by_first
from rljax.types import Refused
import jax
join()

def refuse():
    raise Refused("the folder is another's")

try:
    decided_by_first(refuse)
except Refused as error:
    print(error)
print(decided_by_first(lambda: 7), processes(), flush=True)
try:
    while True:
        agreed(1, 0, False)
except BaseException:
    end_soon(3, seconds=0.5)
    raise
"""


def until_it_waits(output):
    """The lines up to the last one before it waits for the other; all, if it ended before."""
    for line in output:
        yield line.strip()
        if line == "7 2\n":
            return


def test_a_refusal_of_the_first_is_one_of_all_and_who_loses_another_ends(tmp_path):
    address = free_address()
    both = [process(rank, address, "-c", AFTER_FAILURE) for rank in range(2)]
    told = [[line for line in until_it_waits(each.stdout) if not line.startswith("[Gloo]")] for each in both]
    both[1].send_signal(signal.SIGKILL)
    _, err = both[0].communicate(timeout=100)
    both[1].communicate()
    assert both[0].returncode == 3, err
    assert told == [["the folder is another's", "7 2"], ["the first process refuses the run, and says why", "7 2"]]


def test_who_waits_in_vain_says_so_in_one_line():
    code = "from rljax.training.joining import join; join(timeout=1)"
    alone = process(1, free_address(), "-c", code)
    _, err = alone.communicate(timeout=100)
    assert alone.returncode == 2
    assert err.startswith("error: this process is task 1 of 2 (JAX_NUM_PROCESSES), but not all came within 1 s; ")
    assert err.count("\n") == 1


TINY = ["--env", "pendulum", "--num-envs", 4, "--rollout-length", 8, "--num-minibatches", 1, "--hidden", 8]
TINY += ["--num-epochs", 1, "--total-steps", 640, "--log-every", 32, "--checkpoint-every", 128, "--evaluate-every", 0]
TINY += ["--final-episodes", 0, "--no-tensorboard", "--no-progress", "--name", "run", "--normalize-observation"]


def both_started(folder, pace, *more):
    address = free_address()
    command = ("-m", "tests.training.joined_driver", pace, *TINY, "--runs", folder, *more)
    return [process(rank, address, *command) for rank in range(2)]


def both_ended(processes, timeout=900):
    outputs = [each.communicate(timeout=timeout) for each in processes]
    return [each.returncode for each in processes], [out for out, _ in outputs], [err for _, err in outputs]


def until_rows(folder, number, processes):
    path, began = folder / "ppo" / "run" / "metrics.csv", time.monotonic()
    while not (path.exists() and path.read_text().count("\n") > number):
        assert all(each.poll() is None for each in processes), [each.communicate() for each in processes]
        assert time.monotonic() - began < 900
        time.sleep(0.05)


def last_lines(outputs):
    return [next(line for line in out.splitlines()[::-1] if line.startswith("finished")) for out in outputs]


def rows(folder):
    with (folder / "ppo" / "run" / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of two processes: the digests of their parts of the state, and its metrics."""
    folder = tmp_path_factory.mktemp("whole")
    codes, outputs, errors = both_ended(both_started(folder, "fast"))
    assert codes == [0, 0], errors
    assert "run folder" in outputs[0]
    assert "run folder" not in outputs[1]  # only the first process prints
    assert errors[1] == ""
    return last_lines(outputs), rows(folder)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_kill_9_of_one_ends_both_and_both_resume_bit_for_bit(whole, killed, tmp_path):
    digests, metrics = whole
    processes = both_started(tmp_path, "slow")
    until_rows(tmp_path, 13, processes)
    processes[killed].send_signal(signal.SIGKILL)
    codes, *_ = both_ended(processes)
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] not in (0, None)
    folder = tmp_path / "ppo" / "run"
    with locked(folder):  # whatever file they left
        assert (folder / LOCK).exists()
    codes, outputs, errors = both_ended(both_started(tmp_path, "fast", "--resume"))
    assert codes == [0, 0], errors
    assert "resumed at step" in errors[0]
    assert last_lines(outputs) == digests
    assert rows(tmp_path) == metrics


@pytest.mark.slow
@pytest.mark.parametrize("delays", [(0.0, None), (None, 0.0), (0.0, 0.5), (0.5, 0.0)])
def test_sigterm_to_one_or_to_both_at_different_times_ends_both_and_both_resume_bit_for_bit(whole, delays, tmp_path):
    digests, metrics = whole
    processes = both_started(tmp_path, "slow")
    until_rows(tmp_path, 6, processes)
    for delay, rank in sorted((delay, rank) for rank, delay in enumerate(delays) if delay is not None):
        time.sleep(delay)
        processes[rank].send_signal(signal.SIGTERM)
    codes, outputs, errors = both_ended(processes)
    assert codes == [128 + signal.SIGTERM] * 2, errors
    steps = [int(out.split()[out.split().index("interrupted") + 1]) for out in outputs]
    assert steps[0] == steps[1] < 640
    codes, outputs, errors = both_ended(both_started(tmp_path, "fast", "--resume"))
    assert codes == [0, 0], errors
    assert f"resumed at step {steps[0]:,} of" in errors[0]
    assert last_lines(outputs) == digests
    assert rows(tmp_path) == metrics


def test_a_time_limit_is_that_of_jax():
    assert inspect.signature(jax.distributed.initialize).parameters["initialization_timeout"].default == joining.TIMEOUT
