"""The one exception for what the user can mend, and how it shows what was found."""

from __future__ import annotations

import reprlib
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlong = 40
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = 16


class UserError(Exception):
    """Bad input from outside (a file, field, topic or option). Its text is one line that names it and says what to do."""


class UsageError(UserError):
    """The command line itself is wrong, whatever the files and machines that it names are like: exit status 2."""


def name_of(key: Any) -> str:
    """A key of a mapping that came from outside, as a name: YAML has others than texts."""
    return key if isinstance(key, str) and len(key) <= 120 else brief(key)


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its class where it says nothing."""
    return " ".join((str(error).splitlines() or [type(error).__name__])[0].split())


def brief(value: Any) -> str:
    """``repr`` of a value that came from outside, short whatever it is: one line of an error should stay one."""
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python does not write whole numbers of thousands of digits
        return f"a {type(value).__name__} of too many digits"
