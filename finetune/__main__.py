"""Entry point of `finetune`, `python -m finetune` and `accelerate launch -m finetune`."""

import sys


def start() -> None:
    """Run the command line. Ctrl-C ends it silently, also while its libraries are imported."""
    try:
        from finetune.distributed.signals import stop_with_launcher

        stop_with_launcher()
        from finetune.cli.main import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    start()
