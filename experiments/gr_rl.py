"""GR-RL's pipeline: demonstrations with mistakes, a filter, mirrored data, a diffusion policy, RL in its noise.

    python experiments/gr_rl.py --task lace
    python experiments/gr_rl.py --task push_t --demos push_t_human_demos.npz
    python experiments/gr_rl.py --task pick_and_place --demonstrations 50 --policy-updates 5000 --online-steps 50_000

Stages, after GR-RL (arXiv 2512.01801): behaviour cloning of everything; of what a critic of progress leaves; of that
and its mirror image; and RL in the noise of the last policy, where what is executed is not what was asked for
(`--mismatch.…`, on a robot always). The table says how often each succeeds, with and without that mismatch.

Everything is left in runs/gr_rl/<name>, a folder for each stage. What is done already is not done again; a stage that
was interrupted goes on where it was.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import rljax
from rljax import experiment, training
from rljax.algorithms import diffusion, steering
from rljax.algorithms import progress as critics
from rljax.algorithms.base import Algorithm, Policy
from rljax.analysis.statistics import bootstrap_interval
from rljax.data import Dataset, Metadata, formats
from rljax.data.mirror import with_mirror
from rljax.envs.manipulation import ManipulationTask, demonstrators
from rljax.training.evaluate import evaluate
from rljax.types import Transition


@dataclasses.dataclass(frozen=True)
class Settings:
    """Runs the stages, from demonstrations to a policy that is better than they are."""

    task: str = "lace"
    """lace, pick_and_place or push_t."""
    demos: Path | None = None
    """A file of demonstrations; scripted ones where not given."""
    demonstrations: int = 200
    """How many scripted ones."""
    faults: demonstrators.Manner = dataclasses.field(
        default_factory=lambda: demonstrators.Manner(
            slip=0.01, hesitation=0.01, wrong_approach=0.4, give_up=0.1, noise=0.002
        )
    )
    mismatch: experiment.Mismatch = dataclasses.field(
        default_factory=lambda: experiment.Mismatch(delay=1, smoothing=0.5, rate_limit=0.1)
    )
    critic_updates: int = 20_000
    """Of the progress critic."""
    policy_updates: int = 20_000
    """Of each policy."""
    online_steps: int = 300_000
    """Environment steps of RL in the noise."""
    drop: float = 0.05
    """δ: a step is not imitated if progress falls by more than this."""
    within: int = 20
    """k: in so many steps after it."""
    reward: str = "staged"
    """Of the task, for RL: dense, staged or sparse."""
    evaluation_episodes: int = 200
    """Episodes of each number in the table."""
    seed: int = 0
    """Of everything."""
    runs: Path = Path("runs")
    """Where run folders lie."""
    name: str | None = None
    """Name of the run folder; the task and the seed where not given."""
    progress: bool = True
    """Show progress bars."""
    critic: critics.Config = dataclasses.field(
        default_factory=lambda: critics.Config(critic_learning_rate=3e-4, discount=0.98)
    )
    policy: diffusion.Config = dataclasses.field(default_factory=diffusion.Config)
    online: steering.Config = dataclasses.field(
        default_factory=lambda: steering.Config(initial_temperature=0.01)
    )  # fmt: skip


def main(settings: Settings) -> dict[str, Any]:
    return Pipeline(settings).run()


class Pipeline:
    """The stages of one seed, each cached in a folder of its own."""

    def __init__(self, settings: Settings):
        self.settings = settings
        if settings.evaluation_episodes < 1 or settings.demonstrations < 2:
            raise ValueError("evaluation_episodes must be at least 1 and demonstrations at least 2")
        self.folder = settings.runs / "gr_rl" / (settings.name or f"{settings.task}-seed{settings.seed}")
        if not isinstance(rljax.make(settings.task).unwrapped, ManipulationTask):
            raise ValueError(f"task = {settings.task} is not allowed; it must be lace, pick_and_place or push_t")
        self.env = rljax.make(settings.task, reward=settings.reward)
        self.executed = rljax.make(
            settings.task, reward=settings.reward, mismatch=dataclasses.asdict(settings.mismatch)
        )  # fmt: skip
        self.key = jax.random.key(settings.seed)

    def run(self) -> dict[str, Any]:
        s = self.settings
        data, fault = self.demonstrations()
        dropped, found = self.filter(data, fault)
        weight = (~dropped).astype(np.float32)
        symmetry = self.env.unwrapped.symmetry  # type: ignore[attr-defined]
        stages: dict[str, Policy] = {}
        stages["everything"] = self.clone("1-everything", data, None)
        stages["filtered"] = self.clone("2-filtered", data, weight)
        last = "2-filtered"
        if symmetry is not None:
            last = "3-mirrored"
            stages["and mirrored"] = self.clone(last, with_mirror(data, symmetry), np.tile(weight, 2))
        best = list(stages.values())[-1]
        config = dataclasses.replace(
            s.online, sampler=s.policy, normalize_observation=s.policy.normalize_observation
        )  # fmt: skip
        algorithm = steering.make(self.executed, config, steering.base_of(best))
        stages["and RL in its noise"] = self.train("4-steered", algorithm, s.online_steps, {"base": last})
        table = {name: self.successes(name, policy) for name, policy in stages.items()}
        result = {"stages": table, "filter": found}
        (self.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        self.show(result)
        return result

    def demonstrations(self) -> tuple[Dataset, np.ndarray | None]:
        """What is learned from, and the labels of faults where they are known."""
        s = self.settings
        if s.demos is not None:
            return formats.load(s.demos, task=s.task), None
        path = self.folder / "demonstrations.hdf5"
        if not path.exists():
            demonstrator = demonstrators.make(self.env, s.faults)
            made = demonstrators.demonstrate(self.env, demonstrator, jax.random.fold_in(self.key, 1), s.demonstrations)
            rows = Transition(made.obs, made.action, made.reward, made.terminated, made.truncated, made.next_obs)  # type: ignore[arg-type]
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(self.folder / "faults.npy", made.fault.astype(np.int8))
            formats.save_d4rl(Dataset.of(rows, Metadata(path.stem, s.task, "scripted")), path)
        fault = np.load(self.folder / "faults.npy", allow_pickle=False)
        data = formats.load(path)
        print(
            f"{len(data.ends)} demonstrations, {data.terminated[data.ends - 1].mean():.0%} succeed, "
            f"{(fault > 0).mean():.0%} of {data.size:,} steps are in faults"
        )
        return data, fault

    def filter(self, data: Dataset, fault: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Which steps are not imitated, bool [N], and how well that fits what is known."""
        s = self.settings
        retries = np.zeros(data.size, bool)
        if fault is not None:  # a retry begins where a fault ends
            retries[1:] = (fault[:-1] > 0) & (fault[1:] == 0)
            retries[data.starts] = False
        algorithm = critics.make(self.env, s.critic, critics.with_failures(data, retries))
        folder = self.folder / "0-progress"
        result = self._train(algorithm, s.critic_updates, folder, 0, None)
        values = critics.progress(algorithm, result.state, data)
        dropped = critics.drops(values, data.ends, s.drop, s.within)
        np.save(folder / "progress.npy", values.astype(np.float32))
        found: dict[str, Any] = {"dropped": float(dropped.mean())}
        if fault is not None:
            found |= critics.detection(dropped, fault > 0, data.ends, s.within)._asdict()
        draw_progress(folder / "progress.png", values, dropped, fault, data)
        return dropped, found

    def clone(self, stage: str, data: Dataset, weight: np.ndarray | None) -> Policy:
        s = self.settings
        algorithm = diffusion.make(self.env, s.policy, data, weight=weight)
        return self.train(stage, algorithm, s.policy_updates, None)

    def train(self, stage: str, algorithm: Algorithm, steps: int, extra: dict[str, Any] | None) -> Policy:
        self._train(algorithm, steps, self.folder / stage, 20, extra)
        return rljax.load(self.folder / stage, env=algorithm.env)

    def _train(
        self, algorithm: Algorithm, steps: int, folder: Path, episodes: int, extra: dict[str, Any] | None
    ) -> training.runner.Result:  # fmt: skip
        s = self.settings
        if s.progress:
            print(folder.name, flush=True)
        result = training.train(
            algorithm, jax.random.fold_in(self.key, 2), steps, folder=folder, resume=True, final_episodes=episodes,
            evaluate_every=None if episodes else 0, evaluation_episodes=50, progress=s.progress, settings=extra,
        )  # fmt: skip
        if result.interrupted is not None:
            raise SystemExit(128 + result.interrupted)
        return result

    def successes(self, name: str, policy: Policy) -> dict[str, Any]:
        """How often a policy succeeds, as it is and as it is executed; a steered one samples noise of its own."""
        row: dict[str, Any] = {}
        for kind, env in (("asked", self.env), ("executed", self.executed)):
            key = jax.random.fold_in(jax.random.fold_in(self.key, 3), len(row))
            episodes = jax.jit(
                lambda policy, key, env=env: evaluate(
                    env, policy, key, self.settings.evaluation_episodes, deterministic=False
                )
            )(policy, key)
            success = np.asarray(episodes.highest["success"])
            low, high = bootstrap_interval(success)
            row[kind] = {"success": float(success.mean()), "low": float(low), "high": float(high)}
            row[kind]["steps"] = float(np.asarray(episodes.lengths).mean())
        return row

    def show(self, result: dict[str, Any]) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"Success over {self.settings.evaluation_episodes} episodes: {self.settings.task}")
        for column in ("policy", "as asked for", "as executed"):
            table.add_column(column, justify="left" if column == "policy" else "right")
        for name, row in result["stages"].items():
            cells = [f"{r['success']:.1%} [{r['low']:.1%}, {r['high']:.1%}]" for r in (row["asked"], row["executed"])]
            table.add_row(name, *cells)
        console = Console()
        console.print(table)
        found = result["filter"]
        line = f"filter: {found['dropped']:.1%} of the steps dropped"
        if "precision" in found:
            line += f", precision {found['precision']:.2f}, recall {found['recall']:.2f}"
        console.print(f"{line}\nrun folder: {self.folder}", highlight=False, soft_wrap=True)


def draw_progress(path: Path, values: np.ndarray, dropped: np.ndarray, fault: np.ndarray | None, data: Dataset) -> None:
    """Progress along six demonstrations, those with the most that was dropped; faults and drops are marked."""
    import matplotlib.pyplot as plt

    share = np.add.reduceat(dropped, data.starts) / (data.ends - data.starts)
    figure, axes = plt.subplots(2, 3, figsize=(12, 5), sharey=True, layout="constrained")
    for axis, episode in zip(axes.flat, np.argsort(-share)[:6]):
        at = np.arange(data.starts[episode], data.ends[episode])
        steps = at - at[0]
        axis.plot(steps, values[at], linewidth=1.2)
        axis.scatter(steps[dropped[at]], values[at][dropped[at]], s=8, color="tab:red", label="dropped", zorder=3)
        if fault is not None:
            axis.fill_between(steps, 0, 1, where=fault[at] > 0, color="tab:orange", alpha=0.25, label="fault")
        axis.set_title(f"demonstration {episode}", fontsize=9)
        axis.set_ylim(0, 1)
    axes[0, 0].legend(fontsize=8)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("progress", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    experiment.main(main, Settings, {}, prefixes=True)
