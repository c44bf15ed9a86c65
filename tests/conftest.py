"""Hypothesis: the same examples on every run and every machine."""

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=10_000, deadline=None)
settings.load_profile("ci")
