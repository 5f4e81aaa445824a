"""A model on its way out: `final/` in the layout of its own library, ONNX, its card, a hub.

Models are loaded again in `finetune.inference`.
"""
