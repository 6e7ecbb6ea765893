"""DSI under many different settings at once: one array program for all of them, on the same outcomes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dsi_jax.array_programs.compare import TICKS_PER_MS, check_clock, most_servers, tick_plan
from dsi_jax.array_programs.ticks import TickPlan, dsi_ticks
from dsi_jax.base import Blocks
from dsi_jax.policies import DSI
from dsi_jax.simulation.setting import Setting

CASES, ROWS = 32, 32  # of one call; every call has the same shape, so that few programs are compiled
SLOTS = (8, 16, 64)  # servers that a program has room for, and more where they are needed
Case = tuple[Setting, Blocks]


def dsi_cases_ms(cases: Sequence[Case], wrong: np.ndarray) -> np.ndarray:
    """Milliseconds float64[cases, repeats] that DSI takes in each case, as `compare.dsi_ms` has it.

    Args:
      cases: settings, each with a dispatch rule.
      wrong: bool[repeats, N].
    """
    times = np.zeros((len(cases), len(wrong)))
    plans: dict[int, TickPlan] = {}
    by_shape: dict[tuple[int, int], list[int]] = {}  # (groups of servers, slots of each)
    for index, (setting, blocks) in enumerate(cases):
        check_clock(setting, 1, wrong.shape[1])
        plan = plans[index] = tick_plan(setting, blocks, wrong.shape[1])
        by_shape.setdefault((len(plan.groups), _slots(most_servers(plan))), []).append(index)
    with tqdm(total=len(cases), desc=f"{DSI.label}, layouts", leave=False, delay=1) as bar:
        for (_, slots), members in sorted(by_shape.items()):
            for start in range(0, len(members), CASES):
                chosen = members[start : start + CASES]
                acceptances = [cases[index][0].acceptance for index in chosen]
                times[chosen] = _run([plans[index] for index in chosen], acceptances, wrong, slots)
                bar.update(len(chosen))
    return times


def _slots(servers: int) -> int:
    fitting = [slots for slots in SLOTS if slots >= servers]
    return fitting[0] if fitting else 1 << (servers - 1).bit_length()


def _run(plans: Sequence[TickPlan], acceptances: Sequence[float], wrong: np.ndarray, slots: int) -> np.ndarray:
    repeats, new_tokens = wrong.shape
    more = CASES - len(plans)
    plan = jax.tree.map(lambda *field: jnp.asarray(np.stack(field)), *plans, *[plans[-1]] * more)
    acceptance = jnp.asarray([*acceptances, *acceptances[-1:] * more], jnp.float32)
    ticks = []
    for start in range(0, repeats, ROWS):
        part = wrong[start : start + ROWS]
        rows = jnp.asarray(np.resize(part, (ROWS, new_tokens)))
        ticks.append(np.asarray(_dsi_cases(plan, acceptance, rows, slots))[: len(plans), : len(part)])
    return np.concatenate(ticks, axis=1) / TICKS_PER_MS


@functools.partial(jax.jit, static_argnames="slots")
def _dsi_cases(plan, acceptance, wrong, slots):
    one = lambda plan, acceptance: jax.vmap(lambda row: dsi_ticks(plan, acceptance, row, slots))(wrong)  # noqa: E731
    return jax.vmap(one)(plan, acceptance)
