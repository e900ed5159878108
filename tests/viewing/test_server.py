"""Who may read the pages, what a browser may do with them, and what is said of what cannot be shown."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from al_ray.errors import UserError
from al_ray.run.folder import RunFolder
from al_ray.viewing.server import LOOPBACK, serve
from tests.support.runs.viewed import HOSTILE

Answer = tuple[int, Mapping[str, str], str]


def opener(address: str = "") -> urllib.request.OpenerDirector:
    """With the token of ``address``, if any."""
    made = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    if address:
        made.open(address)
    return made


def get(made: urllib.request.OpenerDirector, address: str, path: str, **headers: str) -> Answer:
    root = f"http://{urlsplit(address).netloc}"
    asked = urllib.request.Request(root + path, headers=headers)
    try:
        with made.open(asked) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


PATHS = ("/", "/run?run=toy/first", "/worth?run=toy/first", "/static/view.js", "/?token=wrong", "/nowhere")


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_told(address: str, path: str) -> None:
    status, headers, body = get(opener(), address, path)
    assert (status, body) == (401, "this address lacks the token: take the one that al-ray view printed")
    assert "Set-Cookie" not in headers


@pytest.mark.parametrize("path", ["//elsewhere.example/run", "///elsewhere.example", "/run"])
def test_whoever_brings_the_token_is_sent_on_to_this_site_alone(address: str, path: str) -> None:
    url = urlsplit(address)
    assert url.hostname is not None
    connection = http.client.HTTPConnection(url.hostname, url.port or 80)
    connection.request("GET", f"{path}?{url.query}&run=a")
    answer = connection.getresponse()
    connection.close()
    assert (answer.status, answer.headers["Location"]) == (302, f"/{path.lstrip('/')}?run=a")


def test_a_browser_runs_our_script_alone_and_loads_nothing_from_elsewhere(address: str) -> None:
    status, headers, body = get(opener(address), address, "/rollout?run=toy/first&id=step-000003/0/2")
    assert status == 200 and HOSTILE not in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'" in policy and "unsafe" not in policy
    assert headers["Referrer-Policy"] == "no-referrer", "or the token would be told"
    assert "token=" not in body and "style=" not in body and "onclick" not in body


@pytest.mark.parametrize(
    "path, said",
    [
        ("/run?run=toy/third", "there is no such run in"),
        ("/rollout?run=toy/first&id=x", "the run toy/first has no such rollout"),
        ("/rollout?run=toy/first", "the address names no id"),
        ("/group?run=toy/first&batch=b&group=g", "the run has no such group"),
        ("/task?run=toy/first&task=t", "the run has no rollout of such a task"),
        ("/rollouts?run=toy/first&status=odd", "one of queued, running, succeeded, failed, cancelled"),
        ("/rollouts?run=toy/first&min_reward=low", "a number"),
    ],
)
def test_what_is_not_there_is_said_with_its_place_and_value(address: str, path: str, said: str) -> None:
    status, _, body = get(opener(address), address, path)
    assert status == 404 and said in body and "Traceback" not in body


def test_a_page_that_has_not_changed_is_not_sent_again(address: str) -> None:
    made = opener(address)
    path = "/rollout?run=toy/first&id=step-000003/0/2"
    _, headers, _ = get(made, address, path)
    assert get(made, address, path, **{"If-None-Match": headers["ETag"]})[0] == 304


def test_worth_is_told_as_json(address: str) -> None:
    """As the run computed it: the best of three that could be compared, the worst, and what failed."""
    ids = [f"step-000003/0/{member}" for member in (0, 2, 3)]
    path = "/worth?run=toy/first&" + "&".join(f"id={id}" for id in ids)
    told: Any = json.loads(get(opener(address), address, path)[2])
    worst, best, failed = (told[id] for id in ids)
    assert [worst["calls"][f"{ids[0]}/c{n}/0"]["advantage"] for n in range(3)] == pytest.approx(
        [-1] * 3, abs=1e-4
    )
    assert [best["calls"][f"{ids[1]}/c{n}/0"]["advantage"] for n in range(3)] == pytest.approx(
        [1] * 3, abs=1e-4
    )
    last = best["calls"][f"{ids[1]}/c2/0"]
    assert last["reward"] == pytest.approx(0.65), "its last call earned the reward"
    assert last["returned"] == pytest.approx(0.65) and last["intermediate"] == 0.0
    assert failed == {"note": "it failed, and nothing was learnt from it", "calls": {}}


async def test_a_port_that_is_taken_is_said_with_the_cure(viewed_run: RunFolder) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port: {port}: something else listens there"):
            await serve(viewed_run.path, LOOPBACK, port, with_token=True, tell=print)
    with pytest.raises(UserError, match=r"--host: '192\.0\.2\.1': cannot be listened at"):
        await serve(viewed_run.path, "192.0.2.1", 0, with_token=True, tell=print)


async def test_without_a_token_anybody_may_read_who_calls_the_machine_by_its_own_name(
    viewed_run: RunFolder,
) -> None:
    """Not a page elsewhere whose name was made to lead to loopback."""
    told: list[str] = []
    serving = asyncio.create_task(serve(viewed_run.path, LOOPBACK, 0, with_token=False, tell=told.append))
    while not told:
        await asyncio.sleep(0.01)
    [address] = told
    assert "token" not in address
    status, _, body = await asyncio.to_thread(get, opener(), address, "/run?run=run")
    assert status == 200 and "toy/first" in body, "the only run is called so"
    for host, expected in (("localhost", 200), ("[::1]:80", 200), ("rebound.example", 403), ("a:b", 400)):
        status, _, body = await asyncio.to_thread(get, opener(), address, "/run?run=run", Host=host)
        assert status == expected and ("toy/first" in body) is (status == 200), host
    serving.cancel()


@pytest.mark.parametrize(
    "headers, expected",
    [
        ({"Host": "a:b"}, (400, "the header Host names no address")),
        ({"Host": "localhost:99999"}, (400, "the header Host names no address")),
        ({"Cookie": "al_ray_view_{port}=\xff\xfe"}, (401, "this address lacks the token")),
    ],
)
def test_headers_that_no_browser_sends_are_refused(
    address: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    given = {name: value.format(port=urlsplit(address).port) for name, value in headers.items()}
    status, _, body = get(opener(), address, "/", **given)
    assert status == expected[0] and body.startswith(expected[1])


async def test_a_folder_without_a_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"RUN or FOLDER: .*: there is no run in it"):
        await serve(tmp_path, LOOPBACK, 0, with_token=True, tell=print)
    with pytest.raises(UserError, match=r"RUN or FOLDER: .*: no such folder"):
        await serve(tmp_path / "x", LOOPBACK, 0, with_token=True, tell=print)
