"""`python -m finetune` and `accelerate launch -m finetune`: the same as the command `finetune`."""

from finetune.cli import main

if __name__ == "__main__":
    main()
