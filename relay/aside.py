"""Blocking work beside the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``work`` in a thread of its own, which has ended when this returns.

    Not ``asyncio.to_thread``: that leaves its threads waiting for more, and capabilities can be given up
    for good only while there is one thread.
    """
    with ThreadPoolExecutor(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: work(*args, **kwargs))
