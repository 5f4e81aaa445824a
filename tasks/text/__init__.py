"""Texts on their way to a network, and the encoders and decoders that classify them.

Networks that write text are in `tasks.generation`.
"""
