"""DSI under many different settings at once: one array program for all of them, on the same outcomes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dsi_jax.array_programs.compare import TICKS_PER_MS, check_clock, tick_plan
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
    by_slots: dict[int, list[int]] = {}
    for index, (setting, _) in enumerate(cases):
        by_slots.setdefault(_slots(setting.sp_degree), []).append(index)
    with tqdm(total=len(cases), desc=f"{DSI.label}, layouts", leave=False, delay=1) as bar:
        for slots, members in sorted(by_slots.items()):
            for start in range(0, len(members), CASES):
                chosen = members[start : start + CASES]
                times[chosen] = _run([cases[index] for index in chosen], wrong, slots)
                bar.update(len(chosen))
    return times


def _slots(sp_degree: int) -> int:
    fitting = [slots for slots in SLOTS if slots >= sp_degree]
    return fitting[0] if fitting else 1 << (sp_degree - 1).bit_length()


def _run(cases: Sequence[Case], wrong: np.ndarray, slots: int) -> np.ndarray:
    repeats, new_tokens = wrong.shape
    for setting, _ in cases:
        check_clock(setting, 1, new_tokens)
    filled = [*cases, *[cases[-1]] * (CASES - len(cases))]
    plans = [tick_plan(setting, blocks, new_tokens) for setting, blocks in filled]
    plan = TickPlan(*(jnp.asarray(np.stack(field)) for field in zip(*plans, strict=True)))
    acceptance = jnp.asarray([setting.acceptance for setting, _ in filled], jnp.float32)
    ticks = []
    for start in range(0, repeats, ROWS):
        part = wrong[start : start + ROWS]
        rows = jnp.asarray(np.resize(part, (ROWS, new_tokens)))
        ticks.append(np.asarray(_dsi_cases(plan, acceptance, rows, slots))[: len(cases), : len(part)])
    return np.concatenate(ticks, axis=1) / TICKS_PER_MS


@functools.partial(jax.jit, static_argnames="slots")
def _dsi_cases(plan, acceptance, wrong, slots):
    one = lambda plan, acceptance: jax.vmap(lambda row: dsi_ticks(plan, acceptance, row, slots))(wrong)  # noqa: E731
    return jax.vmap(one)(plan, acceptance)
