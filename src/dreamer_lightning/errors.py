"""The errors that people see; apart from ``types``, so that the command line needs no torch to tell them."""


class UserError(ValueError):
    """A mistake of the user's, told in one line: what is wrong, which option, what would be right.

    The command line prints the message and exits with code 2.
    """


class BadNumbers(UserError):
    """A loss or a gradient is NaN or infinite; the run ends with this, and its last checkpoint is a good one."""


class Occupied(UserError):
    """A second instance of an environment cannot be opened beside the first."""


class EnvFailure(RuntimeError):
    """An environment failed too often in a row to go on with it; the run is saved before it ends with this."""
