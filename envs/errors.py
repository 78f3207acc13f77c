"""The exception for bad user input."""

from __future__ import annotations


class InputError(ValueError):
    """Something that the user gave is missing, unreadable or wrong.

    Its text is one sentence that names the fault, its place and the remedy. The command line prints it
    without a traceback and exits with code 2.
    """
