"""Pages in a real browser: a script of a visitor runs at their end and returns what it saw."""

from __future__ import annotations

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--virtual-time-budget=20000")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

# Collects what a browser would show in its console.
FAULTS = """
window.faults = [];
addEventListener("error", (event) => faults.push(event.message));
addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => faults.push(event.violatedDirective + " " + event.blockedURI));
for (const name of ["error", "warn"]) console[name] = (...words) => faults.push(words.join(" "));
"""
RESULT = """
function leave(seen) {
  const result = document.createElement("pre");
  result.id = "result"; result.textContent = JSON.stringify(seen);
  document.body.append(result);
}
"""


def visit(page: Path, script: str, width: int = 1000) -> dict[str, Any]:
    """Open a page, run a script at its end that calls leave(seen), and return `seen`."""
    text = page.read_text(encoding="utf-8")
    text = text.replace("<title>", f"<script>{FAULTS}</script><title>", 1)
    text, end, rest = text.rpartition("</body>")
    text += f"<script>{RESULT}{{{script}}}</script>{end}{rest}"
    visited = page.with_name("visited.html")
    visited.write_text(text, encoding="utf-8")
    profile = page.parent / "profile"
    size = f"--window-size={width},700"
    command = [str(CHROMIUM), *FLAGS, size, f"--user-data-dir={profile}", "--dump-dom"]
    done = subprocess.run([*command, visited.as_uri()], capture_output=True, text=True, timeout=240)
    _, start, rest = done.stdout.rpartition('<pre id="result">')
    result = rest.partition("</pre>")[0]
    assert start, done.stderr[-2000:] + done.stdout[-500:]
    seen: dict[str, Any] = json.loads(unescape(result))
    return seen
