"""How do SAFRON's packages come to a GPU machine without a network?

    python benchmarks/carry.py pack carried                 here: wheels of SAFRON and of what it needs, in parts of 40 MiB
    python carried/part-00/carry.py install carried         there, when all parts have arrived: into /tmp/safron-site
    eval "$(python carried/part-00/carry.py install carried)"   the same, and sets what the shell needs

Versions are those of constraints.txt. numpy, torch and onnx are left out unless ``--with`` names them: such a machine has them, and CUDA's
libraries beside torch, where rendering looks for them. Each part is a folder that may travel by itself; a checksum tells whether all
are whole. The last lines of ``install`` are for a shell; what CUDA's provider of ONNX Runtime still lacks is said on stderr.
Needs Python's own library and pip alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
THERE = ("numpy", "torch", "onnx")
"""Packages that are taken to be there."""
SOURCES = {"pyvips": ("cffi", "pyvips-binary")}
"""Packages that have no wheels, with what they need: a wheel is made here, of Python alone."""
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
SITE = Path("/tmp/safron-site")


def requirements(setup: str) -> list[str]:
    """Packages that setup.cfg wants on Linux, x86-64."""
    section = setup.split("install_requires =", 1)[1].split("\n\n", 1)[0]
    lines = [line.strip() for line in section.splitlines()]
    kept = [
        line for line in lines if line and not line.startswith("#") and "!=" not in line.partition(";")[2]
    ]
    return [line.partition(";")[0].strip() for line in kept]


def name_of(requirement: str) -> str:
    """Name of a package that is wanted."""
    return re.split(r"[^\w-]", requirement, maxsplit=1)[0]


def download(wheels: Path, python: str, more: Sequence[str]) -> None:
    """Put wheels into a folder: SAFRON's own, made here, and those of what it needs."""
    pip = [sys.executable, "-m", "pip"]
    pins = ["-c", str(ROOT / "constraints.txt")]
    wanted = [*requirements((ROOT / "setup.cfg").read_text()), *more]
    made = [one.replace("[binary]", "") for one in wanted if name_of(one) in SOURCES]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", *pins, "-w", str(wheels), str(ROOT), *made], check=True)
    words = ["download", "-q", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    words += [word for name in PLATFORMS for word in ("--platform", name)]
    found = [one for one in wanted if name_of(one) not in SOURCES]
    found += [need for one in wanted for need in SOURCES.get(name_of(one), ())]
    subprocess.run([*pip, *words, *pins, "-d", str(wheels), *found], check=True)
    for wheel in wheels.iterdir():
        name = wheel.name.partition("-")[0].lower()
        if name in THERE and name not in map(name_of, more):
            wheel.unlink()


def split(wheels: Path, folder: Path, part_bytes: int) -> int:
    """Write all wheels, one after the other, into parts of at most so many bytes; return how many.

    The first part has this file, and a list of the wheels with their sizes and checksums.
    """
    listed, content = [], bytearray()
    for wheel in sorted(wheels.iterdir()):
        packed = wheel.read_bytes()
        listed.append({"name": wheel.name, "size": len(packed), "sha256": hashlib.sha256(packed).hexdigest()})
        content += packed
    starts = range(0, len(content), part_bytes)
    for number, start in enumerate(starts):
        part = folder / f"part-{number:02}"
        part.mkdir(parents=True)
        (part / "content").write_bytes(content[start : start + part_bytes])
    first = folder / "part-00"
    (first / "wheels.json").write_text(json.dumps(listed))
    shutil.copy(__file__, first / "carry.py")
    return len(starts)


def join(folder: Path, wheels: Path) -> None:
    """Write the wheels that the parts hold.

    Raises
    ------
    SystemExit
        A part is missing or damaged.
    """
    content = b"".join(part.read_bytes() for part in sorted(folder.glob("part-*/content")))
    start = 0
    for entry in json.loads((folder / "part-00" / "wheels.json").read_text()):
        packed = content[start : start + entry["size"]]
        start += entry["size"]
        if hashlib.sha256(packed).hexdigest() != entry["sha256"]:
            sys.exit(f"{entry['name']}: not whole; bring all parts to {folder} again")
        (wheels / entry["name"]).write_bytes(packed)


def libraries() -> list[Path]:
    """Folders of CUDA's libraries beside torch, or in NVIDIA's own packages."""
    spec = importlib.util.find_spec("nvidia")
    roots = [] if spec is None else [Path(root) for root in spec.submodule_search_locations or ()]
    return sorted({file.parent for root in roots for file in root.glob("*/lib/*.so*")})


def install(folder: Path, site: Path) -> None:
    """Install the wheels, and print what a shell needs."""
    with tempfile.TemporaryDirectory() as name:
        join(folder, Path(name))
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--upgrade",
        ]
        wheels = sorted(map(str, Path(name).iterdir()))
        subprocess.run([*command, "--target", str(site), *wheels], check=True, stdout=sys.stderr)
    paths = ":".join(map(str, libraries()))
    print(f"export PYTHONPATH={site} PATH={site}/bin:$PATH LD_LIBRARY_PATH={paths}:$LD_LIBRARY_PATH")
    for provider in site.glob("onnxruntime/capi/libonnxruntime_providers_cuda.so"):
        told = subprocess.run(
            ["ldd", str(provider)],
            env={"LD_LIBRARY_PATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        lacking = [line.split()[0] for line in told.stdout.splitlines() if "not found" in line]
        print(f"CUDA's provider lacks: {', '.join(lacking) or 'nothing'}", file=sys.stderr)


def main() -> None:
    """Pack, or install."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["pack", "install"])
    parser.add_argument("folder", type=Path, help="of the parts")
    parser.add_argument("--mib", type=int, default=40, help="of a part, at most")
    parser.add_argument("--python", default="3.12", help="of the other machine")
    parser.add_argument(
        "--with", dest="more", nargs="*", default=[], help="further packages, such as onnx==1.20.0"
    )
    parser.add_argument("--site", type=Path, default=SITE, help="where they are installed")
    args = parser.parse_args()
    if args.what == "install":
        install(args.folder, args.site)
        return
    if args.folder.exists():
        sys.exit(f"{args.folder}: exists; choose another folder")
    with tempfile.TemporaryDirectory() as name:
        download(Path(name), args.python, args.more)
        count = split(Path(name), args.folder, args.mib << 20)
    print(f"{args.folder}: {count} parts of at most {args.mib} MiB")


if __name__ == "__main__":
    main()
