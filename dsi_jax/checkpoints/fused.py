"""How the numbers of one slot lie in a stored tensor that a family fuses, transposes or offsets."""

import numpy as np

from dsi_jax.checkpoints.families import Family, Fused
from dsi_jax.checkpoints.slots import Slot, parameter_slots
from dsi_jax.checkpoints.tensor_file import StoredTensor
from dsi_jax.models.config import ModelConfig


def shape_in_file(slot: Slot, family: Family, config: ModelConfig) -> tuple[int, ...]:
    """Shape of the stored tensor that holds a slot, alone or with others."""
    fused = _fused_with(slot, family)
    rows = slot.stored_shape[:1] if fused is None else (sum(_rows(config, fused).values()),)
    shape = (*rows, *slot.stored_shape[1:])
    return shape[::-1] if family.input_major and slot.transposed else shape


def read_slot(tensor: StoredTensor, slot: Slot, family: Family, config: ModelConfig, dtype: np.dtype) -> np.ndarray:
    """Read what a slot takes from a stored tensor of the right shape, in the slot's stored shape."""
    turned = family.input_major and slot.transposed
    fused = _fused_with(slot, family)
    if fused is not None:
        return _read_fused(tensor, slot, fused, _rows(config, fused), config.heads, turned, dtype)
    if turned:
        return tensor.read(dtype).T
    values = tensor.read(dtype)
    return values + np.float32(family.norm_offset) if slot.key.endswith("norm/scale") else values


def _fused_with(slot: Slot, family: Family) -> Fused | None:
    return next((fused for fused in family.fused if slot.key in fused.members), None)


def _rows(config: ModelConfig, fused: Fused) -> dict[str, int]:
    """How many rows each member has, in their order."""
    rows = {slot.key: slot.stored_shape[0] for slot in parameter_slots(config) if slot.layer == 0}
    return {key: rows[key] for key in fused.members}


def _read_fused(
    tensor: StoredTensor, slot: Slot, fused: Fused, rows: dict[str, int], heads: int, turned: bool, dtype: np.dtype
) -> np.ndarray:
    place = fused.members.index(slot.key)
    begin = sum(list(rows.values())[:place])
    end = begin + rows[slot.key]
    if fused.by_head:
        by_head = tensor.read(dtype).reshape(heads, len(rows), -1, *tensor.shape[1:])
        return by_head[:, place].reshape(slot.stored_shape)
    return tensor.read(dtype)[:, begin:end].T if turned else tensor.read(dtype, begin, end)
