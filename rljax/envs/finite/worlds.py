"""Finite worlds by name: grids drawn as text, Gymnasium's toy texts, and the standard problems of planning.

Each function returns an `MDP`. States of grids are cells, row by row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rljax.envs.finite.discretize import mountain_car, pendulum
from rljax.envs.finite.mdp import MDP, sparse
from rljax.types import Refused

LEFT, DOWN, RIGHT, UP = range(4)
_MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
_FREE = "F. "
"""Letters of cells where nothing is, whatever the arguments."""

FROZEN_LAKE_4X4 = ("SFFF", "FHFH", "FFFH", "HFFG")
FROZEN_LAKE_8X8 = (
    "SFFFFFFF",
    "FFFFFFFF",
    "FFFHFFFF",
    "FFFFFHFF",
    "FFFHFFFF",
    "FHHFFFHF",
    "FHFFHFHF",
    "FFFHFFFG",
)
_CLIFF = ("FFFFFFFFFFFF", "FFFFFFFFFFFF", "FFFFFFFFFFFF", "SCCCCCCCCCCG")
_TAXI = ("R: | : :G", " : | : : ", " : : : : ", " | : | : ", "Y| : |B: ")


def gridworld(
    rows: str | Sequence[str],
    slip: float = 0.0,
    discount: float = 0.99,
    rewards: Mapping[str, float] | None = None,
    step_reward: float = 0.0,
    terminal: str = "GH",
    walls: str = "#",
    start: str = "S",
    back_to_start: str = "",
    wind: Sequence[int] | None = None,
    dtype: Any = np.float32,
) -> MDP:
    """A grid of cells from a drawing, one letter a cell; actions: left, down, right, up.

    Free cells are "F", "." or a space; all other letters must be named by an argument.

    Args:
      rows: lines of one length, as a sequence or as one string.
      slip: probability of going to either side instead, half of it to each.
      rewards: for entering a cell from another, by its letter; {"G": 1} by default.
      step_reward: for every step besides.
      terminal: letters of cells where the episode ends.
      walls: letters of cells that cannot be entered, as what lies outside cannot.
      start: letter of the cells to start from, all as likely; without such a cell, all that are free.
      back_to_start: letters of cells that lead back to the (one) start as soon as they are entered.
      wind: for each column, the cells by which a step that begins there is blown up (Sutton and Barto 2018, example
        6.5).

    Raises:
      Refused: lines of different lengths, an unknown letter, a slip that is no probability, wind that does not fit,
        nowhere to start.
    """
    lines = rows.strip("\n").splitlines() if isinstance(rows, str) else list(rows)
    if not lines or len({len(line) for line in lines}) != 1:
        raise Refused(f"gridworld: lines must all have one length, got {[len(line) for line in lines]}")
    if not 0 <= slip <= 1:
        raise Refused(f"gridworld: slip must be in [0, 1], got {slip}")
    return gridworld_of_cells(
        np.array([list(line) for line in lines]),
        slip,
        discount,
        rewards,
        step_reward,
        terminal,
        walls,
        start,
        back_to_start,
        wind,
        dtype,
    )


def gridworld_of_cells(
    cells: np.ndarray,
    slip: float,
    discount: float,
    rewards: Mapping[str, float] | None,
    step_reward: float,
    terminal: str,
    walls: str,
    start: str,
    back_to_start: str,
    wind: Sequence[int] | None,
    dtype: Any,
) -> MDP:
    """`gridworld` from an array of letters [height, width], for grids of millions of cells."""
    height, width = cells.shape
    if wind is not None and len(wind) != width:
        raise Refused(f"gridworld: wind must have one number for each of {width} columns, got {len(wind)}")
    letters = cells.ravel()
    gains = {"G": 1.0} if rewards is None else rewards
    known = sorted({*_FREE, *terminal, *walls, *start, *back_to_start, *gains})
    if len(unknown := np.flatnonzero(~np.isin(letters, known))):
        at_row, at_column = divmod(int(unknown[0]), width)
        raise Refused(
            f"gridworld: {str(letters[unknown[0]])!r} in row {at_row}, column {at_column} (from 0) is not a cell; "
            f"allowed are {' '.join(map(repr, known))}, and letters that rewards or another argument names"
        )
    solid = np.isin(letters, list(walls))
    ends = np.isin(letters, list(terminal)) | solid
    starts = (letters == start) & ~solid
    if not starts.any():
        starts = ~ends
    if not starts.any():
        raise Refused("gridworld: there is no cell to start from: all are walls or terminal")
    if back_to_start and starts.sum() != 1:
        raise Refused(f"gridworld: back_to_start needs one start, there are {starts.sum()}")

    cell = np.arange(height * width, dtype=np.int32)
    row, column = np.divmod(cell, width)
    blown = row if wind is None else row - np.asarray(wind)[column]

    def after(move: int) -> np.ndarray:
        """The cell that each cell leads to."""
        down, right = _MOVES[move]
        target_row, target_column = np.clip(blown + down, 0, height - 1), np.clip(column + right, 0, width - 1)
        target = (target_row * width + target_column).astype(np.int32)
        return np.where(solid[target], cell, target)

    targets = [after(move) for move in range(4)]
    gain = np.full(cell.size, float(step_reward))
    for letter, reward in gains.items():
        gain[letters == letter] += reward
    sides = ((-1, slip / 2), (0, 1 - slip), (1, slip / 2)) if slip else ((0, 1.0),)
    successors = np.stack([np.stack([targets[(move + turn) % 4] for turn, _ in sides]) for move in range(4)])
    shares = np.array([share for _, share in sides])
    probabilities = np.broadcast_to(shares[:, None], successors.shape)

    returning = np.isin(letters, list(back_to_start))

    def paid(target: np.ndarray) -> np.ndarray:
        # A step against a wall enters nothing, but no step stays in a cell that leads back.
        return np.where((target == cell) & ~returning, step_reward, gain[target])

    expected = np.stack([sum(p * paid(s) for p, s in zip(shares, of_move, strict=True)) for of_move in successors])
    if back_to_start:
        successors = np.where(returning[successors], np.argmax(starts), successors)
    return sparse(successors, probabilities, expected, discount, ends, starts / starts.sum(), dtype)


def frozen_lake(
    rows: Sequence[str] = FROZEN_LAKE_8X8, slip: float = 2 / 3, discount: float = 0.99, dtype: Any = np.float32
) -> MDP:
    """Gymnasium's FrozenLake-v1: `slip` is 1 - success_rate; 0 for a lake that is not slippery."""
    return gridworld(rows, slip, discount, dtype=dtype)


