"""The command lines of the offline algorithms, from a file to a run folder; and the recipe that makes datasets."""

import json
import re
import runpy
import sys
from pathlib import Path

import gymnasium
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from experiments import collect, rlpd
from rljax import experiment, training
from rljax.algorithms.offline_settings import FAMILIES, multiplies_bfloat16
from rljax.data import Metadata, Replay, formats
from rljax.envs import RescaleAction, TimeLimit
from rljax.policy import Policy
from rljax.types import Refused, Transition
from tests.datasets import dataset_of, drift_data
from tests.toys import ContinuousClock, Drift, limited

SCRIPTS = Path(__file__).parents[1] / "experiments"
TINY = ["--hidden", "8", "--batch-size", "16", "--total-steps", "40", "--devices", "1", "--no-progress"]
TINY += ["--evaluation-episodes", "2", "--final-episodes", "2", "--evaluate-every", "40"]
ONLINE = ["--online-steps", "40", "--learning-starts", "10", "--replay-size", "100"]


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Calls a script as a shell would: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments):
        script = str(SCRIPTS / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        experiment.load_dataset.cache_clear()
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def pendulum():
    """Random actions in the pendulum: 4 episodes of 200 steps."""
    env = rljax.make("pendulum")

    @jax.jit
    @jax.vmap
    def play(key):
        def step(state, key):
            action = env.action_space.sample(key)
            after = env.step(state, action)
            return after, Transition(state.obs, action, after.reward, after.terminated, after.truncated, after.obs)

        return jax.lax.scan(step, env.reset(key), jax.random.split(jax.random.fold_in(key, 1), 200))[1]

    found = jax.tree.map(np.asarray, play(jax.random.split(jax.random.key(0), 4)))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
    return dataset_of(
        flat.obs,
        flat.action,
        flat.reward,
        flat.next_obs,
        flat.terminated,
        flat.truncated,
        name="pendulum-random-v0",
        task="pendulum",
    )


@pytest.fixture
def path(pendulum, tmp_path):
    formats.save_d4rl(pendulum, tmp_path / "data" / "pendulum.hdf5")
    return tmp_path / "data" / "pendulum.hdf5"


@pytest.mark.parametrize("name", ["bc", "td3_bc", "cql", "iql", "rlpd"])
def test_help_explains_every_field(cli, name):
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    for flag in ("--dataset", "--env", "--total-steps", "--normalize-observation", "--reward-scale", "--seeds"):
        assert flag in out
    assert ("--online-steps" in out) == (name != "rlpd")
    assert out.count("(default:") > 30


def test_defaults_depend_on_the_datasets_task_and_on_env_where_given(cli, path):
    def precision(*arguments):
        out = " ".join(cli("iql", "--dataset", path, *arguments, "--help")[1].replace("│", " ").split())
        return re.findall(r"--precision .*?\(default: (\w+)\)", out)[0]

    assert precision() == "float32"
    assert precision("--env", "Hopper-v5") == ("bfloat16" if multiplies_bfloat16() else "float32")


def test_the_tables_of_a_family_are_reached_by_flag_or_by_the_name_of_the_dataset(cli, path, pendulum, tmp_path):
    def shown(*arguments):
        code, out, err = cli("iql", *arguments, "--help")
        assert code == 0, err
        out = " ".join(out.replace("│", " ").split())
        return float(re.findall(r"--expectile .*?\(default: ([0-9.]+)\)", out)[0]), err

    assert shown("--dataset", path) == (0.7, "")
    assert shown("--dataset", path, "--family", "antmaze") == (0.9, "")
    named = tmp_path / "data" / "antmaze-umaze-v2.hdf5"
    formats.save_d4rl(pendulum.replace(metadata=Metadata(named.stem)), named)
    expectile, err = shown("--dataset", named)
    assert expectile == 0.9
    assert err == "settings of antmaze, by the name of the dataset; --family none for others\n"
    assert shown("--dataset", named, "--env", "none")[0] == 0.9
    assert shown("--dataset", named, "--family", "none") == (0.7, "")
    assert shown("--dataset", named, "--env", "pendulum") == (0.7, "")
    code, _, err = cli("cql", "--dataset", path, "--family", "ant")
    assert code == 2
    known = ", ".join(FAMILIES)
    assert err == f"error: family = 'ant' is not allowed; it must be one of {known}, or none\n"
    assert all(name in " ".join(cli("cql", "--help")[1].replace("│", " ").split()) for name in FAMILIES)


def test_what_a_file_may_lack_depends_on_the_algorithm_and_the_task(cli, monkeypatch):
    calls = []

    def load(path, rewards="required", max_episode_steps=None, flatten=True):
        calls.append((path.name, rewards, max_episode_steps))
        raise Refused("far enough")

    monkeypatch.setattr(formats, "load", load)
    for name in ("bc", "diffusion_policy", "iql", "rlpd"):
        assert cli(name, "--dataset", "x.npz")[2] == "error: far enough\n"
    assert calls == [("x.npz", rewards, None) for rewards in ("optional", "optional", "required", "required")]
    calls.clear()
    for flags in (["--env", "Hopper-v5"], ["--env", "none"], ["--max-episode-steps", "7"], ["--max_episode_steps=8"]):
        assert cli("iql", "--dataset", "x.npz", *flags)[0] == 2
    assert [limit for *_, limit in calls] == [1000, None, 7, 8]
    message = "error: max_episode_steps = 0 is not allowed; it must be an integer of at least 1\n"
    assert cli("iql", "--dataset", "x.npz", "--max-episode-steps", "0")[2] == message


def test_the_oldest_files_of_d4rl_are_read_once_with_the_time_limit_of_the_task(cli, path, monkeypatch):
    with h5py.File(path, "r+") as file:
        del file["timeouts"], file["next_observations"]
        for name in list(file.attrs):
            del file.attrs[name]
    code, _, err = cli("bc", "--dataset", path, "--env", "none")
    assert (code, err.count("\n")) == (2, 1)
    assert "give max_episode_steps" in err
    found, reads, load = [], [], formats.load

    def task_of(_, dataset):
        found.append(dataset)
        raise Refused("far enough")

    def read(path, rewards="required", max_episode_steps=None, flatten=True):
        reads.append(path)
        return load(path, max_episode_steps=max_episode_steps)

    monkeypatch.setattr("rljax.experiment.offline.task_of", task_of)
    monkeypatch.setattr(formats, "load", read)
    for flags in (["--env", "pendulum"], ["--env", "none", "--max-episode-steps", "200"]):
        reads.clear()
        assert cli("bc", "--dataset", path, *flags)[2].endswith("error: far enough\n")
        assert len(reads) == 1
        np.testing.assert_array_equal(found.pop().ends, [199, 398, 597, 796])  # the last row has no successor


def test_dicts_of_vectors_are_joined_by_name_as_gymnasium_flattens_them():
    rng, box = np.random.default_rng(0), gymnasium.spaces.Box
    parts = {"observation": {"b": 2, "a": 1}, "achieved_goal": 2, "desired_goal": 3}
    obs, next_obs = (jax.tree.map(lambda n: rng.normal(size=(6, n)).astype(np.float32), parts) for _ in range(2))
    inner = gymnasium.spaces.Dict({"b": box(-9, 9, (2,)), "a": box(-9, 9, (1,))})
    space = gymnasium.spaces.Dict(
        {"observation": inner, "achieved_goal": box(-9, 9, (2,)), "desired_goal": box(-9, 9, (3,))}
    )
    found = experiment.vectors_of(drift_data(episodes=1, length=6, name="maze").replace(obs=obs, next_obs=next_obs))
    for joined, tree in ((found.obs, obs), (found.next_obs, next_obs)):
        for i in range(6):
            row = jax.tree.map(lambda x, i=i: x[i], tree)
            np.testing.assert_array_equal(joined[i], gymnasium.spaces.flatten(space, row))
    assert experiment.spaces_of(found).observation_space.shape == (8,)
    assert experiment.vectors_of(found) is found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": np.zeros((7, 2), np.int64)}, "actions are of type int64; only continuous ones"),
        ({"action": np.zeros((7, 2), bool)}, "actions are of type bool; only continuous ones"),
        ({"action": np.zeros(7, np.float32)}, r"actions have the shape \[\]; they must be vectors"),
        ({"obs": {"goal": np.zeros(7, int), "x": np.zeros((7, 2))}}, r"observations\['goal'\] have the shape \[\]"),
        ({"obs": {"table": np.zeros((7, 8, 8))}}, r"\['table'\] have the shape \[8, 8\]; without a task, parts of a"),
    ],
)
def test_what_is_not_learned_from_as_vectors_is_refused_in_one_line(changes, message):
    data = drift_data(episodes=1, length=7, name="odd").replace(**changes)
    with pytest.raises(Refused, match=f"^odd: .*{message}"):
        experiment.vectors_of(data)


