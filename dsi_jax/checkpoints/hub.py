"""Checkpoints by their hub name, where the library `huggingface_hub` is installed and can reach one."""

from pathlib import Path

FILES = ("*.json", "*.safetensors", "*.jinja")  # nothing that runs: no .bin, no .py


def fetch(name: str) -> Path:
    """Give the local copy of a hub repository such as ORGANISATION/MODEL, fetched unless it is there already.

    Raises:
      ValueError: the library is missing, or the repository cannot be reached.
    """
    remedy = "download the model elsewhere and give its directory"
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(f"hub:{name} needs huggingface_hub; pip install it, or {remedy}") from None
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # of the library, of HTTP, of the network: each its own kind
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"hub:{name} cannot be fetched ({type(error).__name__}: {reason}); {remedy}") from None
