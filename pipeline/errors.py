"""The one exception type whose message is meant for the person at the terminal."""


class DescryError(Exception):
    """A condition that the user can mend.

    The message names the file, the key and the value at fault and the way out. The command
    line prints it without a traceback and exits with status 2.
    """
