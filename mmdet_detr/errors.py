"""What a config can get wrong, and how it is said."""


class ConfigError(ValueError):
    """Parts of a model do not fit together; the message is one line for the user who wrote the config."""


def one_line(error: object) -> str:
    """The message of any error, without the line breaks that other libraries put in."""
    return ' '.join(str(error).split())