def cliff_walking(slip: float = 0.0, discount: float = 0.99, dtype: Any = np.float32) -> MDP:
    """Gymnasium's CliffWalking-v1, with its actions: up, right, down, left. `slip` is 2/3 where it is slippery."""
    mdp = gridworld(
        _CLIFF, slip, discount, rewards={"C": -99.0}, step_reward=-1.0, terminal="G", back_to_start="C", dtype=dtype
    )
    order = np.array([UP, RIGHT, DOWN, LEFT])
    assert mdp.successors is not None
    return mdp.replace(
        rewards=mdp.rewards[order], probabilities=mdp.probabilities[order], successors=mdp.successors[order]
    )


def taxi(discount: float = 0.99, dtype: Any = np.float32) -> MDP:
    """Gymnasium's Taxi-v4, dry (Dietterich 2000): south, north, east, west, pick up, drop off.

    State ((row * 5 + column) * 5 + passenger) * 4 + destination; passenger 4 is in the taxi. One more state, the last,
    is where an episode ends.
    """
    stands = np.array([0, 4, 20, 23])  # cells: R, G, Y, B
    state = np.arange(500, dtype=np.int32)
    row, column, passenger, destination = np.unravel_index(state, (5, 5, 5, 4))
    cell = row * 5 + column

    def encode(row: Any, column: Any, passenger: Any) -> np.ndarray:
        return np.ravel_multi_index((row, column, passenger, destination), (5, 5, 5, 4)).astype(np.int32)

    open_east = np.array([[line[2 * c + 1 : 2 * c + 2] == ":" for c in range(5)] for line in _TAXI])
    open_west = np.pad(open_east[:, :-1], ((0, 0), (1, 0)))
    aboard = passenger == 4
    waiting_here = ~aboard & (cell == stands[np.minimum(passenger, 3)])
    at_stand, stand = np.isin(cell, stands), np.minimum(np.searchsorted(stands, cell), 3)
    delivered = aboard & (cell == stands[destination])
    set_down = aboard & at_stand

    successors = np.stack(
        [
            encode(np.minimum(row + 1, 4), column, passenger),
            encode(np.maximum(row - 1, 0), column, passenger),
            encode(row, column + open_east[row, column], passenger),
            encode(row, column - open_west[row, column], passenger),
            encode(row, column, np.where(waiting_here, 4, passenger)),
            np.where(delivered, 500, encode(row, column, np.where(set_down, stand, passenger))),
        ]
    )[:, None]
    rewards = np.full((6, 500), -1.0)
    rewards[4, ~waiting_here] = -10.0
    rewards[5] = np.where(delivered, 20.0, np.where(set_down, -1.0, -10.0))
    start = ~aboard & (passenger != destination)
    padding = ((0, 0), (0, 0), (0, 1))
    return sparse(
        np.pad(successors, padding),
        np.pad(np.ones((6, 1, 500)), padding),
        np.pad(rewards, ((0, 0), (0, 1))),
        discount,
        terminal=np.arange(501) == 500,
        start=np.append(start / start.sum(), 0.0),
        dtype=dtype,
    )