@pytest.mark.parametrize("content", [None, b"", b"no array"])
def test_weights_that_are_no_array_are_refused_in_one_line(content, tmp_path):
    path = tmp_path / "weight.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Refused, match=r"weight\.npy: not an array of weights: .+$") as error:
        rlpd.read_weight(path, drift_data())
    assert "\n" not in str(error.value)


def test_a_run_leaves_its_folder_goes_on_online_and_resumes_only_as_itself(cli, path, pendulum, tmp_path):
    two = [*TINY, "--seeds", "2"]
    code, out, err = cli("iql", "--dataset", path, *two, *ONLINE)
    assert code == 0, err
    assert out.count("returns of the dataset's episodes: mean -") == 2
    folder = tmp_path / "runs" / "iql" / "pendulum-random-v0-seed0-to1"
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "versions.json", "metrics.csv", "checkpoints", "evaluation.json"} <= names
    assert (folder / "learning_curve.png").stat().st_size > 1000
    description = json.loads((folder / "config.json").read_text())
    assert description["data"]["sha256"] == formats.files.sha256(path)
    assert description["data"]["task"] == "pendulum"
    assert description["env"] == {"name": "pendulum"}
    assert description["config"]["policy_decay_steps"] == 40
    online = folder.with_name(f"{folder.name}-online")
    assert json.loads((online / "config.json").read_text())["config"]["policy_decay_steps"] == 0
    for run in (folder, online):
        evaluation = json.loads((run / "evaluation.json").read_text())
        assert evaluation["steps"] == 40
        assert [member["seed"] for member in evaluation["members"]] == [0, 1]
        assert rljax.load(run, member=1)(jax.random.key(0), jnp.array(pendulum.obs[:3])).shape == (3, 1)

    code, _, err = cli("iql", "--dataset", path, *two)
    assert code == 2
    assert err.startswith(f"error: {folder.relative_to(Path.cwd())} holds a run already: --resume (resume=True) ")
    assert cli("iql", "--dataset", path, *two, *ONLINE[2:], "--resume")[0] == 0
    # Other data under the same path are another run.
    formats.save_d4rl(pendulum.replace(reward=pendulum.reward + 1), path, overwrite=True)
    code, _, err = cli("iql", "--dataset", path, *two, *ONLINE, "--resume")
    assert code == 2
    assert "holds another run: data.content was" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("task", "flags"), [(None, []), ("my_robot", ["--env", "none"])])
