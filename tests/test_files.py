"""Files: inputs are opened without waiting, texts fail in one line, outputs appear whole and replace nothing by mistake."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safron.io.errors import BadInput, Failed, one_line
from safron.io.files import check_output_path, open_input, output, parse_text, read_text, replacing


def test_one_line_keeps_both_ends_of_a_long_reason() -> None:
    text = one_line(
        ValueError("Load model from x.onnx failed: " + "at /core/graph.cc " * 40 + "Unsupported IR 14")
    )
    assert len(text) == 300
    assert text.startswith("Load model from x.onnx failed: ")
    assert text.endswith("Unsupported IR 14")
    assert one_line(ValueError("x" * 300)) == "x" * 300


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


NOT_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "none", "none: No such file or directory; check the path"),
    "folder": (lambda d: d, "is a folder; give the name of a file"),
    "pipe": (lambda d: pipe(d / "p"), "p: is a pipe or a device"),
    "device": (lambda d: Path("/dev/zero"), "/dev/zero: is a pipe or a device"),
    "link to a device": (lambda d: link(d / "l", "/dev/zero"), "l: is a pipe or a device"),
    "a NUL": (lambda d: d / "a\0b", "embedded null byte"),
}


def link(path: Path, to: str) -> Path:
    path.symlink_to(to)
    return path


@pytest.mark.parametrize(("make", "message"), NOT_FILES.values(), ids=NOT_FILES)
def test_only_regular_files_are_opened(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    path = make(tmp_path)
    with pytest.raises(BadInput, match=message):
        open_input(path)
    with pytest.raises(BadInput, match=message):
        parse_text(path, json.loads, kind="JSON", remedy="check it")


def test_texts_may_be_packed_and_are_capped(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    plain.write_text("\ufeff[1]", encoding="utf-8")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_text(plain) == read_text(packed) == "[1]"
    packed.write_bytes(gzip.compress(bytes(3 << 20)))
    with pytest.raises(BadInput, match=r"a\.json\.gz: is larger than 1 MiB, the most that is read"):
        read_text(packed)
    with pytest.raises(BadInput, match="is larger than 2 bytes"):
        read_text(plain, max_bytes=2)


READERS: dict[str, tuple[Any, bytes, str]] = {
    "no JSON": (json.loads, b"{", "Expecting property name"),
    "deep JSON": (json.loads, b"[" * 500_000, "nested too deeply"),
    "a long number": (json.loads, b"9" * 5000, "4300 digits"),
    "not UTF-8": (json.loads, b"[\xff\xfe", "codec can't decode"),
    "UTF-16": (json.loads, "[1]".encode("utf-16"), "it is not UTF-8, but UTF-16 or no text"),
    "UTF-16 without a mark": (str, "mask,out".encode("utf-16-be"), "it is not UTF-8, but UTF-16 or no text"),
    "a NUL in a path": (str, b"mask,out\nm\0.zarr,s.tiff\n", "it is not UTF-8, but UTF-16 or no text"),
    "YAML": (yaml.safe_load, b"a: [1", "flow sequence"),
    "unhashable YAML": (yaml.safe_load, b"? [1]\n: 2", "unhashable"),
    "CSV": (lambda text: list(csv.reader([text], strict=True)), b'"a', "unexpected end"),
    "a list for an object": (lambda text: json.loads(text)["a"], b"[1]", "list indices"),
    "null for an object": (lambda text: json.loads(text).items(), b"null", "no attribute 'items'"),
    "a missing key": (lambda text: json.loads(text)["a"], b"{}", "KeyError 'a'"),
    "half a gzip": (json.loads, gzip.compress(b"[1]")[:12], "ended before"),
}


@pytest.mark.parametrize(("reader", "content", "reason"), READERS.values(), ids=READERS)
def test_whatever_is_wrong_with_a_text_is_one_line(
    tmp_path: Path, reader: Any, content: bytes, reason: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        parse_text(path, reader, kind="a list", remedy="see docs", name="list ")
    message = str(caught.value)
    assert message.startswith(f"list {path}: ")
    assert message.endswith("; see docs")
    assert reason in message
    assert "\n" not in message


def test_a_readers_own_message_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")

    def refuse(text: str) -> None:
        raise BadInput("tile 0: must be at least 1")

    with pytest.raises(BadInput, match=r"^tile 0: must be at least 1$"):
        parse_text(tmp_path / "a.json", refuse, kind="JSON", remedy="")


FULL = {
    "the system": OSError(errno.ENOSPC, "No space left on device"),
    "NumPy": OSError("331776 requested and 12160 written"),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_a_full_disk_names_the_output(tmp_path: Path, error: OSError) -> None:
    out = tmp_path / "r.json"
    with pytest.raises(OSError, match="No space left") as caught, output(out, overwrite=False):
        raise error
    assert caught.value.filename == str(out)
    with pytest.raises(OSError, match="No space left") as caught, replacing(out):
        raise error
    assert caught.value.filename == str(out)
    assert [*tmp_path.iterdir()] == []


def test_an_output_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    with output(out, overwrite=False, endings=(".json",)) as part:
        part.write_text("new")
        assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    with pytest.raises(BadInput, match="exists already; pass --overwrite"), output(out, overwrite=False):
        pytest.fail("not reached")
    with pytest.raises(ZeroDivisionError), output(out, overwrite=True) as part:
        part.write_text(str(part.write_text("half") / 0))
    assert out.read_text() == "new"
    with output(out, overwrite=True) as part:
        part.write_text("newer")
    assert out.read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_what_appears_under_way_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    with pytest.raises(BadInput, match="exists"), output(out, overwrite=False) as part:
        out.write_text("another's"[: 10 * part.write_text("mine")])
    assert out.read_text() == "another's"
    with (
        pytest.raises(BadInput, match="exists"),
        output(tmp_path / "f", overwrite=False, folder=True),
    ):
        (tmp_path / "f").mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "r.json"]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "m.zarr"
    for text in ("one", "two"):
        with output(out, overwrite=True, folder=True) as part:
            (part / text).write_text(text)
    assert [path.name for path in out.iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


@pytest.mark.parametrize("to", ["mine", "none", "m.zarr"])
def test_a_folder_takes_the_place_of_a_link_alone(tmp_path: Path, to: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("mine")
    out = link(tmp_path / "m.zarr", to)
    with output(out, overwrite=True, folder=True) as part:
        (part / "new").write_text("new")
    assert not out.is_symlink()
    assert [path.name for path in out.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.zarr", "mine"]
    assert (tmp_path / "mine" / "a").read_text() == "mine"


OUTPUTS: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "another ending": (lambda d: d / "keep.png", {"endings": (".json",)}, r"keep\.png: must end in \.json"),
    "no folder": (lambda d: d / "no" / "r.json", {}, "folder .*no does not exist; make it first"),
    "a folder": (lambda d: d, {}, "is a folder; give the name of a file"),
    "a device": (lambda d: Path("/dev/null"), {}, "is a pipe or a device"),
    "a pipe": (lambda d: pipe(d / "p"), {}, "is a pipe or a device"),
    "a pipe that is not to be replaced": (
        lambda d: pipe(d / "p"),
        {"overwrite": False},
        "is a pipe or a device",
    ),
    "a file for a folder": (
        lambda d: Path(__file__),
        {"folder": True},
        "is a file; give the name of a folder",
    ),
    "a chain": (lambda d: d / "a::b.json", {}, "has '::', which chains addresses"),
    "a dangling link": (
        lambda d: link(d / "l.json", str(d / "none")),
        {"overwrite": False},
        "exists already",
    ),
}


@pytest.mark.parametrize(("make", "options", "message"), OUTPUTS.values(), ids=OUTPUTS)
def test_what_may_not_be_written_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], options: dict[str, Any], message: str
) -> None:
    out = make(tmp_path)
    with pytest.raises(BadInput, match=f"--report .*{message}"):
        check_output_path(out, **({"overwrite": True, "name": "--report "} | options))


def test_writers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    out, ready = tmp_path / "r.json", threading.Barrier(8)

    def write(number: int) -> None:
        with output(out, overwrite=True) as part:
            ready.wait(10)
            part.write_text(str(number) * 1000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert out.read_text() in {str(number) * 1000 for number in range(8)}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_failures_of_ours_keep_their_kind() -> None:
    def fail(text: str) -> None:
        raise Failed("the store does not answer")

    with pytest.raises(Failed):
        parse_text(__file__, fail, kind="text", remedy="")
