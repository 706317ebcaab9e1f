"""Processes that were started together become one program: which launcher started them, and `jax.distributed`."""

import dataclasses
import importlib.util
import os
import re
import socket
import sys
import threading
from typing import Literal

import jax
from jax._src import distributed  # whose state alone tells the number of processes before JAX starts its devices

from rljax.types import Refused

Joining = Literal["auto", "on", "off"]
"""Whether processes are joined: where a launcher has started several, always, or never."""

TIMEOUT = 300
"""Seconds that a process waits for the others; JAX's own default."""


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Tasks that a launcher started together.

    Fields:
      launcher: its name, in words.
      count: number of tasks; None where JAX must ask the launcher.
      index: which of them this process is; None where JAX finds it.
      joinable: whether JAX can join them by itself.
    """

    launcher: str
    count: int | None
    index: int | None
    joinable: bool = True

    def words(self) -> str:
        """The task, as in "task 0 of 2 (Slurm)"."""
        index = "one" if self.index is None else f"task {self.index}"
        return f"{index} of {'several' if self.count is None else self.count} ({self.launcher})"


def tasks() -> Tasks | None:
    """The tasks that this process was started with, by its environment variables; None where it is alone.

    A shell of Slurm's is alone, however many tasks its job may start: only a step of several (`srun`) is joined.

    Raises:
      Refused: a variable that should be a number is none.
    """
    read = os.environ.get
    if read("JAX_COORDINATOR_ADDRESS"):
        count, index = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
        found = [Tasks("JAX_NUM_PROCESSES", count, index)]
        if count is None or index is None:  # the address alone, and the rest from the launcher
            found = [dataclasses.replace(other, count=count or other.count) for other in _launchers()] or found
    else:
        found = _launchers()
    return next((each for each in found if each.count != 1), None)


def _launchers() -> list[Tasks]:
    """The launchers whose variables are set, those that JAX can join first."""
    read, found = os.environ.get, []
    if read("SLURM_STEP_NODELIST") and read("SLURM_LOCALID"):
        count = _number("SLURM_STEP_NUM_TASKS") or _number("SLURM_NTASKS")
        found.append(Tasks("Slurm", count or 1, _number("SLURM_PROCID")))
    if read("OMPI_COMM_WORLD_SIZE"):
        found.append(Tasks("Open MPI", _number("OMPI_COMM_WORLD_SIZE"), _number("OMPI_COMM_WORLD_RANK")))
    hosts = read("TPU_PROCESS_ADDRESSES") or read("TPU_WORKER_HOSTNAMES") or ""
    if "," in hosts or read("MEGASCALE_COORDINATOR_ADDRESS"):
        found.append(Tasks("a TPU pod", None, None))
    if read("KUBERNETES_SERVICE_HOST") and read("JOB_COMPLETION_INDEX"):
        found.append(Tasks("Kubernetes", None, None, joinable=importlib.util.find_spec("kubernetes") is not None))
    for name, size, rank in (("MPI", "PMI_SIZE", "PMI_RANK"), ("torchrun", "WORLD_SIZE", "RANK")):
        if read(size):
            found.append(Tasks(name, _number(size), _number(rank), joinable=False))
    return found


def join(how: Joining = "auto", timeout: int = TIMEOUT) -> None:
    """Joins the processes that a launcher has started; a second call, or one of a process that is joined, does nothing.

    Nothing of JAX may have run before. Where `JAX_COORDINATOR_ADDRESS` is set, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`
    say the rest; else JAX asks Slurm, Open MPI, Kubernetes or the TPU.

    Where the others do not come in time, it prints one line and ends the process with exit code 2: JAX would end it,
    too, with a trace of its C++.

    Args:
      how: "auto" joins where a launcher that JAX knows has started several processes, "on" always, "off" never.
      timeout: seconds to wait for the others.

    Raises:
      Refused: they cannot be joined, in one line.
    """
    if how == "off" or jax.distributed.is_initialized():
        return
    started = tasks()
    if how == "auto" and (started is None or not started.joinable):
        return
    which = "distributed = on" if started is None else f"this process is {started.words()}"

    def give_up() -> None:
        print(f"error: {which}, but not all came within {timeout} s; {_HOW}", file=sys.stderr, flush=True)
        os._exit(2)

    waiting = threading.Timer(timeout, give_up)
    waiting.daemon = True
    waiting.start()
    try:
        # Where the variables do not say all, JAX asks the launcher.
        count, index = (None, None) if started is None else (started.count, started.index)
        jax.distributed.initialize(_address(index), count, index, initialization_timeout=timeout + 60)
    except (ValueError, TypeError, RuntimeError, OSError, KeyError) as error:  # JAX's own errors are RuntimeErrors
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise Refused(f"{which}, but the processes cannot be joined: {reason[:300]}; {_HOW}") from error
    finally:
        waiting.cancel()


_HOW = (
    "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID say where they meet, and --distributed "
    "off trains each process alone"
)


def _address(index: int | None) -> str | None:
    """The address at which they meet, where a variable says it: JAX dies of one that it cannot use.

    Raises:
      ValueError: it is no address, or it is this process that should serve there, and another program does.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not address:
        return None
    if not re.fullmatch(r".+:[0-9]{1,5}", address):
        raise ValueError(f"JAX_COORDINATOR_ADDRESS = {address!r} is no HOST:PORT")
    if index == 0:
        with socket.socket() as port:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind(("", int(address.rpartition(":")[2])))
    return address


def processes() -> int:
    """Number of processes that are joined; 1 where none are."""
    return distributed.global_state.num_processes if jax.distributed.is_initialized() else 1


def end_soon(code: int, seconds: float = 10.0) -> None:
    """Ends a process of several in so many seconds, if it has not ended by then: for one that has failed.

    Before Python ends, JAX waits minutes for the others, who may wait for this one, or be dead.
    """
    if processes() > 1:
        end = threading.Timer(seconds, os._exit, (code,))
        end.daemon = True
        end.start()


def hint() -> str:
    """What to add for a process that is one of several which were not joined; nothing for others."""
    started = tasks()
    if started is None or jax.distributed.is_initialized():
        return ""
    return (
        f" (this process is {started.words()}, and they were not joined: --distributed on makes one run of them, and "
        "another --name for each makes a run of each)"
    )


def _number(name: str) -> int | None:
    """The number that a variable says; None where it is not set."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal():
        raise Refused(f"{name} = {text!r} is not allowed; it must be a whole number")
    return int(text)
