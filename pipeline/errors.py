"""The one exception type whose message is meant for the person at the terminal, and its words."""


class DescryError(Exception):
    """A condition that the user can mend.

    The message names the file, the key and the value at fault and the way out. The command
    line prints it without a traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """What another library's error says, as far as a message of ours has room for it."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
