import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.web.request_ids import HEADER, new_request_id, request_id


@pytest.mark.parametrize("sent", ["a", "7", "edge-7f.3", "0af7651916cd43dd8448eb211c80319c", "A_b", "x" * 64])
def test_a_proxys_id_is_kept(sent):
    assert new_request_id(sent) == sent


@pytest.mark.parametrize(
    "sent",
    [
        None, "", " ", "-", ".", "_a", "a b", "a\n", "\na", "a\nb", "a\r", "a\t", "a;b", "a/b", "a=b", '"a"', "é",
        "x" * 65, "a\x00",
    ],
)  # fmt: skip
def test_any_other_is_replaced(sent):
    assert re.fullmatch(r"[0-9a-f]{16}", new_request_id(sent))


@given(st.text())
@example("٣")  # a digit, of another script
@example("ⅷ")
def test_whatever_is_sent_an_id_is_short_and_of_harmless_characters(sent):
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", new_request_id(sent))


def test_each_is_another():
    assert len({new_request_id(None) for _ in range(1000)}) == 1000


def test_outside_of_a_request_there_is_none():
    assert request_id.get() == "-"
    assert HEADER == "X-Request-ID"


def test_each_request_has_its_own_in_its_thread_too():
    async def one(number):
        request_id.set(f"r{number}")
        await asyncio.sleep(0)
        return request_id.get(), await asyncio.to_thread(request_id.get)

    async def several():
        return await asyncio.gather(*(asyncio.create_task(one(number)) for number in range(5)))

    assert asyncio.run(several()) == [(f"r{number}",) * 2 for number in range(5)]
    with ThreadPoolExecutor(1) as others:
        assert others.submit(request_id.get).result() == "-"
