"""Mask from and slide to an object store: a real S3 server on loopback, whose connection breaks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cases import ExpectFail, check_fail, render_cli, run_cli, write_mask
from safron.engine import rendering
from safron.engine.generator.model import IdentityModel
from safron.io import remote

if any(find_spec(name) is None for name in ("s3fs", "moto")):
    pytest.skip("s3fs or moto is not installed", allow_module_level=True)

# aiohttp complains of sessions that s3fs drops while Python ends; they are not ours to close.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

HEIGHT, WIDTH, BLOCKS = 1800, 1500, 12
# Without compression the slide is larger than two parts of the smallest size that S3 takes.
ARGS = (
    "s3://slides/mask.zarr s3://slides/made/out.tiff --model identity --block 512 --compression none "
    "--device cpu --threads 1 --workers 2 --mpp 0.5 "
)
# Six blocks of it, for what does not depend on the size of the slide: each part of scratch takes some requests.
FEW_BLOCKS = ARGS.replace("--block 512", "--block 256 --tile 128 --tiff-tile 128 --region 0,0,500,700")
PART_BYTES = 5 << 20
_digests: dict[str, str] = {}  # made once


def file_system() -> Any:
    """A file system of s3fs, imported here, since each process that runs tests imports all of their files."""
    from s3fs import S3FileSystem

    return S3FileSystem()


class Proxy:
    """A TCP proxy that breaks its connections once so many bytes went up, and then stays down for a while.

    Parameters
    ----------
    port : of the server behind it.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self.sent_up = self.cuts = 0
        self.cut_after: int | None = None
        self.down = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._behind))
            self._sockets += [client, server]
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, up), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self.sent_up += len(data) * up
                if self.cut_after is not None and self.sent_up >= self.cut_after:
                    self.cut_after = None
                    self.cuts += 1
                    self.cut()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if not up:  # both ways have ended, or are about to
            source.close()
            sink.close()

    def cut(self) -> None:
        """Break all connections."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def close(self) -> None:
        self.cut()
        self._listener.close()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """A proxy before an S3 server; one for all tests, since s3fs keeps its connections for as long as it lives."""
    from moto import backends
    from moto.server import ThreadedMotoServer

    services = frozenset(backends.list_of_moto_modules())
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    proxy = Proxy(running.get_host_and_port()[1])
    with pytest.MonkeyPatch.context() as patched:
        # Twice for each request the server would look for the folders of 170 services.
        patched.setattr(backends, "list_of_moto_modules", lambda: services)
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
            "AWS_ACCESS_KEY_ID": "some",
            "AWS_SECRET_ACCESS_KEY": "thing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patched.setenv(name, value)
        file_system().mkdir("slides")
        write_mask("s3://slides/mask.zarr", HEIGHT, WIDTH, chunk=512)
        yield proxy
    proxy.close()
    running.stop()


@pytest.fixture
def store(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy; the bucket holds a mask and no slide."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(remote, "PART_BYTES", PART_BYTES)
    fs = file_system()
    yield proxy
    proxy.down, proxy.cut_after, proxy.cuts = False, None, 0
    for name in there():
        fs.rm(name)


def there() -> list[str]:
    """What stands in the bucket beside the mask."""
    fs = file_system()
    fs.invalidate_cache()
    return [name for name in fs.find("slides") if "mask.zarr" not in name]


def cached(tmp: Path) -> list[str]:
    return sorted(path.name.rpartition(".")[2] for path in tmp.glob("cache/safron/*"))


def local_digest(capfd: pytest.CaptureFixture[str], args: str = ARGS) -> str:
    """The digest of the same slide, made from local files."""
    if args not in _digests:
        write_mask("local.zarr", HEIGHT, WIDTH, chunk=512)
        local = args.replace("s3://slides/mask.zarr", "local.zarr")
        _digests[args] = render_cli(capfd, local.replace("s3://slides/made/out.tiff", "local.tiff"))["digest"]
    return _digests[args]


def test_mask_from_and_slide_to_a_bucket(
    store: Proxy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = render_cli(capfd, ARGS)
    assert report["digest"] == local_digest(capfd)
    assert there() == ["slides/made/out.tiff"]
    file_system().get("slides/made/out.tiff", "back.tiff")
    assert Path("back.tiff").stat().st_size == report["output_bytes"] > 2 * PART_BYTES
    assert run_cli(capfd, "--validate back.tiff").code == 0
    assert cached(tmp_path) == [], "nothing is left here"
    check_fail(run_cli(capfd, ARGS), ExpectFail("", "", ("s3://slides/made/out.tiff: exists already",)))
    assert render_cli(capfd, ARGS + "--overwrite")["digest"] == report["digest"]


@pytest.mark.parametrize("cut_after", [200_000, 7_000_000], ids=["first part", "second part"])
def test_a_connection_that_breaks_once_is_made_again(
    cut_after: int, store: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    store.sent_up, store.cut_after = 0, cut_after
    report = render_cli(capfd, ARGS)
    assert store.cuts == 1
    assert there() == ["slides/made/out.tiff"]
    assert file_system().info("slides/made/out.tiff")["size"] == report["output_bytes"]


def test_a_mask_whose_connection_breaks_is_read_on(store: Proxy, capfd: pytest.CaptureFixture[str]) -> None:
    # What goes up before the slide does is requests alone, some hundred bytes each.
    store.sent_up, store.cut_after = 0, 4000
    report = render_cli(capfd, ARGS)
    assert store.cuts == 1
    assert report["digest"] == local_digest(capfd)


def test_a_store_that_stays_away_is_one_line_and_resumed(
    store: Proxy, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TRIES", 1)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    put = remote._put

    def fail(*args: Any, **options: Any) -> None:
        store.sent_up, store.cut_after = 0, 6_000_000
        going_down = threading.Thread(target=lambda: wait_and_go_down(store))
        going_down.start()
        try:
            put(*args, **options)
        finally:
            going_down.join()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(remote, "_put", fail)
        outcome = run_cli(capfd, ARGS)
    case = ExpectFail(
        "",
        "",
        ("s3://slides/made/out.tiff: the store refuses the slide", "the same command sends it"),
        code=1,
    )
    check_fail(outcome, case)
    store.down = False
    assert there() == [], "never a half object under the final name"
    assert cached(tmp_path) == ["part", "safron"]
    made: list[int] = []
    paint = IdentityModel.__call__
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(IdentityModel, "__call__", lambda *args: made.append(1) or paint(*args))
        report = render_cli(capfd, ARGS)
    assert len(made) == 1, "the warm-up: no patch was made again"
    assert report["resumed"] == report["blocks"] == BLOCKS
    assert there() == ["slides/made/out.tiff"]
    assert cached(tmp_path) == []


def wait_and_go_down(store: Proxy) -> None:
    while not store.cuts:
        threading.Event().wait(0.01)
    store.down = True


def test_a_run_that_was_killed_after_the_upload_is_known_to_be_done(
    store: Proxy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    send = remote.Target.send

    def killed(self: remote.Target, *, overwrite: bool) -> None:
        send(self, overwrite=overwrite)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(remote.Target, "send", killed)
        assert run_cli(capfd, ARGS).code == 130
    assert there() == ["slides/made/out.tiff"]
    outcome = run_cli(capfd, ARGS + "--report r.json")
    assert outcome.code == 0
    assert "an earlier run finished it" in outcome.error
    assert Path("r.json").exists()
    assert cached(tmp_path) == []


REFUSED = [
    ExpectFail("no bucket", "s3://nosuch/out.tiff", ("there is no bucket 'nosuch'",)),
    ExpectFail("a bucket alone", "s3://out.tiff", ("s3://out.tiff: must name a file inside a bucket",)),
    ExpectFail("no such kind", "nosuch://a/out.tiff", ("is not an address that fsspec knows",)),
    ExpectFail("extension", "s3://slides/out.png", (".svs, .tif, .tiff, .ome.tif or .ome.tiff",)),
    ExpectFail("scratch's bucket", "s3://slides/out.tiff --scratch s3://nosuch/a", ("nosuch",)),
    ExpectFail("--scratch", "s3://slides/out.tiff --scratch no", ("no such folder; make it first",)),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.what)
def test_addresses_that_cannot_be(case: ExpectFail, store: Proxy, capfd: pytest.CaptureFixture[str]) -> None:
    check_fail(run_cli(capfd, f"s3://slides/mask.zarr {case.args} --model identity --device cpu"), case)
    assert there() == []


def test_a_store_that_is_not_there(store: Proxy, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    store.down = True
    store.cut()
    outcome = run_cli(capfd, "s3://slides/mask.zarr s3://slides/out.tiff --model identity")
    check_fail(
        outcome, ExpectFail("", "", ("s3://slides/out.tiff: the store does not answer", "credentials"))
    )


def test_scratch_may_be_given(store: Proxy, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("fast").mkdir()
    render_cli(capfd, ARGS + "--scratch fast")
    assert there() == ["slides/made/out.tiff"]
    assert not list(Path("fast").iterdir())
    assert cached(tmp_path) == []


def test_scratch_in_a_bucket(
    store: Proxy, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What workers share lies there; a render that is interrupted goes on with it."""
    digest = local_digest(capfd, FEW_BLOCKS)
    args = FEW_BLOCKS + "--scratch s3://slides/scratch --batch 1 --workers 1"
    paint, made = IdentityModel.__call__, []

    def stop(self: IdentityModel, labels: Any, noise: Any = None) -> Any:
        made.append(1)
        if len(made) == 20:
            raise KeyboardInterrupt
        return paint(self, labels, noise)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(IdentityModel, "__call__", stop)
        assert run_cli(capfd, args).code == 130
    assert [name for name in there() if "/scratch/out.tiff." in name and "/boundary/sums/c." in name]
    other = ExpectFail("", "", ("other inputs (--scratch)",))
    check_fail(run_cli(capfd, FEW_BLOCKS + "--batch 1 --scratch s3://slides/elsewhere"), other)
    report = render_cli(capfd, args + " --executor processes")
    assert report["resumed"] > 0
    assert report["digest"] == digest
    assert there() == ["slides/made/out.tiff"]
    assert cached(tmp_path) == []


