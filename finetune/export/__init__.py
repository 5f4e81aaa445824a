"""Export of a trained model: `final/` in its own library's layout, ONNX, the model card, the hub.

`finetune.inference` loads exported models.
"""
