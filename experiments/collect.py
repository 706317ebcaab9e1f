"""Makes offline datasets from our own agents, as D4RL's were: random, medium, medium-replay, medium-expert, expert.

    python experiments/collect.py --env hopper
    python experiments/collect.py --env half_cheetah --expert runs/sac/half_cheetah-seed0 --transitions 200_000

expert: SAC with the settings of experiments/sac.py, trained to the end (or the run given by --expert). medium: SAC of
another seed, stopped at the first evaluation that has come --medium-share of the way from random actions' return to
the expert's. medium-replay: all experience of this agent until then. medium-expert: equal amounts of both. Policies
act with the noise they were trained with.

Existing files are not made again. They lie in runs/datasets, in D4RL's layout, beside `<task>.json`, which holds the
settings, the scores and the files' SHA-256 sums.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from rljax import experiment, experiments, training
from rljax.data import Dataset, Metadata, concatenate, formats, normalized_score
from rljax.envs import AutoReset
from rljax.envs.rollout import Acting, advance, begin
from rljax.policy import Policy
from rljax.training.evaluate import evaluate
from rljax.training.progress import ProgressBar
from rljax.types import Key, Refused, Transition

sac = experiments.load("sac")
KINDS = ("random", "medium", "medium-replay", "medium-expert", "expert")
VERSION = "v0"
LANES = 64
"""Environments that act side by side."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Makes the datasets of one task."""

    env: str = "hopper"
    """The task, as rljax.make takes it, among those that experiments/sac.py learns."""
    kinds: tuple[str, ...] = KINDS
    """Kinds of datasets to make."""
    transitions: int = 1_000_000
    """Transitions of random, medium and expert; medium-expert has twice as many."""
    expert: Path | None = None
    """Folder of the expert's run; where not given, an expert is trained."""
    medium_share: float = 0.4
    """Share of the way from random actions' return to the expert's at which the medium agent stops."""
    evaluate_every: int = 10_000
    """Steps between the evaluations of the medium agent."""
    seed: int = 0
    """Seed of the expert; the medium agent's is seed + 1."""
    runs: Path = Path("runs")
    """Folder of the results: the trained agents in collect/, the datasets in datasets/."""
    progress: bool = True
    """Show progress bars; lines are printed anyway."""


def main(settings: Settings) -> None:
    if unknown := sorted(set(settings.kinds) - set(KINDS)):
        raise Refused(f"kinds = {', '.join(unknown)} is not allowed; they must be of {', '.join(KINDS)}")
    if settings.transitions < LANES:
        raise Refused(f"transitions = {settings.transitions} is not allowed; it must be at least {LANES}")
    if not 0 < settings.medium_share < 1:
        raise Refused(f"medium_share = {settings.medium_share} is not allowed; it must be in (0, 1)")
    Collection(settings).make()


