"""One clear line instead of a traceback for what a user or the data got wrong."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """What was found, where, and what to do about it, in one line."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a UserError, or that disk or memory is full, as `error: …` and exit with 1; a Ctrl-C exits with 130.

    Anything else is a bug and shows. What the terminal's encoding lacks is printed as a question mark.
    """
    sys.stdout.reconfigure(errors="replace")
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if _is_of_a_full_disk(error):
            print(f"error: the disk is full; make room and repeat the command, it goes on ({error})", file=sys.stderr)
        elif is_out_of_memory(error):
            reason = str(error).partition("\n")[0][:150]
            advice = "close other programs, set sampling.low_memory: true or lower inference.batch_size in the profile"
            print(f"error: out of memory; {advice}, and repeat the command ({reason})", file=sys.stderr)
        else:
            raise
        sys.exit(1)


def is_out_of_memory(error: BaseException) -> bool:
    """True for Python's error and torch's: on CUDA mostly a class of its own, elsewhere known by its words alone."""
    words = ("out of memory", "not enough memory", "STATUS_ALLOC_FAILED")  # the last is that of cuBLAS and cuDNN
    return (
        isinstance(error, MemoryError) or isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _is_of_a_full_disk(error: Exception) -> bool:
    """True for Python's own error and for that of safetensors, which has the system's number only in its text."""
    return getattr(error, "errno", None) == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(error)
