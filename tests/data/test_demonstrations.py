"""PushT's demonstrations: to imitate, and with the rewards and ends of the task."""

import jax
import numpy as np
import pytest

from rljax.data import formats
from rljax.envs.manipulation import push_t

# Two demonstrations, of four and of three steps: one ends far from the goal, one passes through it.
AGENT = np.linspace(50, 350, 14).reshape(7, 2)
BLOCK = np.array([[300, 300, 0], [280, 280, 0.4], [262, 258, 0.7], [260, 258, 0.75]] + [[256, 256, np.pi / 4]] * 3)
BLOCK[4] += [20, 0, 0]
STATE, ENDS = np.concatenate([AGENT, BLOCK], 1).astype(np.float32), np.array([4, 7])


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "demos.npz", state=STATE, action=AGENT + 10, episode_ends=ENDS)
    return tmp_path / "demos.npz"


def test_to_imitate_each_ends_in_success(path):
    data = formats.load(path)
    np.testing.assert_array_equal(data.ends, ENDS)
    np.testing.assert_array_equal(data.terminated, np.isin(np.arange(7), ENDS - 1))
    np.testing.assert_array_equal(data.reward, data.terminated - 1.0)


@pytest.mark.parametrize("reward", ["sparse", "dense", "staged"])
def test_rewards_and_ends_may_be_those_of_the_task(path, reward):
    data = formats.load(path, push_t=reward)
    covered = np.asarray(jax.jit(jax.vmap(push_t.coverage))(np.float32(BLOCK)))
    assert covered[3] < 0.95 < covered[5]
    # Of each demonstration the last step is left out, for what it led to is not known.
    steps = np.array([0, 1, 2, 4, 5])
    after = covered[steps + 1]
    share = {
        "sparse": after > 0.95,
        "dense": np.where(after > 0.95, 1.0, after / 0.95),
        "staged": (after[:, None] > np.array([0.25, 0.5, 0.75, 0.95])).mean(1),
    }[reward]
    np.testing.assert_allclose(data.reward, share - 1.0, atol=1e-5)
    np.testing.assert_array_equal(data.terminated, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(data.truncated, [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(data.obs[:, :2], STATE[steps, :2])
    np.testing.assert_array_equal(data.next_obs[:, :2], STATE[steps + 1, :2])
    np.testing.assert_allclose(data.next_action, AGENT[steps + 1] + 10, rtol=1e-6)


def test_another_reward_is_refused(path):
    with pytest.raises(ValueError, match=r"demos\.npz: push_t = 'mean' is not allowed; .* one of human, sparse"):
        formats.load(path, push_t="mean")
