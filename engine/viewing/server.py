"""What does the page ask, and who may ask it?

The server listens on this machine alone. On another address it wants a token. Requests whose Host header names another
machine are refused, so that no foreign page reaches it under a name of its own (DNS rebinding), and those that change something
must come from the page itself. No part of a URL becomes a path: files of the page have fixed names, and an edited mask is saved
beside the given one, under a plain name.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, TypeVar

import cv2
import msgspec
import numpy as np
from safron.engine.plan.window import Window
from safron.io.errors import BadInput, SafronError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .edits import Stroke
from .scene import Scene

MOST_BODY = 1 << 20
"""bytes of a request."""
MOST_LEVEL = 40
COOKIE = "safron-token"
QUALITY = 92
_SAFE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FILES = {
    "index.html": "text/html; charset=utf-8",
    "view.css": "text/css; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
    "tools.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "openseadragon.min.js": "text/javascript; charset=utf-8",
    "openseadragon.LICENSE.txt": "text/plain; charset=utf-8",
}

T = TypeVar("T")


class _Seed(msgspec.Struct, forbid_unknown_fields=True):
    seed: int


class _Stain(msgspec.Struct, forbid_unknown_fields=True):
    stain: str


class _Name(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class _Pause(msgspec.Struct, forbid_unknown_fields=True):
    paused: bool


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


def make_app(scene: Scene, *, hosts: frozenset[str], token: str | None) -> ASGIApp:
    """Make the application.

    Parameters
    ----------
    scene
        What is shown.
    hosts
        Values of the Host header that are served.
    token
        What every request must know; None wants nothing.
    """
    pages = {name: files(__package__).joinpath("static", name).read_bytes() for name in _FILES}

    def page(name: str) -> Callable[[Request], Awaitable[Response]]:
        async def send(request: Request) -> Response:
            return Response(pages[name], media_type=_FILES[name], headers={"Cache-Control": "no-cache"})

        return send

    def get(work: Callable[[Scene, Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await run_in_threadpool(lambda: _answered(lambda: work(scene, request)))

        return answer

    def post(kind: type[T], work: Callable[[Scene, T], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            body = await request.body()

            def respond() -> Response:
                try:
                    given = msgspec.json.decode(body, type=kind)
                except msgspec.DecodeError as error:
                    raise BadInput(str(error)) from error
                return JSONResponse(work(scene, given))

            return await run_in_threadpool(lambda: _answered(respond))

        return answer

    where = "{level:int}/{column:int}/{row:int}"
    app = Starlette(
        routes=[
            Route("/", page("index.html")),
            *(Route(f"/{name}", page(name)) for name in _FILES if name != "index.html"),
            Route("/info", get(lambda scene, request: JSONResponse(scene.info()))),
            Route("/state", get(lambda scene, request: JSONResponse(scene.state(*_view(request))))),
            Route("/seam", get(lambda scene, request: JSONResponse(scene.seam(_view(request)[1])))),
            Route("/label", get(_label)),
            Route(f"/tissue/{where}", get(_tissue)),
            Route(f"/labels/{where}", get(_labels)),
            Route(
                "/seed",
                post(_Seed, lambda scene, given: scene.reseed(_bounded(given.seed, 63))),
                methods=["POST"],
            ),
            Route("/stain", post(_Stain, lambda scene, given: scene.restain(given.stain)), methods=["POST"]),
            Route("/pause", post(_Pause, lambda scene, given: scene.pause(given.paused)), methods=["POST"]),
            Route("/strokes", post(Stroke, lambda scene, given: scene.paint(given)), methods=["POST"]),
            Route("/undo", post(_Nothing, lambda scene, given: scene.paint(None)), methods=["POST"]),
            Route("/save", post(_Name, lambda scene, given: str(scene.save(given.name))), methods=["POST"]),
        ]
    )
    return _Guard(app, hosts=hosts, token=token)


def _answered(work: Callable[[], Response]) -> Response:
    """Turn an error into one line with a status."""
    try:
        return work()
    except BadInput as error:
        return PlainTextResponse(str(error), 400)
    except SafronError as error:
        return PlainTextResponse(str(error), 500)


def _bounded(value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise BadInput(f"{value}: must be 0 to {(1 << bits) - 1}")
    return value


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not text.lstrip("-").isdecimal() or len(text) > 12:
        raise BadInput(f"{name} {text[:20]!r}: must be a whole number")
    return int(text)


def _view(request: Request) -> tuple[int, Window]:
    """Read what is on screen: the level that is shown, and its window of level 0."""
    level = min(MOST_LEVEL, max(0, _number(request, "level")))
    x0, y0, x1, y1 = (_number(request, name) for name in ("x0", "y0", "x1", "y1"))
    return level, Window.from_bounds(y0, x0, y1, x1)


def _place(request: Request) -> tuple[int, int, int]:
    """Read level, row and column of a tile."""
    found = request.path_params
    level, row, column = (int(found[name]) for name in ("level", "row", "column"))
    if level > MOST_LEVEL or max(row, column) >= 1 << 24:
        raise BadInput("there is no such tile")
    return level, row, column


def _tissue(scene: Scene, request: Request) -> Response:
    shown = scene.picture.tile(*_place(request))
    if shown is None:
        return Response(status_code=204, headers={"Cache-Control": "no-store"})
    if shown.there is None:
        data = cv2.imencode(".jpg", shown.rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        kept = {"Cache-Control": "max-age=3600", "X-Complete": "1"}
        return Response(data.tobytes(), media_type="image/jpeg", headers=kept)
    pixels = np.dstack([shown.rgb[..., ::-1], shown.there])
    data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    return Response(data.tobytes(), media_type="image/png", headers={"Cache-Control": "no-store"})


def _labels(scene: Scene, request: Request) -> Response:
    hidden = [int(value) for value in request.query_params.get("hide", "").split(",") if value.isdecimal()][
        :256
    ]
    if scene.labels is None:
        return Response(status_code=204)
    shown = scene.labels.tile(
        *_place(request),
        hidden=[value for value in hidden if value < 256],
        outline=request.query_params.get("style") == "outline",
    )
    if shown is None:
        return Response(status_code=204)
    bgra = shown[..., [2, 1, 0, 3]]
    data = cv2.imencode(".png", bgra, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    return Response(
        data.tobytes(), media_type="image/png", headers={"Cache-Control": "max-age=3600", "X-Complete": "1"}
    )


def _label(scene: Scene, request: Request) -> Response:
    x, y = _number(request, "x"), _number(request, "y")
    if scene.labels is None or not (
        0 <= y < scene.labels.mask.shape[0] and 0 <= x < scene.labels.mask.shape[1]
    ):
        return JSONResponse(None)
    value = int(scene.labels.mask[y : y + 1, x : x + 1][0, 0])
    return JSONResponse({"value": value, "name": scene.labels.label(value).name})


class _Guard:
    """Lets through what may ask, and puts headers on every answer."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in _SAFE.items()),
                ]
            await send(message)

        refused = self._refusal(Request(scope))
        await (refused or self._app)(scope, _limited(receive), safely)

    def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that is not served, or None."""
        headers = request.headers
        if headers.get("host", "").lower() not in self._hosts:
            return PlainTextResponse(
                "this server is not reached under that name; use the address that it printed", 421
            )
        if request.method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("method not allowed", 405)
        if self._token is not None and not self._knows(request):
            given = request.query_params.get("token")
            if request.url.path == "/" and given is not None and hmac.compare_digest(given, self._token):
                welcome = RedirectResponse("/", 303)
                welcome.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
                return welcome
            return PlainTextResponse("open the address that safron-view printed, with its token", 401)
        if request.method != "POST":
            return None
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        if (
            origin is not None and origin.partition("://")[2].lower() != headers["host"].lower()
        ) or site not in (
            "same-origin",
            "none",
        ):
            return PlainTextResponse("only the page itself may change something", 403)
        if headers.get("content-type", "").partition(";")[0] != "application/json":
            return PlainTextResponse("send JSON", 415)
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return PlainTextResponse("say how long the request is", 411)
        if int(length) > MOST_BODY:
            return PlainTextResponse(f"a request may have {MOST_BODY} bytes", 413)
        return None

    def _knows(self, request: Request) -> bool:
        assert self._token is not None
        given = request.cookies.get(COOKIE, "")
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        return any(hmac.compare_digest(text.encode(), self._token.encode()) for text in (given, bearer))


def _limited(receive: Receive) -> Receive:
    """Break off a body that is longer than it said."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        return {"type": "http.disconnect"} if read > MOST_BODY else message

    return limited


def hosts_of(host: str, port: int) -> frozenset[str]:
    """Return the Host headers that name this server."""
    names = (
        {"127.0.0.1", "localhost", "[::1]"} if host in LOOPBACK else {f"[{host}]" if ":" in host else host}
    )
    return frozenset(f"{name}:{port}".lower() for name in names) | (
        frozenset(names) if port == 80 else frozenset()
    )


LOOPBACK = ("127.0.0.1", "localhost", "::1")


def url_of(host: str, port: int, token: str | None) -> str:
    """Return the address of the page."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
