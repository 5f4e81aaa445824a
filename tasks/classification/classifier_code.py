"""Model-card code that runs a published classifier without this kit.

Each snippet defines `classify`; the tests run it in a process that cannot import the kit.
"""

from __future__ import annotations

from finetune.task_parts.views import BASE, REPOSITORY

TEXT = """
from transformers import pipeline

pipe = pipeline("text-classification", "{repository}"{several})


def classify(text):
    return pipe(text, truncation=True, max_length={max_length})


print(classify({example}))
"""

PAIR_OF_TEXTS = """
from transformers import pipeline

pipe = pipeline("text-classification", "{repository}"{several})


def classify(pair):
    inputs = {{"text": pair[0], "text_pair": pair[1]}}
    return pipe(inputs, truncation=True, max_length={max_length})


print(classify({example}))
"""

POOLED_TEXT = """
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repository}")
backbone = AutoModel.from_pretrained("{repository}"{no_pooler}).eval()
head = load_file(hf_hub_download("{repository}", "head.safetensors"))
labels = {labels}


def classify(text):
    inputs = tokenizer({texts}, truncation=True, max_length={max_length}, return_tensors="pt")
    with torch.inference_mode():
        states = backbone(**inputs).last_hidden_state[0]  # [tokens, features]
    vector = {pooled}
    {scores}
    return dict(zip(labels, scores.tolist()))


print(classify({example}))
"""

ADAPTED_TEXT = """
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

labels = {labels}
base = AutoModelForSequenceClassification.from_pretrained(
    "{base}", num_labels=len(labels), ignore_mismatched_sizes=True
)
model = PeftModel.from_pretrained(base, "{repository}").eval()
tokenizer = AutoTokenizer.from_pretrained("{base}"{sides})


def classify(text):
    inputs = tokenizer({texts}, truncation=True, max_length={max_length}, return_tensors="pt")
    with torch.inference_mode():
        scores = model(**inputs).logits[0]{activation}
    return dict(zip(labels, scores.tolist()))


print(classify({example}))
"""

IMAGE = """
from transformers import pipeline

classify = pipeline("image-classification", "{repository}"{several})
print(classify("picture.jpg"))
"""

TIMM_IMAGE = """
import timm
import torch
from PIL import Image

model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
labels = {labels}


def classify(path):
    pixels = transform(Image.open(path).convert("RGB")).unsqueeze(0)  # [1, 3, height, width]
    with torch.inference_mode():
        scores = model(pixels)[0]{activation}
    return dict(zip(labels, scores.tolist()))


print(classify("picture.jpg"))
"""

HIDDEN_TIMM_IMAGE = """
import timm
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from safetensors.torch import load_file

model = timm.create_model("hf-hub:{repository}", pretrained=True, num_classes=0).eval()
head = load_file(hf_hub_download("{repository}", "head.safetensors"))
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
labels = {labels}


def classify(path):
    pixels = transform(Image.open(path).convert("RGB")).unsqueeze(0)  # [1, 3, height, width]
    with torch.inference_mode():
        vector = model(pixels)[0]
    {scores}
    return dict(zip(labels, scores.tolist()))


print(classify("picture.jpg"))
"""

ADAPTED_TIMM_IMAGE = """
import timm
import torch
from peft import PeftModel
from PIL import Image

labels = {labels}
base = timm.create_model("hf-hub:{base}", pretrained=True, num_classes=len(labels))
model = PeftModel.from_pretrained(base, "{repository}").eval()
pixels_as = {preprocessing}
transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=pixels_as))


def classify(path):
    pixels = transform(Image.open(path).convert("RGB")).unsqueeze(0)  # [1, 3, height, width]
    with torch.inference_mode():
        scores = model(pixels)[0]{activation}
    return dict(zip(labels, scores.tolist()))


print(classify("picture.jpg"))
"""

HIDDEN_IMAGE = """
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("{repository}").eval()
model.set_submodule("{place}", torch.nn.Identity())
head = load_file(hf_hub_download("{repository}", "head.safetensors"))
processor = AutoImageProcessor.from_pretrained("{repository}")
labels = {labels}


def classify(path):
    inputs = processor(Image.open(path).convert("RGB"), return_tensors="pt")
    with torch.inference_mode():
        vector = model(**inputs).logits[0]
    {scores}
    return dict(zip(labels, scores.tolist()))


print(classify("picture.jpg"))
"""

ADAPTED_IMAGE = """
import torch
import transformers
from peft import PeftModel
from PIL import Image

labels = {labels}
base = transformers.AutoModelForImageClassification.from_pretrained(
    "{base}", num_labels=len(labels), ignore_mismatched_sizes=True
)
model = PeftModel.from_pretrained(base, "{repository}").eval()
pixels_as = {preprocessing}
processor = getattr(transformers, pixels_as.pop("image_processor_type"))(**pixels_as)


def classify(path):
    inputs = processor(Image.open(path).convert("RGB"), return_tensors="pt")
    with torch.inference_mode():
        scores = model(**inputs).logits[0]{activation}
    return dict(zip(labels, scores.tolist()))


print(classify("picture.jpg"))
"""

# The plain library truncates long texts at the end only.
TRUNCATION_NOTES = {
    "windows": "# Only the head of a long text is read here; finetune-kit reads all, in windows.\n",
    "head-tail": "# Only the head of a long text is read here; finetune-kit reads head and tail.\n",
}
ACTIVATIONS = {
    "single_label_classification": ".softmax(-1)",
    "multi_label_classification": ".sigmoid()",
    "regression": "",
}
_LINEAR = 'scores = (head["weight"] @ vector + head["bias"])'
_HIDDEN = """hidden = torch.nn.functional.gelu(head["hidden.weight"] @ vector + head["hidden.bias"])
    scores = (head["logits.weight"] @ hidden + head["logits.bias"])"""
POOLED = {"mean": "states.mean(0)", "cls": "states[0]", "last": "states[-1]"}


def scores(activation: str, width: int | None) -> str:
    """Return the code by which a head saved in its own file computes `scores` from `vector`."""
    return (_HIDDEN if width else _LINEAR) + activation


def fill_code(code: str, **values: object) -> str:
    """Fill the placeholders of a snippet, except those for the repositories on the hub."""
    return code.format(repository=REPOSITORY, base=BASE, **values).strip()
