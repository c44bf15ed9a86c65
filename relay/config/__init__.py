"""The configuration: TOML, environment and --set, validated as one.

    load          sources to Settings; raises ConfigError with every problem at once
    policy        Settings to the core's Policy
    differences   what a reload would change; needs_restart: what it cannot

Importing this package costs about a tenth of a second (pydantic): commands that only read do not.
"""

from relay.config.convert import policy
from relay.config.difference import differences, needs_restart
from relay.config.load import load
from relay.config.origins import Layer, Origin
from relay.config.problems import ConfigError, Problem
from relay.config.settings import Setting, Settings

__all__ = [
    "ConfigError",
    "Layer",
    "Origin",
    "Problem",
    "Setting",
    "Settings",
    "differences",
    "load",
    "needs_restart",
    "policy",
]
