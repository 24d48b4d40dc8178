"""Taking out what names a person or a machine, so that a report can be shown to anybody.

/Users/jane/Library/…    ~/Library/…             the home folder
/Volumes/jane/cache      /Volumes/<user>/cache   the user's name, as a part of a path
janes-air.local          <host>                  the machine's name, as a word
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Private", "private"]

#: names that say nothing about anybody, and are words that a report may need
_COMMON = frozenset({"", "/", "root", "user", "users", "localhost", "linux", "mac", "apple"})


class Private:
    """Replaces private names in texts.

    Args:
        homes: the home folder, by all its names.
        user, host: names.
    """

    def __init__(self, homes: tuple[str, ...], user: str, host: str) -> None:
        patterns = [
            (rf"{re.escape(home.rstrip('/'))}(?![\w.-])", "~")
            for home in sorted(set(homes), key=len, reverse=True)
            if home not in _COMMON
        ]
        if user.lower() not in _COMMON:
            patterns.append((rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", "<user>"))
        for name in (host, host.partition(".")[0]):
            if name.lower() not in _COMMON:
                patterns.append((rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "<host>"))
        self._patterns = [(re.compile(pattern), by) for pattern, by in patterns]

    def __call__(self, value: Any) -> Any:
        """The same, of the same shape, with every text of it cleaned; keys of a dict stay."""
        if isinstance(value, str):
            for pattern, by in self._patterns:
                value = pattern.sub(by, value)
            return value
        if isinstance(value, dict):
            return {key: self(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(each) for each in value]
        return value


def private() -> Private:
    """For this user on this machine."""
    home = _or_empty(lambda: str(Path.home()))
    real = _or_empty(lambda: str(Path.home().resolve()))
    return Private((home, real), _or_empty(getpass.getuser), _or_empty(socket.gethostname))


def _or_empty(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except (OSError, KeyError, RuntimeError, ImportError):
        return ""
