"""Off-policy evaluation: ranks policies from a dataset alone.

    from rljax.algorithms import bc, fqe
    from rljax.analysis import off_policy_evaluation as ope

    dataset = rljax.data.formats.load("robot.hdf5")
    policies = {"iql": iql_algorithm.policy(iql_state), "td3_bc": td3_bc_algorithm.policy(td3_bc_state)}
    rows = ope.rank(env, dataset, policies, jax.random.key(0), fqe.Config(num_updates=100), total_updates=200_000)
    rows[0]["policy"]  # the one whose fitted value is highest; rows[0]["fqe"], within "fqe_low" and "fqe_high"

For weighted importance sampling, which needs no fit but policies with densities that are much like what acted, say what
the log-probabilities are: those of the policies that have any, and of what acted, estimated by imitation if need be.

    clone = bc.make(env, bc.Config(policy="gaussian"), dataset)
    behavior = ope.gaussian_log_prob(clone, training.train(clone, key, 100_000).state)
    log_probs = {"iql": ope.gaussian_log_prob(iql_algorithm, iql_state)}
    rows = ope.rank(env, dataset, policies, key, log_probs=log_probs, behavior_log_prob=behavior)
    rows[0]["effective_sample_size"]  # of as many "episodes": with a handful, the estimate says nothing

Both estimate the discounted return from the data's first observations. They differ in what follows an episode that was
cut: fitted Q evaluation goes on beyond it, importance sampling ends with the data. Policies are evaluated with the same
draws of the data, so that they differ by themselves alone. Fu et al. 2021, "Benchmarks for deep off-policy evaluation"
(arXiv 2103.16596), tell how far such estimates are to be trusted: the order sooner than the numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms import fqe
from rljax.algorithms.core.contract import Algorithm
from rljax.data import Dataset
from rljax.envs import Environment
from rljax.ops import importance, running_statistics
from rljax.policy import Policy
from rljax.spaces import Box, as_given
from rljax.types import Key, PyTree, Refused

LogProb = Callable[[jax.Array, jax.Array], jax.Array]
"""Log-densities [n] of actions [n, d] in observations [n, …], both in the environment's units."""

_COLUMNS = [name + end for name in ("wis", "per_decision_wis") for end in ("", "_low", "_high")]
_COLUMNS += ["effective_sample_size"]
_CHUNK = 65_536  # transitions whose log-probabilities are computed at once


def rank(
    env: Environment,
    dataset: Dataset,
    policies: Mapping[str, Policy],
    key: Key,
    config: fqe.Config | None = None,
    total_updates: int = 200_000,
    log_probs: Mapping[str, LogProb] | None = None,
    behavior_log_prob: LogProb | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
) -> list[dict[str, Any]]:
    """A table of the policies, the one with the highest fitted value first; see the module for its use.

    Policies of one function and of equal shapes, such as `jax.vmap(algorithm.policy)(states)` taken apart, are
    evaluated in one program; others one after the other.

    Args:
      dataset: as it was read, observations and actions in the environment's units.
      policies: by name, of one kind or of several.
      config: settings of the fits; importance sampling uses the same `discount`. It evaluates stochastic policies, as
        the fits do with `deterministic=False`.
      total_updates: updates of each fit.
      log_probs: log-densities of the policies that have them, by name.
      behavior_log_prob: log-densities of the policy that acted in the dataset.

    Returns:
      Rows with "policy" and "episodes"; "fqe" and, where log-probabilities are known, "wis" and "per_decision_wis",
      each with "…_low" and "…_high"; and "effective_sample_size". None where they are not known.

    Raises:
      ValueError: no policies; log-probabilities of an unknown policy, or none of the policy that acted.
    """
    log_probs = dict(log_probs or {})
    if not policies:
        raise Refused("rank needs at least one policy")
    if unknown := sorted(set(log_probs) - set(policies)):
        raise Refused(f"rank: log_probs of {', '.join(unknown)}, and there are only {', '.join(policies)}")
    if log_probs and behavior_log_prob is None:
        raise Refused("rank: log_probs need behavior_log_prob; gaussian_log_prob of a clone (bc) estimates it")
    c = config or fqe.Config()
    values = initial_values(env, dataset, policies, key, c, total_updates)
    behavior = None if behavior_log_prob is None else log_prob_of_data(behavior_log_prob, dataset)

    rows = []
    for name in policies:
        row = {"policy": name, "episodes": len(dataset.ends), "fqe": float(values[name].mean())}
        row["fqe_low"], row["fqe_high"] = interval(values[name], confidence, resamples)
        if name in log_probs:
            target = log_prob_of_data(log_probs[name], dataset)
            row |= importance_sampling(dataset, target, behavior, key, c.discount, confidence, resamples)
        else:
            row |= dict.fromkeys(_COLUMNS)
        rows.append(row)
    return sorted(rows, key=lambda row: -np.nan_to_num(row["fqe"], nan=-np.inf))


