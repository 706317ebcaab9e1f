"""GR-RL's pipeline: demonstrations with mistakes, a filter, mirrored data, a diffusion policy, RL in its noise.

    python experiments/gr_rl.py --task lace
    python experiments/gr_rl.py --task lace --left-first 0.5        # demonstrated with either hand
    python experiments/gr_rl.py --task push_t --demos push_t_human_demos.npz
    python experiments/gr_rl.py --task pick_and_place --demonstrations 50 --policy-updates 5000 --online-steps 50_000

Stages, after GR-RL (arXiv 2512.01801): behaviour cloning of all data; of the data that a critic of progress keeps; of
these and their mirror image; and RL in the noise of the last policy, where executed actions differ from commanded ones
(`--mismatch.…`, as always on a robot). The table shows each stage's success with and without that mismatch.

Everything is left in runs/gr_rl/<name>, a folder for each stage. Finished stages are not run again, an interrupted one
goes on where it was, and a folder that was made with other settings is refused.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

import rljax
from rljax import experiment, pipeline, training
from rljax.algorithms import diffusion, steering
from rljax.algorithms import progress as critics
from rljax.algorithms.core.contract import Algorithm
from rljax.data import Dataset, formats
from rljax.data.mirror import with_mirror
from rljax.data.prepared import check_spaces
from rljax.envs.manipulation import demonstrators
from rljax.policy import Policy
from rljax.training.evaluate import evaluate
from rljax.training.folder import write_json
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Settings:
    """Runs the stages, from demonstrations to a policy that is better than they are."""

    task: str = "lace"
    """Task of manipulation: lace, pick_and_place or push_t."""
    demos: Path | None = None
    """File of demonstrations; where not given, they are scripted."""
    demonstrations: int = 300
    """Number of scripted demonstrations."""
    left_first: float | None = None
    """Share of the scripted demonstrations in which the left hand starts with the lace. Policies are evaluated and
    steered with either hand."""
    faults: demonstrators.Manner = dataclasses.field(
        default_factory=lambda: dataclasses.replace(pipeline.FAULTS, hesitation=0.003)
    )
    mismatch: experiment.Mismatch = dataclasses.field(
        default_factory=lambda: experiment.Mismatch(delay=1, smoothing=0.5, rate_limit=0.1)
    )
    critic_updates: int = 10_000
    """Updates of the progress critic."""
    policy_updates: int = 60_000
    """Updates of each policy, over which its learning rate falls to 0."""
    online_steps: int = 300_000
    """Environment steps of RL in the noise, the last stage; 0 leaves it out, and it can be added later."""
    drop: float = 0.15
    """Threshold δ: steps after which progress falls by more than this share, within `within` steps, are not
    imitated."""
    within: int = 20
    """Window k of `drop`, in steps."""
    gain: float = 0.3
    """Least growth of progress, as a share, within `patience` steps; steps before a smaller one are not imitated. A
    negative value turns the rule off."""
    patience: int = 30
    """Window of `gain`, in steps."""
    reward: str = "staged"
    """Reward of the task for RL: dense, staged or sparse."""
    evaluation_episodes: int = 200
    """Episodes of each number in the table."""
    seed: int = 0
    """Seed of all stages."""
    runs: Path = Path("runs")
    """Folder in which run folders lie."""
    name: str | None = None
    """Name of the run folder; where not given, the task, for the lace its starting hand, and the seed."""
    progress: bool = True
    """Show progress bars; lines are printed anyway."""
    critic: critics.Config = dataclasses.field(
        default_factory=lambda: critics.Config(
            critic_learning_rate=3e-4, discount=0.98, target_rate=0.05, value_weight=0.0
        )
    )
    policy: diffusion.Config = dataclasses.field(default_factory=lambda: diffusion.Config(width=256))
    online: steering.Config = dataclasses.field(default_factory=steering.Config)


TASKS = {
    # The demonstrator has a dominant hand: the mirror shows what the other would do.
    "lace": Settings(left_first=1.0),
    # As in experiments/diffusion_policy.py and steer.py. People take their time before they push: progress is rewarded
    # further back, and standing still is imitated too.
    "push_t": Settings(
        policy=diffusion.Config(),
        policy_updates=30_000,
        reward="dense",
        gain=-1.0,
        critic=dataclasses.replace(Settings().critic, discount=0.99),
    ),
}


LATER = ("runs", "name", "demos", "progress", "online_steps", "evaluation_episodes")
"""Settings that may change when a pipeline goes on; a file of demonstrations is identified by its content."""


def main(settings: Settings) -> dict[str, Any]:
    return Pipeline(settings).run()


def default_name(settings: Settings) -> str:
    """Name of the run folder; for the lace, it tells if the left hand does not start in all demonstrations."""
    task, left_first = settings.task, settings.left_first
    if task == "lace" and left_first != 1.0:
        task += "_either_hand" if left_first in (None, 0.5) else f"_left{left_first:g}"
    return f"{task}-seed{settings.seed}"


class Pipeline:
    """The stages of one seed, each cached in a folder of its own."""

    def __init__(self, settings: Settings):
        self.settings = settings
        if settings.evaluation_episodes < 1 or settings.demonstrations < 2 or settings.online_steps < 0:
            raise Refused("evaluation_episodes must be at least 1, demonstrations at least 2, online_steps 0 or more")
        if settings.left_first is not None and settings.task != "lace":
            raise Refused(f"left_first = {settings.left_first} is not allowed; only the lace has two hands")
        self.folder = settings.runs / "gr_rl" / (settings.name or default_name(settings))
        pipeline.require_manipulation(settings.task)
        self.env = rljax.make(settings.task, reward=settings.reward)
        self.executed = rljax.make(
            settings.task, reward=settings.reward, mismatch=dataclasses.asdict(settings.mismatch)
        )
        self.key = experiment.keys_of([settings.seed])[0]

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
        if s.online_steps:
            base = steering.base_of(list(stages.values())[-1])
            config = dataclasses.replace(
                s.online, sampler=s.policy, normalize_observation=s.policy.normalize_observation
            )
            algorithm = steering.make(self.executed, config, base)
            stages["and RL in its noise"] = self.train("4-steered", algorithm, s.online_steps, {"base": last})
        table = {name: self.successes(name, policy) for name, policy in stages.items()}
        result = {"stages": table, "filter": found}
        write_json(self.folder / "result.json", result)
        self.show(result)
        return result

    def demonstrations(self) -> tuple[Dataset, np.ndarray | None]:
        """The demonstrations, and the labels of faults where they are known."""
        s = self.settings
        given = None if s.demos is None else formats.load(s.demos, task=s.task)
        # A dataset that does not fit is refused before the run folder is begun.
        if given is None:
            demonstrators.make(self.env, s.faults)
        else:
            check_spaces(given, self.env.observation_space, self.env.action_space)
        about = {"demos_sha256": None if given is None else given.metadata.sha256}
        pipeline.pin(self.folder, dataclasses.asdict(s) | about, LATER)
        if given is not None:
            return given, None
        side: dict[str, Any] = {} if s.left_first is None else {"left_first": s.left_first}
        env = rljax.make(s.task, reward=s.reward, **side)
        return pipeline.scripted(env, s.task, s.faults, jax.random.fold_in(self.key, 1), s.demonstrations, self.folder)

    def filter(self, data: Dataset, fault: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any]]:
        """The steps that are not imitated, bool [N], and how well they fit the known faults."""
        s = self.settings
        tries = np.zeros(data.size, bool) if fault is None else pipeline.retries(data, fault)
        algorithm = critics.make(self.env, s.critic, critics.with_failures(data, tries))
        folder = self.folder / "0-progress"
        result = self._train(algorithm, s.critic_updates, folder, 0, None)
        values = critics.progress(algorithm, result.state, data)
        dropped = critics.drops(values, data.ends, s.drop, s.within, relative=True)
        if s.gain >= 0:
            dropped |= critics.stalls(values, data.ends, data.terminated, s.gain, s.patience)
        pipeline.save_array(folder / "progress.npy", values.astype(np.float32))
        pipeline.save_array(folder / "weight.npy", (~dropped).astype(np.float32))
        found: dict[str, Any] = {"dropped": float(dropped.mean())}
        if fault is not None:
            detected = critics.detection(dropped, fault > 0, data.ends, s.within)._asdict()
            # Where nothing is dropped there is no precision, and without faults no recall.
            found |= {name: x if np.isfinite(x) else None for name, x in detected.items()}
        pipeline.draw_episodes(folder / "progress.png", "progress", values, dropped, "dropped", data, fault)
        return dropped, found

    def clone(self, stage: str, data: Dataset, weight: np.ndarray | None) -> Policy:
        s = self.settings
        config = dataclasses.replace(s.policy, anneal_steps=s.policy.anneal_steps or s.policy_updates)
        algorithm = diffusion.make(self.env, config, data, weight=weight)
        return self.train(stage, algorithm, s.policy_updates, None)

    def train(self, stage: str, algorithm: Algorithm, steps: int, extra: dict[str, Any] | None) -> Policy:
        self._train(algorithm, steps, self.folder / stage, 20, extra)
        return rljax.load(self.folder / stage, env=algorithm.env)

    def _train(
        self, algorithm: Algorithm, steps: int, folder: Path, episodes: int, extra: dict[str, Any] | None
    ) -> training.Result:
        key, shown = jax.random.fold_in(self.key, 2), self.settings.progress
        return pipeline.train(algorithm, key, steps, folder, shown, episodes, extra)

    def successes(self, name: str, policy: Policy) -> dict[str, Any]:
        """The success of a policy without and with the mismatch; a steered policy samples its own noise."""
        row: dict[str, Any] = {}
        for kind, env in (("asked", self.env), ("executed", self.executed)):
            key = jax.random.fold_in(jax.random.fold_in(self.key, 3), len(row))
            episodes = jax.jit(
                lambda policy, key, env=env: evaluate(
                    env, policy, key, self.settings.evaluation_episodes, deterministic=False
                )
            )(policy, key)
            row[kind] = pipeline.successes(episodes.highest["success"], episodes.lengths)
        return row

    def show(self, result: dict[str, Any]) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"Success over {self.settings.evaluation_episodes} episodes: {self.settings.task}")
        for column in ("policy", "as asked for", "as executed"):
            table.add_column(column, justify="left" if column == "policy" else "right")
        for name, row in result["stages"].items():
            table.add_row(name, *(pipeline.in_percent(row[kind]) for kind in ("asked", "executed")))
        console = Console()
        console.print(table)
        found = result["filter"]
        line = f"filter: {found['dropped']:.1%} of the steps dropped"
        for name in ("precision", "recall"):
            if found.get(name) is not None:
                line += f", {name} {found[name]:.2f}"
        console.print(f"{line}\nrun folder: {self.folder}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS, prefixes=True)
