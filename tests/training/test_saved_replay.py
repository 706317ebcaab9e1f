"""Checkpoints with and without the contents of the replay buffer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import sac
from rljax.data import Replay, ReplayState
from rljax.data.replay import with_empty, without_contents
from rljax.training.checkpoint import Checkpointer
from tests.runs import train
from tests.toys import counter


@pytest.fixture(scope="module")
def small():
    """32 steps an iteration, which fill 8 of 250 columns."""
    config = sac.Config(num_envs=4, rollout_length=8, batch_size=16, replay_size=1000, learning_starts=64, hidden=(8,))
    return sac.make(rljax.make("pendulum"), config)


def numbers(folder, iteration):
    """How many numbers the state of a checkpoint has."""
    checkpointer = Checkpointer(folder / "checkpoints", read_only=True)
    tree = checkpointer.stored(iteration, "state")
    checkpointer.close()
    return sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(tree))


def test_a_checkpoint_without_the_replay_is_small_and_resumes_with_an_empty_buffer(small, tmp_path, capsys):
    first = train(small, 128, folder=tmp_path / "run", save_replay=False)
    in_buffer = sum(x.size for x in jax.tree.leaves(first.state.experience.replay))
    others = sum(x.size for x in jax.tree.leaves(first.state)) - in_buffer
    assert in_buffer > 8000
    assert numbers(tmp_path / "run", 4) < others + 100  # keys are pairs of words; the totals are there too
    capsys.readouterr()
    second = train(small, 192, folder=tmp_path / "run", resume=True, progress="lines")
    assert "resumed at step 128 of 192, with an empty replay buffer, which was not saved" in capsys.readouterr().err
    assert int(first.state.experience.replay.count) == 32
    assert int(second.state.experience.replay.count) == 16  # and not 48
    assert second.state.iteration == 6
    assert numbers(tmp_path / "run", 6) > in_buffer  # saved whole again, since that is the default
    third = train(small, 192, folder=tmp_path / "run", resume=True)
    chex.assert_trees_all_equal(third.state.experience.replay, second.state.experience.replay)


def test_what_has_no_replay_resumes_as_always(tmp_path, capsys):
    train(counter(), 2, folder=tmp_path / "run", save_replay=False)
    result = train(counter(), 4, folder=tmp_path / "run", save_replay=False, resume=True, progress="lines")
    np.testing.assert_array_equal(result.state.params, 4.0)
    assert "replay" not in capsys.readouterr().err


@pytest.mark.parametrize("prioritized", [False, True])
def test_every_buffer_is_left_out_and_an_empty_one_is_as_it_began(prioritized):
    replay = Replay(jnp.zeros(2), 100, 4, prioritized=prioritized)
    empty = replay.init()
    state = {"here": replay.insert(empty, jnp.ones((4, 2))), "there": [{"x": empty}, jnp.ones(3)]}
    left = without_contents(state)
    assert not any(isinstance(x, ReplayState) for x in (left["here"], left["there"][0]["x"]))
    for like in (state, jax.eval_shape(lambda: state)):
        whole = with_empty(left, like)
        chex.assert_trees_all_equal(whole, {"here": empty, "there": [{"x": empty}, jnp.ones(3)]})
