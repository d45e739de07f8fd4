"""Secrets that a process was given in its environment: what they are, and texts without them."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

SHORTEST = 6
"""Characters of a value that is taken for a secret, at least: a shorter one would be found inside ordinary words."""

_NAMES = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|TOKEN|SECRET|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE
)
_USER_INFO = re.compile(r"://([^/?#\s@]+)@")


def secrets() -> dict[str, str]:
    """The secret values in the environment, each with the variable that holds it.

    The value of a variable that is named like one (``MLFLOW_TRACKING_PASSWORD``), and the password in an address
    (``MLFLOW_TRACKING_URI=https://me:secret@host``), as they stand and decoded. A path is none.
    """
    found: dict[str, str] = {}
    for variable, value in os.environ.items():
        parts = [value] if _NAMES.search(variable) and not _is_path(value) else []
        # A name alone is none, and may be a word like any other.
        if re.match(r"[\w+.-]+://", value):
            parts += [user_info.partition(":")[2] for user_info in _USER_INFO.findall(value)]
        for part in parts:
            found |= {text: variable for text in (part, unquote(part)) if len(text) >= SHORTEST}
    return found


def redactor() -> Callable[[str], str]:
    """What puts ``***`` in the place of every secret, and of the name and password in any address."""
    known = sorted(secrets(), key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in known:
            text = text.replace(secret, "***")
        return _USER_INFO.sub("://***@", text)

    return redact


def redacted(text: str) -> str:
    """One text without its secrets, see ``redactor``."""
    return redactor()(text)


def _is_path(value: str) -> bool:
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False
