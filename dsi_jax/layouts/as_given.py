"""What a config should reach on the layout that it has: non-SI, SI and DSI on its own servers, in virtual time."""

from collections.abc import Iterator

import numpy as np

from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.config import Config
from dsi_jax.layouts.candidates import Layout
from dsi_jax.layouts.costs import costs_of
from dsi_jax.layouts.fits import beside, bytes_of, room_of, size
from dsi_jax.layouts.predict import Case, Demand, Prediction, event_run, predict
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.profiles.profile import Profile

RUNS = 24  # each played by the event loop, catch-ups included


def predict_config(
    config: Config, profile: Profile, acceptance: float, prompt_tokens: int = 64, runs: int = RUNS, seed: int = 0
) -> list[Prediction]:
    """Predict non-SI, SI and DSI on the servers of a config, all on the same random outcomes.

    Non-SI has one target server and SI has one and the drafter, whatever the SP degree; both leave the rest idle. There
    is no DSI where drafter and target share chips.

    Args:
      config: its mesh, its lookahead and its `max_new_tokens` count.
      profile: what forwards of its models take.
      acceptance: rate at which drafts are right, independently.
      prompt_tokens: of the prompt.
      runs, seed: of the outcomes.

    Raises:
      ValueError: the mesh needs what the profile does not know, or a server does not fit into a chip's memory.
    """
    check_fit(config, profile)
    demand = Demand(acceptance, draw_outcomes(acceptance, runs, config.max_new_tokens, seed))
    cases = [
        Case(layout, config.lookahead, costs_of(profile, layout, prompt_tokens, config.max_new_tokens))
        for layout in _layouts(config)
    ]
    return [predict(case, demand, _answer_times(case, demand)) for case in cases]


def _layouts(config: Config) -> Iterator[Layout]:
    mesh = config.mesh
    if mesh.target_fsdp > 1:
        raise ValueError(f"target_fsdp={mesh.target_fsdp} is not reckoned with; set mesh.target_fsdp=1")
    yield Layout(NON_SI.name, mesh.target_tp)
    yield Layout(SI.name, mesh.target_tp, 1, mesh.drafter_tp, shared=mesh.drafter_shares)
    if not mesh.drafter_shares:
        yield Layout(DSI.name, mesh.target_tp, mesh.sp_degree, mesh.drafter_tp)


def _answer_times(case: Case, demand: Demand) -> np.ndarray:
    return np.asarray([event_run(case, demand, row).wall_s for row in demand.wrong])


def check_fit(config: Config, profile: Profile) -> dict[str, int]:
    """Bytes on each chip of the target's and the drafter's servers.

    Raises:
      ValueError: more than a chip has room for, with both numbers and what would help.
    """
    mesh, needed = config.mesh, {}
    for role, tp, field in (("target", mesh.target_tp, "target_tp"), ("drafter", mesh.drafter_tp, "drafter_tp")):
        if not tp:
            continue
        needed[role] = bytes_of(profile.server(role, tp), config.concurrency)
        room = room_of(profile)
        if room is not None and needed[role] > room:
            raise ValueError(
                f"{field}={tp}: the {role} needs {size(needed[role])} a chip, and a {profile.chip} has room for "
                f"{size(room)} of its {size(profile.capacity)}; raise mesh.{field}, or lower max_length"
            )
    shared = Layout(SI.name, mesh.target_tp, 1, mesh.drafter_tp, shared=mesh.drafter_shares)
    if misfit := beside(profile, shared, config.concurrency):
        raise ValueError(f"{misfit}; set mesh.drafter_shares=false, or lower max_length")
    return needed
