"""Faults that are made on purpose: which server meets what, and when. Read from text such as "target_2:crash@40".

A fault begins with the first job of its server that is sent when so many tokens of the request are settled, and ends
with the first one that is sent when so many are.
"""

import dataclasses
import re
from collections.abc import Iterable

from dsi_jax.base import Draft, Job, Verify

KINDS = ("crash", "hang", "nan", "slow")
FACTOR = 10.0  # a slow server takes so many times as long, where nothing else is said
_TEXT = re.compile(r"(drafter|target_\d+):(crash|hang|nan|slow)(?:x(\d+(?:\.\d+)?))?@(\d+)(?:\.\.(\d+))?")
FORM = "SERVER:KIND@TOKEN or SERVER:KIND@TOKEN..RETURN, as in target_2:crash@40, drafter:slowx10@5..20"


@dataclasses.dataclass(frozen=True)
class Fault:
    """What befalls a server.

    crash: it is gone with all it has in hand. hang: it does not answer. nan: its jobs fail, as logits that are not
    finite do. slow: its jobs take `factor` times as long.
    """

    server: str
    kind: str
    at: int  # new tokens that are settled when it begins
    until: int | None = None  # and when it ends; None: never
    factor: float = FACTOR  # of a slow server

    def __post_init__(self) -> None:
        if self.until is not None and self.until <= self.at:
            raise ValueError(f"inject={self} ends at token {self.until}; it must end after token {self.at}, or never")
        if self.factor <= 1:
            raise ValueError(f"inject={self}: a slow server must take more than 1 times as long")

    def __str__(self) -> str:
        times = f"x{self.factor:g}" if self.kind == "slow" else ""
        return f"{self.server}:{self.kind}{times}@{self.at}{'' if self.until is None else f'..{self.until}'}"

    def strikes(self, job: Job, prompt: int) -> bool:
        """Whether a job falls into it.

        Args:
          job: of its server.
          prompt: tokens of the job's prompt.
        """
        if job.server != self.server or not isinstance(job, Draft | Verify):
            return False
        new = job.settled - prompt
        return self.at <= new and (self.until is None or new < self.until)


def read_faults(texts: str | Iterable[str], servers: Iterable[str] = ()) -> tuple[Fault, ...]:
    """Read faults: one text with commas, or several.

    Args:
      texts: each of the form `FORM`.
      servers: names that there are; none: not looked at.

    Raises:
      ValueError: a text of another form, or a server that there is not.
    """
    parts = texts.split(",") if isinstance(texts, str) else list(texts)
    faults = tuple(_read(part.strip()) for part in parts if part.strip())
    known = tuple(servers)
    if known and (strange := [fault.server for fault in faults if fault.server not in known]):
        raise ValueError(f"inject: there is no server {strange[0]}; there are {', '.join(known)}")
    return faults


def _read(text: str) -> Fault:
    found = _TEXT.fullmatch(text)
    if not found or (found[3] and found[2] != "slow"):
        raise ValueError(f"inject={text!r} must be of the form {FORM}; KIND is one of {', '.join(KINDS)}")
    server, kind, factor, at, until = found.groups()
    return Fault(server, kind, int(at), int(until) if until else None, float(factor) if factor else FACTOR)
