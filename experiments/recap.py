"""Recap, iterated: a value of all episodes so far says which steps went well, and a policy is told so and asked for it.

    python experiments/recap.py --task lace
    python experiments/recap.py --task push_t --demos push_t_human_demos.npz --policy.guidance 2
    python experiments/recap.py --task pick_and_place --method plain

After π*0.6 (arXiv 2511.14759). Each iteration learns a value of all data, labels each step by whether the next ones
went better than the value predicted, imitates all data with these labels in a diffusion policy that acts with the good
label, and adds this policy's episodes to the data. Unlike in the paper, networks begin anew in each iteration, and
nobody intervenes. `recap_contrastive` has no labels but goes away from bad steps (an ablation, see recap.py); `plain`
imitates all data alike.

Everything is left in runs/recap/<name>, two folders for each iteration. Finished work is not done again, interrupted
work goes on where it was, and more --iterations may be asked for later.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

import rljax
from rljax import experiment, pipeline
from rljax.algorithms import diffusion, recap
from rljax.data import Dataset, Metadata, concatenate, files, formats
from rljax.envs.episodes import play
from rljax.envs.manipulation import demonstrators
from rljax.policy import Policy
from rljax.training.folder import write_json
from rljax.types import Key, Refused

METHODS = ("recap", "recap_contrastive", "plain")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Runs the iterations, from demonstrations to a policy that has learned from its own episodes."""

    task: str = "lace"
    """Task of manipulation: lace, pick_and_place or push_t."""
    method: str = "recap"
    """Method: recap, recap_contrastive or plain."""
    iterations: int = 2
    """Policies that are learned after the first, each from one more set of episodes."""
    demos: Path | None = None
    """File of demonstrations; where not given, they are scripted."""
    demonstrations: int = 200
    """Number of scripted demonstrations."""
    faults: demonstrators.Manner = pipeline.FAULTS
    rollouts: int = 200
    """Episodes of each policy: data for the next, and its number in the table."""
    value_updates: int = 1_000
    """Updates of each value; many more let it memorise how each episode ended, and no step is a surprise."""
    policy_updates: int = 20_000
    """Updates of each policy, over which its learning rate falls to 0."""
    advantage_steps: int = 50
    """Number N of following steps by which a step is judged (the paper: 50)."""
    first_share: float = 0.3
    """Share of all steps that is labelled good in the first iteration, on demonstrations only (the paper: 30 %)."""
    later_share: float = 0.4
    """Share of all steps that is labelled good in later iterations (the paper: 40 %)."""
    negative_weight: float = 0.1
    """Weight of a bad step in recap_contrastive, against 1 of a good one."""
    fall: float = 0.1
    """Fall of the value, in longest episodes, beyond which a failure is marked; for the picture only."""
    within: int = 20
    """Window of `fall`, in steps."""
    seed: int = 0
    """Seed of all stages."""
    runs: Path = Path("runs")
    """Folder in which run folders lie."""
    name: str | None = None
    """Name of the run folder; the task, the method and the seed where not given."""
    progress: bool = True
    """Show progress bars; lines are printed anyway."""
    value: recap.Config = dataclasses.field(default_factory=lambda: recap.Config(hidden=(64, 64)))
    policy: diffusion.Config = dataclasses.field(default_factory=diffusion.Config)


LATER = ("iterations", "runs", "name", "demos", "progress", "fall", "within")
"""Settings that may change when a run goes on."""


def main(settings: Settings) -> dict[str, Any]:
    return Pipeline(settings).run()


