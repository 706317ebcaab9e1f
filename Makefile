# make demo and make test are all the set-up there is: both make the environment, install into it, and run.

SHELL := /bin/sh
VENV ?= .venv
PYTHON ?=
PEERS_VENV ?= .venv-peers
PEERS_PYTHON ?=
PEERS_STEPS ?= 100000
PEERS_MUJOCO_STEPS ?= 50000
PEERS_OFF_POLICY_STEPS ?= 13000
PEERS_SEED ?= 0
ARGS ?=

bin := $(VENV)/bin
peer_tasks := cartpole mountain_car mountain_car_continuous acrobot pendulum
peer_mujoco_tasks := half_cheetah hopper walker2d
peer_mujoco_results := $(foreach task,$(peer_mujoco_tasks),$(foreach peer,sb3 sbx,benchmarks/results/ppo-$(task)-$(peer).json))
peer_results := $(foreach task,$(peer_tasks),$(foreach peer,sb3 sbx cleanrl,benchmarks/results/ppo-$(task)-$(peer).json)) \
    $(peer_mujoco_results)
off_policy_runs := sac-half_cheetah sac-pendulum td3-half_cheetah td3-pendulum dqn-cartpole dqn-acrobot
off_policy_results := $(foreach run,$(off_policy_runs),$(foreach peer,sb3 sbx cleanrl,benchmarks/results/$(run)-$(peer).json))
brax_result := benchmarks/results/ppo-half_cheetah-brax.json

.DEFAULT_GOAL := help
.PHONY: help demo docs test test-slow lint format bench bench-budget bench-off-policy bench-offline bench-planning bench-progress bench-zoo physics simulators peers tables requirements clean peers-as-installed peers-sac peers-td3 peers-dqn install install-dev install-peers

help: ## This list
	@echo "rljax: make TARGET [ARGS='...'] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: install ## Set up, then train CartPole with PPO (ARGS are for experiments/ppo.py: --help lists them)
	@$(bin)/python experiments/ppo.py --overwrite $(ARGS)

test: install-dev ## Set up, then run the tests (ARGS are for pytest)
	@$(bin)/python -m pytest $(ARGS)

test-slow: install-dev ## The tests that train for minutes
	@JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(bin)/python -m pytest -m slow -o faulthandler_timeout=3600 $(ARGS)

lint: install-dev ## Check style, format and types
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy

format: install-dev ## Format, and mend what ruff can mend
	@$(bin)/ruff check --fix-only .
	@$(bin)/ruff format .

bench: install-dev ## Measure rljax on this machine: benchmarks/results/*.json
	@$(bin)/python -m benchmarks.ppo $(ARGS)

bench-off-policy: install-dev ## Measure SAC, FlashSAC, CrossQ, TD3, REPPO, DQN and PQN: hours; goes on where it was interrupted
	@for algorithm in sac flash_sac crossq td3 reppo dqn pqn; do $(bin)/python -m benchmarks.$$algorithm $(ARGS) || exit 1; done

bench-budget: install-dev ## Which algorithm wins at which budget, beside stable-baselines3 and sbx: hours; goes on
	@$(bin)/python -m benchmarks.budget $(ARGS)

bench-offline: install-dev ## Measure the offline algorithms on the datasets of experiments/collect.py: hours; goes on
	@$(bin)/python -m benchmarks.offline $(ARGS)

bench-planning: install-dev ## Measure planning, beside pymdptoolbox and QuantEcon (after make install-peers)
	@$(bin)/python -m benchmarks.planning $(ARGS)

bench-progress: install-dev ## Measure how well the progress critics find faults of demonstrations: an hour; goes on
	@$(bin)/python -m benchmarks.progress $(ARGS)

physics: install-dev ## Measure the engines on this machine, beside Gymnasium and what else is installed
	@$(bin)/python -m benchmarks.physics $(ARGS)

peers: $(peer_results) $(brax_result) peers-as-installed peers-sac peers-td3 peers-dqn ## Measure the libraries we are compared with

peers-sac: $(filter benchmarks/results/sac-%,$(off_policy_results))
peers-td3: $(filter benchmarks/results/td3-%,$(off_policy_results))
peers-dqn: $(filter benchmarks/results/dqn-%,$(off_policy_results))

