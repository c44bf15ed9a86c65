"""What is wrong with a configuration: every problem says where it is, which key, what, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to put right."""

    #: "vpnmasq.toml:12", an environment variable, "--set" with its argument, or "default".
    where: str
    #: "expose[0].server"; empty when the source as a whole is wrong.
    key: str
    message: str
    advice: str = ""

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.where, self.key, self.message) if part)
        return f"{head} ({self.advice})" if self.advice else head


class ConfigError(Exception):
    """A configuration that cannot be used, with every problem found in it (exit status 78)."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(*problems)
        self.problems: tuple[Problem, ...] = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class InputError(ValueError):
    """Raised by the readers of single values: ``message`` says what is wrong, ``advice`` what to write."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
