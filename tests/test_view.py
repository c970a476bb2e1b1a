"""The server of ``safron-view``: what it shows, what it paints and saves, and what it refuses."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import small_renders
import zarr
from cases import run_program
from masks import blobs
from models import RampModel
from safron.engine import VirtualSlide, render
from safron.io.errors import BadInput

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
from safron.engine.plan.window import Window
from safron.engine.viewing import cli
from safron.engine.viewing.edits import EditableMask, Stroke
from safron.engine.viewing.on_screen import MaskPicture
from safron.engine.viewing.pictures import ImagePicture, Shown, SlidePicture
from safron.engine.viewing.scene import Scene, open_scene
from safron.engine.viewing.seams import Patches, worst_seam
from safron.io.masks.open import open_mask
from safron.io.masks.write_nuclei import write_nuclei
from view_pages import Page, serving

LABELS = blobs(700, 900, seed=2)
OPTIONS: dict[str, Any] = {"tile": 128, "mpp": 1.0}


@pytest.fixture
def mask(here: Path) -> Path:
    """A mask on disk."""
    array = zarr.create_array(here / "mask.zarr", shape=LABELS.shape, chunks=(256, 256), dtype="uint8")
    array[:] = LABELS
    array.attrs["labels"] = [{"value": 2, "name": "gland", "color": [0, 200, 0]}]
    array.attrs["mpp"] = 1.0
    return here / "mask.zarr"


def open_here(mask: Path, **options: Any) -> Scene:
    return open_scene(str(mask), None, **{"model": RampModel(), **OPTIONS, **options})


def wait(page: Page, level: int = 0) -> Any:
    """Look until all of the view is rendered."""
    for _ in range(2000):
        state = page.state(level)
        if state["progress"]["done"] == state["progress"]["total"]:
            return state
        time.sleep(0.02)
    raise AssertionError(state)


def picture(body: bytes) -> np.ndarray[Any, Any]:
    """Decode an answer: RGB, or RGBA."""
    image: Any = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    return image[..., [2, 1, 0, 3][: image.shape[2]]]


def test_a_mask_becomes_tissue_while_one_looks(mask: Path) -> None:
    with serving(open_here(mask)) as page:
        info = page.json("/info")
        assert (info["kind"], info["width"], info["height"], info["mpp"]) == ("mask", 900, 700, 1.0)
        assert info["patches"]["tile"] - info["patches"]["overlap"] == 108
        assert page.ask("/tissue/0/0/0")[0] == 204
        state = wait(page, 2)
        assert state["progress"]["total"] == 12
        with VirtualSlide(LABELS, model=RampModel(), **OPTIONS) as slide:
            for level, row, column in ((0, 1, 2), (2, 0, 0)):
                status, headers, body = page.ask(f"/tissue/{level}/{column}/{row}")
                assert (status, headers["x-complete"], headers["content-type"]) == (200, "1", "image/jpeg")
                jpeg = cv2.imencode(
                    ".jpg", slide.tile(level, row, column)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92]
                )
                assert body == jpeg[1].tobytes()
        assert page.ask("/tissue/0/99/99")[0] == 204
        assert page.ask("/tissue/2/0/0")[0] == 200


def test_the_middle_of_the_view_comes_first_and_parts_are_shown(mask: Path) -> None:
    class Slow(RampModel):
        def __call__(self, labels: Any, noise: Any = None) -> Any:
            time.sleep(0.004)
            return super().__call__(labels, noise)

    with serving(open_here(mask, model=Slow())) as page:
        while not (state := page.state(1))["progress"]["done"]:
            time.sleep(0.01)
        status, headers, body = page.ask("/tissue/1/0/0")
        shown = picture(body)
        assert status == 200
        if "x-complete" not in headers:
            assert set(np.unique(shown[..., 3])) == {0, 255}
            assert shown[180, 250, 3] or shown[180, 200, 3]  # x 400 to 500, y 360: the middle
        assert page.json("/pause", {"paused": True}) is None
        time.sleep(0.3)
        before = page.state(1)
        time.sleep(0.2)
        assert page.state(1)["progress"] == before["progress"]
        assert before["progress"]["paused"]
        page.json("/pause", {"paused": False})
        assert wait(page, 1)["version"] > state["version"]


def test_another_stain_needs_no_new_patches(mask: Path) -> None:
    model = RampModel()
    with serving(open_here(mask, model=model)) as page:
        wait(page)
        calls = model.calls
        page.json("/stain", {"stain": "pink"})
        assert wait(page)["stain"] == "pink"
        assert model.calls == calls
        shown = page.scene.picture.tile(0, 1, 1)
        assert shown is not None
    with VirtualSlide(LABELS, model=RampModel(), stain="pink", **OPTIONS) as slide:
        np.testing.assert_array_equal(shown.rgb, slide.tile(0, 1, 1))
        assert slide.properties["safron.Stain"] == "pink"
        slide.restain("reference")
        assert "safron.Stain" not in slide.properties


def test_another_stain_changes_the_colours_and_keeps_the_seed(mask: Path) -> None:
    with serving(open_here(mask)) as page:
        assert wait(page)["stain"] == "reference"
        first = page.ask("/tissue/0/1/1")[2]
        page.json("/seed", {"seed": 3})
        page.json("/stain", {"stain": "violet"})
        state = wait(page)
        assert (state["stain"], state["seed"], state["epoch"]) == ("violet", 3, 2)
        assert page.ask("/tissue/0/1/1")[2] != first
        for wrong in ("/etc/passwd", "s.svs", "random:x", "random:1\n"):
            assert page.ask("/stain", {"stain": wrong})[0] == 400
        page.json("/stain", {"stain": "reference"})
        page.json("/seed", {"seed": 0})
        wait(page)
        assert page.ask("/tissue/0/1/1")[2] == first


def test_another_seed_gives_other_tissue(mask: Path) -> None:
    with serving(open_here(mask)) as page:
        wait(page)
        first = page.ask("/tissue/0/1/1")[2]
        page.json("/seed", {"seed": 3})
        assert page.ask("/tissue/0/1/1")[0] == 204
        state = wait(page)
        assert (state["seed"], state["epoch"]) == (3, 1)
        assert page.ask("/tissue/0/1/1")[2] != first
        assert page.ask("/seed", {"seed": -1})[0] == 400
        page.json("/seed", {"seed": 0})
        wait(page)
        assert page.ask("/tissue/0/1/1")[2] == first


def test_an_unknown_label_is_said_once_and_the_rest_is_shown(mask: Path) -> None:
    zarr.open_array(mask)[300, 300] = 77
    with serving(open_here(mask)) as page:
        for _ in range(200):
            error = page.state(0, 256, 256, 900, 700)["progress"]["error"]
            _, headers, body = page.ask("/tissue/0/3/2")
            if error and headers.get("x-complete"):
                break
            time.sleep(0.02)
        assert error.startswith(f"{mask}: label 77 at x=300, y=300 is unknown")
    with VirtualSlide(LABELS, model=RampModel(), **OPTIONS) as slide:
        rest = cv2.imencode(".jpg", slide.tile(0, 2, 3)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert body == rest[1].tobytes()


def test_labels_in_colour_with_their_counts(mask: Path) -> None:
    with serving(open_here(mask)) as page:
        tile = picture(page.ask("/labels/0/1/0")[2])
        here = LABELS[:256, 256:512]
        assert (tile[here == 2] == (0, 200, 0, 255)).all()
        coarse = picture(page.ask("/labels/2/0/0?hide=2")[2])
        assert coarse.shape == (175, 225, 4)
        assert ((coarse[..., 3] == 0) == (LABELS[::4, ::4] == 2)).all()
        outline = picture(page.ask("/labels/0/1/0?style=outline")[2])[..., 3]
        assert 0 < np.count_nonzero(outline) < outline.size / 4
        for _ in range(100):
            if (legend := page.state()["legend"])["counted"]:
                break
            time.sleep(0.02)
        assert {one["value"]: one["pixels"] for one in legend["labels"]} == {
            value: int((value == LABELS).sum()) for value in np.unique(LABELS).tolist()
        }
        assert [one["name"] for one in legend["labels"]][-1] == "gland"
        assert page.json("/label?x=300&y=20") == {
            "value": int(LABELS[20, 300]),
            "name": page.scene.labels.label(int(LABELS[20, 300])).name,
        }  # type: ignore[union-attr]
        assert page.json("/label?x=-1&y=2") is None


def test_strokes_are_painted_undone_saved_and_rendered(mask: Path, here: Path) -> None:
    with serving(open_here(mask)) as page:
        wait(page)
        before = page.ask("/tissue/0/1/1")[2]
        square = {
            "tool": "polygon",
            "label": 1,
            "width": 1,
            "points": [[300, 280], [340, 280], [340, 330], [300, 330]],
        }
        line = {"tool": "brush", "label": 0, "width": 9, "points": [[310.5, 300.5], [330.5, 300.5]]}
        assert page.json("/strokes", square) is True
        assert page.json("/strokes", line) is True
        assert (
            page.json("/strokes", line | {"tool": "eraser", "points": [[320.5, 300.5]], "width": 3}) is True
        )
        state = wait(page)
        assert (state["strokes"], state["labels_version"]) == (3, 3)
        assert page.json("/save", {"name": "edited"}) == str(here / "edited.zarr")
        saved = np.asarray(zarr.open_array(here / "edited.zarr")[:])
        expected = LABELS.copy()
        expected[280:330, 300:340] = 1
        rows, columns = np.mgrid[:700, :900]
        expected[np.hypot(rows - 300, np.clip(columns, 310, 330) - columns) <= 4.5] = 0
        erased = np.hypot(rows - 300, columns - 320) <= 1.5
        expected[erased] = LABELS[erased]
        np.testing.assert_array_equal(saved, expected)
        made = zarr.open_array(here / "edited.zarr").attrs
        assert made["mpp"] == 1.0
        assert (np.asarray(zarr.open_array(mask)[:]) == LABELS).all()
        assert page.ask("/tissue/0/1/1")[2] != before
        with VirtualSlide(saved, model=RampModel(), **OPTIONS) as slide:
            shown = page.scene.picture.tile(0, 1, 1)
            assert shown is not None
            np.testing.assert_array_equal(shown.rgb, slide.tile(0, 1, 1))
        again = page.ask("/save", {"name": "edited.zarr"})
        assert again[0] == 400
        assert b"exists" in again[2]
        for left in (2, 1, 0):
            assert page.json("/undo", {}) is True
            assert page.state()["strokes"] == left
        assert page.json("/undo", {}) is False
        wait(page)
        assert page.ask("/tissue/0/1/1")[2] == before


@pytest.mark.parametrize(
    "name", ["../out", "/tmp/out", "a/b", ".hidden", "", "x" * 101, "a\\b", "C:out", "a\nb"]
)
def test_a_mask_is_saved_under_a_plain_name_only(mask: Path, here: Path, name: str) -> None:
    with serving(open_here(mask, model="identity")) as page:
        status, _, text = page.ask("/save", {"name": name})
    assert status == 400
    assert b"a name has letters" in text
    assert sorted(path.name for path in here.iterdir()) == ["mask.zarr"]


@pytest.mark.parametrize(
    ("stroke", "message"),
    [
        ({"tool": "spray"}, "tool 'spray' must be brush"),
        ({"label": 256}, "label 256 must be"),
        ({"width": 0}, "width 0 must be"),
        ({"points": []}, "0 points"),
        ({"points": [[1e300, 0]]}, "points must lie near"),
        ({"points": [[-500, -500]]}, "beside the mask"),
        ({"tool": "polygon", "points": [[0, 0], [1 << 20, 0], [0, 1 << 20]]}, "zoom in"),
        ({"path": "/etc"}, "unknown field"),
        ({"points": [["a", 1]]}, "Expected"),
    ],
)
def test_strokes_that_cannot_be_painted(mask: Path, stroke: dict[str, Any], message: str) -> None:
    good = {"tool": "brush", "label": 1, "width": 5, "points": [[5, 5]]}
    with serving(open_here(mask, model="identity")) as page:
        status, _, text = page.ask("/strokes", good | stroke)
        assert status == 400
        assert message in text.decode()
        assert page.state()["strokes"] == 0


def test_a_stroke_is_the_same_in_every_region() -> None:
    mask = EditableMask(open_mask(blobs(600, 800, seed=3)))
    random = np.random.default_rng(1)
    for tool in ("brush", "polygon", "eraser", "brush"):
        points = [(float(x), float(y)) for x, y in random.uniform(-30, 700, (12, 2))]
        mask.paint(Stroke(tool, 1, 33.0, points))
    whole = mask[0:600, 0:800]
    for _ in range(60):
        y, x = (int(value) for value in random.integers(0, 500, 2))
        height, width = (int(value) for value in random.integers(1, 100, 2))
        np.testing.assert_array_equal(
            mask[y : y + height, x : x + width], whole[y : y + height, x : x + width]
        )


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
def test_a_saved_mask_keeps_numbers_of_nuclei_but_those_painted_over(here: Path, kind: Any) -> None:
    labels = np.ones((60, 80), np.uint8)
    numbers = np.zeros((60, 80), np.uint32)
    for number, x in enumerate(range(0, 80, 10), np.iinfo(kind).max - 7):
        labels[10:50, x : x + 10], numbers[10:50, x : x + 10] = 2, number
    write_nuclei(
        here / "m.zarr", lambda rows, columns: (labels[rows, columns], numbers[rows, columns]), height=60, width=80, mpp=0.5,
        most=int(numbers.max()),
    )  # fmt: skip
    scene = open_scene(str(here / "m.zarr"), None, model="identity")
    scene.paint(Stroke("polygon", 1, 1.0, [(20.0, 0.0), (30.0, 0.0), (30.0, 60.0), (20.0, 60.0)]))
    scene.paint(Stroke("polygon", 2, 1.0, [(40.0, 0.0), (50.0, 0.0), (50.0, 60.0), (40.0, 60.0)]))
    saved = open_mask(scene.save("n"))
    scene.close()
    labels[:, 20:30], numbers[:, 20:30], labels[:, 40:50] = 1, 0, 2
    np.testing.assert_array_equal(saved[0:60, 0:80], labels)
    assert saved.beside["instances"].plane.dtype == kind
    np.testing.assert_array_equal(saved.beside["instances"][0:60, 0:80], numbers)


def test_a_slide_with_its_mask(mask: Path, here: Path) -> None:
    render(
        mask,
        here / "slide.svs",
        model=RampModel(),
        workers=1,
        tiff_tile=128,
        block=256,
        compression="deflate",
        **OPTIONS,
    )
    with serving(open_scene("slide.svs", str(mask))) as page:
        info = page.json("/info")
        assert (info["kind"], info["patches"]["tile"], info["has_labels"]) == ("slide", 128, True)
        assert isinstance(page.scene.picture, SlidePicture)
        shown = page.scene.picture.tile(0, 1, 2)
        assert shown is not None
        with VirtualSlide(LABELS, model=RampModel(), **OPTIONS) as slide:
            np.testing.assert_array_equal(shown.rgb, slide.tile(0, 1, 2))
        assert page.ask("/tissue/3/0/0")[0] == 200
        assert page.state()["progress"] == {}
        assert page.json("/seam?level=0&x0=0&y0=0&x1=900&y1=700")["sides"] > 50
        assert page.ask("/seed", {"seed": 1})[0] == 400
    small = np.ones((10, 10), np.uint8)
    zarr.save_array(here / "small.zarr", small)
    with pytest.raises(BadInput, match="the mask has 10 x 10 px and the slide 900 x 700"):
        open_scene("slide.svs", "small.zarr")


def test_other_files(here: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (300, 520, 3), np.uint8)
    cv2.imwrite("picture.png", rgb[..., ::-1])
    cv2.imwrite("labels.png", blobs(100, 120))
    scene = open_scene("picture.png", None)
    assert scene.kind == "slide"
    assert isinstance(scene.picture, ImagePicture)
    shown = scene.picture.tile(1, 0, 1)
    assert shown is not None
    assert shown.rgb.shape == (150, 4, 3)
    scene.close()
    for name, as_mask in (("labels.png", False), ("labels.png", True)):
        scene = open_scene(name, None, as_mask=as_mask, model="identity")
        assert scene.kind == "mask"
        scene.close()
    with pytest.raises(BadInput, match="no such file; give a mask"):
        open_scene("nothing.svs", None)


def test_the_side_with_the_largest_step_is_found() -> None:
    pixels = np.random.default_rng(0).integers(100, 120, (512, 512, 3), np.uint8)
    pixels[176:264, 264:] += 30  # sides of patches: x 264, y 176 and y 264

    class Image(ImagePicture):
        def __init__(self) -> None:
            super(ImagePicture, self).__init__(512, 512, None)

        def read(self, level: int, row: int, column: int) -> Any:
            return Shown(pixels[row * 256 : row * 256 + 256, column * 256 : column * 256 + 256], None)

    found = worst_seam(Image(), Patches(64, 20), Window(0, 0, 512, 512))
    assert found is not None
    upright = found["x"] == 264 and 176 < found["y"] < 264
    lying = found["y"] in (176, 264) and found["x"] > 264
    assert upright != lying, found
    assert found["step"] > 25
    assert found["usual"] < 3
    assert worst_seam(Image(), Patches(64, 20), Window(0, 0, 30, 30)) is None


def test_nobody_looking_nothing_is_rendered(mask: Path) -> None:
    class Slow(RampModel):
        def __call__(self, labels: Any, noise: Any = None) -> Any:
            time.sleep(0.01)
            return super().__call__(labels, noise)

    now = [0.0]
    slide = VirtualSlide(LABELS, model=Slow(), **OPTIONS)
    picture = MaskPicture(slide, clock=lambda: now[0])
    picture.look(0, Window(0, 0, 700, 900))
    now[0] = 30.0
    time.sleep(0.3)  # what was begun is finished
    done = picture.progress()["done"]
    time.sleep(0.3)
    assert picture.progress()["done"] == done < 12
    picture.look(0, Window(0, 0, 700, 900))
    for _ in range(1000):
        if picture.progress()["done"] == 12:
            break
        time.sleep(0.01)
    progress = picture.progress()
    assert 12 < progress.pop("most") <= 1024, "as many as there is memory for"
    assert progress == {"total": 12, "done": 12, "paused": False, "error": ""}
    picture.close()


def test_a_view_of_a_huge_mask_is_planned_at_once() -> None:
    labels = np.broadcast_to(np.uint8(1), (1 << 16, 1 << 16))
    picture = MaskPicture(VirtualSlide(labels, model="identity"), threads=0)
    start = time.perf_counter()
    picture.look(8, Window(0, 0, 1 << 16, 1 << 16))
    progress = picture.progress()
    assert time.perf_counter() - start < 3
    assert (progress["total"], progress["done"]) == (1 << 16, 0)
    assert 12 < progress["most"] <= 1024
    assert picture._wanted[0][1:] in {(127, 127), (127, 128), (128, 127), (128, 128)}
    picture.close()


# Safety.


def test_foreign_names_and_pages_are_refused(mask: Path) -> None:
    with serving(open_here(mask, model="identity")) as page:
        assert page.ask("/info", Host=f"localhost:{page.port}")[0] == 200
        for host in (
            "evil.example",
            f"evil.example:{page.port}",
            f"127.0.0.1:{page.port + 1}",
            "127.0.0.1",
            "",
        ):
            assert page.ask("/info", Host=host)[0] == 421
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Origin": f"http://127.0.0.1:{page.port + 1}"},
        ):
            assert page.ask("/undo", {}, **headers)[0] == 403
        assert page.ask("/undo", {}, Origin=f"http://127.0.0.1:{page.port}")[0] == 200
        assert page.ask("/undo", {}, Content_Type="text/plain")[0] == 415
        assert page.ask("/undo", b"x" * ((1 << 20) + 1))[0] == 413
        assert page.ask("/info", method="DELETE")[0] == 405
        assert page.ask("/save")[0] == 405
        headers = page.ask("/")[1]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/../setup.cfg",
        "/static/../cli.py",
        "/%2e%2e/cli.py",
        "/view.py",
        "/cli.py",
        "/tissue/0/0/..%2f..%2f",
        "/tissue/-1/0/0",
        "/mask.zarr",
    ],
)
def test_no_path_comes_from_a_url(mask: Path, path: str) -> None:
    with serving(open_here(mask, model="identity")) as page:
        assert page.ask(path)[0] == 404


@pytest.mark.parametrize("path", ["/state", "/state?level=a&x0=0&y0=0&x1=1&y1=1", "/seam?level=0&x0=9999999999999&y0=0&x1=1&y1=1", "/label?x=1", "/tissue/99/0/0", "/tissue/0/99999999/0"])  # fmt: skip
def test_wrong_numbers_are_refused(mask: Path, path: str) -> None:
    with serving(open_here(mask, model="identity")) as page:
        status, _, text = page.ask(path)
        assert status == 400
        assert len(text.splitlines()) == 1


def test_a_token_is_wanted_everywhere(mask: Path) -> None:
    token = "0123456789abcdef"
    with serving(open_here(mask, model="identity"), token=token) as page:
        for path in ("/", "/info", "/view.js", "/tissue/0/0/0", "/?token=wrong", "/info?token=" + token):
            assert page.ask(path)[0] == 401
        assert page.ask("/undo", {})[0] == 401
        status, headers, _ = page.ask("/?token=" + token)
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert page.ask("/info", Cookie=cookie.split(";")[0])[0] == 200
        assert page.ask("/info", Authorization=f"Bearer {token}")[0] == 200


def test_many_requests_and_closed_connections_leave_it_answering(mask: Path) -> None:
    with serving(open_here(mask, model="identity")) as page:
        page.state(1)
        for _ in range(20):  # who asks, and does not wait for the answer
            with socket.create_connection(("127.0.0.1", page.port)) as client:
                client.sendall(f"GET /tissue/1/0/0 HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n\r\n".encode())
        with ThreadPoolExecutor(50) as threads:
            paths = [
                f"/{kind}/{index % 3}/{index % 2}/0" for index in range(250) for kind in ("tissue", "labels")
            ]
            answers = list(threads.map(lambda path: page.ask(path)[0], paths))
        assert len(answers) == 500
        assert set(answers) <= {200, 204}
        assert page.json("/info")["kind"] == "mask"


# The command.


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("mask.zarr --host 0.0.0.0", "--host 0.0.0.0: others can reach it, so it needs --token"),
        ("mask.zarr --host 192.0.2.1 --token short", "--token: must be 16 to 200 letters"),
        ("mask.zarr --host 0.0.0.0 --token 0123456789abcdef", "name the address that others will use"),
        ("missing.zarr --no-browser", "missing.zarr"),
        ("mask.zarr slide.svs --as-mask --no-browser", "mask.zarr: is said to be a mask"),
        ("mask.zarr --memory 1MB --no-browser", "--memory 1 MiB: a view needs"),
        ("mask.zarr --model missing.onnx --no-browser", "missing.onnx"),
    ],
)
def test_the_command_refuses_in_one_line(
    args: str, message: str, mask: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run_program(capfd, cli.main, *args.split())
    assert (outcome.code, outcome.out) == (2, ""), "no address is told of what is refused"
    assert message in outcome.error


# A render in progress.


@pytest.mark.parametrize(
    ("compression", "scratch"), [("none", None), ("deflate", None), ("lzw", None), ("jpeg", "work")]
)
def test_a_render_in_work_fills_in(
    compression: str, scratch: str | None, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = f"{small_renders.ARGS} --compression {compression}" + (f" --scratch {scratch}" if scratch else "")
    if scratch:
        Path(scratch).mkdir()
    small_renders.write_small_mask("mask.zarr")
    small_renders.interrupt(capfd, args)
    with serving(open_scene("out.tiff", "mask.zarr", scratch=scratch)) as page:
        info = page.json("/info")
        assert (info["kind"], info["width"], info["height"]) == ("render", 300, 200)
        assert (info["patches"]["block"], info["patches"]["tile"]) == (128, 64)
        progress = page.state()["progress"]
        assert 0 < progress["blocks"] < progress["all_blocks"] == small_renders.BLOCKS
        assert progress["state"] == "interrupted"
        assert "the same command continues" in progress["line"]
        picture = page.scene.picture
        before = [picture.tile(level, 0, 0) for level in range(4)]
        there = before[0]
        assert there is not None
        assert there.there is not None
        assert there.there[:128, :128].all()
        assert not there.there[:, 200:].all()
        small_renders.render_cli(capfd, args)
        assert page.state()["kind"] == "slide"
        for level, early in enumerate(before):
            late = page.scene.picture.tile(level, 0, 0)
            assert late is not None
            assert early is not None
            seen = early.there == 255
            assert seen.any()
            # Levels beyond are made from these here, and before they are compressed there.
            if level < (2 if compression == "jpeg" else 3):
                np.testing.assert_array_equal(early.rgb[seen], late.rgb[seen])
        assert page.ask("/tissue/0/1/0", None)[0] == 200
