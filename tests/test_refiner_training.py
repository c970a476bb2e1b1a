"""A refiner and a segmenter learn from pictures that nobody labelled, phase by phase."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from safron.io.errors import BadInput
from tiles import tissue

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from safron.engine import render  # noqa: E402
from safron.engine.evaluation.overlap_mismatch import measure_mismatch  # noqa: E402
from safron.engine.generator.onnx_model import OnnxModel  # noqa: E402
from safron.io.masks.open import open_mask  # noqa: E402
from safron.io.synthesis.draw import Synthesizer  # noqa: E402
from safron.io.synthesis.layout import Layout  # noqa: E402
from safron.io.synthesis.textures import make_texture  # noqa: E402
from safron.training.cli import commands  # noqa: E402
from safron.training.fit_refiner import fit_refiner, load  # noqa: E402
from safron.training.refiner import data, task_loss, variation  # noqa: E402
from safron.training.refiner.data import Tiles, as_bytes, as_tensor, task_targets  # noqa: E402
from safron.training.refiner.found import find_nuclei  # noqa: E402
from safron.training.refiner.networks import Discriminator, Refiner, StyleEncoder, TaskNet  # noqa: E402
from safron.training.refiner.settings import CONTEXT, PHASES, SIZES, RefinerConfig, config_of  # noqa: E402
from safron.training.refiner.train import History, RefinerTrainer  # noqa: E402
from safron.training.segmentation.metrics import compare_instances  # noqa: E402

TINY = dataclasses.replace(SIZES["tiny"], inner=(1, 1, 1))


@pytest.fixture(scope="module")
def tiles() -> Tiles:
    return Tiles([("a", tissue(90)), ("b", tissue(100, seed=1))], TINY)


def random_refiner() -> Refiner:
    torch.manual_seed(1)
    refiner = Refiner(4, 4)
    torch.nn.init.normal_(refiner.last.weight, std=0.5)
    return refiner


@pytest.mark.parametrize("name", ["refiner", "discriminator"])
def test_a_sudden_gradient_moves_no_weight_far(tiles: Tiles, name: str) -> None:
    """Thousands of tiny ones came before."""
    optimizer = RefinerTrainer(TINY, tiles).optimizers[name]
    (group,) = optimizer.param_groups
    weights, before = group["params"], []
    for size in (*[1e-6] * 1000, 1.0, *[1e-6] * 20):
        before = [one.detach().clone() for one in weights] if size == 1.0 else before
        for one in weights:
            one.grad = torch.full_like(one, size)
        optimizer.step()
    moved = max((one - old).abs().max().item() for one, old in zip(weights, before, strict=True))
    assert group["lr"] < moved < 4 * group["lr"]


def test_the_refiner_reads_41_pixels_and_begins_as_the_identity() -> None:
    torch.manual_seed(0)  # with some weights no gradient comes through
    image = torch.rand(1, 3, 57, 57) * 1.6 - 0.8
    assert torch.equal(
        Refiner(4, 4)(image, torch.rand(1, 4)), image[:, :, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
    )
    image.requires_grad_()
    out = random_refiner()(image, torch.rand(1, 4))
    assert out.shape == (1, 3, 17, 17)
    out[0, :, 8, 8].sum().backward()
    seen = image.grad[0].abs().sum(dim=0) > 0
    rows = torch.nonzero(seen.any(dim=1)).flatten()
    assert (int(rows[0]), int(rows[-1])) == (8, 48)


def test_a_style_is_one_for_all_or_one_for_each_pixel() -> None:
    refiner, image, style = random_refiner(), torch.rand(2, 3, 50, 50), torch.rand(2, 4)
    everywhere = style[:, :, None, None].expand(-1, -1, 50, 50)
    assert torch.allclose(refiner(image, style), refiner(image, everywhere))
    assert not torch.allclose(refiner(image, style), refiner(image, style + 1))


def test_shapes_of_the_other_networks() -> None:
    assert StyleEncoder(4, 6)(torch.rand(2, 3, 40, 52)).shape == (2, 6)
    assert TaskNet(4)(torch.rand(2, 3, 24, 40)).shape == (2, 2, 24, 40)
    critic = Discriminator(4, 6)
    image, reference = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 40, 40)
    assert critic(image, reference).shape[:2] == (2, 1)
    assert not torch.equal(critic(image, reference), critic(image, -reference))
    assert torch.equal(critic(image, None), critic(image, None))


def test_a_batch_follows_from_its_number_and_has_true_masks(tiles: Tiles) -> None:
    batch, again, other = tiles.batch(3), tiles.batch(3), tiles.batch(4)
    assert torch.equal(batch.initial, again.initial)
    assert not torch.equal(batch.initial, other.initial)
    assert batch.initial.shape == (2, 3, 16 + 2 * CONTEXT, 16 + 2 * CONTEXT)
    assert batch.targets.shape == (2, 2, 16, 16)
    assert bool((batch.targets[:, 1] <= batch.targets[:, 0]).all())
    for number in (40, 3):  # other canvases have been drawn in between
        late = tiles.batch(number)
    assert torch.equal(batch.initial, late.initial)
    many = Tiles([("a", tissue(200))], dataclasses.replace(TINY, patch=96, reference=96, batch=6)).batch(0)
    inner = many.initial[:, :, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT].mean(dim=1)
    nuclei = many.targets[:, 0] > 0
    assert inner[nuclei].mean() < inner[~nuclei].mean() - 0.1


def test_soot_lies_upon_real_and_drawn_patches_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(TINY, patch=64, reference=64, batch=4, shrink=2)
    found = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(data, "SOOTY", share)
        found[share] = Tiles([("a", tissue(301))], settings).batch(0)
    clean, sooty = found[0.0], found[1.0]
    assert torch.equal(clean.reference, sooty.reference)
    for kind in ("initial", "real"):
        darker = getattr(clean, kind) - getattr(sooty, kind)
        assert darker.min() >= -0.7  # grain lies elsewhere in a nucleus that soot hides
        assert (darker > 0.1).float().mean() > 0.05, kind
    assert bool((sooty.targets <= clean.targets).all())


def test_what_a_segmenter_sees_varies_in_stain_sharpness_and_noise() -> None:
    rng = np.random.default_rng(0)
    grey = torch.from_numpy(rng.uniform(-0.5, 0.5, (64, 1, 24, 24)).astype(np.float32)).repeat(1, 3, 1, 1)
    first, again, other = (variation.varied(grey, seed=1, step=step) for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == grey.shape
    assert first.abs().max() <= 1
    means = first.mean(dim=(2, 3)) - grey.mean(dim=(2, 3))
    assert 0.03 < means.std() < 0.3
    assert (means[:, 0] - means[:, 2]).abs().max() > 0.05  # the stain, not only the light
    sharp = first.std(dim=(1, 2, 3)) / grey.std(dim=(1, 2, 3))
    assert ((sharp < 0.7).sum() > 5) & ((sharp > 1.3).sum() > 3) & ((sharp - 1).abs().median() < 0.3)


@pytest.mark.parametrize("name", ["use_variation", "use_pseudo_labels"])
def test_a_run_of_before_there_was_a_setting_goes_on_without(name: str) -> None:
    kept = TINY.to_json()
    assert config_of(kept) == TINY
    del kept[name]
    assert config_of(kept) == dataclasses.replace(TINY, **{name: False})


def test_a_variation_without_changes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for name, value in {"DENSITY": 0, "CHANNEL": 0, "MOST_NOISE": 0, "UNCHANGED": 1}.items():
        monkeypatch.setattr(variation, name, value)
    assert torch.allclose(variation.varied(image, seed=0, step=0), image, atol=1e-5)
    monkeypatch.setattr(variation, "UNCHANGED", 0)  # blurred, each by its own
    monkeypatch.setattr(variation, "BLURRED", 1)
    monkeypatch.setattr(variation, "MOST_BLUR", 0.6)
    blurred = variation.varied(image, seed=0, step=0)
    rng = np.random.default_rng([0, 0, 5])
    for size in (3, 9, 3):
        rng.uniform(0, 1, size)
    for one, expected, deviation in zip(blurred, image, rng.uniform(0.2, 0.6, 3).tolist(), strict=True):
        plane = cv2.GaussianBlur(expected[1].numpy(), (7, 7), deviation, borderType=cv2.BORDER_REFLECT_101)
        assert np.allclose(one[1].numpy(), plane, atol=1e-4)


def test_a_refiner_without_variation_shows_pictures_as_they_are(
    tiles: Tiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(task_loss, "varied", lambda image, **_: seen.append(image) or image)
    for used, expected in ((False, 0), (True, 1)):
        trainer = RefinerTrainer(dataclasses.replace(TINY, use_variation=used), tiles)
        trainer.segment(tiles.batch(0))
        assert len(seen) == expected


def logits(*values: float) -> torch.Tensor:
    """Logits [1, 2, 1, pixels] of these probabilities of a nucleus, and the same of an interior."""
    return torch.logit(torch.tensor(values)).expand(1, 2, 1, -1)


def test_a_pseudo_label_counts_where_the_average_is_sure() -> None:
    labels, sure = task_loss.pseudo_labels(
        lambda image: logits(0.95, 0.7, 0.4, 0.1) + 0 * image.mean(), torch.zeros(1, 3, 1, 4)
    )
    for channel in range(2):
        assert labels[0, channel, 0].tolist() == [1, 1, 0, 0]
        assert sure[0, channel, 0].tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(("step", "used", "seen"), [(0, True, 1), (1, True, 3), (1, False, 1)])
def test_real_pictures_join_from_half_of_the_steps_on(step: int, used: bool, seen: int) -> None:
    """The task network of these settings takes 2 steps."""
    config = dataclasses.replace(TINY, use_variation=False, use_pseudo_labels=used)
    shown = []

    def network(image: torch.Tensor) -> torch.Tensor:
        shown.append(len(image))
        return logits(0.5, 0.25, 0.25, 0.5).repeat(len(image), 1, 1, 1)

    batch = task_loss.TaskBatch(torch.zeros(1, 3, 1, 4), torch.ones(1, 2, 1, 4), torch.zeros(2, 3, 1, 4))
    loss = task_loss.task_loss(
        network, lambda image: logits(0.9, 0.7, 0.1, 0.5).repeat(len(image), 1, 1, 1), batch, config, step
    )
    drawn = -np.mean(np.log([0.5, 0.25, 0.25, 0.5]))
    real = -np.mean(np.log([0.5, 0.75]))  # of the first and the third pixel
    assert shown == [seen]
    assert float(loss) == pytest.approx(drawn + (real if seen > 1 else 0))


def test_the_real_pictures_of_a_batch_are_labelled_by_the_average(
    tiles: Tiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, batch, seen = RefinerTrainer(TINY, tiles), tiles.batch(0), []

    def labelled(average: Any, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((average, real))
        return torch.zeros(2, 2, 16, 16), torch.zeros(2, 2, 16, 16)

    monkeypatch.setattr(task_loss, "pseudo_labels", labelled)
    trainer.task_steps = 1
    trainer.segment(batch)
    assert [(average is trainer.average, torch.equal(real, batch.real)) for average, real in seen] == [
        (True, True)
    ]


def test_nothing_sure_is_no_loss() -> None:
    batch = task_loss.TaskBatch(torch.zeros(1, 3, 1, 2), torch.ones(1, 2, 1, 2), torch.zeros(1, 3, 1, 2))

    def network(image: torch.Tensor) -> torch.Tensor:
        return logits(0.5, 0.5).repeat(len(image), 1, 1, 1)

    config = dataclasses.replace(TINY, use_variation=False)
    assert float(task_loss.task_loss(network, network, batch, config, 1)) == pytest.approx(np.log(2))


def test_tiles_may_be_made_smaller() -> None:
    config = dataclasses.replace(TINY, shrink=2, batch=1, patch=32)
    tiles = Tiles([("a", tissue(301))], config)
    assert tiles.images[0].shape == (150, 150, 3)
    assert tiles.images[0][3, 5].tolist() == pytest.approx(
        tissue(301)[6:8, 10:12].mean(axis=(0, 1)).tolist(), abs=0.51
    )
    batch = tiles.batch(0)
    assert (batch.initial.shape, batch.targets.shape) == ((1, 3, 72, 72), (1, 2, 32, 32))
    areas = []
    for shrink in (1, 2):
        settings = dataclasses.replace(config, shrink=shrink, patch=96, batch=8)
        targets = Tiles([("a", tissue(301))], settings).batch(0).targets[:, 0].byte().numpy()
        found = [cv2.connectedComponentsWithStats(one)[2][1:, cv2.CC_STAT_AREA] for one in targets]
        areas.append(np.median(np.concatenate(found)))
    assert 0.15 < areas[1] / areas[0] < 0.4, "nuclei keep their size in micrometres"


def test_interiors_keep_apart_nuclei_that_touch() -> None:
    instances = np.zeros((20, 20), np.uint32)
    instances[3:17, 3:10], instances[3:17, 10:17] = 4_000_000_000, 4_000_000_001
    nucleus, interior = task_targets(instances, 2).transpose(2, 0, 1)
    assert nucleus.sum() == 14 * 14
    assert cv2.connectedComponents(interior.astype(np.uint8))[0] - 1 == 2
    assert interior.sum() == 2 * 10 * 3


def test_tiles_that_cannot_be_used_are_left_out_and_named() -> None:
    given = [
        ("a", tissue(100)),
        ("pale", tissue(100, nuclei=0)),
        ("small", tissue(20)),
        ("b", tissue(100, seed=1)),
    ]
    given.append(("white", np.full((100, 100, 3), 245, np.uint8)))
    tiles = Tiles(given, TINY)
    tiles.leave_out_plain()
    assert (tiles.names, len(tiles.images), len(tiles.textures)) == (["a", "b"], 2, 2)
    assert [one.split(":")[0] for one in tiles.left] == ["small", "white", "pale"]
    assert tiles.left[0].startswith("small: is 20 x 20 px, and ")
    assert tiles.left[1] == "white: has 0 % tissue, and 20 % are needed"
    assert "stands out by haematoxylin" in tiles.left[2]
    with pytest.raises(BadInput, match=r"no tile gives a texture; the first: pale: nothing in it"):
        Tiles(given[1:2], TINY).leave_out_plain()


def test_the_command_names_the_tiles_that_it_leaves_out(tmp_path: Path) -> None:
    for name, image in (("a", tissue(300)), ("pale", tissue(300, nuclei=0)), ("small", tissue(20))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image[..., ::-1])
    out = tmp_path / "run"
    args = ["refiner", str(tmp_path), str(out), "--size", "small", "--iterations", "5", "--minutes", "1e-9"]
    done = CliRunner().invoke(commands, args)
    assert "warning: small.png: is 20 x 20 px" in done.stderr, done.output
    assert "warning: pale.png: nothing in it stands out" in done.stderr
    assert "1 tile;" in done.stderr


def test_every_phase_trains_its_networks_and_no_others(tiles: Tiles) -> None:
    trainer = RefinerTrainer(TINY, tiles)
    # From zero the refiner would change nothing of what the first phase looks at.
    torch.nn.init.normal_(trainer.refiner.last.weight, std=0.1)
    expected = {
        "refiner": {"refiner"},
        "discriminator": {"discriminator"},
        "adversarial": {"refiner", "discriminator", "style"},
        "task": {"task"},
        "joint": {"refiner", "discriminator", "style", "task"},
    }
    for phase in PHASES:
        assert TINY.phase(trainer.done) == phase
        before = {name: [p.clone() for p in net.parameters()] for name, net in trainer.networks.items()}
        trainer.iterate()
        moved = {
            name
            for name, net in trainer.networks.items()
            if any(not torch.equal(old, new) for old, new in zip(before[name], net.parameters(), strict=True))
        }
        assert moved - {"style"} == expected[phase] - {"style"}, phase
        assert ("style" in moved) or phase not in ("adversarial", "joint")
    assert TINY.phase(99) == "joint"


def test_each_network_learns_what_it_is_for(tiles: Tiles) -> None:
    config = dataclasses.replace(TINY, steps=(0, 0, 1000, 1, 99), alpha=0.0, refiner_rate=1e-3)
    trainer, batch = RefinerTrainer(config, tiles), tiles.batch(0)
    bright = RefinerTrainer(config, tiles)
    bright.judged = lambda image, reference: image.mean(dim=(1, 2, 3), keepdim=True)  # type: ignore[method-assign]
    passed = [bright.refine(batch)["realism"] for _ in range(6)]
    assert passed[-1] < passed[0]
    kept = dataclasses.replace(config, alpha=1.0, beta=0.0, refiner_rate=2e-4)
    close = RefinerTrainer(kept, tiles)
    torch.nn.init.normal_(close.refiner.last.weight, std=0.1)
    changes = [close.refine(batch)["close"] for _ in range(6)]
    assert changes[-1] < changes[0]
    told = [trainer.discriminate(batch)["discriminator"] for _ in range(6)]
    assert told[-1] < told[0]
    found = [trainer.segment(batch)["task"] for _ in range(6)]
    assert found[-1] < found[0]


def test_the_average_follows_the_task_network(tiles: Tiles) -> None:
    trainer, batch = RefinerTrainer(TINY, tiles), tiles.batch(0)
    expected = [weight.detach().clone() for weight in trainer.task.parameters()]
    for kept in (1 / 10, 2 / 11, 3 / 12):
        trainer.segment(batch)
        weights = [*trainer.task.parameters()]
        expected = [kept * old + (1 - kept) * new for old, new in zip(expected, weights, strict=True)]
    for mean, own, live in zip(
        trainer.average.parameters(), expected, trainer.task.parameters(), strict=True
    ):
        torch.testing.assert_close(mean, own)
        assert not torch.equal(mean, live)
    resumed = RefinerTrainer(TINY, tiles)
    resumed.load_state_dict(copy.deepcopy(trainer.state_dict()))
    trainer.segment(batch)
    resumed.segment(batch)
    assert all(map(torch.equal, trainer.average.parameters(), resumed.average.parameters()))


def test_ablations_leave_out_what_they_say(tiles: Tiles) -> None:
    joint = dataclasses.replace(TINY, steps=(0, 0, 0, 0, 9))
    assert "hard" in RefinerTrainer(joint, tiles).iterate()
    assert "hard" not in RefinerTrainer(dataclasses.replace(joint, use_hard=False), tiles).iterate()
    plain = RefinerTrainer(dataclasses.replace(joint, use_style=False), tiles)
    assert float(plain.styles(tiles.batch(0).reference).abs().max()) == 0
    image, reference = tiles.batch(0).real, tiles.batch(0).reference
    assert torch.equal(plain.judged(image, reference), plain.judged(image, -reference))


def test_a_picture_that_looks_real_weighs_more(tiles: Tiles) -> None:
    joint = dataclasses.replace(TINY, steps=(0, 0, 0, 0, 9), use_variation=False)
    losses = []
    for weighted in (False, True):
        trainer = RefinerTrainer(dataclasses.replace(joint, use_weights=weighted), tiles)
        trainer.judged = lambda image, reference: torch.tensor([9.0, -9.0]).view(2, 1, 1, 1)  # type: ignore[method-assign]
        losses.append(trainer.segment(tiles.batch(5))["task"])
    trainer = RefinerTrainer(joint, tiles)
    batch = tiles.batch(5)
    with torch.no_grad():
        logits = trainer.task(trainer.refined(batch))
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, batch.targets, reduction="none"
        ).mean(dim=(1, 2, 3))
    assert losses[0] == pytest.approx(float(each.mean()), abs=1e-5)
    assert losses[1] == pytest.approx(float((2.0 * each[0] + 0.2 * each[1]) / 2.2), abs=1e-5)


def test_history_mixes_earlier_pictures_in() -> None:
    history, rng = History(3, 8), np.random.default_rng(0)
    batches = [torch.full((2, 3, 8, 8), value) for value in (-1.0, 0.0, 1.0)]
    shown, _ = history.mixed(batches[0], torch.zeros(2, 3, 40, 40), rng)
    assert torch.equal(shown, batches[0])
    shown, beside = history.mixed(batches[1], torch.ones(2, 3, 40, 40), rng)
    assert shown[0].mean() == 0
    assert shown[1].mean() == -1
    assert beside[1].mean() == 0
    history.mixed(batches[2], torch.ones(2, 3, 40, 40), rng)
    assert history.count == 6
    copy = History(3, 8)
    copy.load_state_dict(history.state_dict())
    assert torch.equal(copy.images, history.images)
    assert copy.count == 6


def test_a_resumed_run_is_the_same(tiles: Tiles, tmp_path: Path) -> None:
    config = TINY.with_total(6)
    assert config.total == 6
    whole = fit_refiner(tiles, tmp_path / "whole", config)
    fit_refiner(tiles, tmp_path / "parts", config, minutes=1e-9)
    for _ in range(2):
        parts = fit_refiner(tiles, tmp_path / "parts", config, resume=True)
    assert parts.done == whole.done == 6
    for name, network in whole.networks.items():
        for one, two in zip(network.parameters(), parts.networks[name].parameters(), strict=True):
            assert torch.equal(one, two), name
    with pytest.raises(BadInput, match="add --resume to continue"):
        fit_refiner(tiles, tmp_path / "whole", config)
    with pytest.raises(BadInput, match="other settings or tiles"):
        fit_refiner(tiles, tmp_path / "whole", dataclasses.replace(config, seed=5), resume=True)
    with pytest.raises(BadInput, match="is not a checkpoint of a refiner"):
        load(tmp_path / "whole/log.jsonl")
    assert json.loads((tmp_path / "whole/log.jsonl").read_text().splitlines()[-1])["step"] == 6
    kept = torch.load(tmp_path / "parts/refiner.pt", weights_only=True)
    del kept["state"]["average"]
    torch.save(kept, tmp_path / "parts/refiner.pt")
    with pytest.raises(BadInput, match="is of an earlier version, without 'average'; start over"):
        fit_refiner(tiles, tmp_path / "parts", config, resume=True)


def test_nuclei_are_found_apart_and_grown_to_their_border() -> None:
    class Perfect(torch.nn.Module):  # type: ignore[misc]
        def forward(self, image: Any) -> Any:
            return self.logits[None]

    truth = np.zeros((40, 43), np.uint32)
    truth[5:20, 5:15], truth[5:20, 15:30] = 1, 2
    network = Perfect()
    wide = np.pad(task_targets(truth, 2), ((0, 0), (0, 5), (0, 0)))
    network.logits = torch.from_numpy(wide * 18 - 9).permute(2, 0, 1)
    image = np.zeros((40, 43, 3), np.uint8)
    found = find_nuclei(network, image)
    assert found.shape == (40, 43)
    assert compare_instances(found, truth.astype(np.int32)).panoptic > 0.85
    # The network takes what lies between the two for interior, but is not sure of it.
    network.logits[1, 10:15, 12:18] = 1
    assert [find_nuclei(network, image, interior=least).max() for least in (0, 2)] == [1, 2]


def test_what_is_too_small_is_no_nucleus() -> None:
    class Found(torch.nn.Module):  # type: ignore[misc]
        def forward(self, image: Any) -> Any:
            return torch.where(image[:, :2] > 0, 9.0, -9.0)

    image = np.zeros((40, 40, 3), np.uint8)
    image[2:7, 2:8], image[20:25, 2:8] = 255, 255
    image[20, 2] = 0
    numbers = find_nuclei(Found(), image)
    assert (np.unique(numbers).tolist(), numbers[4, 5], numbers[22, 5]) == ([0, 1], 1, 0)


def test_bytes_and_back() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    assert np.array_equal(as_bytes(as_tensor([*rgb])), rgb)


def run(*args: Any) -> Any:
    return CliRunner().invoke(commands, [*map(str, args)])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, exported by the commands: folder with tiles/, run/ and g.onnx."""
    here = tmp_path_factory.mktemp("refiner")
    (here / "tiles").mkdir()
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        cv2.imwrite(str(here / f"tiles/{name}.png"), tissue(90, seed=seed)[..., ::-1])
    result = run("refiner", here / "tiles", here / "run", "--size", "tiny", "--leave-out", "c.png")
    assert result.exit_code == 0, result.output
    assert "5 of 5 iterations" in result.output
    assert load(here / "run/refiner.pt")[1]["tiles"] == ["a.png", "b.png"]
    result = run(
        "export-refiner", here / "run/refiner.pt", here / "tiles", here / "g.onnx", "--name", "tiny refiner"
    )
    assert result.exit_code == 0, result.output
    assert "parity" in result.output
    assert "warning: 1 tile that" in result.output
    assert "was not trained on, as c.png; left out" in result.output
    return here


