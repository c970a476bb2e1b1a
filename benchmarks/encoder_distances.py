"""What do the distances of ``safron-eval fid`` mean? A table of distances whose cause is known, and those of a generator.

    python benchmarks/encoder_distances.py EBHI --model safron-seamless --most 150

EBHI is a folder of EBHI-Seg: one folder a class, with images and their gland masks. Square tiles are cut from the middle of
each image in its true proportions. Real tiles are compared with others of the same class, of other classes, and with
themselves damaged; those of held-out slides with tissue generated from their masks, both as they are and brought to one stain.
Prints a table, then one line of JSON. Needs the extras "eval" and "train".
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safron.engine.evaluation.encoder import load_encoder
from safron.engine.evaluation.encoder_distance import EncoderDistances, encoder_distances
from safron.engine.evaluation.seam_report import format_table
from safron.training.config.data_sets import DataFacts
from safron.training.data.source import Pairs, split
from safron.training.segmentation.synthesis import synthesize
from safron.training.segmentation.tissue import normalize, open_tissue

Bytes = npt.NDArray[np.uint8]
Tiles = list[Bytes]

SIDE = 224
HELD_OUT = 0.1  # as in training: slides that the shipped generator has not seen
BLOCK = 8
LEAST = 4


def middle(image: Bytes) -> Bytes:
    """Cut the square in the middle."""
    y, x = ((length - SIDE) // 2 for length in image.shape[:2])
    return np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE])


def blurred(sd: float) -> Callable[[Bytes], Bytes]:
    """Blur by `sd` pixels."""
    return lambda tile: np.asarray(cv2.GaussianBlur(tile, (0, 0), sd), np.uint8)


def grained(sd: float) -> Callable[[Bytes], Bytes]:
    """Add white noise of `sd` grey levels."""
    rng = np.random.default_rng(0)
    return lambda tile: np.clip(np.rint(tile + rng.normal(0, sd, tile.shape)), 0, 255).astype(np.uint8)


def shuffled(tile: Bytes) -> Bytes:
    """Shuffle squares of 8 pixels."""
    count = SIDE // BLOCK
    squares = tile.reshape(count, BLOCK, count, BLOCK, 3).swapaxes(1, 2).reshape(-1, BLOCK, BLOCK, 3)
    mixed = squares[np.random.default_rng(0).permutation(len(squares))]
    return np.ascontiguousarray(
        mixed.reshape(count, count, BLOCK, BLOCK, 3).swapaxes(1, 2).reshape(SIDE, SIDE, 3)
    )


def stepped(levels: int) -> Callable[[Bytes], Bytes]:
    """Brighten the right half by `levels`, as a seam would."""

    def add(tile: Bytes) -> Bytes:
        made = tile.astype(np.int16)
        made[:, SIDE // 2 :] += levels
        return np.clip(made, 0, 255).astype(np.uint8)

    return add


DAMAGE: dict[str, Callable[[Bytes], Bytes]] = {
    "blur 0.5 px": blurred(0.5),
    "blur 1 px": blurred(1),
    "blur 2 px": blurred(2),
    "noise 5 levels": grained(5),
    "noise 15 levels": grained(15),
    "shuffled squares of 8 px": shuffled,
    "brightness step of 8 levels": stepped(8),
    "brightness step of 24 levels": stepped(24),
}


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ebhi", type=Path)
    parser.add_argument("--model", action="append", default=[], help="generator to measure; may be repeated")
    parser.add_argument("--most", type=int, default=150, help="most tiles of each set of one class")
    parser.add_argument("--no-reference", action="store_true", help="held-out slides and generators alone")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(args)
    encoder = load_encoder()
    rows: list[tuple[str, int, EncoderDistances]] = []

    def measure(name: str, real: Tiles, fake: Tiles) -> None:
        if min(len(real), len(fake)) < LEAST:
            print(f"{name}: too few tiles", flush=True)
            return
        found = encoder_distances(encoder.features(real), encoder.features(fake))
        rows.append((name, min(len(real), len(fake)), found))
        print(f"{name}: KD {found.kernel:.4f} +- {found.error:.4f}", flush=True)

    if not options.no_reference:
        measure_reference(options.ebhi, options.most, measure)
    pairs = open_tissue(options.ebhi, DataFacts(data_set="ebhi"))
    _, held_out = split(pairs, HELD_OUT)
    real = [middle(image) for image in held_out.images]
    both = zip(held_out.images, held_out.labels, strict=True)
    one_stain = [middle(normalize(image, labels)) for image, labels in both]
    for name, tiles in (("held-out slides", real), ("held-out slides, one stain", one_stain)):
        odd, even = halves_of(tiles, held_out.slides)
        measure(f"{name}: half against half", odd, even)
        measure(f"{name}: themselves with blur 1 px", tiles, [blurred(1)(tile) for tile in tiles])
    for model in options.model:
        with tempfile.TemporaryDirectory() as folder:
            made = synthesize(
                held_out.labels, Path(folder), model=model, seed=0, mpp=held_out.mpp, threads=options.threads
            )
        fake = [middle(image) for image in made]
        both = zip(made, held_out.labels, strict=True)
        fake_one = [middle(normalize(image, labels)) for image, labels in both]
        measure(f"{Path(model).name} against held-out slides", real, fake)
        measure(f"{Path(model).name} against held-out slides, both one stain", one_stain, fake_one)
    lines = [["sets", "tiles", "KD", "+-", "Frechet"]]
    lines += [
        [name, str(count), f"{found.kernel:.4f}", f"{found.error:.4f}", f"{found.frechet:.1f}"]
        for name, count, found in rows
    ]
    print("\n".join(format_table(lines)))
    print(json.dumps({name: vars(found) | {"tiles": count} for name, count, found in rows}))


def measure_reference(ebhi: Path, most: int, measure: Callable[[str, Tiles, Tiles], None]) -> None:
    """Compare the largest class with itself, with the other classes, and with itself damaged."""
    of_class = {
        folder.name: open_tissue(folder, DataFacts(data_set="ebhi"))
        for folder in sorted(ebhi.iterdir())
        if folder.is_dir()
    }
    largest = max(of_class, key=lambda name: len(of_class[name]))
    first, second = halves(of_class[largest], most)
    measure(f"{largest}: half against half of the slides", first, second)
    for name, pairs in of_class.items():
        if name != largest:
            chosen = np.linspace(0, len(pairs) - 1, min(len(pairs), most)).round().astype(int)
            measure(f"{largest} against {name}", first, [middle(pairs.images[i]) for i in chosen])
    for name, damage in DAMAGE.items():
        measure(f"{largest}: other half with {name}", first, [damage(tile) for tile in second])


def halves(pairs: Pairs, most: int) -> tuple[Tiles, Tiles]:
    """Middles of the images of every other slide, and of the slides between."""
    first, second = halves_of([middle(image) for image in pairs.images], pairs.slides)
    return first[:most], second[:most]


def halves_of(tiles: Tiles, slides: Sequence[str]) -> tuple[Tiles, Tiles]:
    """Tiles of every other slide, and of the slides between."""
    names = sorted(set(slides))
    first, second = (
        [tile for tile, slide in zip(tiles, slides, strict=True) if names.index(slide) % 2 == part]
        for part in (0, 1)
    )
    return first, second


if __name__ == "__main__":
    main()
