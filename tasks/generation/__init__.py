"""What text generation is made of: prompts and dialogues as tokens, language models, decoding, text
metrics."""
