"""The one exception that means "the user can fix this"."""


class TriptychError(ValueError):
    """A request that cannot be carried out.

    The message is one clear sentence: what was wrong, where, what was expected and what to do. The command line prints
    it without a traceback and exits with status 2.
    """


class Unavailable(TriptychError):
    """What was asked for is not to be had on this machine, such as a GPU."""


def one_line(error: Exception) -> str:
    """An exception for a report: a sentence of ours as it is, anything else with its type and without the many lines
    that TensorFlow adds."""
    if isinstance(error, TriptychError):
        return str(error)
    lines = [line for line in str(error).splitlines() if line and not line.startswith((" ", "Detected at", "Node:"))]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"
