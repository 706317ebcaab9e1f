"""The zoo on the command line: `python -m rljax.zoo list`, and `python -m rljax.zoo add RUN NAME`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rljax import zoo
from rljax.types import Refused


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; 0, or 2 after one line that says what is wrong with the input, or which file cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (Refused, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rljax.zoo", description="Trained policies that come with rljax.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="List all policies.", description="List all policies with their scores.")
    listing.set_defaults(run=_list)

    text = "Add the policy of a run folder to the zoo of this checkout, with a card and a score that is measured now."
    added = commands.add_parser("add", help=text, description=text)
    added.set_defaults(run=_add)
    added.add_argument("folder", type=Path, metavar="RUN", help="run folder, such as runs/sac/half_cheetah-seed0")
    added.add_argument("name", metavar="NAME", help="name of the policy: task and algorithm, as half_cheetah-sac")
    added.add_argument("--command", required=True, help="command that trained the policy, for its card")
    added.add_argument("--choice", required=True, help="how seed and checkpoint were chosen, for its card")
    added.add_argument("--note", default="", help="what else a user of the policy should know, for its card")
    added.add_argument("--episodes", type=int, default=100, help="episodes of the score (default: %(default)s)")
    added.add_argument("--seed", type=int, default=1, help="seed of these episodes (default: %(default)s)")
    added.add_argument(
        "--which",
        choices=("newest", "best"),
        default="newest",
        help="checkpoint: the newest, or that which evaluated best on the way",
    )
    added.add_argument("--member", type=int, default=0, help="index of the member, of a run with several")
    added.add_argument("--overwrite", action="store_true", help="replace a policy of this name")
    return parser


def _list(_: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(caption="mean return of deterministic actions, and its 95 % bootstrap interval over episodes")
    for column in ("name", "environment", "return", "interval", "kB"):
        table.add_column(column, justify="left" if column in ("name", "environment") else "right", no_wrap=True)
    for name in zoo.names():
        card = zoo.card(name)
        found = card["evaluation"]["deterministic"]
        interval = f"{found['low']:,.1f} to {found['high']:,.1f}"
        size = f"{card['bytes'] / 1000:,.0f}"
        table.add_row(name, str(card["env"]["name"]), f"{found['mean']:,.1f}", interval, size)
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a pipe has no width; rich would fold the table to 80 columns
    console.print(table)


def _add(options: argparse.Namespace) -> None:
    from rljax.zoo.adding import add

    how: dict[str, Any] = {name: value for name, value in vars(options).items() if name not in ("run", "folder")}
    card = add(options.folder, **how)
    found = card["evaluation"]["deterministic"]
    print(
        f"{zoo.FOLDER / options.name}.npz: {card['bytes']:,} bytes, return {found['mean']:.1f} "
        f"[{found['low']:.1f}, {found['high']:.1f}] in {card['evaluation']['episodes']} episodes"
    )


if __name__ == "__main__":
    sys.exit(main())
