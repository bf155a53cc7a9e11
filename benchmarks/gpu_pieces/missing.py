"""The one way to say that a unit cannot be done here, which is no failure."""


class NotHere(Exception):
    """A unit that this installation or this configuration has no answer to; the text says why."""