def initial_values(
    env: Environment, dataset: Dataset, policies: Mapping[str, Policy], key: Key, config: fqe.Config, total_updates: int
) -> dict[str, np.ndarray]:
    """Fitted values of each policy in the first observation of each episode, by name: f32 [critics, episodes]."""
    algorithm = fqe.make(env, config, dataset, next(iter(policies.values())))
    first = np.asarray(dataset.obs)[dataset.starts]
    iterations = -(-total_updates // algorithm.per_iteration)

    def evaluate(key: Key, policy: Policy, data: Dataset, obs: jax.Array) -> jax.Array:
        init_key, act_key = jax.random.split(key)
        state = fqe.of(algorithm.init(init_key), policy)
        return fqe.values(algorithm, fqe.fit(algorithm, state, data, iterations), obs, act_key)

    groups: dict[Any, list[str]] = {}
    for name, policy in policies.items():
        leaves, structure = jax.tree.flatten(policy)
        kind = structure, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
        groups.setdefault(kind, []).append(name)
    together = jax.jit(jax.vmap(evaluate, in_axes=(None, 0, None, None)))
    data, result = jax.device_put(algorithm.data), dict[str, np.ndarray]()
    for names in groups.values():
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(policies[name] for name in names))
        result |= zip(names, np.asarray(together(key, stacked, data, first)))
    return result


def interval(values: Any, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval (low, high) of the mean of values [critics, episodes].

    Both are drawn again: a critic, which was fitted to episodes of its own, and the episodes whose first observations
    count. With few critics it is too narrow; (NaN, NaN) for one episode, which says nothing about the spread.
    """
    values, rng = np.asarray(values, np.float64), np.random.default_rng(seed)
    critics, episodes = values.shape
    if episodes < 2 or not np.isfinite(values).all():
        return np.nan, np.nan
    draws = (rng.multinomial(episodes, np.full(episodes, 1 / episodes), -(-resamples // critics)) for _ in values)
    means = np.concatenate([draw @ of_critic / episodes for draw, of_critic in zip(draws, values)])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def importance_sampling(
    dataset: Dataset,
    target_log_prob: Any,
    behavior_log_prob: Any,
    key: Key,
    discount: float,
    confidence: float = 0.95,
    resamples: int = 1000,
) -> dict[str, float]:
    """Estimates by weighted importance sampling, with intervals, from log-probabilities [N] of a dataset's actions.

    Returns:
      "wis", "per_decision_wis", each with "…_low" and "…_high", and "effective_sample_size".
    """
    dataset.require_rewards()
    reward, target, behavior = (padded(dataset, x) for x in (dataset.reward, target_log_prob, behavior_log_prob))
    mask = padded(dataset, np.ones(dataset.size, bool))

    @jax.jit
    def estimate(key: Key, reward: jax.Array, target: jax.Array, behavior: jax.Array, mask: jax.Array) -> list:
        log_weight = importance.log_weights(target, behavior, mask)
        arrays = (log_weight, reward, mask, discount)
        result = []
        for estimator in (importance.weighted, importance.per_decision_weighted):
            bounds = importance.bootstrap_interval(estimator, key, *arrays, confidence, resamples)
            result += [estimator(*arrays), *bounds]
        return [*result, importance.effective_sample_size(log_weight)]

    return dict(zip(_COLUMNS, map(float, estimate(key, reward, target, behavior, mask))))


def gaussian_log_prob(algorithm: Algorithm, state: Any) -> LogProb:
    """The log-density of a trained policy: of bc with policy="gaussian", or of iql.

    As an estimate of the policy that acted, it maximises the data's likelihood. Hanna, Niekum and Stone 2019,
    "Importance sampling policy evaluation with an estimated behavior policy" (arXiv 1806.01347), section 3. One for an
    observation is exact as far as the data are a normal distribution that nothing clipped.

    Raises:
      ValueError: the policy has no such density.
    """
    agent, normalize = algorithm.agent, algorithm.config.normalize_observation
    try:
        assert agent is not None
        variables = agent.acting(state.learner, state.hyper)
        jax.eval_shape(agent.log_prob, variables, agent.example_obs, agent.example_action)
    except Refused as error:
        raise Refused(f"{error}: take bc with policy='gaussian', or iql") from None
    # [-1, 1] may be what the data use of the bounds; a dimension with one value has no density.
    low, high = algorithm.policy(state).variables["action_range"]
    space = Box(np.asarray(low), np.asarray(high))
    if (space.low == space.high).any():
        raise Refused(f"{algorithm.name} has no density: some dimension of its data's actions never varies")
    volume = np.log((space.high - space.low) / 2).sum()

    def log_prob(obs: PyTree, action: jax.Array) -> jax.Array:
        obs = as_given(agent.observation_space, obs)
        obs = running_statistics.normalize(state.obs_statistics, obs) if normalize else obs
        return agent.log_prob(variables, obs, space.to_unit(action)) - volume

    return log_prob


def log_prob_of_data(log_prob: LogProb, dataset: Dataset) -> np.ndarray:
    """Log-probabilities of the dataset's actions under a policy, f32 [N]; on the device, a part at a time."""
    function, starts = jax.jit(log_prob), range(0, dataset.size, _CHUNK)
    parts = [(dataset.obs[i : i + _CHUNK], dataset.action[i : i + _CHUNK]) for i in starts]
    return np.concatenate([np.asarray(function(*part), np.float32) for part in parts])


def padded(dataset: Dataset, x: PyTree) -> np.ndarray:
    """An array [episodes, time, …] of transitions [N, …], with 0 after the end of each episode."""
    x, lengths = np.asarray(x), dataset.ends - dataset.starts
    result = np.zeros((len(lengths), lengths.max(), *x.shape[1:]), x.dtype)
    result[np.arange(lengths.max()) < lengths[:, None]] = x
    return result
