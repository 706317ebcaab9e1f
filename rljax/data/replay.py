"""Replay: a ring buffer on the device, written in place and read in time order.

Each environment has a row of its own, in which its steps follow one another; so n-step returns and sequences are
slices. Inserting writes one column, whatever the size of the buffer: inside a compiled loop, or under `jit` with the
state donated, XLA does so without a copy (a test reads it off the compiled program).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax import devices
from rljax.data import sum_tree
from rljax.types import Key, PyTree, Refused, Transition, sharded_field


class ReplayState(struct.PyTreeNode):
    """The contents of the buffer.

    Fields:
      head: int32 [], the column to be written next; once the buffer is full it holds the oldest.
      count: int32 [], the columns written, at most `length`.
      data: items, leaves [num_envs, length, …].
      priorities: a sum tree over [num_envs * length]; empty where sampling is uniform.
      highest_priority: f32 [num_envs], all the same: the priority of new items.
    """

    head: jax.Array
    count: jax.Array
    data: PyTree = sharded_field()
    priorities: sum_tree.SumTree = sharded_field()
    highest_priority: jax.Array = sharded_field()


class Batch(struct.PyTreeNode):
    """A batch for learning values; leaves are [batch, …].

    Fields:
      obs, action: at the beginning of the window of n steps.
      reward: the discounted sum over the window, which ends early where the episode does.
      next_obs: after the window's last step, from before any reset.
      discount: factor of the value of `next_obs`: γ to the number of steps, and 0 after a termination. A truncated step
        keeps its discount.
      index: int32, for `Replay.prioritize`.
      weight: f32, importance weights, at most 1; 1 where sampling is uniform.
    """

    obs: PyTree
    action: jax.Array
    reward: jax.Array
    next_obs: PyTree
    discount: jax.Array
    index: jax.Array
    weight: jax.Array


class Sequences(struct.PyTreeNode):
    """Consecutive steps, leaves [length, batch, …].

    Fields:
      steps: transitions.
      index: int32 [length, batch], for `Replay.write`.
      is_first: bool [length, batch], whether a step is the first of its episode, or the oldest that is kept.
    """

    steps: Transition
    index: jax.Array
    is_first: jax.Array


class Replay:
    """Constants and functions of a buffer; what changes is in `ReplayState`.

    Args:
      example: one item (of one environment and one step): arrays or shapes of any pytree. n-step batches need a
        `Transition`.
      capacity: items held, over all environments; rounded down to whole columns.
      num_envs: environments that insert together.
      n_step: steps of the windows that `sample` makes.
      prioritized: keep priorities, and sample in proportion to them.
      store_as: an example with the types to keep, such as `narrow(example, jnp.bfloat16)`; None keeps all as it comes.
      newest: number of newest items, over all environments, from which half of each batch is drawn; 0 draws from all.

    Raises:
      Refused: no room for one window; fewer newest items than environments, or newest items beside priorities.
    """

    def __init__(
        self,
        example: PyTree,
        capacity: int,
        num_envs: int = 1,
        n_step: int = 1,
        prioritized: bool = False,
        store_as: PyTree | None = None,
        newest: int = 0,
    ):
        self.length, self.num_envs, self.n_step = capacity // num_envs, num_envs, n_step
        if n_step < 1 or self.length <= n_step:
            raise Refused(
                f"Replay: {capacity} items of {num_envs} environments are {self.length} steps each; windows of "
                f"{n_step} need more"
            )
        if newest and (prioritized or newest < num_envs):
            allowed = "0 where draws are prioritized" if prioritized else f"0, or at least num_envs = {num_envs}"
            raise Refused(f"Replay: newest = {newest} is not allowed; it must be {allowed}")
        self.prioritized, self.newest = prioritized, newest // num_envs
        self.example = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, example)) if _concrete(example) else example
        stored = self.example if store_as is None else store_as
        self.stored = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, s.dtype), self.example, stored)

    def init(self) -> ReplayState:
        """An empty buffer."""

        def zeros(x: Any) -> jax.Array:
            return jnp.zeros((self.num_envs, self.length, *x.shape), x.dtype)

        priorities = sum_tree.init(self.num_envs * self.length) if self.prioritized else []
        return ReplayState(
            head=jnp.int32(0),
            count=jnp.int32(0),
            data=jax.tree.map(zeros, self.stored),
            priorities=priorities,
            highest_priority=jnp.ones(self.num_envs, jnp.float32),
        )

    @property
    def num_bytes(self) -> int:
        """The memory that `init` takes."""
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(self.init)))

    def insert(self, state: ReplayState, items: PyTree) -> ReplayState:
        """Writes one item of each environment, leaves [num_envs, …], over the oldest ones."""

        def write(buffer: jax.Array, new: jax.Array) -> jax.Array:
            new = new.astype(buffer.dtype)[:, None]
            return jax.lax.dynamic_update_slice_in_dim(buffer, new, state.head, axis=1)

        priorities = state.priorities
        if self.prioritized:
            # A window can be drawn once it is whole: until then its first step has no weight. Both are set at once,
            # for XLA copies the tree between two updates.
            start = (state.head - (self.n_step - 1)) % self.length
            whole = jnp.where(state.count >= self.n_step - 1, state.highest_priority, 0.0)
            columns = [(start, whole)] + ([(state.head, 0.0)] if self.n_step > 1 else [])
            rows = jnp.arange(self.num_envs) * self.length
            index = jnp.concatenate([rows + column for column, _ in columns])
            weight = jnp.concatenate([jnp.broadcast_to(weight, (self.num_envs,)) for _, weight in columns])
            priorities = sum_tree.update(priorities, index, weight)
        return state.replace(
            data=jax.tree.map(write, state.data, items),
            head=(state.head + 1) % self.length,
            count=jnp.minimum(state.count + 1, self.length),
            priorities=priorities,
        )

    def sample(
        self,
        state: ReplayState,
        key: Key,
        batch_size: int,
        discount: Any,
        importance_exponent: Any = 0.0,
        batches: int = 1,
    ) -> Batch:
        """Draws windows of `n_step` steps, with replacement, and sums up each.

        Args:
          batch_size: windows drawn; for several batches, of all of them together.
          discount: γ.
          importance_exponent: β of prioritised replay; weights are (N p)^-β over the largest of their batch, of all
            devices (Schaul et al. 2016, algorithm 1).
          batches: number of batches among which the draws are dealt out in turn: draw i goes to batch i % batches.

        The buffer must hold `n_step` columns; before, the result is meaningless.
        """
        index, weight = self._draw(state, key, batch_size, self.n_step, importance_exponent, batches)
        if self.n_step == 1:
            first = last = self._take(state, index)
            reward, steps = first.reward, jnp.int32(1)
        else:
            window: Transition = self._take(state, self._following(index, self.n_step))  # [batch, n_step, …]
            done = window.terminated | window.truncated
            # Steps after the first end of an episode belong to the next one.
            going = jnp.cumsum(jnp.pad(done[:, :-1], ((0, 0), (1, 0))), axis=1) == 0
            paid = jnp.where(going, window.reward, 0.0)
            reward = jnp.sum(paid * (discount ** jnp.arange(self.n_step))[None], axis=1)
            steps = going.sum(axis=1)
            first = jax.tree.map(lambda x: x[:, 0], window)
            last = jax.tree.map(lambda x: x[jnp.arange(batch_size), steps - 1], window)
        return Batch(
            obs=first.obs,
            action=first.action,
            reward=reward,
            next_obs=last.next_obs,
            discount=jnp.where(last.terminated, 0.0, discount**steps),
            index=index,
            weight=weight,
        )

    def sample_sequences(self, state: ReplayState, key: Key, batch_size: int, length: int) -> Sequences:
        """Draws stretches of `length` consecutive steps of one environment each, uniformly: leaves [length, batch, …].

        None runs over the write head. Episodes may end inside. The buffer must hold `length` columns.
        """
        if length > self.length:
            raise Refused(f"Replay: sequences of {length} steps do not fit {self.length} steps per environment")
        start = self._draw_uniformly(state, key, batch_size, length)
        index = self._following(start, length).T
        env, time = index // self.length, index % self.length
        before = (time - 1) % self.length
        ended = state.data.terminated[env, before] | state.data.truncated[env, before]
        oldest = time == (state.head - state.count) % self.length
        return Sequences(self._take(state, index), index, ended | oldest)

    def write(self, state: ReplayState, index: jax.Array, fields: dict[str, PyTree], where: Any = True) -> ReplayState:
        """Replaces fields of items that were drawn before, such as "extras", leaves [*shape of index, …].

        Of an item that was drawn twice, one of the values is kept.

        Args:
          where: bool, of the shape of `index` or []; nothing is written elsewhere.
        """
        # Out of range where nothing is to be written: such an index is dropped.
        env = jnp.where(where, index // self.length, self.num_envs)

        def put(stored: jax.Array, new: jax.Array) -> jax.Array:
            return stored.at[env, index % self.length].set(new.astype(stored.dtype), mode="drop")

        own = {name: jax.tree.map(put, getattr(state.data, name), new) for name, new in fields.items()}
        return state.replace(data=state.data.replace(**own))

    def returns_to_go(
        self,
        state: ReplayState,
        index: jax.Array,
        discount: Any,
        horizon: int,
        reward: Callable[[jax.Array], jax.Array] = lambda reward: reward,
        after_truncation: float = 0.0,
    ) -> jax.Array:
        """The discounted rewards from each item [batch] to the end of its episode; -inf where that is not known.

        It is not known where the episode goes on, or goes on for more than `horizon` steps.

        Args:
          reward: function that is applied to the rewards first.
          after_truncation: return-to-go where a truncated episode was cut; may be -inf.
        """
        window = self._following(index, horizon)
        age = (index % self.length - (state.head - state.count)) % self.length
        env, time = window // self.length, window % self.length
        kept = age[:, None] + jnp.arange(horizon)[None] < state.count
        done = (state.data.terminated[env, time] | state.data.truncated[env, time]) & kept
        going = jnp.cumsum(jnp.pad(done[:, :-1], ((0, 0), (1, 0))), axis=1) == 0
        paid = jnp.where(going, reward(state.data.reward[env, time]), 0.0)
        total = jnp.sum(paid * (discount ** jnp.arange(horizon))[None], axis=1)
        last = done.argmax(1)
        cut = ~jnp.take_along_axis(state.data.terminated[env, time], last[:, None], axis=1)[:, 0]
        total = total + jnp.where(cut, discount ** (last + 1) * after_truncation, 0.0)
        return jnp.where(done.any(1), total, -jnp.inf)

    def prioritize(self, state: ReplayState, index: jax.Array, priority: jax.Array) -> ReplayState:
        """Sets the priorities (positive, exponent included) of windows drawn before."""
        highest = jnp.maximum(state.highest_priority, priority.max())
        return state.replace(priorities=sum_tree.update(state.priorities, index, priority), highest_priority=highest)

    def _draw(
        self, state: ReplayState, key: Key, batch_size: int, steps: int, importance_exponent: Any, batches: int
    ) -> tuple[jax.Array, jax.Array]:
        if not self.prioritized:
            index = self._draw_uniformly(state, key, batch_size, steps, batches)
            return index, jnp.ones(batch_size, jnp.float32)
        # Stratified: one draw from each of `batch_size` equal shares of the weight.
        position = (jnp.arange(batch_size) + jax.random.uniform(key, (batch_size,), jnp.float32)) / batch_size
        index = sum_tree.find(state.priorities, position)
        share = sum_tree.get(state.priorities, index) / sum_tree.total(state.priorities)
        number = self.num_envs * jnp.maximum(state.count - (steps - 1), 1)
        weight = ((number * share) ** -importance_exponent).reshape(-1, batches)
        # A device's own largest would weigh a share of high priorities as much as one of low ones.
        largest = devices.largest(weight.max(0))
        return index, (weight / largest[None]).reshape(-1)

    def _draw_uniformly(self, state: ReplayState, key: Key, batch_size: int, steps: int, batches: int = 1) -> jax.Array:
        """Beginnings of stretches of `steps` columns that do not run over the write head: int32 [batch]."""
        env_key, time_key, half_key = jax.random.split(key, 3)
        env = jax.random.randint(env_key, (batch_size,), 0, self.num_envs)
        whole = jnp.maximum(state.count - (steps - 1), 1)
        span = whole
        if self.newest:
            span = jnp.where(halves(half_key, batch_size, batches), jnp.minimum(whole, self.newest), whole)
        age = jax.random.randint(time_key, (batch_size,), whole - span, whole)
        oldest = state.head - state.count
        return env * self.length + (oldest + age) % self.length

    def _following(self, index: jax.Array, steps: int) -> jax.Array:
        """[batch] to [batch, steps]: each index and its successors in time."""
        env, time = index // self.length, index % self.length
        return env[:, None] * self.length + (time[:, None] + jnp.arange(steps)[None]) % self.length

    def _take(self, state: ReplayState, index: jax.Array) -> PyTree:
        """Items at flat indices of any shape, in the types of the example."""
        env, time = index // self.length, index % self.length
        return jax.tree.map(lambda x, like: x[env, time].astype(like.dtype), state.data, self.example)


def without_contents(tree: PyTree) -> PyTree:
    """The tree without its buffers: None in the place of each `ReplayState`."""
    return jax.tree.map(lambda x: None if _is_buffer(x) else x, tree, is_leaf=_is_buffer)


def with_empty(tree: PyTree, like: PyTree) -> PyTree:
    """The inverse but for the contents: an empty buffer where `like` (arrays or shapes) has one, with its sharding."""
    return jax.tree.map(lambda x, kept: _empty(x) if _is_buffer(x) else kept, like, tree, is_leaf=_is_buffer)


def _is_buffer(x: Any) -> bool:
    return isinstance(x, ReplayState)


def _empty(like: ReplayState) -> ReplayState:
    """What `Replay.init` makes of a buffer of these shapes."""

    def full(value: int) -> Callable[[Any], jax.Array]:
        return lambda x: jnp.full(x.shape, value, x.dtype, device=getattr(x, "sharding", None))

    empty = jax.tree.map(full(0), like)
    return empty.replace(highest_priority=full(1)(like.highest_priority))


def halves(key: Key, size: int, batches: int) -> jax.Array:
    """A random half of each of `batches` batches, among which `size` draws are dealt out in turn: bool [size].

    Of each two neighbours in a batch one is drawn by lot, so that the choice is independent of any other by position.
    """
    number = jnp.arange(size)
    place, batch = number // batches, number % batches
    lot = jax.random.bernoulli(key, 0.5, (size // batches // 2 + 1, batches))
    return (place % 2 == 0) ^ lot[place // 2, batch]


def narrow(transition: Transition, dtype: Any) -> Transition:
    """The example with observations of a narrower type: floating-point ones, or any if `dtype` holds whole numbers.

    uint8 is exact for whole numbers from 0 to 255, such as MinAtar's zeros and ones.
    """

    def cast(x: Any) -> jax.ShapeDtypeStruct:
        wide = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize > np.dtype(dtype).itemsize
        return jax.ShapeDtypeStruct(x.shape, dtype if wide else x.dtype)

    return transition.replace(obs=jax.tree.map(cast, transition.obs), next_obs=jax.tree.map(cast, transition.next_obs))


def _concrete(example: PyTree) -> bool:
    return not all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(example))
