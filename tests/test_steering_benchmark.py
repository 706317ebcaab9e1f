"""The benchmark of steering: gym-pusht as our PushT sees it, and how runs become a table."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import campaign, steering_scores


def test_gym_pusht_begins_and_is_observed_as_ours():
    pytest.importorskip("gym_pusht.envs.pusht")
    from benchmarks.steering import both_engines

    key, episodes = jax.random.key(0), 8
    engines = both_engines(key, episodes)
    keys = jax.random.split(jax.random.split(key)[0], episodes)  # as evaluate has them
    states = {name: jax.jit(jax.vmap(env.reset))(keys) for name, env in engines.items()}
    ours, theirs = states.values()
    np.testing.assert_allclose(theirs.obs, ours.obs, rtol=1e-5, atol=1e-5)
    target = jnp.full((episodes, 2), 30.0)
    ours, theirs = (jax.jit(jax.vmap(engines[name].step))(state, target) for name, state in states.items())
    np.testing.assert_allclose(theirs.obs[:, :2], ours.obs[:, :2], atol=0.05)
    assert np.abs(theirs.obs[:, :2] - states["rljax"].obs[:, :2]).min() > 1.0  # the same target moved it
    assert ours.metrics.keys() >= theirs.metrics.keys() == {"coverage", "success"}
    np.testing.assert_allclose(theirs.metrics["coverage"], ours.metrics["coverage"], atol=0.02)


def test_a_level_is_reached_where_three_evaluations_in_a_row_are_there_on_average():
    points = [[100, 0.0], [200, 0.9], [300, 0.0], [400, 0.5], [500, 0.7], [600, 0.6]]
    assert steering_scores.reached(points, 0.4) == 200  # (0.9 + 0.0 + 0.5) / 3
    assert steering_scores.reached(points, 0.6) == 400
    assert steering_scores.reached(points, 0.7) is None
    assert steering_scores.reached(points[:2], 0.0) is None


def result(method, seed, success, curve=None, stage="", task="push_t"):
    online = curve is not None
    return {
        "task": task,
        "method": method,
        "stage": stage,
        "seed": seed,
        "steps": 300 if online else None,
        "reward": "dense" if online else None,
        "success": success,
        "deterministic": success,
        "curve": curve,
        "seconds": 90.0,
    }


def test_the_table_counts_seeds_and_the_steps_to_twenty_points_more():
    rising = [[100, 0.3], [200, 0.6], [300, 0.9]]
    found = [result("diffusion_policy", seed, 0.3) for seed in (0, 1)]
    found += [result("dsrl_sac", 0, 0.9, rising), result("dsrl_sac", 1, 0.3, [[step, 0.3] for step, _ in rising])]
    record = steering_scores.table(found)
    base, steered = ([str(cell) for cell in row] for row in record["rows"])
    assert [base[5], *base[-4:]] == ["30.0 (30.0 to 30.0) (2)", "–", "–", "2", "not recorded †"]
    assert [steered[5], *steered[-4:-2]] == ["60.0 (30.0 to 90.0) (2)", "100 (1 of 2)", "no (2)"]
    assert all(len(row) == len(record["columns"]) for row in record["rows"])


def test_what_is_missing_is_run_and_what_is_finished_is_not(tmp_path):
    """Of the lace, gr_rl comes first: it makes what the others begin from, and is itself DSRL at its end."""
    settings = steering_scores.Settings(seeds=2, demos=tmp_path / "demos.npz", runs=tmp_path)
    bases = list(steering_scores.base_jobs(settings))
    laces = ["experiments/gr_rl.py"] * 2
    assert [command[1] for command in bases] == ["experiments/diffusion_policy.py", *laces] * 2
    named = {command[command.index("--left-first") + 1]: command[command.index("--name") + 1] for command in bases[4:]}
    assert named == {"1.0": "lace-seed1", "0.5": "lace_either_hand-seed1"}
    # Of PushT no pipeline and no chunks; of a lace no dsrl_sac; and SAC, which has no demonstrations, of one of them.
    each = 3 * len(steering_scores.METHODS) - 2 - 2 - 3
    assert len(list(steering_scores.own_jobs(settings))) == 2 * each
    folder = tmp_path / "steer" / "push_t-dsrl_na-seed1"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text('{"members": [')  # half-written
    assert len(list(steering_scores.own_jobs(settings))) == 2 * each
    (folder / "evaluation.json").write_text(json.dumps({"members": [{"seed": 1}]}))
    made = {"total_steps": 300_000, "env": {"reward": "dense"}, "config": {"precision": "float32"}}
    (folder / "config.json").write_text(json.dumps(made))
    assert len(list(steering_scores.own_jobs(settings))) == 2 * each  # of another precision
    (folder / "config.json").write_text(json.dumps(made | {"config": {"precision": "bfloat16"}}))
    left = list(steering_scores.own_jobs(settings))
    assert len(left) == 2 * each - 1
    assert not any(folder.name in command for command in left)
    residual = next(command for command in left if "lace-residual-seed1" in command)
    assert residual[residual.index("--base") + 1] == str(tmp_path / "gr_rl" / "lace-seed1" / "3-mirrored")
    assert residual[residual.index("--rate-limit") + 1] == "0.1"
    alike = next(command for command in left if "lace_either_hand-rlpd_chunks-seed1" in command)
    assert alike[1] == "experiments/rlpd.py"
    assert alike[alike.index("--weight") + 1] == str(tmp_path / "gr_rl/lace_either_hand-seed1/0-progress/weight.npy")
    assert [alike[alike.index(f"--{flag}") + 1] for flag in ("history", "executed", "delay")] == ["2", "4", "1"]
    alone = dataclasses.replace(settings, demos=None, tasks=("push_t",))
    assert [command[1] for command in steering_scores.own_jobs(alone)] == ["experiments/sac.py"] * 2
    assert list(steering_scores.base_jobs(alone)) == []


def test_runs_that_are_committed_count_where_they_are_asked_for(tmp_path, monkeypatch):
    """Neither they nor the policies that they began from are run again; a run of this machine comes before them."""
    stages = [result("gr_rl", 0, s, stage=name, task="lace") for s, name in ((0.1, "everything"), (0.4, "filtered"))]
    runs = [*stages, *(result(method, 1, 0.5, [[100, 0.5]]) for method in steering_scores.STEERED)]
    folders = {"runs": tmp_path, "results": tmp_path / "results"}
    settings = steering_scores.Settings(seeds=2, demos=tmp_path / "demos.npz", **folders)
    campaign.write(settings, "steering-scores", {"runs": runs})
    assert list(steering_scores.results(settings)) == []
    settings = dataclasses.replace(settings, committed=True)
    assert list(steering_scores.results(settings)) == runs
    push_t = dataclasses.replace(settings, tasks=("push_t",))
    assert [command[command.index("--seed") + 1] for command in steering_scores.base_jobs(push_t)] == ["0"]
    assert len(list(steering_scores.own_jobs(push_t))) == 2 * (len(steering_scores.METHODS) - 2) - 4
    lace = dataclasses.replace(settings, tasks=("lace",), methods=("gr_rl",))
    assert [command[command.index("--seed") + 1] for command in steering_scores.base_jobs(lace)] == ["1"]
    monkeypatch.setattr(steering_scores, "_finished", lambda _: iter([runs[0] | {"success": 0.2}]))
    assert [run["success"] for run in steering_scores.results(settings)][:2] == [0.2, 0.4]


def test_what_a_stage_adds_is_counted_within_each_seed():
    """Of a seed that lacks a stage, nothing is. Sign-flips of (0.2, 0.4): no mean of four is larger than theirs."""
    stages = [("everything", (0.1, 0.3, 0.5)), ("filtered", (0.3, 0.7, None))]
    found = [
        result("gr_rl", seed, success, stage=stage, task="lace")
        for stage, of in stages
        for seed, success in enumerate(of)
        if success is not None
    ]
    (row,) = steering_scores.gains(found)["rows"]
    assert row == ["lace", "filtered", "everything", "+30.0 (+20.0 to +40.0) (2)", "2 of 2", "0.250"]


def test_what_steering_adds_is_counted_within_each_seed():
    found = [result("diffusion_policy", seed, 0.3) | {"coverage": 0.8} for seed in (0, 1)]
    found += [result("dsrl_sac", seed, 0.7, [[100, 0.7]]) | {"coverage": 0.9} for seed in (1, 2)]
    (row,) = steering_scores.gains(found)["rows"]
    assert row == ["push_t", "dsrl_sac, dense reward", "diffusion_policy", "+40.0 (1)", "1 of 1", "–"]
    column = steering_scores.table(found)["columns"].index("highest coverage")
    assert [r[column].split(" ")[0] for r in steering_scores.table(found)["rows"]] == ["80.0", "90.0"]
