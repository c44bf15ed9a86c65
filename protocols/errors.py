"""Errors of the codecs.

ValueError and RuntimeError mean a bug of ours and end the daemon; what a peer does wrong is either a
DecodeError (codec) or a counted drop reason (tracker), never an exception that escapes the core.
"""

from protocols.drops import Reason


class DecodeError(Exception):
    """Bytes that are not what they should be.

    ``reason`` is the drop reason to count; ``detail`` says what was found, for the log.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value
