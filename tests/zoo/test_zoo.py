"""The zoo: every policy loads and is what its card says, and what is wrong, damaged or too large is refused."""

import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import algorithms, training, zoo
from rljax.algorithms import ppo
from rljax.envs.rollout import advance, begin
from rljax.training.evaluate import evaluate
from rljax.training.loading import load_with_env, read_description
from rljax.types import Refused
from rljax.zoo import adding
from rljax.zoo.__main__ import main
from tests.runs import train
from tests.training.conftest import tiny  # noqa: F401

NAMES = zoo.names()


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):  # noqa: F811
    return train(tiny, 64, folder=tmp_path_factory.mktemp("zoo") / "run")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A zoo of two policies of ours, in another place."""
    for name in ("cartpole-ppo", "pendulum-sac"):
        for kind in ("json", "npz"):
            shutil.copy(zoo.FOLDER / f"{name}.{kind}", tmp_path)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    return tmp_path


def test_there_is_a_policy_of_every_algorithm_and_all_are_small():
    assert len(NAMES) >= 20
    of = {name.rpartition("-")[2] for name in NAMES}
    assert set(algorithms.NAMES) - of <= {"progress"}, "progress is a critic"
    files = [path for path in zoo.FOLDER.iterdir() if path.suffix in (".npz", ".json")]
    assert {path.stem for path in files} == set(NAMES)
    assert sum(path.stat().st_size for path in files) < 10_000_000 == zoo.LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_loads_and_its_card_is_whole(name):
    card = zoo.card(name)
    content = (zoo.FOLDER / f"{name}.npz").read_bytes()
    assert (card["sha256"], card["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    policy, env, description = load_with_env(f"zoo:{name}")
    assert sum(x.size for x in jax.tree.leaves(policy)) == card["parameters"]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(policy))
    assert (card["name"], env.spec, description["algorithm"]) == (name, card["env"], card["algorithm"])
    assert card["algorithm"] in algorithms.NAMES
    assert card["command"].startswith("python ")
    assert "/tmp" not in card["command"]
    assert all(card[part] for part in ("choice", "steps", "seconds", "commits", "versions", "hardware", "licence"))
    for kind in ("deterministic", "stochastic"):
        found = card["evaluation"][kind]
        assert found["low"] <= found["mean"] <= found["high"]


def first(name, episodes, steps=None):
    """Returns of some episodes, or of their first steps."""
    policy, env, _ = load_with_env(f"zoo:{name}")
    if steps is None:
        return np.asarray(
            jax.jit(lambda policy, key: evaluate(env, policy, key, episodes))(policy, jax.random.key(7))[0]
        )

    def step(acting, key):
        acting, _, _ = advance(env, policy, acting, key, deterministic=True)
        return acting, acting.state.reward

    @jax.jit
    def first_steps(policy, key):
        return jax.lax.scan(step, begin(env, policy, key, episodes), jax.random.split(key, steps))[1].sum(0)

    return np.asarray(first_steps(policy, jax.random.key(7)))


def test_policies_play():
    assert (first("cartpole-ppo", 4) == 500).all()  # the most that there is
    assert (first("t_maze-ppo", 4) == 4).all()  # it remembers
    assert first("half_cheetah-sac", 2, steps=100).min() > 300  # it runs at once


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_policy_plays(name):
    card = zoo.card(name)
    found, returns = card["evaluation"]["deterministic"], first(name, 20)
    assert np.isfinite(returns).all()
    assert abs(returns.mean() - found["mean"]) <= 5 * found["std"] / 20**0.5 + 1e-3 * abs(found["mean"])


def test_the_environment_may_be_given(folder):
    env = rljax.make("cartpole", max_episode_steps=7)
    policy, acts_in, description = load_with_env("zoo:cartpole-ppo", env=env)
    assert acts_in is env
    assert description["config"]["num_minibatches"] == 16
    again = rljax.load("zoo:cartpole-ppo")
    obs = jnp.float32([0.01, 0.02, 0.03, 0.04])
    assert policy(jax.random.key(0), obs) == again(jax.random.key(0), obs)
    assert read_description("zoo:cartpole-ppo")["env"] == {"name": "cartpole"}


@pytest.mark.parametrize("name", ["cartpole-pp", "../zoo/cartpole-ppo", ""])
def test_a_wrong_name_is_refused(name, folder):
    with pytest.raises(Refused, match=r"the zoo has no policy .*; .*it has: cartpole-ppo, pendulum-sac"):
        rljax.load(f"zoo:{name}")


def test_a_name_that_is_near_is_offered(folder):
    with pytest.raises(Refused, match="did you mean cartpole-ppo"):
        zoo.card("cart_pole-ppo")


@pytest.mark.parametrize("how", [{"which": "best"}, {"which": 3}, {"member": 1}])
def test_there_is_one_policy(how):
    with pytest.raises(Refused, match="zoo:cartpole-ppo is a single policy: which and member must be left out"):
        rljax.load("zoo:cartpole-ppo", **how)


def test_a_run_cannot_start_from_a_policy_alone():
    algorithm = ppo.make(rljax.make("cartpole"), ppo.Config(hidden=(4,)))
    with pytest.raises(Refused, match="only from a run folder"):
        train(algorithm, 64, start_from=training.StartFrom("zoo:cartpole-ppo"))


def test_damaged_files_are_refused(folder):
    path, content = folder / "cartpole-ppo.npz", (folder / "cartpole-ppo.npz").read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(Refused, match=r"cartpole-ppo\.npz is damaged: its SHA-256 sum"):
        rljax.load("zoo:cartpole-ppo")
    path.unlink()
    with pytest.raises(Refused, match=r"cartpole-ppo\.npz is missing"):
        rljax.load("zoo:cartpole-ppo")
    (folder / "cartpole-ppo.json").write_text("{")
    with pytest.raises(Refused, match=r"cartpole-ppo\.json cannot be read: it is not JSON"):
        rljax.load("zoo:cartpole-ppo")
    assert rljax.load("zoo:pendulum-sac")


def rewritten(folder, change):
    """A changed archive, with a card of which only the sum is right."""
    arrays = zoo.arrays("cartpole-ppo")
    change(arrays)
    np.savez(folder / "cartpole-ppo.npz", **arrays)
    card = zoo.card("cartpole-ppo") | {"sha256": hashlib.sha256((folder / "cartpole-ppo.npz").read_bytes()).hexdigest()}
    (folder / "cartpole-ppo.json").write_text(json.dumps(card))


BIAS = "variables/params/params/value/bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop(BIAS), rf"does not fit this program: {BIAS} is nothing there, and here \[1\]"),
        (lambda x: x.update({BIAS: np.zeros(2)}), rf"{BIAS} is \[2\] there, and here \[1\]"),
        (lambda x: x.update(more=np.zeros(1)), r"more is \[1\] there, and here nothing"),
        (lambda x: x.update(more=np.array([{}], object)), "is not an archive of arrays"),  # as pickle would have it
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder, change, message):
    rewritten(folder, change)
    with pytest.raises(Refused, match=message):
        rljax.load("zoo:cartpole-ppo")


ADD = {"command": "python mine.py", "choice": "seed 0 of 1"}


def test_a_run_is_added_and_loads_bit_for_bit(run, folder, capsys):
    arguments = ["add", str(run.folder), "mine-ppo", "--command", "python mine.py", "--choice", "seed 0 of 1"]
    assert main([*arguments, "--episodes", "3", "--note", "A toy"]) == 0, capsys.readouterr().err
    assert zoo.names() == ["cartpole-ppo", "mine-ppo", "pendulum-sac"]
    loaded, trained = rljax.load("zoo:mine-ppo"), rljax.load(run.folder)
    assert jax.tree.structure(loaded.variables) == jax.tree.structure(trained.variables)
    for x, y in zip(jax.tree.leaves(loaded), jax.tree.leaves(trained), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype
    card, before = zoo.card("mine-ppo"), json.loads((run.folder / "config.json").read_text())
    assert before.items() <= card.items()
    assert (card["seed"], card["steps"], card["command"], card["note"]) == (0, 64, "python mine.py", "A toy")
    found = card["evaluation"]["deterministic"]
    assert found["mean"] == found["mean_length"] <= 20  # it pays 1 a step, and 20 steps are its limit

    capsys.readouterr()
    assert main([*arguments, "--episodes", "3"]) == 2
    assert "the zoo has a policy 'mine-ppo' already: --overwrite replaces it" in capsys.readouterr().err
    assert main(["list"]) == 0
    assert "mine-ppo" in capsys.readouterr().out


def test_a_card_is_of_one_member(run, folder, tmp_path, monkeypatch):
    loaded = load_with_env(run.folder)
    of_two = {"keys": [[0, 1], [2, 3]], "hyper": {"learning_rate": [0.1, 0.2]}}
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    (copy / "metrics.csv").write_text("step,member,seed,seconds\n1,0,0,1\n1,1,7,1\n2,0,0,2\n2,1,7,2.5\n")
    monkeypatch.setattr(
        adding, "load_with_env", lambda *_, **how: loaded._replace(description=loaded.description | of_two)
    )
    monkeypatch.setattr(adding, "score", lambda *_: {})
    card = adding.add(copy, "second-ppo", member=1, episodes=2, **ADD)
    assert (card["keys"], card["hyper"]) == ([2, 3], {"learning_rate": [0.2]})
    assert (card["seed"], card["steps"], card["seconds"]) == (7, 2, 2.5)


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("../mine", {}, "it must be of lower-case letters"),
        ("Mine", {}, "it must be of lower-case letters"),
        ("mine", {"command": " "}, "must say how the policy was trained"),
        ("mine", {"episodes": 1}, "episodes = 1 is not allowed"),
        ("mine", {"member": 2}, "member = 2 is not in"),
    ],
)
def test_what_cannot_be_added_is_refused(name, how, message, run, folder):
    before = sorted(folder.iterdir())
    with pytest.raises(Refused, match=message):
        adding.add(run.folder, name, **ADD | how)
    assert sorted(folder.iterdir()) == before


def test_more_than_ten_megabytes_are_refused(run, folder, monkeypatch):
    monkeypatch.setattr(zoo, "LARGEST", 1000)
    with pytest.raises(Refused, match="and with it the zoo more than 1,000"):
        adding.add(run.folder, "mine", episodes=2, **ADD)
    assert "mine" not in zoo.names()


def test_types_that_numpy_cannot_store_are_refused():
    with pytest.raises(Refused, match="kernel is of type bfloat16, which an npz cannot hold"):
        adding._archive({"kernel": np.asarray(jnp.zeros(2, jnp.bfloat16))})
