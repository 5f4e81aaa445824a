"""Text generation: prompts and dialogues as tokens, packing, language models, decoding, metrics.

The task itself is `tasks.text_generation`.
"""
