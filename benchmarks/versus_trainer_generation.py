"""Our kit and transformers.Trainer teach one language model to write headlines, on the same rows.

Both train LoRA adapters of the same shape on SmolLM2-135M, from the same weights and at the same
rates, on articles of BBC News; loss is on the headlines alone. Ours is the shipped config: batches
of similar length, with the output layer where there is loss. The Trainer has its defaults,
and a collator that pads. Both run in one process in turn, a block of steps each, so that what else
the machine does strikes both alike; loading, tokenizing and measuring are left out of the times.

    python benchmarks/versus_trainer_generation.py --rows 240 --block 10

Printed are seconds by the clock and of the processor, the ratios ours / Trainer, and the perplexity
per token of held-out headlines, measured for both by the same code.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import os
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from finetune.assembly import Prepared, assemble
from finetune.data import open_splits
from finetune.evaluation import evaluate_split
from finetune.loop import Progress, train
from finetune.overrides import load_config
from finetune.processes import make_accelerator
from finetune.registry import find_task
from tasks.language.language_models import LanguageModel

CONFIG = "bbc-headlines"
HELD_OUT = 80


class BlockEndedError(Exception):
    """The other side's turn: the schedule is that of the whole run, of which this was a part."""


@dataclass
class Clock:
    """The journal of a run that is only timed, and the seconds of its blocks."""

    evaluates: bool = False
    until: int = 0
    wall: float = 0.0
    processor: float = 0.0
    _start: tuple[float, float] = field(default=(0.0, 0.0))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Left to the loop's own cost: the values were computed for it."""

    def tick(self, step: int) -> None:
        if step == self.until:
            raise BlockEndedError

    def evaluate(self, step: int) -> dict[str, float]:
        raise AssertionError("nothing is evaluated here")

    def save(self, progress: Progress) -> None:
        """Nothing is saved here."""

    def note(self, text: str) -> None:
        print(text)

    def start(self) -> None:
        self._start = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.processor += time.process_time() - self._start[1]


def set_up(rows: int, precision: str, folder: str) -> Prepared:
    """Our side: the shipped config on `rows` training rows, one epoch."""
    share = HELD_OUT / (rows + HELD_OUT)
    keys = {"data.limit": rows + HELD_OUT, "data.test": share, "output": folder, "epochs": 1}
    keys["precision"] = precision
    loaded = load_config(CONFIG, keys, lambda name: find_task(name).Config)
    config = loaded.config
    task = find_task(config.task.name)(config.task)
    splits = open_splits(config.data, task)
    return assemble(config, task, splits, make_accelerator(precision))


def trainer_side(ours: Prepared, network: Any, folder: str, callback: Any) -> Any:
    """A Trainer with its defaults, on the same rows; its adapters begin as ours do."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    live = ours.live
    optim, task = live.config.optim, live.task
    rows = []
    for row in live.train.rows:  # type: ignore[attr-defined]
        sample = task.encode(row)
        ids = sample["inputs"]["input_ids"]
        pairs = zip(ids, sample["target"], strict=True)
        labels = [token if learned else -100 for token, learned in pairs]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    settings = TrainingArguments(
        output_dir=folder,
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
    collate = DataCollatorForSeq2Seq(task.tokenizer_)  # type: ignore[attr-defined]
    return Trainer(network, settings, collate, rows, callbacks=[callback])


def in_turn(ours: Prepared, block: int, mine: Clock, theirs: Clock) -> Any:
    """A callback of the Trainer: after each block of its steps, ours takes as many."""
    from transformers import TrainerCallback

    class InTurn(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            theirs.start()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step % block and state.global_step != ours.live.total_steps:
                return
            theirs.stop()
            stop = state.global_step
            progress = Progress(step=(stop - 1) // block * block)
            mine.until = stop
            mine.start()
            with contextlib.suppress(BlockEndedError):
                train(ours.live, progress, mine, None)
            mine.stop()
            print(f"step {stop}: ours {mine.wall:.1f} s, Trainer {theirs.wall:.1f} s", flush=True)
            theirs.start()

    return InTurn()


def perplexity(ours: Prepared, model: LanguageModel) -> float:
    """Per token of the held-out headlines."""
    live = ours.live
    assert ours.test is not None
    found = evaluate_split(model, live.task, ours.test, live.accelerator, block=4)
    return found.metrics["perplexity"]


def main() -> None:
    """Train both sides in turn, and print what they took and reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=240, help="for training, beside 80 held out")
    parser.add_argument("--block", type=int, default=10, help="steps of one side at a time")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of both")
    arguments = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS")
    print(
        f"{torch.get_num_threads()} threads (OMP_NUM_THREADS={threads}), {arguments.precision}",
        flush=True,
    )
    mine, theirs = Clock(), Clock()
    with tempfile.TemporaryDirectory() as folder:
        ours = set_up(arguments.rows, arguments.precision, folder)
        assert isinstance(ours.live.model, LanguageModel)
        print(f"untrained perplexity {perplexity(ours, ours.live.model):.2f}", flush=True)
        network: Any = copy.deepcopy(ours.live.model.network)
        network.set_attn_implementation("sdpa")  # what its library chooses by itself
        for module in network.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = True  # as peft has it by itself
        callback = in_turn(ours, arguments.block, mine, theirs)
        trainer_side(ours, network, folder, callback).train()
        for name, clock in (("ours", mine), ("Trainer", theirs)):
            model = ours.live.model if clock is mine else LanguageModel(network)
            reached = perplexity(ours, model)
            print(
                f"{name:>8}  {clock.wall:.1f} s, {clock.processor:.1f} s of the processor, "
                f"perplexity {reached:.2f}"
            )
    print(
        f"ours / Trainer: {mine.wall / theirs.wall:.2f} by the clock, "
        f"{mine.processor / theirs.processor:.2f} by the processor"
    )


if __name__ == "__main__":
    main()
