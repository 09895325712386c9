"""The one exception that users see."""


class UserError(ValueError):
    """A mistake of the user's, told in one line: what is wrong, which option, what would be right.

    The command line prints the message and exits with code 2.
    """
