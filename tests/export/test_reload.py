"""Published models run with the code on their card, in a process without this kit.

To test another model, add a line to CASES.
"""

from __future__ import annotations

from typing import Any

import pytest

import finetune
from finetune.export.hub import push
from tests.support.strangers import Case, World
from tests.support.tiny_detectors import MAKERS

POOLED, HIDDEN = {"task.head": "pooled"}, {"task.head_hidden": 8}
CLASSIFY, DETECT, SEGMENT = "classify-image", "detect", "segment"
WRITE, CHAT = "write", "chat"
WRITERS = ("gpt2", "t5", "bart")
METHODS = ("full", "frozen", "lora", "ia3", "bitfit", "partial")
SMALL = ("ia3", "bitfit")
# Replacement that loads the adapter by its path alone, with peft's auto class.
AUTO_PEFT = (
    r'base = .*\nmodel = PeftModel.from_pretrained\(base, (".*")\)',
    r"from peft import AutoPeftModelForCausalLM"
    r"\n\nmodel = AutoPeftModelForCausalLM.from_pretrained(\1)",
)
CASES = {
    "text-lora": Case("bert", "lora"),
    "text-lora-adapter": Case("bert", "lora", "adapter"),
    "text-ia3-adapter": Case("bert", "ia3", "adapter"),
    "text-bitfit": Case("bert", "bitfit"),
    "timm-lora": Case("timm", "lora", use=CLASSIFY),
    "timm-hidden": Case("timm", "frozen", use=CLASSIFY, keys=HIDDEN),
    "detector-lora": Case("rt-detr-v2", "lora", use=DETECT),
    "unet-lora": Case("timm", "lora", use=SEGMENT),
    "segformer-full": Case("segformer", use=SEGMENT),
    "chat-lora": Case("llama", "lora", use=CHAT),
    "chat-lora-adapter": Case("llama", "lora", "adapter", use=CHAT),
}
CLASSIFIERS = {
    "text-pooled": Case("bert", "frozen"),
    "timm-lora-adapter": Case("timm", "lora", "adapter", CLASSIFY),
    "vit-full": Case("vit", use=CLASSIFY),
    "text-full": Case("bert"),
    "text-hidden": Case("bert", "frozen", keys=HIDDEN),
    "vit-hidden": Case("vit", "lora", use=CLASSIFY, keys=HIDDEN),
    "text-partial": Case("bert", "partial"),
    "text-pooled-full": Case("bert", "full", keys=POOLED),
    "text-frozen-native": Case("bert", "frozen", keys={"task.head": "native"}),
    "decoder-lora-adapter": Case("gpt2", "lora", "adapter"),
    "decoder-pooled": Case("gpt2", "frozen"),
    "timm-frozen": Case("timm", "frozen", use=CLASSIFY),
    "timm-partial": Case("timm", "partial", use=CLASSIFY),
    "vit-lora": Case("vit", "lora", use=CLASSIFY),
    "vit-lora-adapter": Case("vit", "lora", "adapter", CLASSIFY),
    "vit-frozen": Case("vit", "frozen", use=CLASSIFY),
    "text-ia3": Case("bert", "ia3"),
    "decoder-ia3-adapter": Case("gpt2", "ia3", "adapter"),
    "decoder-bitfit": Case("gpt2", "bitfit"),
    "timm-ia3": Case("timm", "ia3", use=CLASSIFY),
    "timm-bitfit": Case("timm", "bitfit", use=CLASSIFY),
    "efficientnet-ia3": Case("efficientnet", "ia3", use=CLASSIFY),
    "vit-ia3-adapter": Case("vit", "ia3", "adapter", CLASSIFY),
    "vit-bitfit": Case("vit", "bitfit", use=CLASSIFY),
}
DETECTORS = {
    **{f"{name}-full": Case(name, use=DETECT) for name in MAKERS},
    **{f"d-fine-{method}": Case("d-fine", method, use=DETECT) for method in ("frozen", "partial")},
    **{f"{name}-{method}": Case(name, method, use=DETECT) for name in MAKERS for method in SMALL},
    "d-fine-lora": Case("d-fine", "lora", use=DETECT, keys={"method.rank": 2}),
}
SEGMENTERS = {
    **{f"unet-{method}": Case("timm", method, use=SEGMENT) for method in METHODS},
    **{f"segformer-{method}": Case("segformer", method, use=SEGMENT) for method in METHODS[1:]},
    "fpn-full": Case("timm", use=SEGMENT, keys={"task.decoder": "fpn"}),
    "segformer-lora-adapter": Case("segformer", "lora", "adapter", SEGMENT),
    "upernet-full": Case("upernet", use=SEGMENT),
    "segformer-ia3-adapter": Case("segformer", "ia3", "adapter", SEGMENT),
    "upernet-lora-adapter": Case("upernet", "lora", "adapter", SEGMENT),
    **{f"upernet-{method}": Case("upernet", method, use=SEGMENT) for method in SMALL},
}
LANGUAGE_MODELS = {
    **{f"{name}-lora": Case(name, "lora", use=WRITE) for name in WRITERS},
    **{f"{name}-lora-adapter": Case(name, "lora", "adapter", WRITE) for name in WRITERS},
    **{f"{name}-ia3-adapter": Case(name, "ia3", "adapter", WRITE) for name in WRITERS},
    **{f"{name}-{method}": Case(name, method, use=WRITE) for name in WRITERS for method in SMALL},
    "gpt2-full": Case("gpt2", use=WRITE),
    "gpt2-lora-auto": Case("gpt2", "lora", "adapter", WRITE, change=AUTO_PEFT),
    "t5-partial": Case("t5", "partial", use=WRITE),
    "chat-full": Case("llama", use=CHAT),
    "chat-ia3-adapter": Case("llama", "ia3", "adapter", use=CHAT),
    "chat-partial": Case("llama", "partial", use=CHAT),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def answers(world: World) -> dict[str, tuple[Any, Any]]:
    return world.publish_and_read(CASES)


@pytest.mark.parametrize("name", CASES)
def test_card_code_reproduces_predictions(
    name: str, world: World, answers: dict[str, tuple[Any, Any]]
) -> None:
    world.assert_same(CASES[name], *answers[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [CLASSIFIERS, DETECTORS, SEGMENTERS, LANGUAGE_MODELS],
    ids=["classifiers", "detectors", "segmenters", "language-models"],
)
def test_card_code_reproduces_predictions_of_more_models(
    cases: dict[str, Case], world: World
) -> None:
    for name, answer in world.publish_and_read(cases).items():
        print(name)
        world.assert_same(cases[name], *answer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case("bert", "lora", keys=POOLED),
        Case("timm", "lora", use=SEGMENT),
        Case("rt-detr-v2", "lora", use=DETECT),
    ],
    ids=["pooled", "unet", "detector"],
)
def test_push_rejects_adapters_that_peft_cannot_load(case: Case, world: World) -> None:
    run = world.train(case)
    with pytest.raises(finetune.HubError, match="--what merged.*task.head=native"):
        push(run.path, "me/refused", what="adapter")