def test_an_export_tells_which_tiles_are_not_those_of_the_checkpoint(exported: Path, tmp_path: Path) -> None:
    def style(out: Path) -> Any:
        return OnnxModel(out, device="cpu").card.style.default  # type: ignore[union-attr]

    checkpoint, tiles = exported / "run/refiner.pt", exported / "tiles"
    made = run("export-refiner", checkpoint, tiles / "b.png", tmp_path / "b.onnx")
    assert (
        f"1 of 2 tiles that {checkpoint} was trained on are not given, as a.png; the mean style is that"
        in made.output
    )
    assert style(tmp_path / "b.onnx") != style(exported / "g.onnx")
    made = run("export-refiner", checkpoint, tiles / "a.png", tiles / "b.png", tmp_path / "ab.onnx")
    assert "warning" not in made.output
    assert style(tmp_path / "ab.onnx") == style(exported / "g.onnx")
    refused = run("export-refiner", checkpoint, tiles / "c.png", tmp_path / "c.onnx")
    assert isinstance(refused.exception, BadInput)
    assert str(refused.exception).startswith(
        f"c.png: {checkpoint} was trained on none of the TILES, but on a.png"
    )
    assert not (tmp_path / "c.onnx").exists()


def test_an_exported_refiner_renders_in_the_style_of_a_reference(exported: Path, tmp_path: Path) -> None:
    drawn = Synthesizer([make_texture(tissue(150))], Layout(2, 180)).draw(0, 0, 140, 180)
    cv2.imwrite(str(tmp_path / "initial.png"), drawn.rgb[..., ::-1])
    options: dict[str, Any] = {
        "model": exported / "g.onnx",
        "image": tmp_path / "initial.png",
        "tile": 64,
        "mpp": 0.25,
    }
    own = render(drawn.classes, tmp_path / "own.svs", **options)
    other = render(drawn.classes, tmp_path / "b.svs", style=str(exported / "tiles/c.png"), **options)
    assert own.model == "tiny refiner"
    assert own.digest != other.digest
    measured = measure_mismatch(OnnxModel(exported / "g.onnx"), open_mask(drawn.classes), tile=64, overlap=20)
    assert measured is not None
    assert measured.largest < 1e-3


