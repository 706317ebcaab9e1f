"""The learner, which updates change, and the loops of updates over batches."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rljax.types import Key, Metrics, PyTree

Optimizers = Mapping[str, optax.GradientTransformation]
"""An optax transformation for each trained part of a learner."""


class Learner(struct.PyTreeNode):
    """The parts of an agent: trained parameters, target networks, frozen parameters, and the optimizers' states.

    Fields:
      params: trained parameters, by part, such as "policy" and "critic".
      targets: slow copies of the parts that have a target network.
      frozen: parameters that are not trained, by name: a base policy, a reference model. They are not constants of the
        compiled program, so that they are saved with the state and may be as large as the memory.
      optimizer_state: by part.
      extras: further values that change from update to update, such as a count or an adaptive step size.
    """

    params: dict[str, PyTree]
    targets: dict[str, PyTree]
    frozen: dict[str, PyTree]
    optimizer_state: dict[str, PyTree]
    extras: PyTree = ()

    @classmethod
    def init(
        cls,
        params: dict[str, PyTree],
        optimizers: Optimizers,
        targets: tuple[str, ...] = (),
        frozen: dict[str, PyTree] | None = None,
        extras: PyTree = (),
    ) -> "Learner":
        """A learner of these parameters; `targets` names the parts that have a target network."""
        # Copies, for a donated state must not hold one buffer twice.
        copies = {name: jax.tree.map(jnp.copy, params[name]) for name in targets}
        states = {name: optimizers[name].init(part) for name, part in params.items()}
        return cls(params, copies, jax.tree.map(jnp.copy, frozen or {}), states, extras)

    def descend(
        self,
        part: str,
        gradient: PyTree,
        optimizer: optax.GradientTransformation,
        project: Callable[[PyTree], PyTree] = lambda params: params,
        measured: Mapping[str, PyTree] | None = None,
    ) -> "Learner":
        """One step of an optimizer on one part, after which `project` maps the parameters to allowed ones.

        Args:
          measured: variables of the part that are not learned but measured, such as "batch_stats", with new values.
        """
        updates, state = optimizer.update(gradient, self.optimizer_state[part], self.params[part])
        params = project(optax.apply_updates(self.params[part], updates))
        params = {**params, **measured} if measured else params
        return self.replace(params=self.params | {part: params}, optimizer_state=self.optimizer_state | {part: state})

    def move_target(self, part: str, rate: Any) -> "Learner":
        """Moves a target network towards the trained part by the share `rate`, τ; 1 copies it."""
        moved = optax.incremental_update(self.params[part], self.targets[part], rate)
        return self.replace(targets=self.targets | {part: moved})


def each_batch(
    update: Callable[[Learner, Any, Key], tuple[Learner, Metrics]], learner: Learner, batches: Any, key: Key
) -> tuple[Learner, Metrics]:
    """One update with each of the batches [num_updates, batch, …]; the means of their metrics."""
    keys = jax.random.split(key, jax.tree.leaves(batches)[0].shape[0])
    return scan_for_means(lambda learner, x: update(learner, *x), learner, (batches, keys))


def delayed_updates(
    update_critic: Callable[[Learner, Any, Key], tuple[Learner, Metrics]],
    update_policy: Callable[[Learner, Any, Key], tuple[Learner, Metrics]],
    learner: Learner,
    batches: Any,
    key: Key,
    delay: int,
    policy_first: bool = False,
) -> tuple[Learner, Metrics]:
    """All updates of an iteration: of the critics with each batch, of the policy with every `delay`-th as well.

    Args:
      batches: leaves [n, batch, …], where `delay` divides n.
      policy_first: whether the policy learns from the first of `delay` batches, before the critics, or from the last.

    Returns:
      The learner and the means of all metrics.
    """
    rounds = jax.tree.leaves(batches)[0].shape[0] // delay

    def one_round(learner: Learner, x: tuple[Any, Key]) -> tuple[Learner, Metrics]:
        batches, key = x
        critic_key, policy_key = jax.random.split(key)
        if policy_first:
            learner, of_policy = update_policy(learner, jax.tree.map(lambda x: x[0], batches), policy_key)
            learner, metrics = each_batch(update_critic, learner, batches, critic_key)
        else:
            learner, metrics = each_batch(update_critic, learner, batches, critic_key)
            learner, of_policy = update_policy(learner, jax.tree.map(lambda x: x[-1], batches), policy_key)
        return learner, metrics | of_policy

    batches = jax.tree.map(lambda x: x.reshape(rounds, delay, *x.shape[1:]), batches)
    return scan_for_means(one_round, learner, (batches, jax.random.split(key, rounds)))


def scan_for_means(step: Callable[[Any, Any], tuple[Any, Metrics]], carry: Any, xs: PyTree) -> tuple[Any, Metrics]:
    """`jax.lax.scan` with the means of the steps' metrics: to store each step's would take a GPU a kernel apiece."""
    count = jax.tree.leaves(xs)[0].shape[0]
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    metrics = jax.eval_shape(step, carry, one)[1]

    def adding(before: tuple[Any, Metrics], x: Any) -> tuple[tuple[Any, Metrics], None]:
        carry, metrics = step(before[0], x)
        return (carry, jax.tree.map(jnp.add, before[1], metrics)), None

    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
    (carry, sums), _ = jax.lax.scan(adding, (carry, sums), xs)
    return carry, jax.tree.map(lambda x: x / count, sums)
