"""The runner: everything around `algorithm.step` that is not maths.

One compiled loop of training steps, whose length is an argument, is called in slices of about half a second. Between
slices the runner shows progress, logs, evaluates, saves and listens to signals. Neither the slicing nor an
interruption changes the result of training.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.algorithms.core.contract import Algorithm
from rljax.data import Feed
from rljax.data.replay import with_empty, without_contents
from rljax.envs import Environment
from rljax.training import program as programs
from rljax.training.best import Best
from rljax.training.cache import enable_compilation_cache
from rljax.training.callbacks import Callback
from rljax.training.checkpoint import Checkpointer
from rljax.training.devices import agreed, decided_by_first, on_host
from rljax.training.evaluate import Episodes, judge, scores, share_unstable, summarize
from rljax.training.folder import (
    check_folder,
    describe,
    remove_results,
    run_folder,
    write_description,
    write_json,
)
from rljax.training.lock import locked
from rljax.training.logs import CsvLog, Row, TensorBoardLog, WandbLog, merged_columns, require_wandb
from rljax.training.members import check_members, seeds_of
from rljax.training.memory import check_memory
from rljax.training.options import Options
from rljax.training.plan import Plan
from rljax.training.population import Exchanges, PopulationBased, begun, best_member, in_words
from rljax.training.progress import ProgressBar, shielded_output
from rljax.training.result import Diverged, Result
from rljax.training.signals import caught_signals
from rljax.training.start import Source, StartFrom, find, of_its_own
from rljax.types import Key, Refused

SLICE_SECONDS = 0.5
"""Seconds that one call of the compiled loop should last; a progress bar or a signal waits up to that long."""

EVALUATION_STREAM = 0x7E57
"""Evaluation keys are `fold_in(key, this)`. Training splits the key; equal numbers would give it the same keys."""


def train(
    algorithm: Algorithm,
    key: Key,
    total_steps: int,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    hyper: dict[str, Any] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    settings: dict[str, Any] | None = None,
    initialize: Callable[[Any], Any] | None = None,
    callbacks: Sequence[Callback] = (),
    evaluate_in: Environment | None = None,
    start_from: StartFrom | None = None,
    population: PopulationBased | None = None,
) -> Result:
    """Trains one agent, or many in one program.

    Args:
      algorithm: made by `<algorithm>.make(env, config)`.
      key: one key; or keys [members], which train that many independent agents together.
      total_steps: environment steps of each member, rounded up to whole iterations (those made are reported).
      options: logs, evaluations, checkpoints, devices and display.
      hyper: swept hyperparameters, each an array [members] named as in the algorithm's `Hyper`; one key is then
        shared by all members.
      folder: the run folder, which no other process may write at the same time; None keeps everything in memory.
      resume: continue from the folder's newest whole checkpoint, bit for bit if that has the replay buffer's contents;
        starts anew where there is none.
      settings: further entries of config.json.
      initialize: changes the first state of a run that starts anew, such as `continued(state)` of core/offline.py.
      callbacks: called between slices; they may stop the run.
      evaluate_in: the environment in which policies are evaluated, with the same spaces as the algorithm's; the
        algorithm's where None.
      start_from: another run's checkpoint, from which a run that starts anew begins; before `initialize`.
      population: how bad members go on as copies of good ones (`PopulationBased` or `SuccessiveHalving`); those of its
        hyperparameters that are not in `hyper` begin with values drawn from their ranges.

    Raises:
      Refused: bad arguments, another run's checkpoint that does not fit, a state that does not fit into memory, or a
        folder that cannot be resumed, holds another run, or is being written by another process; before anything is
        written there.
      Diverged: a metric or parameter is not finite (with members: in all of them).
    """
    enable_compilation_cache()
    if not isinstance(options, Options):
        raise Refused(f"options must be a rljax.training.Options, got {options!r}")
    plan = Plan.make(algorithm.per_iteration, total_steps, options)
    if isinstance(callbacks, Callback) or not all(isinstance(callback, Callback) for callback in callbacks):
        raise Refused("callbacks must be a list of objects of subclasses of rljax.training.Callback")
    if start_from is not None and not isinstance(start_from, StartFrom):
        raise Refused("start_from must be a rljax.training.StartFrom(folder, parts)")
    evaluate_in = judge(algorithm, evaluate_in, bool(plan.evaluate or options.final_episodes))
    out = None if folder is None else run_folder(folder)
    if options.wandb:
        require_wandb()
    keys, swept = check_members(algorithm, key, hyper)
    swept, exchanges = begun(population, algorithm, plan, options, keys, swept)
    members = keys.shape[0] if keys.ndim else None
    source = None if start_from is None else find(start_from, algorithm, members, out if resume else None)
    more = {} if evaluate_in is algorithm.env else {"evaluate_in": evaluate_in.spec}
    more |= {} if source is None else {"start_from": source.description}
    more |= {} if exchanges is None else exchanges.description
    description = describe(algorithm, keys, swept, total_steps, (settings or {}) | more)
    key_impl = str(jax.random.key_impl(keys))
    program = programs.build(algorithm, members, options.devices, key_impl, evaluate_in, population)
    example = jax.eval_shape(algorithm.init, jax.random.key(0))
    # Of a stream one block is in use and one on its way.
    data = (algorithm.data.example,) * 2 if isinstance(algorithm.data, Feed) else algorithm.data
    saved = () if out is None else example if options.save_replay else without_contents(example)
    saved = saved if exchanges is None else (saved, example)  # an exchange makes a second state
    check_memory(example, members or 1, program.devices, saved, data)
    with contextlib.ExitStack() as stack:
        stack.enter_context(shielded_output())
        interrupt = stack.enter_context(caught_signals())
        run = (program, plan, options, algorithm.per_iteration, keys, swept, out, algorithm.data)
        runner = _Runner(*run, callbacks, exchanges)
        if runner.stream is not None:
            stack.callback(runner.stream.close)
        runner.open_folder(stack, description, resume)
        runner.start(resume, source, initialize)
        del source  # what it gave is on the device now
        runner.open_logs(stack, description, resume)
        runner.run(interrupt)
        return Result(
            state=runner.state,
            policy=program.policy(runner.state),
            steps=runner.steps,
            rows=runner.rows,
            evaluation=runner.final_evaluation() if options.final_episodes and not runner.interrupted else None,
            compile_seconds=runner.compile_seconds,
            seconds=runner.seconds,
            interrupted=runner.interrupted or next(iter(interrupt), None),
            stopped=runner.stopped,
            folder=out,
            placement=program.placement,
        )


class _Runner:
    """The mutable part of one call of `train`: where training stands, its clocks, logs and checkpoints."""

    def __init__(
        self,
        program: programs.Program,
        plan: Plan,
        options: Options,
        steps_per_iteration: int,
        keys: Key,
        swept: dict[str, np.ndarray],
        folder: Path | None,
        data: Any,
        callbacks: Sequence[Callback],
        exchanges: Exchanges | None,
    ):
        self.program, self.plan, self.options, self.steps_per_iteration = program, plan, options, steps_per_iteration
        self.keys, self.swept, self.folder = keys, swept, folder
        self.members = keys.shape[0] if keys.ndim else 1
        self.iteration = 0
        self.seconds = 0.0
        self.compile_seconds = 0.0
        self.rows: list[Row] = []
        self.best = Best.none(self.members)
        self.lost: set[int] = set()
        """Members that diverged."""
        self.callbacks, self.exchanges = callbacks, exchanges
        self.interrupted: int | None = None
        """The signal for which the run stops, in all processes."""
        self.stopped: str | None = None
        """The reason for which a callback stopped the run."""
        self.saved: int | None = None
        self.refills = False
        """Whether it was resumed from a checkpoint without the contents of its replay buffer."""
        self.checkpointer: Checkpointer | None = None
        self.stream = data if isinstance(data, Feed) else None
        self.data = () if data is None or self.stream else (program.place(data),)
        self.columns = ["step", "member", "seed", "seconds", *(f"hyper/{name}" for name in swept)]
        self.columns += [*(program.scores if plan.evaluate else []), *program.metrics]

    @property
    def steps(self) -> int:
        """Environment steps made; counted here, where an int has no largest value."""
        return self.iteration * self.steps_per_iteration

    def open_folder(self, stack: contextlib.ExitStack, description: dict[str, Any], resume: bool) -> None:
        """Locks the folder, once it is certain to be this run's; writes nothing else there."""
        folder = self.folder
        if folder is None:
            return

        def hold() -> None:
            stack.enter_context(locked(folder))
            check_folder(folder, description, resume)
            if resume and (folder / "metrics.csv").exists():
                merged_columns(folder / "metrics.csv", self.columns)

        decided_by_first(hold)
        self.checkpointer = Checkpointer(folder / "checkpoints", self.options.keep_checkpoints)
        stack.callback(self.checkpointer.close)

    def start(self, resume: bool, source: Source | None, initialize: Callable[[Any], Any] | None) -> None:
        """Makes the first state, or restores the last, and compiles the loop by running it for no steps."""
        begin = time.perf_counter()
        key_data = np.asarray(jax.random.key_data(self.keys))
        hyper = self.program.hyper | {name: values.astype(np.float32) for name, values in self.swept.items()}
        saved = decided_by_first(self.checkpointer.whole) if self.checkpointer is not None and resume else None
        if saved is None:
            self.state, self.totals = self.program.init(key_data, hyper)
        else:
            self.restore(saved, *self.program.shapes(key_data, hyper))
        if self.exchanges is not None:
            self.swept = self.exchanges.in_force(self.state.hyper)
        if source is not None and not self.iteration:
            self.state = source.put_into(self.state)
        if initialize is not None and not self.iteration:
            self.state = of_its_own(initialize(self.state), self.state)
        self.state, self.totals, finite = self.run_slice(0)
        jax.block_until_ready(finite)
        self.compile_seconds = time.perf_counter() - begin

    def restore(self, iteration: int, state: Any, totals: Any) -> None:
        """Takes over where a checkpoint stands.

        Args:
          state, totals: their shapes, and not arrays, so that a state as large as the memory can be resumed: there is
            never a second one.
        """
        assert self.checkpointer is not None
        notes = self.checkpointer.progress(iteration)
        self.refills = not notes.get("replay", True)
        target = {"training": without_contents(state) if self.refills else state, "totals": totals}
        item = self.checkpointer.read("state", target, iteration)
        self.state, self.totals = item["training"], item["totals"]
        if self.refills:
            self.state = with_empty(self.state, state)
        self.iteration = self.saved = iteration
        self.seconds = notes["seconds"]
        if self.exchanges is not None:
            self.exchanges.restore(notes)
        if self.checkpointer.has("best", iteration):
            best = self.checkpointer.read("best", self.program.policy(self.state), iteration)
            self.best = Best(best, **notes["best"])

    def run_slice(self, count: int) -> tuple[Any, Any, jax.Array]:
        """Makes `count` training steps from where it stands, with the data for them."""
        if self.stream is not None:
            self.data = (self.stream.at(self.iteration, self.program.place, self.state),)
        return self.program.run(self.state, self.totals, np.int32(self.iteration), np.int32(count), *self.data)

    def open_logs(self, stack: contextlib.ExitStack, description: dict[str, Any], resume: bool) -> None:
        """Opens the progress bar and, in the folder, config.json, metrics.csv, TensorBoard and W&B."""
        first_process = jax.process_index() == 0
        total = self.plan.total * self.steps_per_iteration
        self.bar = ProgressBar(total, self.steps, self.options.progress if first_process else False)
        stack.callback(self.bar.close)
        if resume and self.folder is not None and not self.iteration:
            self.bar.line(f"nothing to resume was found in {self.folder}: training starts from the beginning")
        self.bar.line(f"{self.program.placement}; ready after {self.compile_seconds:.1f} s")
        if self.iteration:
            empty = ", with an empty replay buffer, which was not saved" if self.refills else ""
            self.bar.line(f"resumed at step {self.steps:,} of {total:,}{empty}")
        self.csv: CsvLog | None = None
        self.others: list[TensorBoardLog | WandbLog] = []
        if self.folder is None or not first_process:
            return
        write_description(self.folder, description)
        if self.iteration < self.plan.total:
            remove_results(self.folder)
        resumed = self.steps if self.iteration else None
        self.csv = CsvLog(self.folder / "metrics.csv", self.columns, resumed)
        stack.callback(self.csv.close)
        if self.exchanges is not None:
            stack.callback(self.exchanges.open(self.folder, resumed).close)
        if self.options.tensorboard:
            self.others.append(TensorBoardLog(self.folder, resumed))
            stack.callback(self.others[-1].close)
        if self.options.wandb:
            self.others.append(WandbLog(self.folder, description))
            stack.callback(self.others[-1].close)

    def run(self, interrupt: list[int]) -> None:
        """Trains until the end or a signal, and leaves the last state saved."""
        plan, speed = self.plan, 0.0  # iterations per second
        while self.iteration < plan.total:
            to_log = min(plan.log - self.iteration % plan.log, plan.total - self.iteration)
            count = min(to_log, max(1, int(speed * SLICE_SECONDS)))
            if self.stream is not None:
                count = min(count, self.stream.left(self.iteration))
            count = self.agree(count, interrupt)
            if self.interrupted or self.stopped:
                break
            self.exchange()
            begin = time.perf_counter()
            self.state, self.totals, all_finite = self.run_slice(count)
            finite = np.atleast_1d(on_host(all_finite))
            elapsed = time.perf_counter() - begin
            if count:  # a feed may have nothing yet
                speed = count / elapsed
            self.seconds += elapsed
            self.iteration += count
            self.bar.update(self.steps, speed * self.steps_per_iteration * self.members)
            totals = on_host(self.totals)
            self.check_finite(totals["bad"], finite)
            self.call("on_slice", self.steps, self.state)
            if count < to_log:
                continue
            at_end = self.iteration == plan.total
            evaluate = plan.evaluate and (at_end or self.iteration % plan.evaluate == 0)
            score = self.log(programs.means(totals), self.options.evaluation_episodes if evaluate else 0)
            self.totals = self.program.reset(self.totals)
            if evaluate or (plan.checkpoint and self.iteration % plan.checkpoint == 0):
                self.save(score)
        self.agree(0, interrupt)  # on a signal during the last slice
        if self.saved != self.iteration:
            self.save(None)
        if self.stopped:
            saved = ", all saved" if self.checkpointer else ""
            self.bar.line(f"stopped at step {self.steps:,}{saved}: {self.stopped}")
        if self.interrupted:
            name = signal.Signals(self.interrupted).name
            self.bar.line(f"stopped by {name} at step {self.steps:,}, all saved; resume continues from here")

    def exchange(self) -> None:
        """Lets bad members of a population go on as copies of good ones, where that is due."""
        if self.exchanges is None or self.exchanges.due is None:
            return
        made = self.exchanges.make(self.program.exchange, self.state, self.totals, self.iteration, self.steps)
        self.state, self.totals, self.swept, source = made
        self.lost = {member for member in self.lost if source[member] == member}
        self.bar.line(f"step {self.steps:>12,}   population {in_words(source)}")

    def agree(self, count: int, interrupt: list[int]) -> int:
        """The length of the next slice; and whether to stop, for a signal or a callback, in any process."""
        count, received, stops = agreed(count, next(iter(interrupt), 0), bool(self.stopped))
        self.interrupted = received or None
        if stops and not self.stopped:
            self.stopped = "a callback stopped another process"
        return count

    def log(self, means: dict[str, np.ndarray], episodes: int) -> float | None:
        """Writes one row per member, with an evaluation of `episodes` episodes if any; returns its score."""
        # What a member that diverged goes on to measure means nothing, and may look good.
        values: dict[str, Any] = {name: self.of_living(value) for name, value in means.items()}
        score = None
        if episodes:
            values |= self.scores(episodes)
        if episodes and self.program.score is not None:
            score = self.score(values[self.program.score])
            if self.exchanges is not None:
                self.exchanges.evaluated(self.iteration, values[self.program.score])
            if self.checkpointer is not None:
                self.best.update(self.program.policy(self.state), values[self.program.score], self.steps)
        head = {"step": self.steps, "seconds": round(self.seconds, 3)}
        for member in range(self.members):
            hyper = {f"hyper/{name}": float(swept[member]) for name, swept in self.swept.items()}
            measured = {name: float(value[member]) for name, value in values.items()}
            row: Row = {**head, "member": member, "seed": seeds_of(self.keys)[member], **hyper, **measured}
            self.rows.append(row)
            if self.csv is not None:
                self.csv.write([row])
        averages = {name: float(np.nanmean(value)) for name, value in values.items() if not np.isnan(value).all()}
        for log in self.others:
            log.write(self.steps, averages)
        shown = [self.program.score] if self.program.score else self.program.scores
        found = [(name.removeprefix("evaluation/"), averages[name]) for name in shown if name in averages]
        if found:
            self.bar.score(", ".join(f"{name} {value:.1f}" for name, value in found))
            words = ", ".join(f"{name} {value:10.2f}" for name, value in found)
            self.bar.line(f"step {self.steps:>12,}   evaluation {words}")
        elif "episode/return" in averages and not self.plan.evaluate:
            self.bar.score(f"return {averages['episode/return']:.1f}")
        self.call("on_log", self.steps, self.rows[-self.members :])
        if episodes:
            self.call("on_evaluate", self.steps, score, self.state)
        return score

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a method of all callbacks; the first text that one returns stops the run."""
        for callback in self.callbacks:
            reason = getattr(callback, name)(*arguments)
            self.stopped = self.stopped or reason

    def score(self, returns: np.ndarray) -> float | None:
        """The mean of the returns [members] of members that live; None where there is none."""
        living = [x for member, x in enumerate(returns) if member not in self.lost and np.isfinite(x)]
        return float(np.mean(living)) if living else None

    def evaluation_keys(self) -> np.ndarray:
        """Data of the keys for an evaluation now, which training never uses."""

        def fold(key: Key) -> Key:
            return jax.random.fold_in(jax.random.fold_in(key, EVALUATION_STREAM), self.iteration)

        return np.asarray(jax.random.key_data(jax.vmap(fold)(self.keys) if self.keys.ndim else fold(self.keys)))

    def play(self, episodes: int) -> tuple[Episodes, Episodes]:
        """Deterministic and stochastic episodes, [members, episodes]."""
        results = self.program.evaluate(self.state, self.evaluation_keys(), episodes)
        first, second = jax.tree.map(lambda x: x.reshape(self.members, episodes), on_host(results))
        return jax.tree.map(self.of_living, first), jax.tree.map(self.of_living, second)

    def scores(self, episodes: int) -> dict[str, np.ndarray]:
        """The scores of an evaluation, [members], by name: means over episodes, or the algorithm's own."""
        if self.program.measure is None:
            return scores(*self.play(episodes))
        measured = on_host(self.program.measure(self.state, self.evaluation_keys()))
        return {name: self.of_living(np.atleast_1d(np.float32(x))) for name, x in measured.items()}

    def of_living(self, values: np.ndarray) -> np.ndarray:
        """Values [members, …], with NaN for members that diverged."""
        if not self.lost:
            return values
        values = np.array(values, np.result_type(values, np.float32))
        values[sorted(self.lost)] = np.nan
        return values

    def final_evaluation(self) -> dict[str, Any]:
        """The last state over many episodes, or by the algorithm's own measure; also written to evaluation.json."""
        episodes = self.options.final_episodes
        if self.program.measure is None:
            kinds = zip(("deterministic", "stochastic"), self.play(episodes), strict=True)
            summaries = {kind: summarize(results) for kind, results in kinds}
        else:
            episodes, measured = 0, self.scores(0)
            own = {name.removeprefix("evaluation/"): values for name, values in measured.items()}
            summaries = {"scores": [{name: float(x[m]) for name, x in own.items()} for m in range(self.members)]}
        seeds = seeds_of(self.keys)
        entries = [
            {
                "member": member,
                "seed": seeds[member],
                "hyper": {name: float(swept[member]) for name, swept in self.swept.items()},
                **{kind: summary[member] for kind, summary in summaries.items()},
            }
            for member in range(self.members)
        ]
        for kind, summary in summaries.items():
            if some := share_unstable(summary):
                self.bar.line(f"simulations broke in {some} of the {kind} episodes (of each member), which ended there")
        evaluation: dict[str, Any] = {"steps": self.steps, "episodes": episodes, "members": entries}
        if self.exchanges is not None and (best := best_member(entries)) is not None:
            evaluation["best_member"] = best
            self.bar.line(f"best member of the population: {best} {entries[best]['hyper']}")
        if self.folder is not None and jax.process_index() == 0:
            write_json(self.folder / "evaluation.json", evaluation)
        return evaluation

    def save(self, score: float | None) -> None:
        if self.checkpointer is not None:
            kept = self.state if self.options.save_replay else without_contents(self.state)
            whole = {"training": kept, "totals": self.totals}
            complete = len(jax.tree.leaves(kept)) == len(jax.tree.leaves(self.state))
            progress = {"seconds": self.seconds, "steps": self.steps, "replay": complete, "best": self.best.notes()}
            progress |= {} if self.exchanges is None else self.exchanges.notes()
            policy, best = self.program.policy(self.state), self.best.policies
            self.checkpointer.save(self.iteration, whole, policy, progress, score, best)
            self.call("on_save", self.steps, self.checkpointer.folder / str(self.iteration))
        self.saved = self.iteration

    def check_finite(self, bad: dict[str, np.ndarray], finite: np.ndarray) -> None:
        """Stops a run that diverged; of several members, warns of each and stops when none is left."""
        found = programs.diverged(bad, finite, self.steps_per_iteration, self.steps)
        if len(found) == self.members:
            reason = next(iter(found.values()))
            last = None
            if self.checkpointer is not None:
                self.checkpointer.wait()
                last = max(self.checkpointer.iterations(), default=None)
            good = (
                "no checkpoint was saved" if last is None else f"last good checkpoint: {self.folder}/checkpoints/{last}"
            )
            raise Diverged(f"training diverged: {reason}; {good}")
        for member in sorted(set(found) - self.lost):
            self.bar.line(f"member {member} diverged: {found[member]}; the others go on")
            self.lost.add(member)
