"""What is in force, said at the start: a container's log is often all that there is to look at."""

from typing import Any

import structlog

from relay.config import Layer, Settings

_log = structlog.get_logger("vpnmasq")


def announce(settings: Settings) -> None:
    """Log every setting with its origin: a line for each that somebody gave, one for all defaults.

    Secrets are hidden, as in ``effective``.
    """
    defaults: dict[str, Any] = {}
    for setting in settings.effective():
        if setting.origin.layer is Layer.DEFAULT:
            defaults[setting.key] = setting.value
        else:
            _log.info("setting", key=setting.key, value=setting.value, origin=setting.origin.where)
    _log.info("defaults", **defaults)