class Collection:
    """The datasets of one task; agents are trained when they are first needed."""

    def __init__(self, settings: Settings):
        self.settings, self.env = settings, rljax.make(settings.env)
        self.folder = settings.runs / "datasets"
        self.key = experiment.keys_of([settings.seed + 1_000_003])[0]
        self.path = self.folder / f"{settings.env}.json"
        self.record: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def make(self) -> None:
        for kind in self.settings.kinds:
            path = self.folder / f"{self.settings.env}-{kind}-{VERSION}.hdf5"
            if path.exists():
                print(f"{path} is there already")
                continue
            dataset = self.dataset(kind)
            returns = dataset.returns
            # The last episode may have been cut.
            returns = returns[:-1] if len(returns) > 1 else returns
            score = normalized_score(self.settings.env, returns.mean())
            self.folder.mkdir(parents=True, exist_ok=True)
            sha256 = formats.save_d4rl(dataset, path)
            self.record[kind] = {
                "file": path.name,
                "sha256": sha256,
                "transitions": dataset.size,
                "episodes": len(dataset.ends),
                "mean_return": float(returns.mean()),
                "best_return": float(returns.max()),
                "normalized_score": None if score is None else float(score),
                "policy": dataset.metadata.policy,
            } | ({"medium_share": self.settings.medium_share} if "medium" in kind else {})
            self.path.write_text(json.dumps(self.record, indent=2) + "\n")
            print(f"{path}: {dataset.size:,} transitions, mean return {returns.mean():.1f}")

    def dataset(self, kind: str) -> Dataset:
        name = f"{self.settings.env}-{kind}-{VERSION}"
        if kind == "random":
            return self.roll_out(chance(self.env), name, "uniformly random actions", 0)
        if kind == "expert":
            policy, folder, steps = self.expert()
            return self.roll_out(policy, name, f"SAC after {steps:,} steps ({folder.name})", 1)
        if kind == "medium-expert":
            halves = [self.stored(other) for other in ("medium", "expert")]
            policy = "; ".join(str(half.metadata.policy) for half in halves)
            return concatenate(halves, Metadata(name, self.settings.env, policy, VERSION))
        result, agent_env = self.medium()
        about = f"SAC of seed {self.settings.seed + 1} after {result.steps:,} steps"
        if kind == "medium":
            return self.roll_out(result.policy, name, about, 2)
        replay = result.state.experience.replay
        metadata = Metadata(name, self.settings.env, f"all {about}, from the first random one on", VERSION)
        return Dataset.of(in_order(replay, agent_env), metadata)

    def stored(self, kind: str) -> Dataset:
        path = self.folder / f"{self.settings.env}-{kind}-{VERSION}.hdf5"
        return formats.load(path) if path.exists() else self.dataset(kind)

    def expert(self) -> tuple[Any, Path, int]:
        """The policy, its run folder, and the steps it trained."""
        folder = self.settings.expert
        if folder is None:
            folder = self.settings.runs / "collect" / f"{self.settings.env}-expert"
            settings = self.of_task()
            self.train(sac.make(settings), self.settings.seed, settings.total_steps, folder, 100)
        evaluation = json.loads((folder / "evaluation.json").read_text())
        return rljax.load(folder), folder, evaluation["steps"]

    def medium(self) -> tuple[training.Result, Any]:
        """The result of the medium agent's training, and its environment with actions in [-1, 1]."""

        def value(policy: Policy) -> float:
            episodes = jax.jit(lambda p, k: evaluate(self.env, p, k, 50))(policy, jax.random.fold_in(self.key, 100))
            return float(episodes.returns.mean())

        low, high = value(chance(self.env)), value(self.expert()[0])
        target = low + self.settings.medium_share * (high - low)
        settings = self.of_task()
        algorithm = sac.make(settings)
        folder = self.settings.runs / "collect" / f"{self.settings.env}-medium"
        for steps in range(self.settings.evaluate_every, settings.total_steps + 1, self.settings.evaluate_every):
            if (folder / "steps.json").exists() and steps < json.loads((folder / "steps.json").read_text()):
                continue
            result = self.train(algorithm, self.settings.seed + 1, steps, folder, 20)
            assert result.evaluation is not None  # for there are episodes of it
            reached = result.evaluation["members"][0]["deterministic"]["mean"]
            print(f"medium: return {reached:.1f} after {result.steps:,} steps, to reach {target:.1f}", flush=True)
            (folder / "steps.json").write_text(json.dumps(steps))
            if reached >= target:
                return result, rljax.envs.RescaleAction(self.env)
        raise Refused(f"the medium agent did not reach {target:.1f} in {settings.total_steps:,} steps")

    def of_task(self) -> experiments.Settings:
        """SAC's settings for the task; rates fall over the whole training, also if it stops early."""
        return dataclasses.replace(sac.TASKS.get(self.settings.env, sac.Settings()), env=self.settings.env)

    def train(self, algorithm: Any, seed: int, steps: int, folder: Path, episodes: int) -> training.Result:
        options = training.Options(
            evaluate_every=0,
            final_episodes=episodes,
            progress=self.settings.progress or "lines",
            tensorboard=False,
        )
        key = experiment.keys_of([seed])[0]
        result = training.train(algorithm, key, steps, options, folder=folder, resume=folder.exists())
        if result.interrupted is not None:
            raise SystemExit(128 + result.interrupted)
        return result

    def roll_out(self, policy: Any, name: str, about: str, stream: int) -> Dataset:
        """Lets a policy or random actions act, and keeps the first `transitions`."""
        metadata = Metadata(name, self.settings.env, about, VERSION)
        key = jax.random.fold_in(self.key, stream)
        return Dataset.of(roll_out(self.env, policy, self.settings.transitions, key, self.settings.progress), metadata)


def chance(env: Any) -> Policy:
    """Uniformly random actions."""

    def act(_: Any, key: Key, obs: Any, memory: Any, deterministic: bool) -> tuple[jax.Array, Any, Any]:
        return jax.vmap(env.action_space.sample)(jax.random.split(key, obs.shape[0])), memory, ()

    return Policy((), (), act)


def roll_out(env: Any, policy: Any, transitions: int, key: Key, progress: bool) -> Transition:
    """Experience of the policy or of random actions: whole episodes one after the other, the last one cut.

    Each of `LANES` environments makes one lane of episodes; the unfinished end of a lane is left out.
    """
    envs, limit = AutoReset(env, LANES), env.max_episode_steps or 1000
    slice_length = 250

    @jax.jit
    def act(acting: Acting, key: Key) -> tuple[Acting, Transition]:
        def step(acting: Acting, key: Key) -> tuple[Acting, Transition]:
            now, action, _ = advance(envs, policy, acting, key, deterministic=False)
            return now, envs.transition(acting.state, action, now.state)

        return jax.lax.scan(step, acting, jax.random.split(key, slice_length))

    acting = jax.jit(lambda key: begin(envs, policy, key, LANES))(jax.random.fold_in(key, 0))
    # A lane may lose an episode at its end.
    wanted = -(-transitions // LANES) + limit
    slices: list[Transition] = []
    bar = ProgressBar(wanted * LANES, 0, progress)
    while len(slices) * slice_length < wanted:
        acting, slice_ = act(acting, jax.random.fold_in(key, len(slices) + 1))
        slices.append(jax.tree.map(np.asarray, slice_))
        bar.update(len(slices) * slice_length * LANES, 0.0)
    bar.close()
    lanes = jax.tree.map(lambda *x: np.concatenate(x).swapaxes(0, 1), *slices)  # [LANES, time, …]
    done = lanes.terminated | lanes.truncated
    whole = [np.flatnonzero(row)[-1] + 1 if row.any() else 0 for row in done]
    return jax.tree.map(lambda x: np.concatenate([row[:n] for row, n in zip(x, whole)])[:transitions], lanes)


def in_order(replay: Any, agent_env: Any) -> Transition:
    """All that a replay buffer holds, environment after environment, each cut at its end."""
    count, head, length = int(replay.count), int(replay.head), replay.data.reward.shape[1]
    order = (head - count + np.arange(count)) % length
    data = jax.tree.map(lambda x: np.asarray(x)[:, order], replay.data)
    truncated = data.truncated.copy()
    truncated[:, -1] |= ~data.terminated[:, -1]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data.replace(truncated=truncated))
    return flat.replace(action=np.asarray(agent_env.rescale(jnp.asarray(flat.action))))


if __name__ == "__main__":
    experiment.main(main, Settings, {})
