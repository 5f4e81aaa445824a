"""The command `finetune` in this process: what it prints goes where a test catches it."""

from __future__ import annotations

import sys

import pytest

from finetune.cli import main


def finetune(*words: str) -> int:
    """Run a command as a shell would; its exit code. An unforeseen exception passes through."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["finetune", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return code if isinstance(code, int) else 0
