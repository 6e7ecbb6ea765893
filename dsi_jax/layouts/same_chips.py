"""What one algorithm would give on a number of chips, by a profile: the best of its layouts."""

from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.layouts import fits
from dsi_jax.layouts.candidates import LOOKAHEADS, Layout, Room, layouts
from dsi_jax.layouts.costs import costs_of
from dsi_jax.layouts.predict import Case, Demand, answer_times
from dsi_jax.profiles.profile import Profile

RUNS = 128  # random outcomes over which SI is averaged


def best_on(
    profile: Profile, algorithm: str, chips: int, acceptance: float, prompt_tokens: int, new_tokens: int
) -> tuple[float, Layout] | None:
    """Predict the tokens/s of an algorithm's best layout for one sequence, and name it; None: none fits.

    Args:
      profile: of the pair.
      algorithm: a name of the registry.
      chips: at most so many are used, of one host.
      acceptance: rate at which drafts are right.
      prompt_tokens, new_tokens: of the answer; reading the prompt is part of the time.
    """
    fitting, _ = fits.split(profile)
    on_host = not profile.tps("drafter")
    every = layouts(Room(chips), fitting["target"], (0,) if on_host else fitting["drafter"])
    options = [layout for layout in every if layout.algorithm == algorithm and not fits.beside(profile, layout)]
    if not options:
        return None
    longest = max(1, profile.verify_width - 1)  # more drafts would take several runs of the program
    lookaheads = [one for one in LOOKAHEADS if one == "auto" or one <= longest]
    demand = Demand(acceptance, draw_outcomes(acceptance, RUNS, new_tokens, 0))
    costs = {layout: costs_of(profile, layout, prompt_tokens, new_tokens) for layout in options}
    cases = [Case(layout, lookahead, costs[layout]) for layout in options for lookahead in lookaheads]
    means = answer_times(cases, demand).mean(1)
    best = int(means.argmin())
    return new_tokens / float(means[best]), cases[best].layout
