"""Records the small TPU programs of tests/golden/hlo anew; needs libtpu: JAX_PLATFORMS=cpu python tests/record_hlo.py

They are compiled for a v5e. What the counter does not look at is cut out of the text.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from dsi_jax.aot import topology
from dsi_jax.models.kv_cache import KVCache, write_window

FOLDER = Path(__file__).parent / "golden" / "hlo"


def decode(params, cache, tokens):
    """A lookup, a write into the cache, attention over it, and a head."""
    x = jnp.take(params["embedding"], tokens, axis=0)
    k = x @ params["w"]
    keys = write_window(cache.keys[0], k[None, :, None, :], cache.length)
    weights = jax.nn.softmax(jnp.einsum("td,bksd->ts", k, keys).astype(jnp.float32), axis=-1)
    mixed = jnp.einsum("ts,bksd->td", weights.astype(k.dtype), keys)
    return cache.replace(keys=(keys,)), mixed @ params["out"]


def branches(params, x, flag):
    """Five products with one weight, and a sixth with another where the flag says so; no weight fits into VMEM."""
    x = jax.lax.fori_loop(0, 5, lambda i, x: x @ params["w"], x)
    return jax.lax.cond(flag > 0, lambda x: x @ params["other"], lambda x: x, x)


def gathered(params, x):
    """A weight whose rows lie on two chips, and whose product is wanted whole on both."""
    return jax.nn.relu(x @ jax.lax.with_sharding_constraint(params["w"], PartitionSpec(None, None)))


def summed(params, x):
    """Two products, the inner axis of the second over two chips: one all-reduce."""
    return jax.nn.relu(x @ params["up"]) @ params["down"]


def _pair():
    return topology.submesh(topology.devices(topology.find("v5e:2x4")), 2)


def _one():
    return topology.submesh(topology.devices(topology.find("v5e:2x4")), 1)


def _shape(mesh, *sizes, dtype=jnp.bfloat16, spec=()):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))


def _programs():
    one, two = _one(), _pair()
    keys = _shape(one, 1, 1, 2048, 128)
    cache = KVCache((keys,), (), _shape(one, 1, dtype=jnp.int32))
    params = {"embedding": _shape(one, 4096, 256), "w": _shape(one, 256, 128), "out": _shape(one, 128, 4096)}
    yield "decode", jax.jit(decode, donate_argnums=1), (params, cache, _shape(one, 8, dtype=jnp.int32))
    yield "decode_not_donated", jax.jit(decode), (params, cache, _shape(one, 8, dtype=jnp.int32))
    large = {name: _shape(one, 16384, 16384) for name in ("w", "other")}
    yield "branches", jax.jit(branches), (large, _shape(one, 8, 16384), _shape(one, dtype=jnp.int32))
    rows = {"w": _shape(two, 256, 512, spec=("tensor",))}
    with jax.sharding.use_mesh(two) if hasattr(jax.sharding, "use_mesh") else jax.set_mesh(two):
        yield "gathered", jax.jit(gathered), (rows, _shape(two, 8, 256))
    halves = {"up": _shape(two, 256, 512, spec=(None, "tensor")), "down": _shape(two, 512, 256, spec=("tensor",))}
    out = NamedSharding(two, PartitionSpec())
    yield "summed", jax.jit(summed, out_shardings=out), (halves, _shape(two, 8, 256))


def trimmed(text: str) -> str:
    """Leave out tables of source lines, and attributes that say nothing of what is moved."""
    head, _, body = text.partition("\n")
    head = re.sub(r", entry_computation_layout=.*", "", head)
    body = body[re.search(r"^(ENTRY )?%\S+ \(", body, flags=re.MULTILINE).start() :]
    lines = []
    for line in body.splitlines():
        name = re.search(r'op_name="([^"]*)"', line) if " parameter(" in line else None
        line = re.sub(r", (metadata|frontend_attributes|sharding)=\{.*?\}(?=, [a-z_]+=|$)", "", line)
        line = re.sub(r", backend_config=.*", "", line)
        lines.append(line + (f', metadata={{op_name="{name[1]}"}}' if name else ""))
    return "\n".join([head, "", *lines, ""])


if __name__ == "__main__":
    for name, program, arguments in _programs():
        text = program.lower(*arguments).compile().as_text()
        (FOLDER / f"{name}.hlo").write_text(trimmed(text), encoding="utf-8")
