"""Opens a page in Chromium without a display and records what it complains of and asks for."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--virtual-time-budget=5000",
    "--window-size=1000,800",
    "--dump-dom",
)
# In front of the page: whatever it asks for is refused and noted, as are its errors and warnings
_WATCH = """<meta http-equiv="Content-Security-Policy" content="default-src 'unsafe-inline'; img-src data:">
<script>
const seen = {console: [], requests: []};
addEventListener("error", event => seen.console.push(event.message || "error"), true);
addEventListener("unhandledrejection", event => seen.console.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => seen.requests.push(event.blockedURI));
for (const kind of ["error", "warn", "assert"]) console[kind] = (...words) => seen.console.push(words.join(" "));
</script>"""
# A little later, for what the layout asks for
_TELL = """<script>addEventListener("load", () => setTimeout(() => {
  const told = document.createElement("pre");
  told.id = "told";
  told.textContent = JSON.stringify({...seen, value: EXPRESSION});
  document.body.append(told);
}, 500))</script>"""


class Visit(NamedTuple):
    """Errors and warnings of the page, URLs that it asked for (no data URIs), value of the expression."""

    console: list[str]
    requests: list[str]
    value: Any


def find_browser() -> str | None:
    """The program, if there is one."""
    return next(filter(None, map(shutil.which, _CHROMIUM)), None)


def visit(browser: str, page: Path, expression: str) -> Visit:
    """Open a page and evaluate a JavaScript expression when it is loaded."""
    watched, profile = page.with_name(f"watched-{page.name}"), page.with_name("browser-profile")
    source = page.read_text(encoding="utf-8").replace("<head>", f"<head>{_WATCH}", 1)
    watched.write_text(source + _TELL.replace("EXPRESSION", expression), encoding="utf-8")
    command = [browser, *_FLAGS, f"--user-data-dir={profile}", watched.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    told = re.search(r'<pre id="told">(.*?)</pre>', result.stdout, re.DOTALL)
    assert told, result.stderr
    return Visit(**json.loads(html.unescape(told[1])))
