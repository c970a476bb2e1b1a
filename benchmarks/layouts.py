"""Do invented nuclei lie as real ones do?

    python benchmarks/layouts.py NUCLEI.zarr REGIONS.zarr OUT --model masks.onnx --at 9600,18400 --other 3200,20000 --side 1536

NUCLEI and REGIONS are masks of one slide, as for `safron-train mask-model`. Nuclei are invented for the regions, and the types, of a
square that was held out of training, and compared with the real ones there, and those with a second real square: what differs
between two real places is no fault of the model. Density, area, distance to the nearest nucleus, and the type of the nearest one.
Writes made.zarr, a picture of both, distributions as SVG, and a table. The last line is JSON.

How many of the real nuclei come back one by one from the pictures that the model learns, and from pictures whose borders between nuclei
that touch are removed:

    python benchmarks/layouts.py NUCLEI.zarr --known --at 9040,18916 --side 1280
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from common import parser_of
from safron.engine.nucleus_masks import make_nuclei
from safron.engine.nucleus_plan import plan_nuclei
from safron.io.masks.mask import LabelMask
from safron.io.masks.nucleus_code import circle, encode, measure_depth
from safron.io.masks.nucleus_decode import NucleusFinder, View
from safron.io.masks.open import open_mask
from safron.io.masks.to_geojson import own_legend
from safron.io.masks.write import write_labels
from scipy.spatial import cKDTree
from scipy.stats import ks_2samp

Floats = npt.NDArray[np.float64]
COLORS = {"real": "#1b2733", "other": "#9aa5b1", "made": "#d1495b"}


class Nuclei:
    """Nuclei of a square.

    Parameters
    ----------
    mask
        With numbers and the names of its labels.
    rows, cols
        The square.
    """

    def __init__(self, mask: LabelMask, rows: slice, cols: slice) -> None:
        self.labels, mpp = mask[rows, cols], mask.mpp or 0.5
        self.numbers = mask.beside["instances"].plane.read(rows, cols)
        _, place, flat = np.unique(self.numbers, return_index=True, return_inverse=True)
        flat = flat.reshape(self.numbers.shape)
        count = np.bincount(flat.ravel())
        y, x = np.indices(self.numbers.shape)
        centre = [np.bincount(flat.ravel(), part.ravel()) / count for part in (y, x)]
        cut = np.zeros(len(count), bool)
        for rim in (flat[0], flat[-1], flat[:, 0], flat[:, -1]):
            cut[rim] = True
        names = {label.value: label.name for label in own_legend(mask)}
        kept = np.arange(len(count)) > 0  # number 0 is no nucleus
        self.types = np.array([names[value] for value in self.labels.ravel()[place][kept].tolist()])
        self.area, self.whole = count[kept] * mpp**2, ~cut[kept]
        self.centres = np.stack(centre, axis=1)[kept] * mpp
        self.square = self.numbers.size * mpp**2 / 1e6
        far, near = cKDTree(self.centres).query(self.centres, 2)
        self.nearest, self.beside = far[:, 1], self.types[near[:, 1]]

    def of(self, kind: str) -> dict[str, Any]:
        """Figures of one type: nuclei per square mm, quartiles of area and distance, and the types beside them."""
        mine = self.types == kind
        quartiles = (
            np.percentile(part, (25, 50, 75)).round(2).tolist() if part.size else [None] * 3
            for part in (self.area[mine & self.whole], self.nearest[mine])
        )
        area, distance = quartiles
        beside = {
            other: float((self.beside[mine] == other).mean().round(3)) for other in np.unique(self.types)
        }
        return {
            "nuclei": int(mine.sum()),
            "per_mm2": round(float(mine.sum() / self.square), 1),
            "area_um2": area,
            "nearest_um": distance,
            "beside": beside if mine.any() else {},
        }


def come_back(mask: LabelMask, rows: slice, cols: slice, smallest: int = 8) -> list[str]:
    """Turn real nuclei into pictures and back: what was found, with IoU above 0.5, of nuclei with at least `smallest` pixels."""
    labels, numbers = mask[rows, cols], mask.beside["instances"].plane.read(rows, cols)
    numbers = np.unique(numbers, return_inverse=True)[1].reshape(labels.shape).astype(np.uint32)
    codes, lines = circle(int(labels.max())), []
    for name, shown in (("as they are", numbers), ("borders removed", (numbers > 0).astype(np.uint32))):
        picture = encode(labels, measure_depth(shown), codes)
        view = View((0, 0), (slice(0, labels.shape[0]), slice(0, labels.shape[1])), picture, numbers < 0)
        pieces = cv2.connectedComponents((picture[..., 0] >= 128).astype(np.uint8), connectivity=4)[1]
        finder = NucleusFinder(codes.tolist(), range(len(codes)), labels.shape[1], smallest)
        finder.note(view)
        finder.settle()
        for how, found in (("pieces", pieces), ("split", finder.paint(view)[1].astype(np.int64))):
            real, made = np.bincount(numbers.ravel()), np.bincount(found.ravel())
            both = (numbers > 0) & (found > 0)
            pairs, shared = np.unique(numbers[both] * np.int64(len(made)) + found[both], return_counts=True)
            one, other = np.divmod(pairs, len(made))
            same = (shared / (real[one] + made[other] - shared) > 0.5) & (real[one] >= smallest)
            lines.append(
                f"{name}, {how}: {same.sum()} of {(real[1:] >= smallest).sum()} real nuclei among {(made[1:] >= smallest).sum()} found"
            )
    return lines


def table(found: dict[str, dict[str, Any]], kinds: list[str]) -> str:
    """Markdown: a line for each type and square."""
    head = [
        "type",
        "of",
        "per mm2",
        "area, um2 (quartiles)",
        "nearest, um (quartiles)",
        *(f"beside {k}" for k in kinds),
    ]
    lines = [" | ".join(["", *head, ""]).strip(), "|---" * len(head) + "|"]
    for kind in kinds:
        for where, figures in found.items():
            own = figures[kind]
            three = [
                " / ".join("-" if value is None else f"{value:.1f}" for value in own[name])
                for name in ("area_um2", "nearest_um")
            ]
            shares = [f"{own['beside'].get(other, 0):.2f}" if own["beside"] else "-" for other in kinds]
            lines.append(" | ".join(["", kind, where, f"{own['per_mm2']:.0f}", *three, *shares, ""]).strip())
    return "\n".join(lines)


def curves(nuclei: dict[str, Nuclei], kinds: list[str]) -> str:
    """Cumulative distributions of area and distance, as SVG."""
    wide, high, gap = 220, 130, 46
    parts = []
    for column, kind in enumerate(kinds):
        for row, (name, limit) in enumerate((("area, um2", 120.0), ("nearest nucleus, um", 30.0))):
            left, top = 40 + column * (wide + gap), 30 + row * (high + gap)
            parts.append(
                f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" fill="none" stroke="#d7dde3"/>'
            )
            parts.append(_text(left, top - 6, f"{kind}: {name}, 0 to {limit:.0f}"))
            for where, found in nuclei.items():
                mine = found.types == kind
                values = np.sort(found.area[mine & found.whole] if row == 0 else found.nearest[mine])
                if values.size:
                    x = left + np.clip(values / limit, 0, 1) * wide
                    y = top + high * (1 - (np.arange(values.size) + 1) / values.size)
                    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
                    parts.append(
                        f'<polyline points="{points}" fill="none" stroke="{COLORS[where]}" stroke-width="1.5"/>'
                    )
    width, height = 40 + len(kinds) * (wide + gap), 30 + 2 * (high + gap) + 14
    for number, where in enumerate(nuclei):
        x = 40 + number * 90
        parts.append(f'<rect x="{x}" y="{height - 26}" width="10" height="10" fill="{COLORS[where]}"/>')
        parts.append(_text(x + 14, height - 17, where))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-family="Helvetica, Arial, sans-serif" font-size="11">{text}</text>'


def picture(nuclei: Nuclei, colors: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Types in colours, with dark outlines: RGB."""
    values = np.zeros((int(nuclei.numbers.max()) + 1, 3), np.uint8)
    values[0] = 255
    for number, kind in zip(np.unique(nuclei.numbers)[1:], nuclei.types, strict=True):
        values[number] = colors[kind]
    image = values[nuclei.numbers]
    edge = np.zeros(nuclei.numbers.shape, bool)
    edge[:-1] |= nuclei.numbers[:-1] != nuclei.numbers[1:]
    edge[:, :-1] |= nuclei.numbers[:, :-1] != nuclei.numbers[:, 1:]
    image[edge] //= 2
    return image


