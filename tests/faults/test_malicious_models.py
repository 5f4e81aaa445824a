"""Models, runs and weight files that someone built to run code, to hang or to fill the memory.

Each attack is a function that builds one in a folder and uses it. None may create the file
`canary`, and each must end within the limits: with a FinetuneError, or as if nothing had happened.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import finetune
from finetune.errors import FinetuneError
from tests.support.tiny_models import text_rows, tiny_bert, tiny_gpt2
from tests.support.tiny_vision import shape_folder, tiny_timm, tiny_vit

SECONDS, MEBIBYTES = 10, 2048  # of the processor, and of memory in addition
ROWS = text_rows(3, seed=9)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@dataclass
class Scene:
    """The folder of an attack, with copies of good models to spoil."""

    models: Path
    folder: Path

    @property
    def canary(self) -> Path:
        return self.folder / "canary"

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.models / name, self.folder / name))

    def evil_module(self, folder: Path, name: str = "evil") -> None:
        (folder / f"{name}.py").write_text(f"open({str(self.canary)!r}, 'w')\nclass T: pass\n")

    def pickle(self, path: Path, content: Any = None, *, new: bool = True) -> None:
        payload = Payload(self.canary) if content is None else content
        torch.save(payload, path, _use_new_zipfile_serialization=new)

    def train(self, task: str, data: Any, model: Any, **keys: Any) -> finetune.Run:
        output = str(self.folder / "output")
        return finetune.train(
            task, data=data, model=model, method="full", max_steps=1, output=output, **keys
        )

    def texts(self, model: Path, **keys: Any) -> finetune.Run:
        return self.train("text-classification", text_rows(24), {"name": str(model), **keys})

    def images(self, model: str | Path, **keys: Any) -> finetune.Run:
        data = str(self.models / "shapes")
        return self.train("image-classification", data, {"name": str(model), **keys})

    def chats(self, model: Path) -> finetune.Run:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        return self.train("text-generation", [{"messages": turns}] * 12, str(model))

    def load(self, folder: Path, **keys: Any) -> Any:
        return finetune.load(folder, **keys)(ROWS)


Attack = Callable[[Scene], Any]
HARMLESS: dict[str, Attack] = {}
REFUSED: dict[str, Attack] = {}


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def weights(header: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    """Return a safetensors file with this header."""
    return (len(header) if size is None else size).to_bytes(8, "little") + header + body


# ---- pickles


def pickled(name: str, file: str, *, new: bool, keep: bool) -> Attack:
    def attack(scene: Scene) -> Any:
        folder = scene.copy(name)
        if not keep:
            (folder / "model.safetensors").unlink()
        scene.pickle(folder / file, new=new)
        if name == "final":
            return scene.load(folder)
        return scene.images(folder) if name == "timm" else scene.texts(folder)

    return attack


def pickled_weights(ending: str, content: Callable[[Scene], Any], *, new: bool = True) -> Attack:
    def attack(scene: Scene) -> Any:
        path = scene.folder / f"weights{ending}"
        scene.pickle(path, content(scene), new=new)
        return scene.images("timm/test_resnet", weights=str(path))

    return attack


def indexed_pickle(scene: Scene) -> Any:
    folder = scene.copy("bert")
    (folder / "model.safetensors").unlink()
    scene.pickle(folder / "x.bin")
    index = {"metadata": {}, "weight_map": {"a": "x.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return scene.texts(folder)


for name in ("bert", "timm", "final"):
    for new in (True, False):
        kind = f"{name}, {'zip' if new else 'legacy'}"
        REFUSED[f"pickle instead of weights: {kind}"] = pickled(
            name, "pytorch_model.bin", new=new, keep=False
        )
        HARMLESS[f"pickle beside weights: {kind}"] = pickled(
            name, "pytorch_model.bin", new=new, keep=True
        )
        REFUSED[f"pickle named safetensors: {kind}"] = pickled(
            name, "model.safetensors", new=new, keep=True
        )
for ending in (".pth", ".pt", ".bin", ".ckpt"):
    REFUSED[f"model.weights=weights{ending}"] = pickled_weights(
        ending, lambda scene: Payload(scene.canary)
    )
REFUSED["model.weights: legacy pickle"] = pickled_weights(
    ".pth", lambda scene: Payload(scene.canary), new=False
)
REFUSED["model.weights: pickle beside tensors"] = pickled_weights(
    ".pth", lambda scene: {"state_dict": {"a": torch.zeros(2)}, "args": Payload(scene.canary)}
)
REFUSED["pickle in an index"] = indexed_pickle


# ---- code


def named_task(name: str) -> Attack:
    def attack(scene: Scene) -> Any:
        folder = scene.copy("final")
        scene.evil_module(scene.folder)
        scene.evil_module(folder)
        edit(folder / "task.json", name=name)
        return scene.load(folder)

    return attack


def code_beside(name: str, file: str, keys: dict[str, Any], **trust: Any) -> Attack:
    def attack(scene: Scene) -> Any:
        folder = scene.copy(name)
        scene.evil_module(folder)
        edit(folder / file, **keys)
        return scene.images(folder) if name == "vit" else scene.texts(folder, **trust)

    return attack


def chat_template(template: str) -> Attack:
    def attack(scene: Scene) -> Any:
        folder = scene.copy("gpt2")
        edit(folder / "tokenizer_config.json", chat_template=template)
        return scene.chats(folder)

    return attack


def yaml_in_readme(text: str) -> Attack:
    def attack(scene: Scene) -> Any:
        folder = scene.copy("bert")
        canary = scene.canary
        (folder / "README.md").write_text(f"---\n{text}\n---\n".replace("CANARY", str(canary)))
        return scene.texts(folder)

    return attack


OWN_CLASSES = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"}
HUB_CLASSES = {"AutoConfig": "me/evil--evil.C"}
BOMB = "\n".join(
    f"{chr(98 + depth)}: &{chr(98 + depth)} [{','.join(['*' + chr(97 + depth)] * 9)}]"
    for depth in range(12)
)
for task in ("evil:T", "evil.py:T", "./evil.py:T", "os:system", "antigravity:T", "evil.sub:T"):
    REFUSED[f"task.json: {task}"] = named_task(task)
REFUSED |= {
    "auto_map": code_beside("bert", "config.json", {"model_type": "x", "auto_map": OWN_CLASSES}),
    "auto_map of a hub, trusted": code_beside(
        "bert", "config.json", {"model_type": "x", "auto_map": HUB_CLASSES}, trust_remote_code=True
    ),
    "attention kernel": code_beside("bert", "config.json", {"attn_implementation": "me/evil"}),
    "experts kernel": code_beside("bert", "config.json", {"experts_implementation": "me/evil"}),
    "model_type is a path": code_beside("bert", "config.json", {"model_type": "../../evil"}),
    "template reaches classes": chat_template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "template reaches os": chat_template("{{ cycler.__init__.__globals__.os.system('true') }}"),
    "template loops": chat_template("{% for i in range(10**9) %}{{ messages }}{% endfor %}"),
}
HARMLESS |= {
    "auto_map of a tokenizer": code_beside(
        "bert", "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}
    ),
    "auto_map of a processor": code_beside(
        "vit", "preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.P"}}
    ),
    "tokenizer_class=os.system": code_beside(
        "bert", "tokenizer_config.json", {"tokenizer_class": "os.system"}
    ),
    "architectures: os.system": code_beside(
        "bert", "config.json", {"architectures": ["os.system"]}
    ),
    "yaml tag in README": yaml_in_readme(
        "license: !!python/object/apply:os.system ['touch CANARY']"
    ),
    "yaml bomb in README": yaml_in_readme(f"a: &a [x,x,x,x,x,x,x,x,x]\n{BOMB}"),
}


# ---- sizes, shapes and names


def config(name: str = "bert", file: str = "config.json", **keys: Any) -> Attack:
    return code_beside(name, file, keys)


def raw(file: str, content: bytes, name: str = "bert") -> Attack:
    def attack(scene: Scene) -> Any:
        folder = scene.copy(name)
        (folder / file).write_bytes(content)
        return scene.load(folder) if name == "final" else scene.texts(folder)

    return attack


def header(shape: list[int]) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}).encode()


def timm_size(size: list[Any]) -> Attack:
    def attack(scene: Scene) -> Any:
        folder = scene.copy("timm")
        facts = json.loads((folder / "config.json").read_text())
        facts["pretrained_cfg"]["input_size"] = size
        (folder / "config.json").write_text(json.dumps(facts))
        return scene.images(folder)

    return attack


def final_file(name: str, make: Callable[[Path], object]) -> Attack:
    def attack(scene: Scene) -> Any:
        folder = scene.copy("final")
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        return scene.load(folder)

    return attack


def task_keys(**keys: Any) -> Attack:
    def attack(scene: Scene) -> Any:
        folder = scene.copy("final")
        edit(folder / "task.json", **keys)
        return scene.load(folder)

    return attack


def adapter(**keys: Any) -> Attack:
    def attack(scene: Scene) -> Any:
        folder = scene.folder
        scene.evil_module(folder)
        facts = {"base_model_name_or_path": str(scene.models / "bert"), "peft_type": "LORA"} | keys
        (folder / "adapter_config.json").write_text(json.dumps(facts))
        save_file({"a": torch.zeros(2)}, folder / "adapter_model.safetensors")
        return scene.texts(folder)

    return attack


def not_finite(scene: Scene) -> Any:
    folder = scene.copy("final")
    tensors = load_file(folder / "model.safetensors")
    nothing = {name: tensor * float("nan") for name, tensor in tensors.items()}
    save_file(nothing, folder / "model.safetensors", metadata={"format": "pt"})
    return scene.load(folder)


REFUSED |= {
    "a billion layers": config(num_hidden_layers=10**9),
    "a billion labels": config(num_labels=10**9),
    "a trillion words": config(vocab_size=10**12),
    "negative width": config(hidden_size=-32),
    "no heads": config(num_attention_heads=0),
    "width is text": config(hidden_size="rm -rf"),
    "config is a list": raw("config.json", b"[1]"),
    "config is deep": raw("config.json", b"[" * 200_000),
    "number of 6000 digits": raw("config.json", b'{"hidden_size": ' + b"9" * 6000 + b"}"),
    "header of a tebibyte": raw("model.safetensors", weights(b"{}", size=2**40)),
    "shape overflows": raw("model.safetensors", weights(header([2**40, 2**40]), b"\0" * 8)),
    "negative shape": raw("model.safetensors", weights(header([-1, -2]), b"\0" * 8)),
    "header of a tebibyte in final/": raw("model.safetensors", weights(b"{}", size=2**40), "final"),
    "timm: huge images": timm_size([3, 10**6, 10**6]),
    "timm: negative images": timm_size([-3, "a"]),
    "timm: architecture of a hub": config("timm", architecture="hf-hub:me/evil"),
    "vit: huge images": config(
        "vit", "preprocessor_config.json", size={"height": 10**6, "width": 10**6}
    ),
    "tokenizer: negative length": config(file="tokenizer.json", truncation={"max_length": -1}),
    "weights link to a device": final_file(
        "model.safetensors", lambda p: p.symlink_to("/dev/zero")
    ),
    "weights are a pipe": final_file("model.safetensors", os.mkfifo),
    "config is a pipe": final_file("config.json", os.mkfifo),
    "task.json is deep": final_file("task.json", lambda path: path.write_text("[" * 100_000)),
    "adapter of itself": adapter(base_model_name_or_path="."),
    "adapter of another library": adapter(megatron_config={"x": 1}, megatron_core="evil"),
    "task.json: files outside": task_keys(files=["../../../etc/passwd"]),
    "task.json: device": task_keys(files=["/dev/zero"]),
    "task.json: name is a list": task_keys(name=["a"]),
    "task.json: another task": task_keys(name="text-generation"),
    "task.json: state": task_keys(state={"targets": 5, "head": "os", "pooling": None}),
}
REFUSED["weights are not finite"] = not_finite
HARMLESS |= {
    "tokenizer: no length": config(file="tokenizer_config.json", model_max_length=-5),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    tiny_bert(folder / "bert")
    tiny_gpt2(folder / "gpt2")
    tiny_timm(folder / "timm")
    tiny_vit(folder / "vit")
    shape_folder(folder / "shapes", 20)
    run = Scene(folder, folder).texts(folder / "bert")
    shutil.copytree(run.path / "final", folder / "final")
    return folder


def attacked(attack: Attack, models: Path, folder: Path) -> FinetuneError | None:
    """Run an attack within limits; return how it was refused, None if it was harmless."""
    scene = Scene(models, folder)
    memory, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refusal = None
    try:
        attack(scene)
    except FinetuneError as error:
        refusal = error
    assert not scene.canary.exists(), "code of the model has run"
    assert time.process_time() - seconds < SECONDS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown / 1024 < MEBIBYTES
    assert "weights_only" not in str(refusal)
    return refusal


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_malicious_models_are_refused(
    name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert attacked(REFUSED[name], models, tmp_path) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", HARMLESS)
def test_malicious_parts_are_ignored(
    name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert attacked(HARMLESS[name], models, tmp_path) is None
