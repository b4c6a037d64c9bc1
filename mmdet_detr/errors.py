"""Errors for the user: the message is one line that says what happened, where, and what to do."""


class UserError(ValueError):
    """An error that a tool shows as one line, without a stack trace."""


class ConfigError(UserError):
    """A config that cannot be used, or parts of a model that do not fit together."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no such checkpoint."""


class DownloadError(CheckpointError, OSError):
    """A checkpoint that cannot be downloaded."""


def one_line(error: object) -> str:
    """The message of any error, without the line breaks that other libraries put in."""
    return ' '.join(str(error).split())