def test_a_refiner_that_reads_a_style_in_each_pixel(exported: Path, tmp_path: Path) -> None:
    made = run(
        "export-refiner", exported / "run/refiner.pt", exported / "tiles", tmp_path / "f.onnx", "--field"
    )
    assert made.exit_code == 0, made.output
    import zarr

    zarr.create_array(str(tmp_path / "field.zarr"), shape=(4, 2, 2), dtype="float32")[:] = np.arange(
        16
    ).reshape(4, 2, 2)
    cv2.imwrite(str(tmp_path / "initial.png"), tissue(140))
    options: dict[str, Any] = {
        "model": tmp_path / "f.onnx",
        "image": tmp_path / "initial.png",
        "tile": 64,
        "mpp": 0.25,
    }
    mask = np.zeros((140, 140), np.uint8)
    digests = {
        render(
            mask, tmp_path / f"{block}.svs", style=str(tmp_path / "field.zarr"), block=block, **options
        ).digest
        for block in (None, 512)
    }
    assert len(digests) == 1
    assert digests != {render(mask, tmp_path / "one.svs", **options).digest}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("refiner", "{tiles}", "{out}", "--leave-out", "x.png"), "--leave-out x.png: no tile has this name"),
        (("refiner", "{tiles}", "{out}", "--size", "full"), "no tile has 128 px a side and 20 % tissue"),
        (("export-refiner", "{out}", "{tiles}", "{out}.onnx"), "no such file"),
    ],
)
def test_bad_input_is_one_line(exported: Path, tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    result = run(*(part.format(tiles=exported / "tiles", out=tmp_path / "o") for part in args))
    assert isinstance(result.exception, BadInput)
    assert says in str(result.exception)


def test_settings() -> None:
    full = RefinerConfig()
    assert full.with_total(full.total) == full
    half = dataclasses.replace(full, shrink=2)
    assert [(one.interior, one.smallest) for one in (full, half)] == [(2, 30), (1, 7)]
    assert full.with_total(1400).steps == (100, 100, 100, 100, 1000)
    with pytest.raises(BadInput, match="must be a multiple of 8"):
        RefinerConfig(patch=30)
