"""Programs that are compiled once: for all replicas of one shape, and for the next run as well.

JAX keeps executables in a directory. On GPUs it finds one whatever devices of that kind it was compiled for; elsewhere
the numbers of the devices are part of the name under which it looks. On CPU they are left out here, so that a replica
loads what the first one has compiled. On TPUs, where nobody has tried whether such an executable runs on other chips,
each replica compiles, and the next run finds what it did.

It is a matter of exactness too: an autotuner that looks twice may choose other kernels, and replicas would round
differently.
"""

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

try:
    from jax._src import cache_key
except ImportError:  # private to jax: another one may have it elsewhere, and then replicas compile
    cache_key = None

LARGEST = 4 * 2**30  # bytes, beyond which what was longest unused goes
_NAMES_OPTIONS = "_hash_serialized_compile_options"  # of jax, by which it makes a part of a name


def keep_compiled(where: str) -> None:
    """Keep executables from now on.

    Args:
      where: a directory; "auto": the one that jax was told (JAX_COMPILATION_CACHE_DIR), with the bounds that jax was
        told, or else one of this user's; "none": nothing is changed.

    Raises:
      ValueError: the directory cannot be made or written.
    """
    if where == "none":
        return
    _leave_device_numbers_out()
    known = jax.config.jax_compilation_cache_dir
    directory = (known or str(default_directory())) if where == "auto" else str(Path(where).expanduser())
    if directory == known:  # a bound of ours would need times of use, which jax has not kept without one
        return
    if "://" not in directory:
        _make(Path(directory))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)  # and with a bound, jax locks the directory
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_dir", directory)
    compilation_cache.reset_cache()  # it may have been asked before, and remembers that there was none


def default_directory() -> Path:
    """Where executables are kept if nothing else is said."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsi_jax" / "compiled"


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # whoever writes there has his code run here
        if not os.access(directory, os.W_OK):
            raise PermissionError("it cannot be written")
    except OSError as error:
        raise ValueError(f"compiled={directory}: {error}; name a directory of your own, or compiled=none") from error


def _leave_device_numbers_out() -> None:
    """On CPU, let a name say how many devices a program runs on, and not which ones."""
    named = getattr(cache_key, _NAMES_OPTIONS, None)
    if jax.default_backend() != "cpu" or named is None or hasattr(named, "of_dsi_jax"):
        return

    def anywhere(hash_obj, options, strip_device_assignment=False, **more):
        return named(hash_obj, options, strip_device_assignment=True, **more)

    anywhere.of_dsi_jax = True
    setattr(cache_key, _NAMES_OPTIONS, anywhere)
