"""Opens a page in Chromium without a display and records what it complains of and asks for."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--remote-debugging-pipe"),
)
# Chromium talks on the files 3 and 4; a shell or preexec_fn cannot put them there safely
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Visit(NamedTuple):
    """Errors and warnings in the console, URLs that the page asked for (no data URIs), value of the expression."""

    console: list[str]
    requests: list[str]
    value: Any


def find_browser() -> str | None:
    """The program, if there is one."""
    return next(filter(None, map(shutil.which, _CHROMIUM)), None)


def visit(browser: str, page: Path, expression: str) -> Visit:
    """Open a page and evaluate a JavaScript expression (a JSON text) in it, by the DevTools protocol on a pipe."""
    command_end, ours_out = os.pipe()
    ours_in, event_end = os.pipe()
    # Above 3 and 4, so that putting one there does not overwrite the other
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (command_end, event_end)]
    profile = page.with_name(f"{page.stem}-browser-profile")
    command = [sys.executable, "-c", _LAUNCH, *map(str, theirs), browser, *_FLAGS, f"--user-data-dir={profile}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, pass_fds=theirs, **quiet)
    for end in (command_end, event_end, *theirs):
        os.close(end)
    try:
        return _talk(ours_out, _messages(ours_in), page.resolve().as_uri(), expression)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        process.kill()
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)


def _messages(descriptor: int) -> Iterator[dict[str, Any]]:
    """JSON messages, each ended by a zero byte."""
    left = b""
    while chunk := os.read(descriptor, 1 << 16):
        *whole, left = (left + chunk).split(b"\0")
        yield from map(json.loads, whole)
    raise AssertionError("the browser has gone")


def _talk(out: int, messages: Iterator[dict[str, Any]], url: str, expression: str) -> Visit:
    seen, session, number, events = Visit([], [], None), {}, 0, set()

    def next_message() -> dict[str, Any]:
        message = next(messages)
        method, values = message.get("method", ""), message.get("params", {})
        events.add(method)
        if method == "Runtime.exceptionThrown":
            seen.console.append(values["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            seen.console.append(" ".join(str(part.get("value")) for part in values["args"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            seen.console.append(values["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not values["request"]["url"].startswith((url, "data:")):
            seen.requests.append(values["request"]["url"])
        return message

    def call(method: str, **values: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        os.write(out, json.dumps({"id": number, "method": method, "params": values} | session).encode() + b"\0")
        while (message := next_message()).get("id") != number:
            pass
        assert "error" not in message, message
        return message["result"]

    target = call("Target.createTarget", url="about:blank")["targetId"]
    session["sessionId"] = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        call(f"{domain}.enable")
    events.clear()
    call("Page.navigate", url=url)
    while "Page.loadEventFired" not in events:
        next_message()
    return seen._replace(value=json.loads(call("Runtime.evaluate", expression=expression)["result"]["value"]))
