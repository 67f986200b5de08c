"""What a file or an option that cannot be used is answered with."""


class ConversionError(ValueError):
    """A file or an option that cannot be used; the message is one line: which, what is wrong, what is expected."""
