"""DSI under many different settings at once: one array program for all of them, on the same outcomes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dsi_jax.array_programs.compare import TICKS_PER_MS, check_clock, slots_of, tick_plan
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
    repeats, new_tokens = wrong.shape
    times = np.zeros((len(cases), repeats))
    plans, alike = [], {}
    for index, (setting, blocks) in enumerate(cases):
        check_clock(setting, 1, new_tokens)
        plans.append(tick_plan(setting, blocks, new_tokens))
        shape = len(plans[-1].groups), _slots(slots_of(plans[-1]))
        alike.setdefault(shape, []).append(index)
    with tqdm(total=len(cases), desc=f"{DSI.label}, layouts", leave=False, delay=1) as bar:
        for (_, slots), members in sorted(alike.items()):
            for start in range(0, len(members), CASES):
                chosen = members[start : start + CASES]
                rates = [cases[index][0].acceptance for index in chosen]
                times[chosen] = _run([plans[index] for index in chosen], rates, wrong, slots)
                bar.update(len(chosen))
    return times


def _slots(needed: int) -> int:
    return next((slots for slots in SLOTS if slots >= needed), needed)


def _run(plans: list[TickPlan], rates: list[float], wrong: np.ndarray, slots: int) -> np.ndarray:
    """Run up to `CASES` plans of one shape; returns milliseconds."""
    repeats, new_tokens = wrong.shape
    missing = CASES - len(plans)
    plan = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *plans, *[plans[-1]] * missing)
    acceptance = jnp.asarray([*rates, *[rates[-1]] * missing], jnp.float32)
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
