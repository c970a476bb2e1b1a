"""``safron-view``: opens a page on this machine that shows a mask as tissue, a slide with its mask, or a render in progress."""

from __future__ import annotations

import importlib.util
import re
import socket
import threading
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from safron.engine.preparation.options import DEFAULT_MODEL, RenderOptions
from safron.io.console import SETTINGS, Program, debug_option, option, run_program, version_option
from safron.io.errors import BadInput
from safron.io.fields import settings

if TYPE_CHECKING:
    from .scene import Scene

NAME = "safron-view"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")
_PARSE = {name: said.parse for name, _, _, said in settings(RenderOptions)}

EPILOG = """\b
Examples:
  safron-view mask.zarr                  tissue appears where one looks
  safron-view slide.svs mask.zarr        a slide with its labels
  safron-view slide.svs                  a slide, or a render that is still in progress
"""


@click.command(cls=Program, epilog=EPILOG, context_settings=SETTINGS)
@click.argument("source", metavar="MASK|SLIDE|OUT")
@click.argument("mask", required=False, metavar="[MASK]")
@option(
    "--model",
    "Generator: the name of a shipped one, 'identity', or an ONNX file.",
    "NAME|FILE",
    default=DEFAULT_MODEL,
)
@option("--seed", "Seed of the noise, a whole number.", "N", type=click.IntRange(0), default=0)
@option("--stain", "Stain, as safron-render takes it.", "NAME|FILE", default="reference")
@option(
    "--threads",
    "Number of patches generated side by side on a CPU.",
    "N",
    type=click.IntRange(0),
    default=0,
    shown="0, all cores",
)
@option("--device", "Device that the generator runs on.", "auto|cpu|cuda[:N]", default="auto")
@option(
    "--mpp",
    "Pixel size of the mask, in micrometres per pixel.",
    "UM",
    type=float,
    shown="the mask's, else the generator's",
)
@option(
    "--memory", "Memory that the view may use, in bytes, or as 4GiB.", "SIZE", default=4 << 30, shown="4GiB",
    parse=_PARSE["memory"],
)  # fmt: skip
@option(
    "--scratch",
    "Scratch folder of a render in progress, where it was given one.",
    "DIR",
    shown="beside the slide",
)
@option("--as-mask", "Take a colour image for a colour-coded mask, not for a slide.", is_flag=True)
@option(
    "--port",
    "Port to listen on, 0 to 65535.",
    "N",
    type=click.IntRange(0, 65535),
    default=0,
    shown="a free one",
)
@option(
    "--host",
    "Address to listen on; any but this machine's own 127.0.0.1 needs --token.",
    "ADDRESS",
    default="127.0.0.1",
)
@option(
    "--token", "Word that everyone must know who opens the page, of 16 letters and digits or more.", "WORD"
)
@option("--no-browser", "Print the address, and open no browser.", is_flag=True)
@debug_option
@version_option
def command(
    source: str,
    mask: str | None,
    *,
    port: int,
    host: str,
    token: str | None,
    no_browser: bool,
    **options: Any,
) -> None:
    """Look at a mask as tissue, at a slide with its mask, or at a render in progress, in the browser.

    Stops at Ctrl-C. Nothing leaves this machine, and no file is changed; a mask that was edited in the page is saved under a
    new name.
    """
    check_address(host, token)
    for module in ("starlette", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise BadInput(f"{NAME} needs {module}, which is not installed; run: pip install 'safron[view]'")
    check_source(source, options["scratch"])
    with _listen(host, port) as listener:
        from .scene import open_scene

        # What is refused is refused before anybody is told an address.
        scene = open_scene(source, mask, **options)
        try:
            serve(listener, host, scene, token=token, browser=not no_browser)
        finally:
            scene.close()


def check_address(host: str, token: str | None) -> None:
    """Raise `BadInput` unless this address may be listened on with this token, or without one."""
    if host not in LOOPBACK and token is None:
        raise BadInput(
            f"--host {host}: others can reach it, so it needs --token with a word that only you know"
        )
    if token is not None and not _TOKEN.fullmatch(token):
        raise BadInput("--token: must be 16 to 200 letters, digits, dashes or underscores")
    if host in ("0.0.0.0", "::"):
        raise BadInput(
            f"--host {host}: name the address that others will use, so that no other name is answered"
        )


def check_source(source: str, scratch: str | None) -> None:
    """Raise `BadInput` at once where there is nothing to look at."""
    if "://" in source or Path(source).exists():
        return
    from .unfinished import in_work

    if not in_work(Path(source), scratch):
        raise BadInput(
            f"{source}: there is no such file or folder; give a mask, a slide, or the slide of a render in progress "
            "(with its --scratch, if it was given one)"
        )


def _listen(host: str, port: int) -> socket.socket:
    """Open the port, so that its number is known before anything else is."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise BadInput(f"--host {host} --port {port}: {error.strerror or error}; choose another") from error


def serve(listener: socket.socket, host: str, scene: Scene, *, token: str | None, browser: bool) -> None:
    """Answer requests until a signal comes.

    Parameters
    ----------
    listener
        Is listening.
    host
        Its address.
    scene
        What is shown.
    token
        What every request must know, or None.
    browser
        Open the page in a browser.
    """
    import uvicorn

    from .server import hosts_of, make_app, url_of

    port = int(listener.getsockname()[1])
    app = make_app(scene, hosts=hosts_of(host, port), token=token)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    )
    url = url_of(host, port, token)
    click.echo(f"{NAME}: {url}  (Ctrl-C stops)")
    if browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        server.should_exit = True


main = partial(run_program, command, NAME)


if __name__ == "__main__":
    main()
