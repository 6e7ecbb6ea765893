"""The embedded pair of models: placeholders with random weights until the trained ones are committed."""

from pathlib import Path

_HERE = Path(__file__).parent


def target_directory() -> Path:
    """Give the model directory of the embedded target."""
    return _HERE / "target"


def drafter_directory() -> Path:
    """Give the model directory of the embedded drafter."""
    return _HERE / "drafter"


def tokenizer_path() -> Path:
    """Give the `tokenizer.json` that both models share."""
    return _HERE / "tokenizer.json"
