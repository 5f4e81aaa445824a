"""Faults that are answered before torch and the libraries of models and data are imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAVY = {"torch", "transformers", "datasets", "accelerate", "peft", "timm", "pandas", "sklearn"}
NEWS = ("task=text-classification", "data=news.csv", "model=bert")
SEGMENTS = ("task=segmentation", *NEWS[1:])
CHAT = ("task=text-generation", *NEWS[1:])

FAULTS = {
    "train": [
        ((*NEWS, "lrr=1"), "did you mean 'lr'?"),
        ((*NEWS, "lr=fast"), "optim.lr: 'fast'"),
        (("task=text-clasification", *NEWS[1:]), "did you mean 'text-classification'?"),
        ((*NEWS, "method=lorra"), "did you mean 'lora'?"),
        ((*NEWS, "method=full", "rank=4"), "not a key of method=full"),
        (("task=image-classification", "mixupp=1", *NEWS[1:]), "did you mean 'mixup'?"),
        (("task=segmentation", "image_size=-1", *NEWS[1:]), "task.image_size: -1"),
        (("task=object-detection", "tile=1", *NEWS[1:]), "task.tile: 1"),
        (("task=object-detection", "max_detections=10001", *NEWS[1:]), "task.max_detections"),
        (("task=image-classification", "image_size=1", *NEWS[1:]), "equal to 8"),
        (("task=text-generation", "beams=0", *NEWS[1:]), "task.beams: 0"),
        ((*NEWS, "data.format=cocoa"), "unknown format 'cocoa'"),
        ((*NEWS, "data.test=tests.csv"), "data.test: tests.csv: no such file or folder"),
        ((*NEWS, "data.drop=drops.csv"), "data.drop: drops.csv: no such file or folder"),
        ((*NEWS, "data.answers=[a.csv]"), "data.answers: a.csv: no such file or folder"),
        ((NEWS[0], "data=newz.csv", NEWS[2]), "did you mean 'news.csv'?"),
        ((*NEWS[:2], "model=./bertt"), "did you mean 'bert'?"),
        ((NEWS[0], NEWS[2]), "no data given"),
        ((*NEWS, "data.map=shout.py:shout"), "shout.py' is neither a file"),
        ((*NEWS, "method=full", "quantize=4bit"), "cannot be trained with method=full"),
        ((*NEWS, "method=frozen", "drop_path=0.1"), "evaluation mode, without dropout"),
        ((*NEWS, "method=frozen", "solver=exact", "ema=0.9"), "which takes no steps"),
        ((*NEWS, "head=native", "head_hidden=8"), "task.head_hidden requires a pooled head"),
        ((*NEWS, "truncation=windows", "head_hidden=8"), "windows requires a linear head"),
        (("task=text-generation", *NEWS[1:], "top_k=5"), "task.top_k requires sampling"),
        (("task=text-generation", *NEWS[1:], "top_p=0.5"), "task.top_p requires sampling"),
        ((*NEWS, "model.revision=v1"), "bert is on this machine"),
        ((*NEWS, "model.match=order"), "there is nothing to match"),
        ((*NEWS[:2], "model=timm/resnet18", "model.weights=w.pt2"), "w.pt2: no such file"),
        ((*NEWS, "data.encoding=utf-88"), "unknown encoding 'utf-88'"),
        ((*NEWS, "data.field=''"), "data.field: is empty"),
        ((*NEWS, "model.revision=''"), "model.revision: is empty"),
        ((*NEWS, "output.hub=news"), "not a valid repository id"),
        ((*NEWS, "output.license=apache-2"), "did you mean 'apache-2.0'?"),
        ((*NEWS, "output.dir=news.csv"), "is a file; name a folder"),
        ((*NEWS, "output.dir=/dev/null"), "is not a folder; name a folder"),
        ((*NEWS, "output.dir=' '"), "is blank; name a folder"),
        ((*NEWS, 'output.dir="a\\nb"'), "contains a character that does not print"),
        ((*NEWS, "--fresh", "--extend"), "one starts the run over"),
        ((*SEGMENTS, "loss=dicee"), "did you mean 'dice'?"),
        ((*SEGMENTS, "loss=dice", "class_weights=balanced"), "not used by dice"),
        ((*SEGMENTS, "decoder=unett"), "did you mean 'unet'?"),
        ((*NEWS, "task.labels=[a, a]"), "'a' is listed 2 times"),
        ((*NEWS, "task.labels=[]"), "is empty; list the labels"),
        (("task=object-detection", *NEWS[1:], "task.labels=[a, '']"), "a name is empty"),
        ((*SEGMENTS, "task.labels={a: 1, ' ': 2}"), "a name is empty"),
        ((*NEWS, "task.labels=[x, y]", "class_weights={x: 2}"), "no weight for 'y'"),
        ((*NEWS, "kind=single", "threshold=0.3"), "requires task.kind=several"),
        ((*NEWS, "kind=number", "task.labels=[x, y]"), "requires task.kind=single or several"),
        ((*NEWS, "kind=number", "sampling=balanced"), "needs rows with classes"),
        ((*SEGMENTS, "per_class=4"), "needs rows with classes"),
        ((*SEGMENTS, "calibrate=temperature"), "needs rows with classes"),
        ((*NEWS, "task.label=''"), "task.label: is empty"),
        ((*NEWS, "task.text=label", "task.label=label"), "both name the column 'label'"),
        ((*NEWS, "truncation=windows", "max_length=32", "window_overlap=64"), "set a lower value"),
        ((*NEWS, "truncation=windows", "task.text=[a, b]"), "supports a single text"),
        ((*NEWS, "add_tokens=[a, a]"), "list it once"),
        ((*NEWS, "trackers=[aim]"), "aim is not installed; run: pip install aim"),
        ((*NEWS, "output.dtype=bfloat16"), "only weights of language models"),
        ((*NEWS, "output.base_model=a//b"), "not the id of a model"),
        ((*NEWS, "data.group=labl"), "has no column 'labl'; did you mean 'label'?"),
        ((*NEWS, "train.group_by=labl"), "train.group_by: news.csv has no column 'labl'"),
        ((*NEWS, "report.slices=[labl]"), "report.slices: news.csv has no column"),
        ((*NEWS, "task.label=labl", "task.text=txt"), "task.text: news.csv has no column 'txt'"),
        ((*NEWS, "data.validation=valdation"), "did you mean 'validation'?"),
        ((*NEWS, "data.test=tets"), "'tets' is not a split of news.csv"),
        ((*NEWS, "task.metrics={name: f1, averge: macro}"), "did you mean 'average'?"),
        ((*NEWS, "task.metrics={name: f1, average: marco}"), "did you mean 'macro'?"),
        ((*NEWS, "task.metrics={name: mae, average: macro}"), "mae: unknown setting 'average'"),
        ((*NEWS, "task.metrics=[bleu]"), "bleu is for texts"),
        ((*NEWS, "best=f1"), "did you mean 'f1_macro', 'f1_micro' or 'f1/<label>'?"),
        ((*NEWS, "best=''"), "train.best: is empty"),
        (("task=object-detection", *NEWS[1:], "best=map"), "did you mean 'ap'?"),
        ((*NEWS, "validation=0", "early_stopping=2"), "there is none with data.validation=0"),
        ((*NEWS, "evaluate_every=never", "early_stopping=2"), "there are none with"),
        ((*NEWS, "method=frozen", "contrastive=5", "batch_size=2"), "set it to 4 or more"),
        ((*NEWS, "method=lora", "targets=[]"), "at least 1 item"),
        ((*CHAT, "chat_template='{% for'"), "is not valid Jinja: line 1"),
        ((*CHAT, "chat_template=turns.jinja"), "neither an existing file nor a Jinja template"),
        ((*CHAT, "chat_template=broken.jinja"), "broken.jinja is not valid Jinja: line 2: "),
        ((*CHAT, "task.metrics=[f1]"), "f1 is for labels or numbers"),
        ((*CHAT, "task.metrics={name: wer, x: 1}"), "wer: unknown setting 'x'"),
        ((*CHAT, "beams=1000000"), "less than or equal to 1000"),
        ((*CHAT, "temperature=1e-300"), "write 0 for greedy decoding"),
        ((*CHAT, "chunk=true", "truncation=end"), "task.chunk=true"),
        ((*CHAT, "task.text=text", "generate=true"), "no reference to compare with"),
        ((*CHAT, "prompt=text"), "task.completion is missing"),
        ((*CHAT, "messages=text", "prompt=text"), "exclude each other"),
        (("task=image-classification", *NEWS[1:], "crop_scale=[1, 0.5]"), "smaller one first"),
        (("task=image-classification", *NEWS[1:], "crop_scale=[0.5, 2]"), "at most 1"),
        ((*NEWS[:2], "model=timm/resnet5"), "timm has no architecture 'resnet5'"),
        ((*NEWS, "data.drop=newz.csv"), "did you mean 'news.csv'?"),
        ((*NEWS, "data.delimiter=abc"), "not a single ASCII character"),
        ((*NEWS, "data.columns=[a, a]"), "name each column once"),
        ((*NEWS, "data.validation=0.6", "data.test=0.6"), "no rows left for training"),
        ((*NEWS, "data.subset=x"), "news.csv is a file; remove the key"),
        (("bbc-newz",), "did you mean 'bbc-news'?"),
        (("--epochs=3",), "unknown option --epochs"),
    ],
    "inspect": [((*NEWS, "lrr=1"), "did you mean 'lr'?")],
    "predict": [
        (("runs/newz", "news.csv"), "did you mean 'runs/news'?"),
        (("newz", "news.csv"), "did you mean 'runs/news'?"),
        (("runs/other", "news.csv"), "choose from: half, news"),
        (("runs/half", "news.csv"), "not finished, its last checkpoint is of step 40"),
        (("runs/news", "newz.csv"), "did you mean 'news.csv'?"),
        (("runs/news", "news.csv", "delimitr=x"), "did you mean 'delimiter'?"),
        (("runs/news", "news.csv", "map=shout.py:shout"), "shout.py' is neither a file"),
        (("runs/news", "news.csv", "threshold=2"), "task.threshold: 2"),
        (("runs/news", "news.csv", "-o", "out.foo"), "unknown file ending"),
    ],
    "evaluate": [
        (("runs/newz",), "did you mean 'runs/news'?"),
        (("runs/half",), "finetune train runs/half/config.yaml"),
        (("runs/half", "news.csv"), "not finished"),
        (("runs/news", "newz.csv"), "did you mean 'news.csv'?"),
        (("runs/news", "news.csv", "-o", "news.csv"), "is a file"),
    ],
    "embed": [
        (("runs/newz", "news.csv", "-o", "f.parquet"), "did you mean 'runs/news'?"),
        (("bert", "newz.csv", "-o", "f.parquet"), "did you mean 'news.csv'?"),
        (("bert", "news.csv", "-o", "f.foo"), "name a .parquet file"),
    ],
    "explore": [
        (("newz.csv", "model=bert"), "did you mean 'news.csv'?"),
        (("news.csv", "model=runs/newz"), "did you mean 'runs/news'?"),
        (("news.csv",), "model=NAME is missing"),
        (("news.csv", "model=bert", "limt=3"), "did you mean 'limit'?"),
        (("news.csv", "model=bert", "-o", "news.csv"), "is a file"),
    ],
    "export": [
        (("runs/newz",), "did you mean 'runs/news'?"),
        (("runs/news", "--to", "onx"), "did you mean 'onnx'?"),
    ],
    "push": [
        (("runs/newz", "me/news"), "did you mean 'runs/news'?"),
        (("runs/half", "me/news"), "not finished"),
        (("runs/news", "me/news", "--what", "all"), "unknown value 'all'"),
    ],
    "compare": [
        (("runs/news", "runs/newz"), "did you mean 'runs/news'?"),
        (("runs/news",), "needs at least two runs"),
    ],
    "init": [
        (("newz.csv",), "did you mean 'news.csv'?"),
        (("bbc-newz",), "did you mean 'bbc-news'?"),
        (("news.csv", "lrr=1"), "did you mean 'lr'?"),
        (("news.csv", "task=text-clasification"), "did you mean 'text-classification'?"),
        (("news.csv", "-o", "news.csv"), "already exists"),
    ],
    "tasks": [(("text-clasification",), "did you mean 'text-classification'?")],
}

SCRIPT = """
import contextlib, io, json, sys
from finetune.cli.main import main
for words in json.load(sys.stdin):
    sys.argv = ["finetune", *words]
    code, errors = None, io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([words, code, errors.getvalue(), sorted(set(HEAVY) & sys.modules.keys())]))
