"""What fastattn raises: one line each, naming the file, tensor or argument, what was found and what was expected."""

from __future__ import annotations


class FastattnError(ValueError):
    """Base of every error raised on purpose; the command line prints it without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # names from files may hold anything


class LoadError(FastattnError):
    """A model's files or tensors are not what they should be.

    Attributes:
        missing: names of the tensors that were not found.
        unexpected: names of the tensors that have no place in the model.
        misshapen: names of the tensors whose shape or data is not the expected one.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        misshapen: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.missing = missing
        self.unexpected = unexpected
        self.misshapen = misshapen


class OptionError(FastattnError):
    """An option is unknown, or its value is outside what it accepts."""


class InputError(FastattnError):
    """Text, audio, an image or token ids that the model cannot take."""
