"""How do the owners of public data sets lay out their files, and what do the masks mean?

A gland mask is 0 outside glands; inside it is 255, or the number of the gland. The masks of other data sets hold labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safron.io.fields import Mpp, convert
from safron.io.files import parse_text
from safron.io.json_texts import parse_json


@dataclass(frozen=True)
class DataSet:
    """How a data set is laid out."""

    name: str  # on the card; empty for the folder's
    layout: str  # in words
    stems: tuple[str, ...] = ()  # what follows an image's name in the name of its mask beside it
    folders: tuple[str, ...] = ()  # folder of images, and names that the folder of masks beside it may have
    glands: bool = True  # masks are gland masks
    test: str = ""  # regular expression of the images that the owners keep for testing; they are held out
    stride: int = 200  # pixels between the tiles of an epoch at full size, as in the SAFRON paper


_TWO = ("images", "masks")
DATA_SETS = {
    "pairs": DataSet("", "NAME.png and NAME.mask.png, or images/ and masks/", (".mask",), _TWO, glands=False),
    "glands": DataSet("", "NAME.png and NAME.gland.png, or images/ and masks/", (".gland", ".mask"), _TWO),
    "crag": DataSet(
        *("CRAG", "Images/ and Annotation/", (), ("Images", "Annotation", "Annotations")),
        test=".*(valid|test)/",
    ),
    "digestpath": DataSet("DigestPath", "NAME.jpg and NAME_mask.jpg", ("_mask",), stride=512),
    "glas": DataSet("GlaS", "NAME.bmp and NAME_anno.bmp", ("_anno",), test=".*test[AB]_"),
    "consep": DataSet("CoNSeP", "images/, inst/ and class/ (see data/consep.py)", glands=False),
    "ebhi": DataSet("EBHI-Seg", "NAME.webp and NAME.gland.png", (".gland",)),
}


@dataclass(frozen=True)
class DataFacts:
    """What the user, or a file ``dataset.json`` beside the data, says of the data; empty where nothing is said."""

    data_set: str = ""  # one of `DATA_SETS`; only the user chooses it
    slide_of: str = ""  # regular expression, see `images.name_slides`
    generator: str = (
        ""  # name of the generator, for the card, as the licence and the data that it was trained on
    )
    licence: str = ""
    trained_on: str = ""
    name: str = ""  # of the data
    mpp: Mpp | None = None  # of the images
    map: str = ""  # what the numbers in masks of labels become, see `safron.io.masks.relabel`
    palette: str = ""  # which label each colour of a mask stands for, as `safron-mask import` takes it


def read_facts(folder: Path, given: DataFacts) -> DataFacts:
    """Read ``dataset.json`` in `folder`, if it is there; what is `given` counts more, and unknown entries do not.

    Raises `BadInput` if the file is not JSON or a value is of the wrong kind.
    """
    file = folder / "dataset.json"
    if not file.is_file():
        return given
    remedy = 'it must look like {"name": "...", "licence": "...", "mpp": 0.55}'
    plain = parse_text(file, parse_json, kind="JSON", remedy=remedy)
    found: DataFacts = convert(plain, DataFacts, str(file), then=remedy, loose=True)
    said = {name: value for name, value in asdict(given).items() if value}
    return replace(found, **({"data_set": ""} | said))