"""


def answers(commands: list[list[str]], folder: Path) -> list[Any]:
    """Run commands one after the other in one process; return what each printed and imported."""
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {sorted(HEAVY)}{SCRIPT}"],
        cwd=folder,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with data, a network, a finished run and an unfinished one."""
    (tmp_path / "news.csv").write_text("text,label\na,b\n")
    (tmp_path / "broken.jinja").write_text("{{ messages }}\n{{ x | upperr }}\n")
    for name in ("bert", "runs/news/final", "runs/half"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("news", "half"):
        (tmp_path / "runs" / name / "run.json").write_text('{"given": {}, "data": {}}')
        (tmp_path / "runs" / name / "config.yaml").write_text("model: {name: bert}")
    (tmp_path / "runs/half/last.json").write_text('{"step": 40}')
    (tmp_path / "runs/news/results.json").write_text('{"metrics": {}}')
    task = {"name": "text-classification", "config": {"name": "text-classification"}, "state": {}}
    (tmp_path / "runs/news/final/task.json").write_text(json.dumps(task))
    return tmp_path


def test_faults_are_answered_without_heavy_libraries(workplace: Path) -> None:
    commands = [([name, *words], said) for name, faults in FAULTS.items() for words, said in faults]
    found = answers([words for words, _ in commands], workplace)
    for (words, said), (_, code, errors, imported) in zip(commands, found, strict=True):
        assert code == 2, (words, errors)
        assert said in errors, (words, errors)
        assert imported == [], (words, errors)


def test_help_version_and_lists_need_no_heavy_library(workplace: Path) -> None:
    commands = [["--help"], ["--version"], ["train", "--help"], ["tasks"], ["tasks", "--schema"]]
    for words, code, errors, imported in answers([*commands, ["tasks", "segmentation"]], workplace):
        assert (code, errors, imported) == (0, "", []), words
