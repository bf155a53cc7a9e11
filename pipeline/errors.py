"""The one exception type whose message is meant for the person at the terminal, and its words."""

import errno


class DescryError(Exception):
    """A condition that the user can mend.

    The message names the file, the key and the value at fault and the way out. The command
    line prints it without a traceback and exits with status 2.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is what was lacking; torch and thread libraries say so in words alone."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("can't allocate memory", "out of memory", "can't start new thread", "bad_alloc")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(each in str(error) for each in words)
    )


def first_line(error: BaseException) -> str:
    """What another library's error says, as far as a message of ours has room for it."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
