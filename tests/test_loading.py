"""Tensors go straight to their shards: what the host holds while loading, how long it takes, and what arrives."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dsi_jax.checkpoints.gguf import packaged_gguf
from dsi_jax.checkpoints.open import ModelSource, open_model

ROOT = Path(__file__).parent.parent
WIDTH, LAYERS, VOCAB, MLP = 768, 6, 48_000, 3072
ALLOWANCE = 300 << 20  # beside twice the largest tensor and the device arrays: Python, jax and the rest, all included

# Loads a checkpoint to replicas on submeshes and prints the process's peak memory, in a process of its own.
DRIVER = """
import json, sys
from dsi_jax.placement.host import use_cpu_devices
use_cpu_devices(4)
import jax
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.source import load_params
from dsi_jax.models.transformer import Transformer
from dsi_jax.placement.mesh import MeshConfig, carve
from dsi_jax.programs import param_shardings
path, dtype, replicas, tp = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
opened = open_huggingface(path, dtype=dtype)
meshes = carve(MeshConfig(replicas, tp, 0)).values()
shardings = [param_shardings(Transformer(opened.config), mesh) for mesh in meshes]
trees = load_params(opened, shardings, progress=False)
leaves = jax.tree.leaves(trees)
held = {s.data.unsafe_buffer_pointer(): s.data.nbytes for leaf in leaves for s in leaf.addressable_shards}
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": peak << 10, "arrays": sum(held.values()), "largest": max(leaf.nbytes for leaf in leaves)}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A Llama of 88 million float32 weights in four shards, 355 MB."""
    directory = tmp_path_factory.mktemp("loading")
    noise = np.random.default_rng(0)
    table = {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    shards = [{}, {}, {}, table]
    for layer in range(LAYERS):
        kinds = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH // 3, WIDTH)}
        kinds |= {"self_attn.v_proj": (WIDTH // 3, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH)}
        kinds |= {"mlp.gate_proj": (MLP, WIDTH), "mlp.up_proj": (MLP, WIDTH), "mlp.down_proj": (WIDTH, MLP)}
        kinds |= {"input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,)}
        shards[layer % 3] |= {f"model.layers.{layer}.{kind}.weight": shape for kind, shape in kinds.items()}
    index = {}
    for number, shapes in enumerate(shards):
        name = f"model-{number}.safetensors"
        save_file({key: noise.random(shape, np.float32) for key, shape in shapes.items()}, directory / name)
        index |= dict.fromkeys(shapes, name)
    fields = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 12, "num_key_value_heads": 4}
    fields |= {"vocab_size": VOCAB, "intermediate_size": MLP, "tie_word_embeddings": True}
    fields |= {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
    (directory / "config.json").write_text(json.dumps(fields))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return directory


def measure(*arguments) -> dict[str, int]:
    command = [sys.executable, "-c", DRIVER, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("dtype", "replicas", "tp"), [("float32", 1, 1), ("float32", 2, 2), ("bfloat16", 2, 2)])
def test_peak_memory_beside_the_device_arrays(checkpoint, dtype, replicas, tp):
    """The whole process is counted, its 200 MB before loading included."""
    found = measure(checkpoint, dtype, replicas, tp)
    assert found["arrays"] >= replicas * 88_000_000 * (4 if dtype == "float32" else 2)
    assert found["peak"] - found["arrays"] <= 2 * found["largest"] + ALLOWANCE, found


def test_smollm2_is_ready_in_time():
    begin = time.perf_counter()
    opened = open_model(ModelSource(str(packaged_gguf())), progress=False)
    opened.load([None])
    assert time.perf_counter() - begin < 15
