"""Names of servers, and what stays on their devices."""

import dataclasses

DRAFTER = "drafter"  # the drafter server's name
SPARE_DRAFTER = "spare_drafter"  # drafts once the drafter is lost, where there is one
DRAFTERS = (DRAFTER, SPARE_DRAFTER)


def target(index: int) -> str:
    """Name of a target server."""
    return f"target_{index}"


@dataclasses.dataclass(frozen=True)
class Handle:
    """Stands for an array that stays on the device of the server that made it."""

    server: str
    key: int
