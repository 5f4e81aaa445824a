"""The rows of the table of benchmarks, and what each of them aims at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A row of the table: a script, its arguments by size, and the highest ratio aimed at.

    Attributes:
        figure: what the line of the ratio starts with; the clock's line starts with `clock`.
        quality: what each side's line calls its quality, if the runs have seeds of their own.
        data: the folder that the script reads, made by its `MAKERS`.
    """

    work: str
    other: str
    aim: float
    script: str
    small: str
    large: str
    figure: str = ""
    clock: str = ""
    quality: str = ""
    data: str = ""


FASHION, SCENES = "data/fashion-mnist", "data/scenes"
MAKERS = {FASHION: "examples/fashion_mnist.py", SCENES: "examples/make_scenes.py"}
WHOLE = {"figure": "whole-processor", "clock": "whole-clock"}
PART = {"figure": "processor", "clock": "clock"}
WHOLE_RUN, TRAINING = ({**each, "quality": "accuracy"} for each in (WHOLE, PART))
TRAINER, SFT = "versus_trainer", "versus_trainer_generation"
PICTURES, FEW, LOOPS = "pictures_versus_bare_loop", "--steps 24", "--steps 40"
TEXTS, BATCHES = "predict_versus_libraries", "pictures_versus_trainer"
BATCHES_OF_16 = "image-classification --repeats 1 --batch-size 16"
ONCE, LONG = "--repeats 1 --rows 125", "--repeats 1 --rows 2225 --max-length 512"
SHORT_SFT, LONG_SFT = (
    "--rows 80 --block 5 --precision bf16",
    "--rows 240 --block 10 --precision bf16",
)


def twice(name: str, *arguments: str) -> tuple[str, str, str]:
    """Return a script and its arguments by size, which begin alike."""
    small, large, shared = arguments
    return name, f"{shared} {small}", f"{shared} {large}"


ROWS = {
    "text-full": Row(
        "text, full, each side's defaults", "Trainer", 0.4, TRAINER, ONCE, LONG, **TRAINING
    ),
    "text-full-bf16": Row(
        "text, full, bf16 on both sides",
        "Trainer, rows of similar length",
        0.6,
        *twice(TRAINER, ONCE, LONG, "--precision bf16 --group-by-length"),
        **TRAINING,
    ),
    "text-frozen": Row(
        "text, frozen, ten epochs, whole process",
        "Trainer, frozen backbone",
        0.04,
        *twice(TRAINER, "--rows 250", "--rows 2225", "--repeats 1 --method frozen --epochs 10"),
        **WHOLE_RUN,
    ),
    "text-lora": Row(
        "text, LoRA, three epochs, whole process",
        "Trainer with peft",
        0.5,
        *twice(
            TRAINER,
            "--rows 250",
            "--rows 2225",
            "--repeats 1 --method lora --epochs 3 --rates usual",
        ),
        **WHOLE_RUN,
    ),
    "first-step": Row(
        "from command to the end of one step",
        "Trainer",
        0.5,
        *twice(TRAINER, "--rows 250", "--rows 250", "--repeats 1 --max-steps 1"),
        figure="first-step:",
        clock="first-step-clock:",
    ),
    "sft-lora": Row(
        "SFT with LoRA, rows of very unequal length",
        "Trainer, padding",
        0.4,
        *twice(SFT, SHORT_SFT, LONG_SFT, "--uneven"),
        quality="perplexity",
    ),
    "sft-even": Row(
        "SFT with LoRA, rows of 150 to 220 tokens",
        "Trainer, padding",
        0.4,
        SFT,
        SHORT_SFT,
        LONG_SFT,
        quality="perplexity",
    ),
    "sft-packed": Row(
        "SFT with LoRA",
        "Trainer, packing",
        0.85,
        *twice(SFT, SHORT_SFT, LONG_SFT, "--collator flattening"),
        quality="perplexity",
    ),
    "seq2seq": Row(
        "seq2seq, T5 of 60 M",
        "Seq2SeqTrainer",
        0.6,
        *twice(SFT, SHORT_SFT, LONG_SFT, "--network t5"),
        quality="perplexity",
    ),
    "pictures-trainer": Row(
        "pictures, full, EfficientNet-Lite0",
        "Trainer, image example",
        0.65,
        *twice(BATCHES, "--rows 480", "--rows 1920", "efficientnet --repeats 1"),
        **TRAINING,
    ),
    "vit-trainer": Row(
        "pictures, full, ViT-S",
        "Trainer, image example",
        0.65,
        *twice(BATCHES, "--rows 48", "--rows 240", "vit --repeats 1"),
        **PART,
    ),
    "pictures-full": Row(
        "pictures, full, EfficientNet-Lite0, same precision",
        "bare loop, channels last",
        1.0,
        *twice(PICTURES, "--steps 12", LOOPS, BATCHES_OF_16),
        data=FASHION,
        **PART,
    ),
    "pictures-contiguous": Row(
        "pictures, full, EfficientNet-Lite0, same precision",
        "bare loop, timm's default layout",
        1.0,
        *twice(PICTURES, "--steps 12", LOOPS, f"{BATCHES_OF_16} --layout contiguous"),
        data=FASHION,
        **PART,
    ),
    "segmentation": Row(
        "segmentation, Unet",
        "smp, bare loop",
        1.0,
        *twice(PICTURES, FEW, LOOPS, "segmentation --repeats 1"),
        data=SCENES,
        **PART,
    ),
    "detection": Row(
        "detection, FCOS",
        "torchvision",
        0.9,
        *twice(
            "detection_versus_torchvision",
            f"--size 192 --batch-size 2 {FEW}",
            f"--size 256 {LOOPS}",
            "--repeats 1",
        ),
        data=SCENES,
        **PART,
    ),
    "predict": Row(
        "predict 256 texts, fp32",
        "pipeline(batch_size=32)",
        0.35,
        *twice(TEXTS, "", "", "predict --repeats 1 --others batches"),
        **PART,
    ),
    "predict-single": Row(
        "predict 256 texts, fp32",
        "pipeline()",
        0.65,
        *twice(TEXTS, "", "", "predict --repeats 1 --others single"),
        **PART,
    ),
    "embed": Row(
        "embed 256 texts, fp32",
        "SentenceTransformer.encode",
        0.95,
        *twice(TEXTS, "", "", "embed --repeats 1"),
        **PART,
    ),
    "loop": Row(
        "our loop",
        "bare loop",
        1.03,
        *twice(
            "versus_bare_loop", f"--size small {LOOPS}", f"--size larger {LOOPS}", "--repeats 1"
        ),
        **PART,
    ),
    "dropout": Row(
        "dropout by sample and its attention",
        "torch's",
        0.6,
        "dropout_and_attention",
        "--repeats 1 --rows 4 --length 128",
        "--repeats 1",
        figure="by-sample",
    ),
}
