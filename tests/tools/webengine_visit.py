"""Opens a page in Qt's Chromium without a display and prints what happened as JSON. Needs PySide6 or PyQt6 WebEngine.

Run as a script, by any Python that has one of them: ``python webengine_visit.py PAGE.html EXPRESSION``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QTWEBENGINE_CHROMIUM_FLAGS", "--no-sandbox --disable-gpu")
TIMEOUT_MS = 60_000


def main(page: str, expression: str) -> None:
    """Print ``{"console": [...], "requests": [...], "value": ...}``."""
    binding = next(name for name in ("PySide6", "PyQt6") if importlib.util.find_spec(f"{name}.QtWebEngineCore"))
    core = importlib.import_module(f"{binding}.QtWebEngineCore")
    qt = importlib.import_module(f"{binding}.QtCore")
    widgets = importlib.import_module(f"{binding}.QtWidgets")
    views = importlib.import_module(f"{binding}.QtWebEngineWidgets")
    console, requests = [], []
    url = qt.QUrl.fromLocalFile(str(Path(page).resolve()))

    class Interceptor(core.QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, info):  # noqa: N802, ANN001, ANN202 (Qt's name)
            asked = info.requestUrl().toString()
            if asked != url.toString() and not asked.startswith("data:"):
                requests.append(asked)
                info.block(True)

    class Page(core.QWebEnginePage):
        def javaScriptConsoleMessage(self, level, message, line, source):  # noqa: N802, ANN001, ANN202 (Qt's name)
            console.append(message)

    application = widgets.QApplication([sys.argv[0]])
    profile, interceptor = core.QWebEngineProfile(), Interceptor()
    profile.setUrlRequestInterceptor(interceptor)
    opened = Page(profile)
    # Else requests to other hosts would be refused before they can be counted
    opened.settings().setAttribute(core.QWebEngineSettings.WebAttribute.LocalContentCanAccessRemoteUrls, True)

    def done(value: str) -> None:
        print(json.dumps({"console": console, "requests": requests, "value": value}))
        sys.stdout.flush()
        os._exit(0)  # Qt's order of destruction is not Python's

    view = views.QWebEngineView()  # a page without a view has no width
    view.setPage(opened)
    view.resize(1000, 800)
    view.show()
    opened.loadFinished.connect(lambda _: opened.runJavaScript(expression, done))
    qt.QTimer.singleShot(TIMEOUT_MS, application.quit)
    opened.load(url)
    application.exec()


if __name__ == "__main__":
    main(*sys.argv[1:])