def main() -> None:
    """Invent nuclei for a square, and compare."""
    parser = parser_of(__doc__)
    parser.add_argument("nuclei", type=Path)
    for name in ("regions", "out"):
        parser.add_argument(name, type=Path, nargs="?")
    parser.add_argument("--known", action="store_true", help="turn real nuclei into pictures and back")
    parser.add_argument("--model", default="nuclei-masks")
    parser.add_argument("--types", default="neoplastic,inflammatory,connective")
    parser.add_argument(
        "--at", required=True, metavar="X,Y", help="left upper corner of the square that was held out"
    )
    parser.add_argument("--other", metavar="X,Y", help="of a second real square")
    parser.add_argument("--side", type=int, default=1536, help="of a square, in pixels")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--tile", type=int, help="of the model, in pixels; a small square costs less with 256"
    )
    chosen = parser.parse_args()
    kinds, side = chosen.types.split(","), chosen.side

    def square(at: str) -> tuple[slice, slice]:
        x, y = map(int, at.split(","))
        return slice(y, y + side), slice(x, x + side)

    if chosen.known:
        print("\n".join(come_back(open_mask(chosen.nuclei), *square(chosen.at))))
        return
    if chosen.out is None:
        parser.error("give REGIONS and OUT, or --known")
    chosen.out.mkdir(parents=True, exist_ok=True)
    regions, tissue, made = open_mask(chosen.regions), chosen.out / "tissue.zarr", chosen.out / "made.zarr"
    rows, cols = square(chosen.at)
    if not tissue.exists():
        write_labels(
            tissue, lambda y, x: regions[rows, cols][y, x], height=side, width=side, mpp=regions.mpp,
            labels=own_legend(regions),
        )  # fmt: skip
    if not made.exists():
        plan = plan_nuclei(
            kinds, tissue=tissue, model=chosen.model, classes="types", seed=chosen.seed, steps=chosen.steps
        )
        make_nuclei(plan, made, workers=chosen.workers, tile=chosen.tile)
    real = open_mask(chosen.nuclei)
    nuclei = {"real": Nuclei(real, rows, cols)}
    if chosen.other:
        nuclei["other"] = Nuclei(real, *square(chosen.other))
    nuclei["made"] = Nuclei(open_mask(made), slice(0, side), slice(0, side))
    found = {where: {kind: one.of(kind) for kind in kinds} for where, one in nuclei.items()}
    ks: dict[str, Any] = {}
    for where in [name for name in nuclei if name != "real"]:
        for kind in kinds:
            pair = [(one, one.types == kind) for one in (nuclei["real"], nuclei[where])]
            samples = {
                "area": [one.area[of & one.whole] for one, of in pair],
                "nearest": [one.nearest[of] for one, of in pair],
            }
            ks[f"{where} {kind}"] = {
                name: round(float(ks_2samp(*two).statistic), 3)
                for name, two in samples.items()
                if all(map(len, two))
            }
    colors = {label.name: label.color for label in own_legend(real)}
    both = [picture(nuclei[where], colors) for where in ("real", "made")]
    cv2.imwrite(str(chosen.out / "both.png"), np.concatenate(both, axis=1)[..., ::-1])
    (chosen.out / "distributions.svg").write_text(curves(nuclei, kinds), encoding="utf-8")
    print(table(found, kinds))
    print(json.dumps({"figures": found, "ks_to_real": ks, "square_mm2": round(nuclei["real"].square, 3)}))


if __name__ == "__main__":
    main()
