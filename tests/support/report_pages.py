"""Pages of reports as tests read them."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

HOSTILE = "<script>alert(1)</script>"


def read_page(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the text of each section of a page, and the rows and charts that it holds."""
    text = path.read_text(encoding="utf-8")
    head, start, rest = text.partition('<script type="application/json" id="data">')
    assert start
    sections = re.findall(r'<section id="([\w-]+)">(.*?)</section>', head, flags=re.DOTALL)
    texts = {key: unescape(re.sub(r"<[^>]*>", " ", body)) for key, body in sections}
    data: dict[str, Any] = json.loads(rest.partition("</script>")[0])
    return texts, data
