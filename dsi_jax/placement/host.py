"""Virtual CPU devices, for machines without accelerators: the same placement code, on host devices."""

import os

import jax

ONE_CORE_EACH = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def use_cpu_devices(count: int, one_core_each: bool = True) -> None:
    """Split the host into `count` CPU devices; accelerators, where there are any, stay the default.

    Call it before jax is first used. The number matters to CPU alone.

    Args:
      count: devices, such as the servers of a plan.
      one_core_each: keep each device to one core, so that servers overlap instead of sharing a thread pool. XLA may
        still spread large matrix products over threads of its own (seen in jax 0.10.2 with SmolLM2).

    Raises:
      ValueError: count < 1.
      RuntimeError: jax is already in use with another number of CPU devices.
    """
    if count < 1:
        raise ValueError(f"cpu_devices={count} must be at least 1")
    flags = os.environ.get("XLA_FLAGS", "")
    if one_core_each and ONE_CORE_EACH not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {ONE_CORE_EACH}".strip()
    if "xla_force_host_platform_device_count" not in flags:
        jax.config.update("jax_num_cpu_devices", count)
