"""Write the parts of docs/ that are made from the code: flags.md and rooms.svg.

  python launch/write_docs.py

Run it after a flag has changed or a package has moved; `tests/test_readme.py` fails until then.
"""

from pathlib import Path

import _cli
import _flag_page
import _rooms

from dsi_jax import Config

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    for name, text in {"flags.md": _flag_page.markdown(Config()), "rooms.svg": _rooms.svg()}.items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    _cli.run(main)