def test_a_part_of_a_level_that_a_bucket_lost(
    store: Proxy, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr would read it as black."""
    digest = local_digest(capfd, FEW_BLOCKS)
    args = FEW_BLOCKS + "--scratch s3://slides/scratch"
    finish = rendering.finish_levels

    def without_a_part(plan: Any, scratch: Any, writer: Any) -> Any:
        (part,) = (name for name in there() if name.endswith("/c.1.1.0") and "/levels/" in name)
        file_system().rm(part)
        return finish(plan, scratch, writer)

    with monkeypatch.context() as patched:
        patched.setattr(rendering, "finish_levels", without_a_part)
        failing = run_cli(capfd, args)
    words = ("s3://slides/scratch/", "a part of it is missing or damaged (", "run the same command again")
    check_fail(failing, ExpectFail("", "", words, code=1))
    assert render_cli(capfd, args)["digest"] == digest


def test_other_stores(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any address of fsspec's; file:// is a path."""
    import fsspec

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_mask("memory://masks/mask.zarr", 200, 300, chunk=64)
    more = "--model identity --device cpu --tile 64 --block 128 --tiff-tile 64 --workers 1"
    first = render_cli(capfd, f"memory://masks/mask.zarr memory://slides/out.tiff {more}")
    second = render_cli(capfd, f"memory://masks/mask.zarr file://{tmp_path}/out.tiff {more}")
    assert first["digest"] == second["digest"]
    fs = fsspec.filesystem("memory")
    assert len(fs.cat("/slides/out.tiff")) == first["output_bytes"] == (tmp_path / "out.tiff").stat().st_size
