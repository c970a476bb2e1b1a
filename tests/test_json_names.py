"""A name that stands twice in an object is refused in all JSON and YAML settings that a user writes: its first value would be lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from onnx_models import CARD
from safron.engine.generator.card import parse_card
from safron.io.errors import BadInput
from safron.io.masks.annotations import DrawingRules, read_geojson
from safron.io.masks.polygons import read_polygons
from safron.training.config.data_sets import DataFacts, read_facts
from safron.training.config.settings import read_overrides

GEOMETRY = '"geometry": {"type": "Polygon", "coordinates": [[[1, 1], [9, 1], [9, 9]]]}'
FEATURE = f'{{{GEOMETRY}, "properties": {{"classification": {{"name": "Gland"}}}}}}'
WHOLE = f'{{"type": "FeatureCollection", "features": [{FEATURE}]}}'

TWICE = {
    "features": WHOLE.replace('"features"', f'"features": [{FEATURE}], "features"'),
    "type": WHOLE.replace('"type": "F', '"type": "G", "type": "F'),
    "geometry": WHOLE.replace('"geometry"', f'{GEOMETRY}, "geometry"'),
    "coordinates": WHOLE.replace('"coordinates"', '"coordinates": [], "coordinates"'),
    "properties": WHOLE.replace('"properties"', '"properties": {}, "properties"'),
    "name": WHOLE.replace('"name"', '"name": "Stroma", "name"'),
    "escaped": WHOLE.replace('"properties"', '"prop\\u0065rties": {}, "properties"'),
}


@pytest.mark.parametrize("where", TWICE)
@pytest.mark.parametrize("indented", [False, True])
def test_geojson(tmp_path: Path, where: str, indented: bool) -> None:
    path, name = tmp_path / "a.geojson", "properties" if where == "escaped" else where
    path.write_text(TWICE[where].replace(", ", " ,\n  ") if indented else TWICE[where])
    says = f"a.geojson: cannot be read as .*the name '{name}' stands twice in one object"
    with pytest.raises(BadInput, match=says):
        read_geojson(path, DrawingRules(20, 20))
    with pytest.raises(BadInput, match=says):
        read_polygons(path)
    path.write_text(WHOLE)
    assert len(read_geojson(path, DrawingRules(20, 20)).polygons) == 1


@pytest.mark.parametrize("record", [0, 1])
def test_a_record_of_a_sequence_is_named(tmp_path: Path, record: int) -> None:
    records = [FEATURE, FEATURE]
    records[record] = FEATURE.replace('"geometry"', f'{GEOMETRY}, "geometry"')
    (tmp_path / "a.geojsonl").write_text("\n".join(records))
    with pytest.raises(BadInput, match=f"record {record}: the name 'geometry' stands twice"):
        read_geojson(tmp_path / "a.geojsonl", DrawingRules(20, 20))


def with_twice(values: dict[str, Any], name: str) -> str:
    """A JSON text of some values, of which one stands there twice."""
    return json.dumps(values)[:-1] + f", {json.dumps(name)}: {json.dumps(values[name])}}}"


def test_cards_recipes_and_facts_of_data(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"card cannot be read as JSON \(the name 'labels' stands twice"):
        parse_card(with_twice(CARD, "labels"), source="a")
    (tmp_path / "a.json").write_text(with_twice({"batch": 4}, "batch"))
    with pytest.raises(BadInput, match="the name 'batch' stands twice"):
        read_overrides(tmp_path / "a.json")
    (tmp_path / "a.yaml").write_text("model:\n  tile: 64\n  tile: 32\n")
    with pytest.raises(BadInput, match="the name 'tile' stands twice"):
        read_overrides(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("base: &base {tile: 64, batch: 1}\nmodel: {<<: *base, tile: 32}\n")
    assert read_overrides(tmp_path / "a.yaml")["model"] == {"tile": 32, "batch": 1}
    (tmp_path / "dataset.json").write_text(with_twice({"mpp": 0.5}, "mpp"))
    with pytest.raises(BadInput, match="the name 'mpp' stands twice"):
        read_facts(tmp_path, DataFacts())
