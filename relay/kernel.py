"""What the kernel refused, in words for people."""

import errno
import os
from typing import Final

_REMEDIES: Final = {
    errno.EPERM: "run as root or with CAP_NET_ADMIN",
    errno.EACCES: "run as root or with CAP_NET_ADMIN",
    errno.ENODEV: "check the interface's name with `ip link`",
    errno.EOPNOTSUPP: "the kernel lacks this feature: CONFIG_IP_MULTIPLE_TABLES, CONFIG_NF_TABLES",
    errno.EAFNOSUPPORT: "the kernel lacks this feature: CONFIG_IP_MULTIPLE_TABLES, CONFIG_NF_TABLES",
}


class KernelError(Exception):
    """The kernel, or a program that speaks to it, refused something.

    ``what`` says what went wrong and ``remedy`` what a person can do about it (may be empty).
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


def refused(doing: str, code: int | None) -> KernelError:
    """The error for an errno that came while ``doing`` something."""
    if code is None:
        return KernelError(f"{doing}: failed")
    return KernelError(f"{doing}: {os.strerror(code)}", _REMEDIES.get(code, ""))
