"""Mutations of JSON values, of bytes and of texts. All of them follow from the dice they are given."""

import copy
import json
import random
from typing import Any

NAMES = [
    "",
    "x",
    "../x",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 3000,
    "model.safetensors",
    "\x00",
    "é\u2028",
    "-1",
    "nan",
]
NUMBERS = [0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 10**30]
DEEP = "so deep that no parser of its own stack gets to the bottom"
_DEEP = "[" * 100_000 + "]" * 100_000
FLOATS = [0.0, -0.0, 0.5, -1.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")]


def odd_value(dice: random.Random) -> Any:
    """Something that should not stand there."""
    kind = dice.randrange(8)
    if kind == 0:
        return dice.choice(NUMBERS)
    if kind == 1:
        return dice.choice(FLOATS)
    if kind == 2:
        return dice.choice(NAMES)
    if kind == 3:
        return dice.choice([None, True, False])
    if kind == 4:
        return dice.choice([[], {}, [[]], [None], {"": {}}, [1, 2, 3], ["x"] * 9, {"a": 1}])
    if kind == 5:
        return [dice.choice(NUMBERS) for _ in range(dice.randrange(1, 5))]
    if kind == 6:
        return nested(dice.choice([3, 60]), dice.random() < 0.5) if dice.random() < 0.7 else DEEP
    return str(dice.choice(NUMBERS + FLOATS))


def nested(depth: int, lists: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if lists else {"a": value}
    return value


def mutate_value(dice: random.Random, value: Any) -> Any:
    """Change a JSON value at one to three places: replace, remove, double, rename, swap, or nudge a number."""
    value = copy.deepcopy(value)
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            return odd_value(dice)
        holder, key = dice.choice(places)
        _change(dice, holder, key, places)
    return value


def _places(value: Any):
    """Every (container, key) within a JSON value."""
    stack = [value]
    while stack:
        holder = stack.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            if isinstance(holder[key], dict | list):
                stack.append(holder[key])


def _change(dice: random.Random, holder: Any, key: Any, places: list) -> None:
    now, act = holder[key], dice.randrange(7)
    if act == 0:
        del holder[key]
    elif act == 1 and isinstance(holder, dict):
        holder[dice.choice([*NAMES, f"{key} ", str(key).upper()])] = holder.pop(key)
    elif act == 2:
        other, at = dice.choice(places)
        if isinstance(other, dict) or at < len(other):
            holder[key] = copy.deepcopy(other[at]) if at in other or isinstance(other, list) else now
    elif act == 3 and type(now) is int:
        holder[key] = dice.choice([now + 1, now - 1, now * 2, now // 2, -now, now * 1000, float(now)])
    elif act == 4 and isinstance(now, str):
        holder[key] = dice.choice([now + "x", now[:-1], now.swapcase(), now * 50])
    elif act == 5 and isinstance(now, list):
        holder[key] = dice.choice([now + now, now[::-1], now[:-1], now[:1]])
    else:
        holder[key] = odd_value(dice)


def write_value(dice: random.Random, value: Any) -> bytes:
    """Write JSON, now and then with a key twice, cut short, in another encoding, or with rubbish behind it."""
    text = json.dumps(value, ensure_ascii=dice.random() < 0.5).replace(json.dumps(DEEP), _DEEP)
    act = dice.randrange(20)
    if act == 0:
        return text[: dice.randrange(len(text) + 1)].encode(errors="surrogatepass")
    if act == 1:
        return text.encode("utf-16", errors="surrogatepass")
    if act == 2:
        return (text + dice.choice(["}", "[", "\x00", "null"])).encode(errors="surrogatepass")
    if act == 3 and text.startswith("{") and isinstance(value, dict) and value:
        key = dice.choice(list(value))
        return f"{{{json.dumps(key)}: {json.dumps(odd_value(dice))}, {text[1:]}".encode(errors="surrogatepass")
    if act == 4:
        return mutate_bytes(dice, text.encode(errors="surrogatepass"), len(text))
    return text.encode(errors="surrogatepass")


def mutate_bytes(dice: random.Random, data: bytes, header: int) -> bytes:
    """Change bytes, mostly of the header: flip, overwrite by integers of all widths, cut, insert, repeat."""
    data = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4])):
        at = dice.randrange(max(1, min(header, len(data)))) if dice.random() < 0.9 else dice.randrange(len(data) + 1)
        act = dice.randrange(6)
        if act == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif act == 1:
            width = dice.choice([1, 2, 4, 8])
            data[at : at + width] = (dice.choice(NUMBERS) % 256**width).to_bytes(width, "little")
        elif act == 2:
            del data[at : at + dice.choice([1, 4, 8, 100])]
        elif act == 3:
            data[at:at] = bytes(dice.randrange(256) for _ in range(dice.choice([1, 4, 8])))
        elif act == 4:
            del data[dice.randrange(len(data) + 1) :]
        else:
            data[at:at] = data[at : at + dice.choice([4, 8, 64])]
    return bytes(data)
