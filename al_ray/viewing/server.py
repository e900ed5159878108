"""HTTP for the pages: who may read them, and what a browser may do with them.

A page is read by whoever has the token, which stands in the address that is printed and from then on in a
cookie. A browser runs our script alone and loads nothing from anywhere else, whatever a page shows.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from al_ray.errors import Problem, UserError
from al_ray.viewing.runs import Runs
from al_ray.viewing.site import Query, Site

_log = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
_STATIC: Final = Path(__file__).parent / "static"
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the token
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_TOKEN: Final = web.AppKey("token", str)
_ALONE: Final = web.AppKey("alone", bool)
_HERE: Final = {LOOPBACK, "::1", "localhost"}
"""What a browser of this machine calls it."""
_NO_TOKEN: Final = "this address lacks the token: take the one that al-ray view printed"
_NO_HOST: Final = "the header Host names no address"
_OTHER_HOST: Final = "without a token this machine's pages are read at 127.0.0.1, [::1] or localhost alone"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(site: Site, token: str, host: str) -> web.Application:
    """``token`` is empty where anybody may read who reaches the ``host`` that is listened at."""
    app = web.Application(middlewares=[_guarded])
    app[_TOKEN] = token
    app[_ALONE] = not token and host in _HERE
    for path, page in site.pages.items():
        app.router.add_get(path, _page(site, page))
    app.router.add_get("/worth", _values(site.worth))
    app.router.add_get("/since", _values(site.since))
    for file in sorted(_STATIC.iterdir()):
        app.router.add_get(f"/static/{file.name}", _file(file))
    return app


async def serve(root: Path, host: str, port: int, *, with_token: bool, tell: Callable[[str], None]) -> None:
    """Until it is cancelled. Raises ``UserError`` where there is no run, or nothing can be served there."""
    site = Site(await asyncio.to_thread(Runs, root))
    token = secrets.token_urlsafe(18) if with_token else ""
    runner = web.AppRunner(application(site, token, host), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UserError(_cannot(error, host, port)) from error
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        tell(f"http://{shown}:{bound}/" + (f"?token={token}" if token else ""))
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _cannot(error: OSError, host: str, port: int) -> Problem:
    if error.errno == errno.EADDRINUSE:
        return Problem(
            "--port", port, "something else listens there; give another one, or 0 for any that is free"
        )
    if error.errno == errno.EACCES:
        return Problem("--port", port, "is the system's; give one from 1024 on, or 0 for any that is free")
    return Problem("--host", host, f"cannot be listened at: {error.strerror or error}")


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    answer = await _admitted(request, handler)
    answer.headers.update(_HEADERS)
    answer.headers.setdefault("Cache-Control", "no-store")
    return answer


async def _admitted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What the handler answers to whoever has the token; it moves from the address to a cookie."""
    token = request.app[_TOKEN]
    try:
        url = request.url
    except ValueError:
        return web.Response(status=400, text=_NO_HOST)
    if request.app[_ALONE] and url.host not in _HERE:  # a page elsewhere whose name leads here by now
        return web.Response(status=403, text=_OTHER_HOST)
    cookie = f"al_ray_view_{url.port}"  # a browser sends cookies to all ports of a host
    try:
        if token:
            given = request.query.get("token")
            if given is not None and _is_same(given, token):
                rest = [(name, value) for name, value in request.query.items() if name != "token"]
                here = str(url.with_query(rest).relative()).lstrip("/")  # after two it would name a host
                answer = web.Response(status=302, headers={"Location": f"/{here}"})
                answer.set_cookie(cookie, token, httponly=True, samesite="Lax", path="/")
                return answer
            known = request.cookies.get(cookie, "")
            if not _is_same(known, token):
                return web.Response(status=401, text=_NO_TOKEN)
        return await handler(request)
    except web.HTTPException as error:  # no such path, another method
        return web.Response(status=error.status, text=error.reason)


def _is_same(given: str, token: str) -> bool:
    """Whatever bytes a client has sent as text."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _page(site: Site, page: Callable[[Query], str]) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        try:
            text, status = await asyncio.to_thread(page, _query(request)), 200
        except UserError as error:
            text, status = site.problem(error), 404
        body = text.encode("utf-8", "replace")  # half a surrogate pair is no character
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        page_headers = {"ETag": tag, "Cache-Control": "no-cache, private"}
        return web.Response(
            body=body, status=status, content_type="text/html", charset="utf-8", headers=page_headers
        )

    return answer


def _values(values: Callable[[Query], Mapping[str, Any]]) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(values, _query(request)))
        except UserError as error:
            return web.json_response({"error": str(error)}, status=404)

    return answer


def _file(file: Path) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=file.read_bytes(), content_type=_TYPES[file.suffix], charset="utf-8")

    return answer


def _query(request: web.Request) -> Mapping[str, Sequence[str]]:
    return {name: request.query.getall(name) for name in request.query}
