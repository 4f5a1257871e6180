"""Errors that are somebody's mistake, not ours: the command line prints their message and exits with code 2."""


class UserError(ValueError):
    """A mistake of the user's. The message says what was given, what the rule is and what to do."""


class CheckpointError(UserError):
    """A model folder that is broken, incomplete or made for something else."""


class NoFaceError(UserError):
    """A picture without a face where one is required."""
