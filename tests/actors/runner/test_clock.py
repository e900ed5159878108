"""An attempt's time is its agent's: what calls waited for engines is not counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from al_ray.actors.gateway.calls.engines.absences import Absences
from al_ray.actors.runner.clock import absent, expire, within

AGO = st.floats(0, 1000)


@asynccontextmanager
async def gateway(absences: Absences) -> AsyncIterator[str]:
    """As far as a clock asks it."""
    app = web.Application()
    app.add_routes(absences.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


async def lasts(seconds: float, base_url: str) -> float:
    """How long an attempt of so many seconds is left to itself."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as deadline:
            clock = asyncio.create_task(expire(deadline, seconds, base_url))
            await asyncio.sleep(60)
    await clock
    return time.monotonic() - began


async def test_the_clock_stands_still_while_calls_wait_for_an_engine() -> None:
    """It is asked when the time is up, during the absence and after it."""
    absences = Absences()
    async with gateway(absences) as url:
        waiting = asyncio.create_task(lasts(1.0, url))
        await asyncio.sleep(0.2)
        absences.begin()
        await asyncio.sleep(1.5)
        absences.end()
        assert await waiting == pytest.approx(2.5, abs=0.5)
        assert await lasts(0.3, url) == pytest.approx(0.3, abs=0.25)  # that absence was before it


async def test_without_a_gateway_that_tells_the_time_is_what_it_is() -> None:
    assert await lasts(0.3, "http://127.0.0.1:9/v1") == pytest.approx(0.3, abs=0.25)
    app = web.Application()
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert await absent(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", 5.0) == 0  # it has no such page
    await runner.cleanup()


@pytest.mark.parametrize(
    "answer", ["[]", "null", "1", '{"absences": null}', '{"absences": [1]}', '{"absences": [["a", "b"]]}']
)
async def test_what_no_gateway_would_answer_stops_no_clock(answer: str) -> None:
    async def answers(request: web.Request) -> web.Response:
        return web.json_response(text=answer)

    app = web.Application()
    app.router.add_get("/v1/absences", answers)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert await absent(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", 5.0) == 0
    await runner.cleanup()


async def test_the_clock_needs_none_of_the_threads_that_agents_may_hold() -> None:
    """As one does that hands its work to asyncio's threads, which hangs."""
    released = threading.Event()
    held = [asyncio.ensure_future(asyncio.to_thread(released.wait)) for _ in range(40)]
    try:
        async with gateway(Absences()) as url:
            assert await lasts(0.3, url) == pytest.approx(0.3, abs=0.25)
    finally:
        released.set()
        await asyncio.gather(*held)


@given(st.lists(st.tuples(AGO, AGO).map(lambda ends: (max(ends), min(ends)))), AGO)
def test_of_each_absence_what_lies_in_the_attempt_counts(
    absences: list[tuple[float, float]], seconds: float
) -> None:
    """Independently: the length of each less what of it was before the attempt."""
    counted = [(began - ended) - max(0.0, began - max(ended, seconds)) for began, ended in absences]
    assert within(absences, seconds) == pytest.approx(sum(counted), abs=1e-6)
