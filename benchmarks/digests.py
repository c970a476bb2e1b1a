"""Does a change of the code change the slide? The digests of the demo and of other sets of options.

Run it with two versions and compare the last lines::

    python benchmarks/digests.py                  # renders with the installed safron-render
    python benchmarks/digests.py --expect FILE    # exits 1 where a digest differs from those in FILE

FILE holds what an earlier run printed. Options that choose workers, blocks or threads must not change a digest, so
rows that differ in those alone share one.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from common import GLANDS, parser_of

REGION = "--region 1024,512,1500,1300 --model safron-seamless"
SETS = {
    "demo": "",
    "demo of 0.1": "--model safron-seamless",
    "tile 128": f"{REGION} --tile 128 --overlap 12",
    "taper linear": f"{REGION} --taper linear --seed 3",
    "taper cosine": f"{REGION} --taper cosine --overlap 52",
    "no overlap": f"{REGION} --overlap 0",
    "deflate": f"{REGION} --compression deflate --tiff-tile 256",
    "quality 80, 444": f"{REGION} --quality 80 --chroma 444",
    "ome": f"{REGION} --flavor ome --level-count 2",
    "aligned": f"{REGION} --align --mpp 0.5",
    "identity": "--model identity --mpp 0.5",
    "identity, odd": "--region 1024,512,1500,1300 --model identity --tile 200 --overlap 33 --taper cosine",
    "processes": f"{REGION} --executor processes --workers 2 --block 512",
    "threads": f"{REGION} --workers 3 --block 1024 --batch 3 --threads 1",
}


def digest(args: str, folder: Path) -> str:
    """Render the shipped mask with these options, and return the digest in the report."""
    report = folder / "report.json"
    command = ["safron-render", str(GLANDS), str(folder / "slide.tiff"), "--report", str(report)]
    subprocess.run([*command, "--quiet", "--overwrite", *shlex.split(args)], check=True)
    return str(json.loads(report.read_text(encoding="utf-8"))["digest"])


def main() -> None:
    """Print a table of digests, and the same as JSON in the last line."""
    parser = parser_of(__doc__)
    parser.add_argument("--expect", type=Path, help="what an earlier run printed")
    expected = parser.parse_args().expect
    before = json.loads(expected.read_text(encoding="utf-8").splitlines()[-1]) if expected else {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, args in SETS.items():
            found[name] = digest(args, Path(folder))
            mark = "" if name not in before else "equal" if before[name] == found[name] else "DIFFERS"
            print(f"{name:16} {found[name][:16]} {mark:8} {args}", flush=True)
    print(json.dumps(found))
    sys.exit(any(before.get(name, value) != value for name, value in found.items()))


if __name__ == "__main__":
    main()
