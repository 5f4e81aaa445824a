"""Suggestions for unknown config keys, including the names that other libraries use."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from finetune.errors import closest, nearest

# Names used by transformers' Trainer, peft and others; similar spelling alone would not find these.
FOREIGN_KEYS = {
    "batch": "batch_size",
    "bf16": "precision",
    "bs": "batch_size",
    "dataloader_num_workers": "workers",
    "dataset_text_field": "text",
    "early_stopping_patience": "early_stopping",
    "eval_batch_size": "micro_batch",
    "eval_steps": "evaluate_every",
    "eval_strategy": "evaluate_every",
    "evaluation_strategy": "evaluate_every",
    "fp16": "precision",
    "gradient_accumulation_steps": "micro_batch",
    "hub_model_id": "hub",
    "init_lora_weights": "init",
    "label_column": "label",
    "learning_rate": "lr",
    "load_in_4bit": "quantize",
    "load_in_8bit": "quantize",
    "logging_steps": "log_every",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_r": "rank",
    "lr_scheduler_type": "schedule",
    "max_seq_length": "max_length",
    "metric_for_best_model": "best",
    "num_train_epochs": "epochs",
    "output_dir": "dir",
    "patience": "early_stopping",
    "per_device_eval_batch_size": "micro_batch",
    "per_device_train_batch_size": "micro_batch",
    "push_to_hub": "hub",
    "r": "rank",
    "report_to": "trackers",
    "save_steps": "save_every",
    "save_total_limit": "keep_checkpoints",
    "target_modules": "targets",
    "test_size": "test",
    "torch_compile": "compile",
    "text_column": "text",
    "use_liger_kernel": "fused_loss",
    "val": "validation",
    "val_size": "validation",
}


def suggest_key(key: str, fields: Mapping[str, Collection[str]]) -> str:
    """Return "did you mean ...?" for an unknown key, or the list of valid keys.

    `fields` are the keys of each section. Tried in this order: the same key in another section, the
    name that another library uses, similar spelling.
    """
    section, dot, leaf = key.rpartition(".")
    for name in (leaf, FOREIGN_KEYS.get(leaf)):
        homes = [f"{home}.{name}" for home, names in fields.items() if name in names]
        if homes:
            return f"did you mean {' or '.join(map(repr, homes))}?"
    foreign = closest(leaf, {*FOREIGN_KEYS, *(name for names in fields.values() for name in names)})
    if foreign in FOREIGN_KEYS and foreign != leaf:
        return suggest_key(f"{section}{dot}{foreign}", fields)
    if section in fields:
        return nearest(leaf, fields[section])
    if dot:
        return nearest(key, {f"{home}.{name}" for home, names in fields.items() for name in names})
    return nearest(key, {*fields, *(name for names in fields.values() for name in names)})