def test_a_dataset_without_a_task_is_learned_from_and_not_evaluated(cli, tmp_path, task, flags):
    path = tmp_path / "mine.hdf5"
    formats.save_d4rl(drift_data(name="mine", task=task), path)
    code, out, err = cli("bc", "--dataset", path, *flags, *TINY)
    assert code == 0, err
    assert "no task, or none with a time limit: nothing is evaluated" in err
    assert "Return over" not in out
    folder = tmp_path / "runs" / "bc" / "mine-seed0"
    assert not (folder / "evaluation.json").exists()
    assert rljax.load(folder)(jax.random.key(0), jnp.zeros(2)).shape == (1,)
    for arguments, message in (
        (["iql", *flags, "--online-steps", "5"], "error: online_steps needs a task to act in: --env\n"),
        (["rlpd", *flags], "error: rlpd acts in a task, and the dataset does not say which: --env\n"),
    ):
        name, *rest = arguments
        code, _, err = cli(name, "--dataset", path, *rest)
        assert (code, err.splitlines(keepends=True)[-1]) == (2, message)


@pytest.mark.parametrize("name", ["bc", "td3_bc", "cql", "iql", "rlpd"])
def test_a_missing_dataset_is_one_line_and_exit_2(cli, name, tmp_path):
    message = "error: --dataset is missing: a file or folder of data; experiments/collect.py makes some\n"
    assert cli(name) == (2, "", message)
    assert cli(name, "--dataset", "none.hdf5") == (2, "", "error: none.hdf5: no such file or folder\n")
    assert not list(tmp_path.iterdir())


def write(path, **changes):
    """A small file of D4RL's layout, with these arrays in place of its own; None leaves one out."""
    arrays = {
        "observations": np.zeros((20, 3), "f4"),
        "actions": np.zeros((20, 1), "f4"),
        "rewards": np.arange(20.0),
        "terminals": np.zeros(20, bool),
        "timeouts": np.arange(20) % 5 == 4,
    } | changes
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            if x is not None:
                file[name] = x


