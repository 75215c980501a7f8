"""Whether a client still waits for its answer."""

import asyncio
from collections.abc import Callable

from fastapi import Request

_PATIENCE_S = 5.0


async def watch_connection(request: Request) -> Callable[[], bool]:
    """For endpoints that run in a thread: a function that tells there whether the client has closed the connection."""
    loop = asyncio.get_running_loop()

    def has_gone() -> bool:
        try:
            return asyncio.run_coroutine_threadsafe(request.is_disconnected(), loop).result(_PATIENCE_S)
        except TimeoutError:  # the loop has other things to do
            return False

    return has_gone
