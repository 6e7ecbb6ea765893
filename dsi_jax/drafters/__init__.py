"""What proposes tokens, one file a kind, and the registry that all else takes them from."""

from dsi_jax.drafters.contract import Context, Drafter, Kind, Proposal
from dsi_jax.drafters.model import MODEL
from dsi_jax.drafters.ngram import NGRAM
from dsi_jax.drafters.synthetic import SYNTHETIC

KINDS: dict[str, Kind] = {kind.name: kind for kind in (MODEL, NGRAM, SYNTHETIC)}

__all__ = ["KINDS", "Context", "Drafter", "Kind", "Proposal", "find_kind", "register"]


def register(kind: Kind) -> Kind:
    """Add a kind of your own; from then on its name can stand in a config.

    Raises:
      ValueError: the name is taken by another kind.
    """
    if KINDS.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"there is a drafter kind {kind.name!r} already; choose another name")
    return kind


def find_kind(name: str) -> Kind:
    """Look a kind up by its name.

    Raises:
      ValueError: there is no such kind; the known ones are listed.
    """
    if name not in KINDS:
        raise ValueError(f"drafter.kind={name!r} must be one of {', '.join(KINDS)}")
    return KINDS[name]
