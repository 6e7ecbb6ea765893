"""Wait until the Ray cluster of this host has so many nodes.

python launch/cluster/wait_for_nodes.py 4          four nodes, for at most two minutes
python launch/cluster/wait_for_nodes.py 4 600      for at most ten
"""

import sys
import time
from collections.abc import Callable

LIMIT_S, PAUSE_S = 120.0, 1.0


def nodes() -> int:
    """Nodes of the cluster that are alive; 0 while there is no cluster yet."""
    import ray

    try:
        if not ray.is_initialized():
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        return sum(bool(node["Alive"]) for node in ray.nodes())
    except ConnectionError:
        return 0


def wait(count: int, limit_s: float, seen: Callable[[], int] = nodes, pause_s: float = PAUSE_S) -> int:
    """Wait for so many nodes; returns how many there are in the end."""
    until = time.monotonic() + limit_s
    while (alive := seen()) < count and time.monotonic() < until:
        time.sleep(pause_s)
    return alive


def main(arguments: list[str]) -> int | str:
    """Returns what `sys.exit` takes: 0, or a line of what is wrong."""
    try:
        count, limit_s = int(arguments[0]), float((arguments[1:] or [LIMIT_S])[0])
    except (IndexError, ValueError):
        return f"error: {' '.join(arguments) or 'no arguments'}: give a number of nodes and, if you like, of seconds"
    alive = wait(count, limit_s)
    if alive < count:
        return f"error: {alive} of {count} nodes have joined after {limit_s:g} s; see what `ray status` says there"
    print(f"{alive} nodes have joined")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
