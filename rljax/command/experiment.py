"""`rljax train` runs an experiment, `rljax copy` writes its file."""

import importlib.util
import sys
from pathlib import Path

from rljax import experiments
from rljax.command.parser import Parser
from rljax.errors import Refused


def train(arguments: list[str], prog: str) -> None:
    """Runs the file of an experiment as Python would, under the name `prog` and that of the experiment."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {prog} EXPERIMENT [flags]; {prog} EXPERIMENT --help lists its flags\n")
        _print_experiments()
        return
    path = experiments.path(arguments[0])
    spec = importlib.util.spec_from_file_location("__main__", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__spec__ = None  # as of any script, so that processes which it starts find its file
    before = sys.argv, sys.modules["__main__"]
    # `runpy.run_path` would put the file's path in place of the name.
    sys.argv, sys.modules["__main__"] = [f"{prog} {arguments[0]}", *arguments[1:]], module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.argv, sys.modules["__main__"] = before


def copy(arguments: list[str], prog: str) -> None:
    """Writes the file of an experiment into the current folder."""
    parser = Parser(prog, "Write the file of an experiment into the current folder, to edit and run it there.")
    parser.add_argument("experiment", nargs="?", help="name, such as ppo; all are listed where it is not given")
    name = parser.parse_args(arguments).experiment
    if name is None:
        _print_experiments()
        return
    source = experiments.path(name)
    target = Path(source.name)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise Refused(f"{target} is there already, and is not overwritten; move it away, or copy elsewhere") from None
    print(f"wrote {target}; run it by: python {target} --help")


def _print_experiments() -> None:
    for name in experiments.names():
        print(f"  {name:<17} {experiments.about(name)}")
