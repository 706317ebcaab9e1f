"""The command `rljax`: each subcommand is imported when it is called, so that `rljax --help` needs no JAX."""

import difflib
import importlib
import os
import signal
import sys
from typing import NamedTuple

from rljax.errors import Refused


class Subcommand(NamedTuple):
    """A subcommand: the module and the name of its `(arguments, prog) -> exit code or None`, and what it does."""

    module: str
    function: str
    text: str


SUBCOMMANDS = {
    "train": Subcommand("rljax.command.experiment", "train", "Run an experiment: rljax train ppo --env ant."),
    "copy": Subcommand("rljax.command.experiment", "copy", "Write an experiment's file here, to edit it."),
    "list": Subcommand("rljax.command.listing", "main", "List environments, algorithms and tuned settings."),
    "play": Subcommand("rljax.command.run", "play", "Show a run's policy in the browser, and push it."),
    "video": Subcommand("rljax.command.run", "video", "Film one episode of a run's policy."),
    "report": Subcommand("rljax.command.run", "report", "Write a run, or several, as one page of HTML."),
    "compare": Subcommand("rljax.command.run", "compare", "Compare runs: curves, final returns, settings."),
    "export": Subcommand("rljax.deploy.__main__", "main", "Write a run's policy as a file that needs no rljax."),
}

_USAGE = "usage: rljax COMMAND [arguments]; rljax COMMAND --help says more"


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand; 0, or 2 after one line that says what is wrong with the input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        print(f"{_USAGE}\n\n" + "\n".join(f"  {name:<9}{entry.text}" for name, entry in SUBCOMMANDS.items()))
        return 0
    if name == "--version":
        from rljax.version import __version__

        print(f"rljax {__version__}")
        return 0
    try:
        if name not in SUBCOMMANDS:
            near = difflib.get_close_matches(name, SUBCOMMANDS, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise Refused(f"rljax has no command {name!r}; {hint}known: {', '.join(SUBCOMMANDS)}")
        entry = SUBCOMMANDS[name]
        function = getattr(importlib.import_module(entry.module), entry.function)
        code = function(rest, prog=f"rljax {name}") or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # of `rljax list | head`; what is still to be written goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as of SIGPIPE, which Windows does not have
    except (Refused, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