# Always measured again: a result says what this machine did today. Never in parallel: they would share the cores.
.NOTPARALLEL:
.PHONY: $(peer_results) $(off_policy_results) $(brax_result)
peers_steps = $(PEERS_STEPS)
# Too few to learn a robot: these measure speed.
$(peer_mujoco_results): peers_steps = $(PEERS_MUJOCO_STEPS) --episodes 10
# Here the first 10,000 steps are random, and not timed.
benchmarks/results/sac-half_cheetah-%: peers_steps = $(PEERS_OFF_POLICY_STEPS) --episodes 10
benchmarks/results/td3-half_cheetah-%: peers_steps = $(PEERS_OFF_POLICY_STEPS) --episodes 10
# These measure returns too; DQN's steps are those that its settings were tuned for.
benchmarks/results/sac-pendulum-%: peers_steps = 20000
benchmarks/results/td3-pendulum-%: peers_steps = 20000
benchmarks/results/dqn-cartpole-%: peers_steps = 50000
benchmarks/results/dqn-acrobot-%: peers_steps = 100000
$(peer_results) $(off_policy_results): install-peers
	@set -- $(subst -, ,$(basename $(@F))); \
	$(PEERS_VENV)/bin/python benchmarks/peers/$${3}_$$1.py --task $$2 --steps $(peers_steps) --seed $(PEERS_SEED) --output $@

# The others have environments of their own, since their pins differ from ours; rljax itself depends on Brax.
$(brax_result): install
	@$(bin)/python benchmarks/peers/brax_ppo.py --task half_cheetah --steps $(PEERS_MUJOCO_STEPS) --episodes 10 \
	    --seed $(PEERS_SEED) --output $@

docs: install-dev ## Build the documentation: docs/_build/html
	@$(bin)/python -m sphinx -b html -n -W --keep-going -q docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"

bench-zoo: install-dev ## Play every policy of the zoo again, and compare with the scores on their cards
	@$(bin)/python -m benchmarks.zoo $(ARGS)

simulators: install-dev ## Measure simulators that are not JAX: Gymnasium's, EnvPool's
	@$(bin)/python -m benchmarks.simulators $(ARGS)

tables: install-dev ## Generate the tables in benchmarks/README.md from the results
	@$(bin)/python -m rljax.analysis tables $(ARGS)

# The drivers use the settings that are fastest on one core. What a user gets who changes nothing is measured too.
peers-as-installed: install-peers
	@$(PEERS_VENV)/bin/python benchmarks/peers/sb3_ppo.py --task cartpole --steps $(PEERS_STEPS) --seed $(PEERS_SEED) \
	    --as-installed --output benchmarks/results/ppo-cartpole-sb3-as-installed.json

# Resolved for every supported Python and platform at once, so that one file is everybody's constraint.
# The peers' own extra is resolved without rljax; PyTorch's CUDA packages are left to PyTorch, whose CPU build has none.
uv_compile = .venv-uv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
    --custom-compile-command 'make requirements' $(if $(UPGRADE),--upgrade)
peers_extra = import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"], sep="\n")
requirements: ## Write requirements*.txt again (UPGRADE=1 takes the newest releases; else pins that fit stay)
	@python=$(or $(PYTHON),$$(scripts/find-python)) && $$python -m venv .venv-uv
	@.venv-uv/bin/python -m pip install -qq --disable-pip-version-check uv
	@$(uv_compile) --extra dev pyproject.toml --output-file requirements.txt >/dev/null
	@$(uv_compile) --extra dev --extra cuda12 --constraint requirements.txt pyproject.toml \
	    --output-file requirements-cuda12.txt >/dev/null
	@.venv-uv/bin/python -c '$(peers_extra)' | $(uv_compile) - --output-file benchmarks/peers/requirements.txt >/dev/null
	@cd benchmarks/peers && sed -E '/^(nvidia|cuda|triton)/d; s/^(torch==[0-9.]+).*/\1/' requirements.txt >resolved && \
	    mv resolved requirements.txt

install:
	@scripts/install runtime $(VENV) $(PYTHON)

install-dev:
	@scripts/install dev $(VENV) $(PYTHON)

install-peers:
	@scripts/install peers $(PEERS_VENV) $(PEERS_PYTHON)

clean: ## Remove the environments, caches and build output (runs/ and results stay)
	rm -rf $(VENV) $(PEERS_VENV) .venv-uv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist docs/_build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