OUTSIDE = np.array([[0.0], [2.5]] * 10, "f4")
BAD = {
    "missing key": ({"rewards": None}, r"rewards"),
    "NaN": ({"observations": np.full((20, 3), np.nan, "f4")}, "observations[0, 0] is nan; only finite"),
    "lengths": ({"rewards": np.zeros(19)}, "arrays must have one length"),
    "shape": ({"observations": np.zeros((20, 4), "f4")}, "observations have the shape [4], the environment's [3]"),
    "action": ({"actions": OUTSIDE}, "actions go from 0 to 2.5, the environment allows -2 to 2"),
    "actions": ({"actions": np.zeros((20, 2), "f4")}, "actions have the shape [2], the environment's [1]"),
    "flag": ({"terminals": np.full(20, 2)}, "only 0 and 1 are allowed"),
    "text": ({"actions": np.array([b"left"] * 20)}, "actions"),
    "no steps": ({k: np.zeros((0, 1)) for k in ("observations", "actions")}, "arrays must have one length"),
}


@pytest.mark.parametrize("kind", [*BAD, "damaged", "text file", "empty", "folder", "unknown task", "later"])
def test_a_bad_file_is_one_line_and_exit_2_before_anything_is_made(cli, kind, tmp_path):
    path, arguments = tmp_path / "bad.hdf5", []
    if kind in BAD:
        changes, message = BAD[kind]
        write(path, **changes)
    elif kind == "damaged":
        write(path, observations=np.random.default_rng(0).normal(size=(20, 3)))
        path.write_bytes(path.read_bytes()[:3000])
        message = "damaged"
    elif kind == "text file":
        path.write_text("observations,actions\n1,2\n")
        message = "neither HDF5 nor npz, or damaged"
    elif kind == "empty":
        path.touch()
        message = "neither HDF5 nor npz, or damaged"
    elif kind == "folder":
        path.mkdir()
        message = "a folder without data/main_data.hdf5"
    elif kind == "unknown task":
        write(path)
        arguments, message = ["--env", "pendulun"], "unknown environment 'pendulun'; did you mean pendulum"
    else:  # what would only be refused once all updates were made
        write(path)
        arguments, message = ["--online-steps", "-3"], "online_steps = -3 is not allowed; it must be 0 or more"
    code, out, err = cli("iql", "--dataset", path, "--env", "pendulum", *TINY, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    if kind not in ("unknown task", "later"):
        assert "bad" in err  # which file, or dataset
    assert [file.name for file in tmp_path.iterdir()] == ["bad.hdf5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bc", "--online-steps", "40"], "error: online_steps must be 0: bc learns nothing from its own actions"),
        (["td3_bc", "--online-steps", "40", "--target-penalty", "0.1"], "error: td3_bc: online, target_penalty"),
        (["iql", "--expectile", "1.5"], "iql.Config: expectile = 1.5 is not allowed; it must be in (0, 1)"),
        (["iql", "--sweep", "speed=1,2"], "error: iql cannot sweep 'speed'; it can sweep learning_rate"),
        (["td3_bc", "--batch-size", "15", "--devices", "2"], "batch_size = 15 does not divide over 2 devices"),
        (["bc", "--total-steps", "0"], "error: total_steps = 0 is not allowed"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_update(cli, path, arguments, message, tmp_path):
    name, *rest = arguments
    code, _, err = cli(name, "--dataset", path, *rest, "--no-progress")
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())  # tyro frames and wraps its own errors
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_devices_are_set_up_before_the_environment_can_start_jax(cli, path, monkeypatch):
    """MuJoCo's tasks use JAX as soon as they are made, and then a CPU's cores stay one device."""
    calls = []
    monkeypatch.setattr(training, "use_cpu_cores", lambda *_: calls.append("devices"))

    def make(*_, **__):
        calls.append("environment")
        raise Refused("far enough")

    monkeypatch.setattr(rljax, "make", make)
    for name in ("iql", "rlpd"):
        calls.clear()
        code, _, err = cli(name, "--dataset", path, "--seeds", "2")
        assert (code, err) == (2, "error: far enough\n")
        assert calls == ["devices", "environment"]


def collected(env, policy=None, transitions=60, lanes=4):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "LANES", lanes)
        return collect.roll_out(env, policy or collect.chance(env), transitions, jax.random.key(0), progress=False)


