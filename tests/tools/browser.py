"""Opens a page in a real browser without a display and records what it complains of and asks for.

A browser is Chromium or Chrome on PATH; else Qt's Chromium, where PySide6 or PyQt6 has its WebEngine, in this Python or
in the one that the environment variable BROWSER_PYTHON names (``pip install "PySide6-Addons[webengine]"``).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--remote-debugging-pipe"),
)
# Chromium talks on the files 3 and 4; a shell or preexec_fn cannot put them there safely
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_HAS_WEBENGINE = (
    "import importlib.util as u, sys;"
    "sys.exit(not any(u.find_spec(n) and u.find_spec(n + '.QtWebEngineCore') for n in ('PySide6', 'PyQt6')))"
)
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Visit:
    """A visit to a page.

    Attributes:
        console: errors and warnings in the console.
        requests: addresses that the page asked for, but itself and data URIs.
        value: of the expression.
    """

    console: list[str]
    requests: list[str]
    value: Any


def find_browser() -> Callable[[Path, str], Visit] | None:
    """A function that opens a page and evaluates a JavaScript expression in it (its value as a JSON text); or None."""
    binary = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if binary:
        return lambda page, expression: _visit_with_chromium(binary, page, expression)
    for python in filter(None, (sys.executable, os.environ.get("BROWSER_PYTHON"))):
        if subprocess.run([python, "-c", _HAS_WEBENGINE], timeout=_TIMEOUT_S, check=False).returncode == 0:
            return lambda page, expression, python=python: _visit_with_webengine(python, page, expression)
    return None


def _visit_with_webengine(python: str, page: Path, expression: str) -> Visit:
    script = Path(__file__).with_name("webengine_visit.py")
    command = [python, str(script), str(page), expression]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert result.stdout, result.stderr
    seen = json.loads(result.stdout)
    return Visit(seen["console"], seen["requests"], json.loads(seen["value"]))


def _visit_with_chromium(binary: str, page: Path, expression: str) -> Visit:
    """Drive Chromium by its DevTools protocol over a pipe: JSON messages, each ended by a zero byte."""
    command_end, ours_out = os.pipe()
    ours_in, event_end = os.pipe()
    # Above 3 and 4, so that putting one there does not overwrite the other
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (command_end, event_end)]
    os.close(command_end)
    os.close(event_end)
    profile = page.with_name(f"{page.stem}-browser-profile")
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, *map(str, theirs), binary, *_FLAGS, f"--user-data-dir={profile}"],
        pass_fds=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in theirs:
        os.close(end)
    try:
        return _talk(ours_out, _messages(ours_in), page, expression)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        process.kill()
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)


def _messages(descriptor: int) -> Iterator[dict[str, Any]]:
    left = b""
    while chunk := os.read(descriptor, 1 << 16):
        *whole, left = (left + chunk).split(b"\0")
        yield from map(json.loads, whole)


def _talk(out: int, messages: Iterator[dict[str, Any]], page: Path, expression: str) -> Visit:
    console, requests, number = [], [], 0
    address = page.resolve().as_uri()
    session: dict[str, str] = {}
    events: set[str] = set()

    def note(message: dict[str, Any]) -> None:
        method, values = message.get("method", ""), message.get("params", {})
        events.add(method)
        if method == "Runtime.exceptionThrown":
            console.append(values["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            console.append(" ".join(str(part.get("value")) for part in values["args"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            console.append(values["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            asked = values["request"]["url"]
            if asked != address and not asked.startswith("data:"):
                requests.append(asked)

    def call(method: str, **values: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        os.write(out, json.dumps({"id": number, "method": method, "params": values} | session).encode() + b"\0")
        for message in messages:
            note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
        raise AssertionError("the browser has gone")

    target = call("Target.createTarget", url="about:blank")["targetId"]
    session["sessionId"] = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        call(f"{domain}.enable")
    events.clear()
    call("Page.navigate", url=address)
    while "Page.loadEventFired" not in events:
        note(next(messages))
    value = call("Runtime.evaluate", expression=expression)["result"]["value"]
    return Visit(console, requests, json.loads(value))
