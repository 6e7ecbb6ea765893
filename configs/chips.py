"""The table of chips, from which predictions without a device are made. Peaks are published; what is not says so.

  python launch/plan.py --chip=h100 --target=configs/models/llama-3-70b --drafter=configs/models/llama-3.2-1b

Each record says in `sources` where its numbers are published, and in `assumed` which are not, and why they have the
value that they have. A forward of one sequence reaches a share of the peak bandwidth, and a collective takes longer
than its bytes do. Neither is published for single chips, so both come from the one published series that shows them:
tensor parallelism of gpt-fast (its README) at batch 1 in bf16, on 1, 2, 4 and 8 A100-80GB at 330 W in a hybrid cube
mesh. With 0.72 of the peak, 10 us a collective and 3 us a step (2 log2 n steps in an all-reduce over n chips) the
roofline is within 6 % of all seven figures (tests/test_roofline.py):

  tokens/s              1     2     4     8 chips
  7B   published      105   169   254   328
       roofline       111   178   263   324
  70B  published            21.3  38.0  62.5
       roofline             20.1  36.7  60.5

Nothing of this was measured by us. launch/measure.py measures all of it on the devices at hand.
"""

from dsi_jax.profiles.chips import Chip, Chips

_GB, _GIB = 1e9, 2**30
_CLOUD = "Google Cloud documentation, page '{}': peak compute, HBM and inter-chip bandwidth per chip"
_NVIDIA = "NVIDIA data sheet '{}': memory, memory bandwidth, dense BF16 without sparsity, NVLink (half: one direction)"
_HOP = (
    "link_s: 'How to Scale Your Model' (Google DeepMind), part 'Sharded matrices', has about 1 us a hop; no data sheet "
    "states it"
)
_PORTS = (
    "link_bandwidth: in a host of {} chips without wrap-around a chip has at least two neighbours, so two of its {}"
)
_SHARE = "bandwidth_share: nothing is published for one sequence; taken as on the A100"
_MEETING = "collective_s: not published; 0, for TPU programs start their collectives without the host"
_FITTED = "bandwidth_share, collective_s, link_s: fitted to gpt-fast's tensor parallelism, all within 6 %"
_AS_A100 = "bandwidth_share, collective_s, link_s: not published; taken as on the A100, which may be too slow here"


def _tpu(name: str, kind: str, page: str, ports: int, host: int, **numbers: float) -> Chip:
    assumed = (_HOP, _PORTS.format(host, f"{ports} ports"), _SHARE, _MEETING)
    return Chip(name, kind, link_s=1e-6, bandwidth_share=0.72, sources=(page,), assumed=assumed, **numbers)


def _gpu(name: str, kind: str, sheet: str, assumed: str, **numbers: float) -> Chip:
    made = {"link_s": 3e-6, "collective_s": 10e-6, "bandwidth_share": 0.72, "per_host": 8}
    return Chip(name, kind, sources=(_NVIDIA.format(sheet),), assumed=(assumed,), **made, **numbers)


def get_config() -> Chips:
    paper = "TPU v4 paper (Jouppi et al. 2023, table 4): 6 links of 50 GB/s; memory and peaks also in 'TPU v4'"
    v4 = _tpu(
        "v4", "TPU v4", paper, ports=6, host=4, per_host=4,
        capacity=32 * _GIB, bandwidth=1200e9, bf16_flops=275e12, link_bandwidth=2 * 50e9,
    )  # fmt: skip
    v5e = _tpu(
        "v5e", "TPU v5 lite", _CLOUD.format("TPU v5e") + "; 4 ports, 400 GB/s both ways; 8 chips a host",
        ports=4, host=8, per_host=8,
        capacity=16 * _GB, bandwidth=819e9, bf16_flops=197e12, link_bandwidth=2 * 50e9,
    )  # fmt: skip
    v5p = _tpu(
        "v5p", "TPU v5", _CLOUD.format("TPU v5p") + "; 3D torus, 1200 GB/s both ways; 4 chips a host",
        ports=6, host=4, per_host=4,
        capacity=95 * _GIB, bandwidth=2765e9, bf16_flops=459e12, link_bandwidth=2 * 100e9,
    )  # fmt: skip
    v6e = _tpu(
        "v6e", "TPU v6 lite", _CLOUD.format("TPU v6e") + "; 4 ports, 800 GB/s both ways; 8 chips a host",
        ports=4, host=8, per_host=8,
        capacity=32 * _GIB, bandwidth=1638e9, bf16_flops=918e12, link_bandwidth=2 * 100e9,
    )  # fmt: skip
    tpu7x = _tpu(  # a chip has two devices, which share what it has
        "tpu7x", "TPU7x", _CLOUD.format("TPU7x (Ironwood)") + "; two devices a chip, here half a chip; 1200 GB/s",
        ports=6, host=4, per_host=8,
        capacity=96 * _GIB, bandwidth=7380e9 / 2, bf16_flops=2307e12 / 2, link_bandwidth=2 * 100e9 / 2,
    )  # fmt: skip
    a100 = _gpu(
        "a100", "NVIDIA A100-SXM4-80GB", "A100 80GB SXM", _FITTED,
        capacity=80 * _GB, bandwidth=2039e9, bf16_flops=312e12, link_bandwidth=300e9,
    )  # fmt: skip
    h100 = _gpu(
        "h100", "NVIDIA H100 80GB HBM3", "H100 SXM", _AS_A100,
        capacity=80 * _GB, bandwidth=3350e9, bf16_flops=989e12, link_bandwidth=450e9,
    )  # fmt: skip
    h200 = _gpu(
        "h200", "NVIDIA H200", "H200 SXM", _AS_A100,
        capacity=141 * _GB, bandwidth=4800e9, bf16_flops=989e12, link_bandwidth=450e9,
    )  # fmt: skip
    b200 = _gpu(
        "b200", "NVIDIA B200", "DGX B200, an eighth of its totals", _AS_A100,
        capacity=180 * _GB, bandwidth=8000e9, bf16_flops=2250e12, link_bandwidth=900e9,
    )  # fmt: skip
    return Chips((v4, v5e, v5p, v6e, tpu7x, a100, h100, h200, b200))