def test_roll_outs_are_whole_episodes_with_their_successors_and_actions_in_the_tasks_units():
    env = limited(Drift(), 7)
    found = collected(env)
    assert found.reward.shape == (60,)
    # Episodes of 7 follow one another; the last one is cut.
    np.testing.assert_array_equal(np.flatnonzero(found.truncated), np.arange(6, 60, 7))
    assert not found.terminated.any()
    inside = ~found.truncated[:-1]
    np.testing.assert_array_equal(found.next_obs[:-1][inside], found.obs[1:][inside])
    # Every successor is what the action leads to, the last one of an episode too; a reset is elsewhere.
    np.testing.assert_allclose(found.next_obs[:, 0], found.obs[:, 0] + found.action[:, 0], atol=1e-4)
    np.testing.assert_allclose(found.reward, -np.abs(found.next_obs[:, 0] - 100.0), atol=1e-4)
    assert (np.abs(found.next_obs[6::7, 0][:8] - found.obs[7::7, 0][:8]) > 1e-3).all()
    assert found.action.min() < -1.5
    assert found.action.max() > 3.5
    assert len(np.unique(found.action)) == 60
    assert len(np.unique(found.obs[::7, 0])) == len(found.obs[::7])


def test_roll_outs_end_where_the_task_does_and_ask_the_policy():
    env = TimeLimit(ContinuousClock(5, True), 9)

    def act(_, key, obs, memory, deterministic):
        assert not deterministic
        return 0.5 + obs.argmax(-1, keepdims=True).astype(float), memory + 1, ()

    found = collected(env, Policy((), jnp.int32(0), act), transitions=23)
    np.testing.assert_array_equal(np.flatnonzero(found.terminated), [4, 9, 14, 19])
    np.testing.assert_allclose(found.action[:, 0], 0.5 + np.arange(23) % 5)
    assert found.reward.sum() == 23


@pytest.mark.parametrize("steps", [3, 5, 8, 13])
def test_a_replay_in_order_is_the_newest_items_of_each_environment_oldest_first(steps):
    """Two environments, five places in each; item t of environment e has the reward 100 e + t."""
    env = RescaleAction(limited(Drift(), 7))
    scalar, flag = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), bool)
    obs = jax.ShapeDtypeStruct((2,), jnp.float32)
    replay = Replay(Transition(obs, jax.ShapeDtypeStruct((1,), jnp.float32), scalar, flag, flag, obs), 10, 2)
    state, insert = replay.init(), jax.jit(replay.insert)
    for time in range(steps):
        number = jnp.array([0.0, 100.0]) + time
        obs = jnp.stack([number, -number], axis=1)
        ends = jnp.full(2, time == 3)
        item = Transition(
            obs, jnp.full((2, 1), -1.0 if time % 2 else 0.5), number, ends, jnp.full(2, time == 6), obs + 1
        )
        state = insert(state, item)
    found = collect.in_order(state, env)
    kept = np.arange(max(0, steps - 5), steps)
    time = np.concatenate([kept, kept])
    expected = np.concatenate([kept, 100.0 + kept])
    np.testing.assert_array_equal(found.reward, expected)
    np.testing.assert_array_equal(found.obs, np.stack([expected, -expected], 1))
    np.testing.assert_array_equal(found.next_obs, found.obs + 1)
    np.testing.assert_allclose(found.action[:, 0], np.where(time % 2, -2.0, 2.5))  # of [-2, 4]
    np.testing.assert_array_equal(found.terminated, time == 3)
    # Each environment's last item is cut, unless the task ended there.
    last = np.tile(np.arange(len(kept)) == len(kept) - 1, 2)
    np.testing.assert_array_equal(found.truncated, ((time == 6) | last) & ~(time == 3))


def test_random_and_mixed_datasets_are_made_once_and_say_what_they_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(collect, "LANES", 2)
    settings = collect.Settings(env="pendulum", kinds=("random",), transitions=500, runs=tmp_path, progress=False)
    collect.main(settings)
    path = tmp_path / "datasets" / "pendulum-random-v0.hdf5"
    record = json.loads((tmp_path / "datasets" / "pendulum.json").read_text())["random"]
    assert (record["file"], record["transitions"], record["episodes"]) == (path.name, 500, 3)
    assert record["sha256"] == formats.files.sha256(path)
    data = formats.load(path)
    assert (data.metadata.task, data.metadata.name) == ("pendulum", "pendulum-random-v0")
    np.testing.assert_array_equal(data.ends, [200, 400, 500])
    np.testing.assert_allclose(record["mean_return"], data.returns[:2].mean(), rtol=1e-6)  # the last one was cut
    capsys.readouterr()
    collect.main(settings)
    assert capsys.readouterr().out == f"{path} is there already\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("random", "best")}, "kinds = best is not allowed; they must be of random, medium"),
        ({"transitions": 10}, "transitions = 10 is not allowed; it must be at least 64"),
        ({"medium_share": 1.0}, r"medium_share = 1.0 is not allowed; it must be in \(0, 1\)"),
    ],
)
def test_collecting_what_is_not_possible_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        collect.main(collect.Settings(**changes))
