"""Ways to overlap drafting and verification, one file each, and the registry that all else takes them from. No jax.

A policy of your own is such a file too: give its path, or its record, wherever a name is asked for.
"""

import importlib.util
import inspect
from pathlib import Path

from dsi_jax.base import Policy
from dsi_jax.policies.dsi import DSI
from dsi_jax.policies.non_si import NON_SI
from dsi_jax.policies.si import SI

POLICIES: dict[str, Policy] = {policy.name: policy for policy in (NON_SI, SI, DSI)}

__all__ = ["DSI", "NON_SI", "POLICIES", "SI", "find_policy", "source_of"]


def find_policy(policy: Policy | str) -> Policy:
    """Return a policy by its name in the registry, or from a Python file that defines one.

    Args:
      policy: a name such as "dsi", a path ending in .py, or a record, which is returned as it is.

    Raises:
      ValueError: no such name or file, or a file that does not define exactly one policy.
    """
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str | Path):
        raise ValueError(f"algorithm={policy!r} must be a name, a file, or a Policy")
    if str(policy).endswith(".py"):
        return _read_policy(Path(policy))
    if policy not in POLICIES:
        raise ValueError(
            f"algorithm={policy!r} is not known; choose one of {', '.join(POLICIES)}, or a file such as my_policy.py"
        )
    return POLICIES[policy]


def source_of(policy: Policy) -> str | None:
    """The text of the file of a policy that is not in the registry: edited, it is another policy."""
    if policy.name in POLICIES:
        return None
    return Path(inspect.getsourcefile(policy.schedule)).read_text(encoding="utf-8")


def _read_policy(path: Path) -> Policy:
    if not path.is_file():
        raise ValueError(f"algorithm={str(path)!r}: there is no such file; give the path of a policy of yours")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does wrong
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    imported = POLICIES.values()
    found = {id(value): value for value in vars(module).values() if isinstance(value, Policy) and value not in imported}
    if len(found) != 1:
        raise ValueError(f"{path} defines {len(found)} policies; a policy file defines one `Policy(...)`")
    (policy,) = found.values()
    if policy.name in POLICIES:
        raise ValueError(f"{path}: the name {policy.name!r} is taken by a policy of the registry; choose another one")
    return policy
