"""What every way to update a name has in common."""

from pathlib import Path
from typing import Final, Protocol

from relay.config.models import Ddns

#: Seconds that one update, or one question, may take.
PATIENCE: Final = 20.0

#: Seconds until it makes sense to try again: none, a server's request, until a person has done something.
SOON: Final = 0.0
LATER: Final = 1800.0
NEVER: Final = 86400.0


class UpdateError(Exception):
    """An update, or a question about its outcome, failed.

    The text is for people; ``again`` is how many seconds to wait at least before the next one.
    """

    def __init__(self, what: str, again: float = SOON) -> None:
        super().__init__(what)
        self.again = again


class Provider(Protocol):
    """A way to update a name."""

    async def update(self, address: str) -> None:
        """Let the name point at this address, and at nothing else.

        Raises:
            UpdateError: it is not known to do so.
        """


def password(entry: Ddns) -> str:
    """The entry's password or key: read anew each time, so that a file may be changed.

    Raises:
        UpdateError: the file cannot be read.
    """
    if entry.password is not None:
        return entry.password.get_secret_value()
    if not entry.password_file:
        return ""
    try:
        return Path(entry.password_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UpdateError(f"password_file {entry.password_file}: {why}", NEVER) from error
