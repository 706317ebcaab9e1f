"""Subcommands that take a run folder: play, video, report, compare."""

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rljax.command.parser import Parser, options_of
from rljax.errors import Refused

if TYPE_CHECKING:
    from rljax.envs import Environment

_MOST_MEMBERS = 16


def play(arguments: list[str], prog: str) -> None:
    """Serves a page on which the policies of a run act."""
    parser = _policy_parser(prog, "Show the policy of a run in the browser, and push it; Ctrl-C ends it.")
    parser.add_argument(
        "--members", type=int, nargs="+", metavar="N", help="members to show; all of up to 16 by default"
    )
    parser.add_argument("--port", type=int, default=8080, help="port of the page (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets other machines in")
    options = parser.parse_args(arguments)
    if not 1 <= options.port < 2**16:
        raise Refused(f"--port {options.port} is not allowed; it must be from 1 to {2**16 - 1}")
    members = options.members
    if members is None:
        count = _member_count(options.run)
        members = range(min(count, _MOST_MEMBERS))
    elif len(members) > _MOST_MEMBERS or len(set(members)) < len(members):
        raise Refused(f"--members must be different ones, {_MOST_MEMBERS} at most, got {len(members)}")
    _prefer_cpu()
    from rljax.analysis.player import Player
    from rljax.analysis.viewer import Viewer

    env, policies = _loaded(options, list(members))
    player = Player(env, policies, options.seed, not options.stochastic)
    labels = [f"member {member}" for member in members]
    viewer = Viewer(player, options.run, labels, options.host, options.port)
    print(f"{options.run} acts at {viewer.address} (Ctrl-C ends it)", flush=True)
    viewer.run()


def video(arguments: list[str], prog: str) -> None:
    """Films one episode."""
    parser = _policy_parser(prog, "Film one episode of the policy of a run.")
    parser.add_argument("--member", type=int, default=0, help="member of a run with several (default: %(default)s)")
    parser.add_argument("--output", type=Path, help=".mp4 or .gif to write (default: RUN/video.mp4)")
    parser.add_argument("--max-steps", type=int, help="steps after which the film ends; the task's limit by default")
    options = parser.parse_args(arguments)
    _prefer_cpu()
    from rljax.analysis.video import animate
    from rljax.experiment import keys_of

    env, (policy,) = _loaded(options, [options.member])
    folder = Path(options.run)
    output = options.output or (folder if folder.is_dir() else Path()) / "video.mp4"
    key = keys_of([options.seed])[0]
    try:
        total = animate(env, policy, key, output, options.max_steps, deterministic=not options.stochastic)
    except (NotImplementedError, RuntimeError, ImportError) as error:  # no drawing, no OpenGL
        raise Refused(f"there can be no film: {error}") from error
    print(f"wrote {output} (return {total:.6g})")


def report(arguments: list[str], prog: str) -> None:
    """Writes a page about runs."""
    parser = Parser(prog, "Write a run, or several side by side, as one page of HTML that needs nothing else.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, such as runs/ppo/cartpole-seed0")
    parser.add_argument("--output", type=Path, help="page to write (RUN/report.html; of several runs ./report.html)")
    parser.add_argument("--metric", help="column of metrics.csv to compare by; the return by default")
    parser.add_argument("--largest-film", type=float, default=20.0, help="film in MB that is still put into the page")
    options = parser.parse_args(arguments)
    _short_warnings()
    from rljax.analysis.report import write_report

    path = write_report(options.runs, options.output, metric=options.metric, largest_film=options.largest_film)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")


def compare(arguments: list[str], prog: str) -> int:
    """Compares runs, as `python -m rljax.analysis compare` does."""
    from rljax.analysis.__main__ import main

    return main(["compare", *arguments], prog=prog.removesuffix(" compare"))


def _policy_parser(prog: str, text: str) -> Parser:
    parser = Parser(prog, text)
    parser.add_argument("run", metavar="RUN", help="run folder, such as runs/ppo/ant-seed0, or zoo:NAME")
    parser.add_argument(
        "--which", default="newest", help="newest, best (as evaluated on the way), or a checkpoint's iteration"
    )
    parser.add_argument("--env", metavar="NAME", help="another task, or the run's own where it is code of a module")
    parser.add_argument(
        "--env-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of rljax.make; may be repeated",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes (default: %(default)s)")
    parser.add_argument("--stochastic", action="store_true", help="sample actions, instead of the most likely ones")
    return parser


def _loaded(options: Any, members: list[int]) -> tuple["Environment", list[Any]]:
    """The environment of a run, on the C library where it is one of MuJoCo's, and the policies of its members."""
    import rljax
    from rljax.envs.mujoco.task import MujocoTask
    from rljax.envs.registry import make_recorded
    from rljax.training.loading import read_description

    _short_warnings()
    given = options_of(options.env_option)
    if options.env is not None:
        make, spec = rljax.make, {"name": options.env, **given}
    else:
        recorded = read_description(options.run)["env"] or {}
        if "class" in recorded:
            raise Refused(f"{options.run} was trained on an environment that is not in the registry: pass --env")
        make, spec = (lambda **spec: make_recorded(spec)), {**recorded, **given}
    env = make(**spec)
    task = env.unwrapped
    if isinstance(task, MujocoTask) and task.engine.name != "native" and "engine" not in given:
        env = make(**spec | {"engine": "native"})
    which = int(options.which) if options.which.lstrip("-").isdecimal() else options.which
    return env, [rljax.load(options.run, which=which, member=member, env=env) for member in members]


def _member_count(run: Any) -> int:
    from rljax.training.loading import read_description

    keys = read_description(run)["keys"]
    return len(keys) if isinstance(keys[0], list) else 1


def _prefer_cpu() -> None:
    """One step of one environment at a time is fastest on a CPU; JAX_PLATFORMS says otherwise."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _short_warnings() -> None:
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
