"""The one exception for what the user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input from outside (a file, field, topic or option). Its text is one line that names it and says what to do."""
