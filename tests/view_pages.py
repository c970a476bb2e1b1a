"""A server of ``safron-view`` in this process, and how tests ask it: for `test_view` and `test_view_page`."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from safron.engine.viewing.scene import Scene
from safron.engine.viewing.server import hosts_of, make_app

JSON = {"Content-Type": "application/json"}


class Page:
    """Asks a server.

    Parameters
    ----------
    port : of the server.
    scene : what it shows.
    """

    def __init__(self, port: int, scene: Scene) -> None:
        self.port, self.scene = port, scene

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            sent = JSON | sent
        try:
            connection.request(method or ("GET" if data is None else "POST"), path, data, sent)
            answer = connection.getresponse()
            return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, path: str, body: Any = None) -> Any:
        """What it answers, where it does."""
        status, _, text = self.ask(path, body)
        assert status == 200, text
        return json.loads(text)

    def state(self, level: int = 0, *view: int) -> Any:
        """What it says while one looks at a view, x0, y0, x1, y1."""
        x0, y0, x1, y1 = view or (0, 0, self.scene.picture.width, self.scene.picture.height)
        return self.json(f"/state?level={level}&x0={x0}&y0={y0}&x1={x1}&y1={y1}")


@contextmanager
def serving(scene: Scene, *, token: str | None = None) -> Iterator[Page]:
    """Serve a scene, and close it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        app = make_app(scene, hosts=hosts_of("127.0.0.1", port), token=token)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Page(port, scene)
        finally:
            server.should_exit = True
            thread.join()
            scene.close()
