"""How the reference simulator counts, which explains much of what the paper prints."""

import numpy as np

from dsi_jax.planning.blocks import smallest_sufficient_lookahead
from dsi_jax.simulation.setting import Setting

PRINTED_LOOKAHEADS = (1, 5, 10)  # those the authors searched


def reference_accounting(setting: Setting, repeats: int = 2000, seed: int = 0) -> float:
    """The speedup of DSI over SI as the reference simulator counts it, each at its best k of 1, 5, 10.

    Between two rejections lie x accepted drafts. The reference credits both algorithms with x tokens for them and
    leaves out the corrected one. It charges DSI j k c + t and SI t + j (k c + t), where j = floor(x / k) + 1, and so
    makes SI pay one target forward too many at every rejection.

    Raises:
      ValueError: an acceptance rate of 0 or 1.
    """
    t, c, a, n = setting.target_ms, setting.drafter_ms, setting.acceptance, setting.new_tokens
    if not 0 < a < 1:
        raise ValueError(f"acceptance={a} must lie inside (0, 1): the reference counts accepted drafts alone")
    accepted = np.random.default_rng(seed).geometric(1 - a, (repeats, _enough_segments(a, n))) - 1
    counted = np.cumsum(accepted, axis=1) - accepted < n  # segments begun before all tokens are credited
    si, dsi = [], []
    for k in PRINTED_LOOKAHEADS:
        rounds = accepted // k + 1
        si.append(((t + rounds * (k * c + t)) * counted).sum(1).mean())
        if k >= smallest_sufficient_lookahead(t, c, setting.sp_degree):
            dsi.append(((rounds * k * c + t) * counted).sum(1).mean())
    return float(min(si) / min(dsi))


def _enough_segments(acceptance: float, new_tokens: int) -> int:
    """More segments than `new_tokens` accepted drafts ever need: the mean number and many times its deviation."""
    mean = new_tokens * (1 - acceptance) / acceptance
    return int(mean + 12 * np.sqrt(mean / acceptance + 1) + 12)
