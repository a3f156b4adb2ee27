"""The error of a measured pattern."""


class PatternError(ValueError):
    """A file that is no usable pattern; the message names it, the reason and the mend."""
