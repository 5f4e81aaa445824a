"""Transfer learning and fine-tuning for language and vision."""
