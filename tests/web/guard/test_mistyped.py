import asyncio

import pytest

from lib.web.guard.mistyped import true_type

FORM = b'--0f3c9a\r\nContent-Disposition: form-data; name="client_id"\r\n\r\nann\r\n--0f3c9a--\r\n'
FOUND = 'multipart/form-data; boundary="0f3c9a"'


def exchanged(given, chunks):
    """The type, and the body as it arrives."""
    messages = [
        {"type": "http.request", "body": chunk, "more_body": place < len(chunks)}
        for place, chunk in enumerate(chunks, start=1)
    ]

    async def run():
        waiting = list(messages)

        async def receive():
            return waiting.pop(0)

        kind, again = await true_type(given, receive)
        return kind, [await again() for _ in messages]

    kind, arrived = asyncio.run(run())
    assert arrived == messages
    return kind


@pytest.mark.parametrize("given", ["", "application/json", "multipart/form-data; boundary=another", "text/plain"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_form_is_known_by_its_first_line(given, size):
    assert exchanged(given, [FORM[at : at + size] for at in range(0, len(FORM), size)]) == FOUND


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"--\r\n", b"--0f3c9a", b"--0f3c9a\n", b" --0f3c9a\r\n", b'--"\r\n', b"--a b\r\n", b"--a;b\r\n",
        b"--" + b"a" * 71 + b"\r\n", b"--\xff\r\n", b"name=ann&other=1" * 20,
    ],
)  # fmt: skip
def test_other_bodies_are_what_the_client_says(body):
    assert exchanged("application/json", [body]) == "application/json"


def test_the_longest_boundary():
    assert exchanged("", [b"--" + b"a" * 70 + b"\r\n"]) == f'multipart/form-data; boundary="{"a" * 70}"'


def test_a_client_that_goes():
    async def run():
        async def receive():
            return {"type": "http.disconnect"}

        kind, again = await true_type("application/json", receive)
        return kind, await again()

    assert asyncio.run(run()) == ("application/json", {"type": "http.disconnect"})
