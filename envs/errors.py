"""The one exception for bad user input."""

from __future__ import annotations


class InputError(ValueError):
    """Something that the user gave is missing, unreadable or wrong.

    Its text is one clear sentence that names what is wrong, where, and how to mend it; the command line
    prints it without a traceback and ends with exit code 2.
    """
