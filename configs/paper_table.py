"""The rows of the paper's main table (Table 2 of arXiv 2405.14105; Table 1 of its PMLR v262 version).

  python launch/reproduce.py --artifact=table --out=out/table

Measured by the authors on one A100-80GB: milliseconds per token (TPOT) of target and drafter, acceptance rate, and
the speedup of DSI over SI that they print. 50 tokens, lookahead 1, 5 or 10, at most 7 target servers.
Expected: with every token counted, DSI is 1.16 to 1.38 times as fast as SI, not 1.29 to 1.92 times.
Cost: a minute or two on 2 cores; some minutes with paced runs.
"""

from dsi_jax.paper.rows import PaperTable, Row
from dsi_jax.simulation.setting import Setting


def get_config() -> PaperTable:
    vicuna_13b, vicuna_7b = ("Vicuna-13B", "Vicuna-68M"), ("Vicuna-7B", "Vicuna-68M")
    starcoder, phi3 = ("Starcoder-15B", "Starcoder-168M"), ("Phi3-14B", "Phi3-4B")
    rows = (  # target_ms, drafter_ms, acceptance
        Row(*vicuna_13b, "CNN-DM", Setting(37.7, 2.5, 0.63), printed=1.47),
        Row(*vicuna_13b, "Alpaca", Setting(33.3, 2.5, 0.58), printed=1.41),
        Row(*vicuna_7b, "CNN-DM", Setting(29.4, 2.5, 0.67), printed=1.29),
        Row(*vicuna_7b, "Alpaca", Setting(26.0, 2.5, 0.59), printed=1.7),
        Row(*starcoder, "HumanEval", Setting(20.6, 6.8, 0.93), printed=1.92),
        Row(*starcoder, "MBPP", Setting(21.0, 6.8, 0.9), printed=1.66),
        Row(*phi3, "HumanEval", Setting(52.1, 34.0, 0.95), printed=1.41),
        Row(*phi3, "MBPP", Setting(52.2, 34.3, 0.94), printed=1.37),
        Row(*phi3, "CNN-DM", Setting(52.4, 34.6, 0.93), printed=1.39),
        Row(*phi3, "Alpaca", Setting(49.6, 33.4, 0.87), printed=1.6),
    )
    return PaperTable(rows)
