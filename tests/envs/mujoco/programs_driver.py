"""Many programs with native simulators inside, of many sizes, on two devices and from several threads at once.

XLA runs a host callback on one of its few threads, and while it waits for the simulators that thread is taken: a
callback that needs another of them can wait for ever. Large matrix products keep all threads busy meanwhile.
"""

import threading

import jax

jax.config.update("jax_num_cpu_devices", 2)

import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

import rljax
from rljax.envs import AutoReset

tasks = {name: rljax.make(name) for name in ("inverted_pendulum", "reacher", "ant")}
mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,))
split = PartitionSpec("devices")


def program(env, size):
    batch = AutoReset(env, size)
    policy = jnp.zeros((*env.observation_space.shape, *env.action_space.shape))

    def roll(keys):
        def body(carry, _):
            state, product = carry
            return (batch.step(state, state.obs @ policy), jnp.tanh(product @ product)), None

        carry = (batch.reset(keys[0]), jnp.ones((256, 256)) * 1e-3)
        (state, product), _ = jax.lax.scan(body, carry, None, 4)
        return state.obs.sum(axis=1) + product.sum()

    return jax.jit(jax.shard_map(roll, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))


programs = [program(env, size) for env, size in zip(tasks.values(), (1, 257, 16), strict=True)]
programs.append(program(tasks["reacher"], 5000))


def run(index):
    for repeat in range(5):
        keys = jax.random.split(jax.random.key(repeat), 2)
        assert jnp.isfinite(programs[index](keys)).all()


threads = [threading.Thread(target=run, args=(index,)) for index in range(len(programs))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("finished")
