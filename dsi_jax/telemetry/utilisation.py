"""How busy servers were."""

from collections.abc import Sequence

from dsi_jax.base import Trace


def utilisation(traces: Trace | Sequence[Trace], wall_s: float | None = None) -> dict[str, float]:
    """Share of the wall time that each server worked, void work included.

    Args:
      traces: one run, or several that began together on the same servers.
      wall_s: until the end; default that of the last of them.

    Returns:
      Server -> share in [0, 1], in the order of the servers.
    """
    traces = [traces] if isinstance(traces, Trace) else list(traces)
    end_s = max(trace.wall_s for trace in traces) if wall_s is None else wall_s
    servers = dict.fromkeys(server for trace in traces for server in trace.servers)
    return {server: min(1.0, sum(_busy_s(server, trace, end_s) for trace in traces) / end_s) for server in servers}


def _busy_s(server: str, trace: Trace, end_s: float) -> float:
    """Seconds in which a server had a job of a run; jobs that were launched ahead overlap, and count once."""
    busy, reached = 0.0, 0.0
    for span in sorted((s for s in trace.spans if s.server == server), key=lambda span: span.start_s):
        begin, end = max(span.start_s, reached), min(span.end_s, end_s)
        if end > begin:
            busy, reached = busy + end - begin, end
    return busy