def garnet(
    num_states: int, num_actions: int, successors: int, discount: float = 0.95, seed: int = 0, dtype: Any = np.float32
) -> MDP:
    """A random process (Archibald et al. 1995): `successors` different states after each action, in random shares.

    Rewards are normally distributed. There are no terminal states.
    """
    if not 1 <= successors <= num_states:
        raise Refused(f"garnet: successors must be from 1 to num_states = {num_states}, got {successors}")
    rng = np.random.default_rng(seed)
    shape = (num_actions, num_states)
    # Different ones, all sets as likely, for any number of states: a draw made before stands for the last state of its
    # range, which no earlier range had (Floyd; Bentley and Floyd 1987, "A sample of brilliance").
    drawn = np.empty((*shape, successors), np.int32)
    for k, last in enumerate(range(num_states - successors, num_states)):
        draw = rng.integers(0, last + 1, shape)
        drawn[..., k] = np.where((drawn[..., :k] == draw[..., None]).any(-1), last, draw)
    drawn.sort(axis=-1)
    cuts = np.sort(rng.uniform(size=(*shape, successors - 1)), axis=-1)
    shares = np.diff(np.concatenate([np.zeros((*shape, 1)), cuts, np.ones((*shape, 1))], -1), axis=-1)
    return sparse(drawn.swapaxes(1, 2), shares.swapaxes(1, 2), rng.normal(size=shape), discount, dtype=dtype)


def gambler(heads: float = 0.4, goal: int = 100, discount: float = 1.0, dtype: Any = np.float32) -> MDP:
    """The gambler's problem (Sutton and Barto 2018, example 4.3): stakes 1 to goal // 2 on the flip of a coin.

    States are the capital, 0 to `goal`; a stake above the capital, or above what is missing, is cut down to it.
    """
    capital = np.arange(goal + 1, dtype=np.int32)
    stake = np.minimum(np.arange(1, goal // 2 + 1)[:, None], np.minimum(capital, goal - capital))
    successors = np.stack([capital + stake, capital - stake], axis=1)
    probabilities = np.broadcast_to(np.array([heads, 1 - heads])[:, None], successors.shape)
    rewards = heads * (successors[:, 0] == goal)
    ends = (capital == 0) | (capital == goal)
    return sparse(successors, probabilities, rewards, discount, ends, dtype=dtype)


def inventory(
    capacity: int = 20,
    demand: float = 5.0,
    price: float = 2.0,
    cost: float = 1.0,
    holding: float = 0.1,
    fixed: float = 2.0,
    discount: float = 0.95,
    dtype: Any = np.float32,
) -> MDP:
    """A shop that orders at the end of each day (Puterman 1994, section 3.2): states are the stock, actions the order.

    Demand is Poisson; demand beyond the stock is lost. An order above the capacity is cut down to it.
    """
    from scipy.stats import poisson

    stock = np.arange(capacity + 1)
    order = np.minimum(np.arange(capacity + 1)[:, None], capacity - stock)  # [A, S]
    available = stock + order
    left = np.arange(capacity + 1)[:, None]  # [K, 1]: what is left at the end of the next day
    sold = available[:, None] - left
    probabilities = np.where(left > 0, poisson.pmf(sold, demand), poisson.sf(available[:, None] - 1, demand))
    probabilities = np.where(sold >= 0, probabilities, 0.0)
    revenue = (probabilities * price * sold).sum(1)
    rewards = revenue - cost * order - fixed * (order > 0) - holding * available
    successors = np.broadcast_to(left, probabilities.shape)
    return sparse(successors, probabilities, rewards, discount, dtype=dtype)


WORLDS: dict[str, Callable[..., MDP]] = {
    "frozen_lake": frozen_lake,
    "cliff_walking": cliff_walking,
    "taxi": taxi,
    "gridworld": gridworld,
    "garnet": garnet,
    "gambler": gambler,
    "inventory": inventory,
    "mountain_car": mountain_car,
    "pendulum": pendulum,
}
"""Worlds by name, for `rljax.make("finite:taxi")` and experiments/planning.py."""
