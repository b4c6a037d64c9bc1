"""What a config can get wrong."""


class ConfigError(ValueError):
    """Parts of a model do not fit together; the message is one line for the user who wrote the config."""
