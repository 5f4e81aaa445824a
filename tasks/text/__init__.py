"""Text input: tokenization, truncation, and the encoders and decoders that classify texts.

Models that generate text are in `tasks.generation`.
"""
