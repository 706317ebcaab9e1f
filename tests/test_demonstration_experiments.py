"""The command lines that go from demonstrations to a steered policy, each from a file to a run folder."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import rljax
from rljax import pipeline
from rljax.algorithms import steering
from rljax.data import formats
from tests.test_offline_experiments import cli  # noqa: F401

TINY = ["--devices", "1", "--no-progress", "--evaluation-episodes", "2", "--final-episodes", "2"]
SMALL = ["--width", "16", "--blocks", "1", "--batch-size", "16", "--sampler-steps", "2"]


@pytest.fixture
def demonstrations(tmp_path):
    """Three made-up demonstrations of PushT, in the layout of the human ones."""
    rng = np.random.default_rng(0)
    state = rng.uniform(100, 400, (60, 5)) * [1, 1, 1, 1, 0.01]
    np.savez(tmp_path / "demos.npz", state=state, action=state[:, :2] + 10, episode_ends=np.array([20, 45, 60]))
    return tmp_path / "demos.npz"


@pytest.mark.parametrize("name", ["diffusion_policy", "steer", "gr_rl", "recap"])
def test_help_explains_every_field(cli, name):  # noqa: F811
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert out.count("(default:") > 30
    assert "--sampler.width" not in out  # which is the steered policy's, not to be chosen


def test_a_policy_is_imitated_and_then_steered(cli, demonstrations, tmp_path):  # noqa: F811
    steps = ["--total-steps", "20", "--evaluate-every", "20"]
    code, _, err = cli("diffusion_policy", "--dataset", demonstrations, *TINY, *SMALL, *steps)
    assert (code, "warning" in err) == (0, False), err
    base = tmp_path / "runs" / "diffusion_policy" / "demos-seed0"
    found = json.loads((base / "evaluation.json").read_text())["members"][0]["deterministic"]
    assert {"success", "highest_coverage"} <= set(found)
    assert "evaluation/success" in (base / "metrics.csv").read_text().splitlines()[0]

    few = ["--num-envs", "2", "--learning-starts", "4", "--num-updates", "2", "--batch-size", "8", "--hidden", "8"]
    steps = ["--total-steps", "64", "--evaluate-every", "0", "--replay-size", "100"]
    code, _, err = cli("steer", "--base", base, *TINY, *few, *steps, "--delay", "1", "--executed", "2")
    assert (code, "warning" in err) == (0, False), err
    folder = tmp_path / "runs" / "steer" / "push_t-seed0"
    config = json.loads((folder / "config.json").read_text())
    assert config["env"]["mismatch"] == {"delay": 1, "smoothing": 0.0, "rate_limit": 1.0}
    assert config["env"]["reward"] == "dense"
    assert config["config"]["sampler"]["width"] == 16
    # A base that is trained anew under its old name is another, and the run is not resumed over it.
    assert config["settings"]["base_sha256"] == steering.identity(steering.base_of(rljax.load(base)))
    policy = rljax.load(folder)
    for loaded in (policy, rljax.load(base)):  # in units of what was demonstrated
        with np.load(demonstrations) as data:
            np.testing.assert_allclose(loaded.variables["action_range"], [data["action"].min(0), data["action"].max(0)])
    env = rljax.make("push_t")
    assert policy.initial_memory["chunk"].shape == (2, 2)
    assert env.action_space.contains(policy.apply(None, np.zeros(6, np.float32), policy.initial_memory)[0])

    sparse = tmp_path / "sparse.hdf5"
    formats.save_d4rl(formats.load(demonstrations), sparse)
    code, _, err = cli("steer", "--base", base, *TINY, "--method", "dsrl_na", "--demos", sparse)
    assert (code, err) == (2, f"error: {sparse}: its rewards are not those of --reward dense\n")
    code, _, err = cli("rlpd", "--dataset", sparse, "--reward", "dense", "--delay", "1")
    assert (code, err) == (2, f"error: {sparse}: its rewards are not those of --reward dense\n")
    code, _, err = cli("steer", "--base", folder, *TINY)
    assert (code, err) == (2, f"error: {folder} is of steering; only a diffusion or flow policy has noise\n")
    code, _, err = cli("steer", "--base", tmp_path / "none", *TINY)
    assert (code, err) == (2, f"error: {tmp_path / 'none'} is not a run folder: it has no config.json\n")


@pytest.mark.parametrize("reward", ["dense", "sparse"])
def test_critics_do_not_learn_a_success_that_the_task_denies(demonstrations, reward):
    """A human's ends are successes to imitate; values are learned from the task's own rewards and ends."""
    imitated, env = formats.load(demonstrations), rljax.make("push_t", reward=reward)
    data = pipeline.rewarded(demonstrations, imitated, env)
    assert imitated.terminated.sum() == 3
    assert not data.terminated.any()
    assert data.truncated.sum() == len(imitated.ends) == 3
    assert data.size == imitated.size - 3
    assert (data.reward == -1.0).all() == (reward == "sparse")
    assert data.spec["content"] != imitated.spec["content"]


def test_another_task_than_manipulation_is_refused(cli):  # noqa: F811
    code, _, err = cli("gr_rl", "--task", "hopper")
    assert (code, err) == (2, "error: task = hopper is not allowed; it must be lace, pick_and_place or push_t\n")


def test_stages_of_other_settings_are_refused(demonstrations, tmp_path):
    """What a folder holds is known by what was asked for: weights, demonstrations and all."""
    from experiments import gr_rl
    from rljax import pipeline
    from rljax.types import Refused

    settings = dataclasses.replace(gr_rl.TASKS["push_t"], task="push_t", demos=demonstrations, runs=tmp_path)
    folder = tmp_path / "gr_rl" / "push_t-seed0"
    gr_rl.Pipeline(settings).demonstrations()
    gr_rl.Pipeline(dataclasses.replace(settings, evaluation_episodes=3, online_steps=9)).demonstrations()
    for changes, message in (
        ({"drop": 0.9}, "drop was 0.15 and is now 0.9"),
        ({"critic_updates": 7}, "critic_updates was 10000 and is now 7"),
        ({"policy": dataclasses.replace(settings.policy, width=8)}, "policy.width was 512 and is now 8"),
    ):
        with pytest.raises(Refused, match=f"{folder} holds another run: {message}; choose another --name"):
            gr_rl.Pipeline(dataclasses.replace(settings, **changes)).demonstrations()
    (folder / "settings.json").rename(folder / "progress.npy")
    with pytest.raises(Refused, match=r"holds a run, and no settings.json that says which"):
        gr_rl.Pipeline(settings).demonstrations()

    env, manner, key = rljax.make("push_t"), pipeline.FAULTS, jax.random.key(0)
    (tmp_path / "demonstrations.hdf5").touch()
    with pytest.raises(Refused, match=r"holds a run, and no demonstrations.json that says which"):
        pipeline.scripted(env, "push_t", manner, key, 5, tmp_path)
    pipeline.pin(
        tmp_path,
        {"env": env.spec, "manner": dataclasses.asdict(manner), "episodes": 5, "key": [0, 0]},
        name="demonstrations",
        made="nothing",
    )
    with pytest.raises(Refused, match="episodes was 5 and is now 6"):
        pipeline.scripted(env, "push_t", manner, key, 6, tmp_path)


def test_a_lace_with_either_hand_has_a_folder_of_its_own():
    from experiments import gr_rl

    lace = gr_rl.TASKS["lace"]
    names = [gr_rl.default_name(dataclasses.replace(lace, left_first=share)) for share in (1.0, 0.5, None, 0.25)]
    assert names == ["lace-seed0", "lace_either_hand-seed0", "lace_either_hand-seed0", "lace_left0.25-seed0"]


@pytest.mark.slow
def test_all_stages_run_are_cached_and_end_in_a_table(cli, demonstrations, tmp_path):  # noqa: F811
    arguments = ["--task", "push_t", "--demos", demonstrations, "--policy-updates", "20", "--critic-updates", "20"]
    arguments += ["--online-steps", "64", "--evaluation-episodes", "2", "--no-progress"]
    for part, flags in (
        ("policy", ["width", "16", "blocks", "1", "batch-size", "16"]),
        ("critic", ["hidden", "16", "batch-size", "16"]),
        ("online", ["hidden", "8", "num-envs", "2", "learning-starts", "4", "num-updates", "2", "batch-size", "8"]),
    ):
        arguments += [f"--{part}.{f}" if i % 2 == 0 else f for i, f in enumerate(flags)]
    code, out, _ = cli("gr_rl", *arguments)
    assert code == 0
    folder = tmp_path / "runs" / "gr_rl" / "push_t-seed0"
    result = json.loads((folder / "result.json").read_text())
    assert list(result["stages"]) == ["everything", "filtered", "and mirrored", "and RL in its noise"]
    assert all(0 <= r["executed"]["success"] <= 1 for r in result["stages"].values())
    assert (folder / "0-progress" / "progress.png").stat().st_size > 1000
    assert "and RL in its noise" in out
    again = cli("gr_rl", *arguments)
    assert again[0] == 0
    assert json.loads((folder / "result.json").read_text()) == result
