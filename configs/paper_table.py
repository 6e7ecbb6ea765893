"""The rows of the paper's main table (Table 2 of arXiv 2405.14105; Table 1 of its PMLR v262 version).

  python launch/reproduce.py --artifact=table --out=out/table

Measured by the authors on one A100-80GB: milliseconds per token (TPOT) of target and drafter, acceptance rate, and
the speedup of DSI over SI that they print. 50 tokens, lookahead 1, 5 or 10, at most 7 target servers.
Expected: with every token counted, DSI is 1.16 to 1.38 times as fast as SI, not 1.29 to 1.92 times.
Cost: a minute or two on 2 cores; some minutes with paced runs.
"""

from dsi_jax.sweeps.table import PaperTable, Row


def get_config() -> PaperTable:
    star = "Starcoder-15B", "Starcoder-168M"
    rows = (
        Row("Vicuna-13B", "Vicuna-68M", "CNN-DM", target_ms=37.7, drafter_ms=2.5, acceptance=0.63, printed=1.47),
        Row("Vicuna-13B", "Vicuna-68M", "Alpaca", target_ms=33.3, drafter_ms=2.5, acceptance=0.58, printed=1.41),
        Row("Vicuna-7B", "Vicuna-68M", "CNN-DM", target_ms=29.4, drafter_ms=2.5, acceptance=0.67, printed=1.29),
        Row("Vicuna-7B", "Vicuna-68M", "Alpaca", target_ms=26.0, drafter_ms=2.5, acceptance=0.59, printed=1.7),
        Row(
            "Starcoder-15B",
            "Starcoder-168M",
            "HumanEval",
            target_ms=20.6,
            drafter_ms=6.8,
            acceptance=0.93,
            printed=1.92,
        ),
        Row(*star, "MBPP", target_ms=21.0, drafter_ms=6.8, acceptance=0.9, printed=1.66),
        Row("Phi3-14B", "Phi3-4B", "HumanEval", target_ms=52.1, drafter_ms=34.0, acceptance=0.95, printed=1.41),
        Row("Phi3-14B", "Phi3-4B", "MBPP", target_ms=52.2, drafter_ms=34.3, acceptance=0.94, printed=1.37),
        Row("Phi3-14B", "Phi3-4B", "CNN-DM", target_ms=52.4, drafter_ms=34.6, acceptance=0.93, printed=1.39),
        Row("Phi3-14B", "Phi3-4B", "Alpaca", target_ms=49.6, drafter_ms=33.4, acceptance=0.87, printed=1.6),
    )
    return PaperTable(rows)
