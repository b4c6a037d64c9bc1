"""What is raised for checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message says why, in one line."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no such checkpoint."""
