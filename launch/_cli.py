"""What the launchers share: a caller's mistake ends in one line and exit code 2, never in a traceback."""

import sys
from collections.abc import Callable

from absl import app, flags, logging


def run(main: Callable[[], None]) -> None:
    """Parse the flags and call `main`; bad flags, `ValueError` and `OSError` print one line and exit with 2."""

    def guarded(rest: list[str]) -> None:
        try:
            if rest[1:]:
                raise ValueError(f"unexpected arguments {rest[1:]}; flags are written --name=value")
            main()
        except (ValueError, OSError) as error:
            _refuse(error)

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        _refuse(error)
    logging.set_verbosity(logging.WARNING)  # orbax reports every step of its work as INFO
    return rest


def _refuse(error: Exception) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
