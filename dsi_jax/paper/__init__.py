"""The paper's results, reproduced: table, heatmaps, example, Algorithm 1, closed forms, measurement protocols, figures.

`artifacts` makes each of them; `launch/reproduce.py` is its command line, and docs/paper.md says what came out.
"""
