"""Entry point of `python -m finetune` and `accelerate launch -m finetune`."""

from finetune.cli.main import main

if __name__ == "__main__":
    main()
