"""One clear line instead of a traceback for what a user or the data got wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """What was found, where, and what to do about it, in one line."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a UserError as `error: …` and exit with 1; a Ctrl-C exits with 130. Anything else is a bug and shows."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