class Pipeline:
    """The iterations of one seed, each cached in folders of its own."""

    def __init__(self, settings: Settings):
        s = self.settings = settings
        check(s)
        pipeline.require_manipulation(s.task)
        self.env = rljax.make(s.task)
        self.key = experiment.keys_of([s.seed])[0]
        self.folder = s.runs / "recap" / (s.name or f"{s.task}-{s.method}-seed{s.seed}")
        # So that values of different iterations have one scale.
        self.value = dataclasses.replace(s.value, longest=s.value.longest or self.env.max_episode_steps or 0)
        told: dict[str, Any] = {"labels": 2, "acts_with": recap.POSITIVE} if s.method == "recap" else {}
        decay: dict[str, Any] = {"anneal_steps": s.policy.anneal_steps or s.policy_updates}
        self.policy = dataclasses.replace(s.policy, **told, **decay)

    def run(self) -> dict[str, Any]:
        s = self.settings
        data, fault = self.demonstrations()
        result: dict[str, Any] = {"method": s.method, "demonstrations": outcome(data), "iterations": []}
        first, newest = data.size, 0
        for number in range(s.iterations + 1):
            row: dict[str, Any] = {"episodes": len(data.ends)}
            label = None
            if s.method != "plain":
                value, label = self.judge(number, data)
                self.draw(number, jax.tree.map(lambda x, a=newest: x[a:], data), value[newest:], fault)
                error = value - recap.costed(data, self.value).return_to_go
                row["value_error"] = float(np.sqrt(np.square(error).mean()))
                good = label == recap.POSITIVE
                row["good_in_demonstrations"] = float(good[:first].mean())
                row["good_in_rollouts"] = float(good[first:].mean()) if number else None
            rollouts = self.roll_out(number, data, label)
            result["iterations"].append(row | outcome(rollouts))
            newest, fault, data = data.size, None, together(data, rollouts)
        write_json(self.folder / "result.json", result)
        self.show(result)
        return result

    def key_of(self, stage: int, number: int) -> Key:
        return jax.random.fold_in(jax.random.fold_in(self.key, stage), number)

    def demonstrations(self) -> tuple[Dataset, np.ndarray | None]:
        """The first data, and the labels of faults where they are known."""
        s = self.settings
        given = None if s.demos is None else formats.load(s.demos, task=s.task)
        # A dataset that does not fit is refused before the run folder is begun.
        if given is None:
            demonstrators.make(self.env, s.faults)
        else:
            recap.make(self.env, self.value, given)
        about = {"demos_sha256": None if given is None else given.metadata.sha256}
        pipeline.pin(self.folder, dataclasses.asdict(s) | about, LATER)
        if given is not None:
            return given, None
        return pipeline.scripted(
            self.env, s.task, s.faults, jax.random.fold_in(self.key, 1), s.demonstrations, self.folder
        )

    def judge(self, number: int, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """The value of each step and its label, both [N]; trains the value if they are not there yet."""
        s = self.settings
        folder = self.folder / f"{number}-value"
        path = folder / "labels.npz"
        if not path.exists():
            algorithm = recap.make(self.env, self.value, data)
            state = pipeline.train(algorithm, self.key_of(2, number), s.value_updates, folder, s.progress).state
            value, following = (recap.values(algorithm, state, obs) for obs in (data.obs, data.next_obs))
            advantage = recap.advantages(recap.costed(data, self.value), value, following, s.advantage_steps)
            label = recap.indicator(advantage, s.later_share if number else s.first_share)
            with files.whole(path) as part, part.open("wb") as file:
                np.savez(file, value=value, advantage=advantage, label=label)
        with np.load(path, allow_pickle=False) as kept:
            return kept["value"], kept["label"]

    def draw(self, number: int, data: Dataset, value: np.ndarray, fault: np.ndarray | None) -> None:
        """V(s) along episodes of the newest data, with the failures that it shows."""
        failed = recap.failures(value, data.ends, self.settings.fall, self.settings.within)
        path = self.folder / f"{number}-value" / "value.png"
        pipeline.draw_episodes(path, "V(s)", value, failed, "failure", data, fault, limits=(-1.0, 0.0))

    def roll_out(self, number: int, data: Dataset, label: np.ndarray | None) -> Dataset:
        """Episodes of a policy with its noise; trains the policy if they are not there yet."""
        s = self.settings
        folder = self.folder / f"{number}-policy"
        path = folder / "rollouts.hdf5"
        if not path.exists():
            policy = self.imitate(number, data, label, folder)
            steps, _, _ = play(self.env, policy, self.key_of(4, number), s.rollouts)
            metadata = Metadata(f"{s.task}-{s.method}-{number}", s.task, f"{s.method}, iteration {number}")
            formats.save_d4rl(Dataset.of(steps, metadata), path)
        made = formats.load(path)
        print(f"{folder.name}: {made.terminated.sum()} of {s.rollouts} episodes succeed", flush=True)
        return made

    def imitate(self, number: int, data: Dataset, label: np.ndarray | None, folder: Path) -> Policy:
        s = self.settings
        told: dict[str, Any] = {}
        if s.method == "recap":
            told = {"label": label}
        elif s.method == "recap_contrastive":
            told = {"weight": recap.contrastive(label, s.negative_weight)}
        algorithm = diffusion.make(self.env, self.policy, data, **told)
        pipeline.train(algorithm, self.key_of(3, number), s.policy_updates, folder, s.progress)
        return rljax.load(folder, env=self.env)

    def show(self, result: dict[str, Any]) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(
            title=f"{self.settings.method} on {self.settings.task}, {self.settings.rollouts} episodes of each policy",
            caption="data: episodes learned from; good: steps labelled so, of demonstrations and of rollouts",
        )
        for column in ("policy", "data", "V error", "good", "success", "steps"):
            table.add_column(column, justify="left" if column == "policy" else "right")
        for name, row in [("demos", result["demonstrations"]), *enumerate(result["iterations"])]:
            shares = [row.get(f"good_in_{part}") for part in ("demonstrations", "rollouts")]
            table.add_row(
                str(name),
                str(row.get("episodes", "")),
                f"{row['value_error']:.3f}" if "value_error" in row else "",
                ", ".join(f"{share:.0%}" for share in shares if share is not None),
                pipeline.in_percent(row),
                f"{row['steps']:.0f}",
            )
        console = Console()
        console.print(table)
        console.print(f"run folder: {self.folder}", highlight=False, soft_wrap=True)


def check(s: Settings) -> None:
    """Refuses bad settings before anything is trained."""
    if s.method not in METHODS:
        raise Refused(f"method = {s.method} is not allowed; it must be {', '.join(METHODS[:-1])} or {METHODS[-1]}")
    least = {"demonstrations": 2, "rollouts": 2, "value_updates": 1, "policy_updates": 1, "advantage_steps": 1}
    for field, bound in (least | {"within": 1, "iterations": 0, "negative_weight": 0, "fall": 0}).items():
        if getattr(s, field) < bound:
            raise Refused(f"{field} = {getattr(s, field)} is not allowed; it must be at least {bound}")
    for field in ("first_share", "later_share"):
        if not 0 < getattr(s, field) < 1:
            raise Refused(f"{field} = {getattr(s, field)} is not allowed; it must be in (0, 1)")
    if s.policy.labels or s.policy.acts_with >= 0:
        raise Refused("policy.labels and policy.acts_with follow from --method; leave them out")


def outcome(data: Dataset) -> dict[str, float]:
    """The success rate of episodes, which only success terminates, and their mean length."""
    return pipeline.successes(data.terminated[data.ends - 1], data.ends - data.starts)


def together(data: Dataset, rollouts: Dataset) -> Dataset:
    """The data followed by the rollouts; identified by the sums of all their files."""
    sums = f"{data.metadata.sha256} {rollouts.metadata.sha256}"
    metadata = dataclasses.replace(
        rollouts.metadata,
        policy=f"{data.metadata.policy}; {rollouts.metadata.policy}",
        sha256=hashlib.sha256(sums.encode()).hexdigest(),
    )
    return concatenate([data, rollouts], metadata)


if __name__ == "__main__":
    experiment.main(main, Settings, {}, prefixes=True)
