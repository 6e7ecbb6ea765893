"""Random numbers that are pure functions of integer keys, whoever asks and when."""

MASK = 2**64 - 1


def mix(*keys: int) -> int:
    """Hash integers to 64 well-mixed bits (the splitmix64 finaliser, chained)."""
    state = 0x9E3779B97F4A7C15
    for key in keys:
        state = (state ^ (key & MASK)) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state


def uniform(*keys: int) -> float:
    """A number in [0, 1) that is a pure function of its integer keys."""
    return mix(*keys) / 2**64
