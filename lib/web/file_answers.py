"""Files are sent in large pieces.

Starlette takes 64 kB at a time, each read in another thread: 850 times for a CT of 55 MB, which then takes four times
as long to send to a client on the same machine.
"""

from fastapi.responses import FileResponse

_PIECE = 1_000_000  # bytes; held in memory for each file that is being sent


def send_large_pieces() -> None:
    """From here on, whoever answers with a file."""
    FileResponse.chunk_size = _PIECE
