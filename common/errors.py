"""The one exception that means "the user can fix this"."""


class TriptychError(ValueError):
    """A request that cannot be carried out.

    The message is one clear sentence: what was wrong, where, what was expected and what to do. The command line prints
    it without a traceback and exits with status 2.
    """


class Unavailable(TriptychError):
    """What was asked for is not to be had on this machine, such as a GPU."""
