"""The same on every run and every machine: Hypothesis' examples, and what Ctrl-C does."""

import signal

from hypothesis import HealthCheck, settings

# Slow is the machine when others use it too: that is no fault of a test's.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", max_examples=10_000, deadline=None)
settings.load_profile("ci")

# A shell that runs us in the background has us ignore it, and the programs that we start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
