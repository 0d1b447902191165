"""A headless Chromium for tests of pages: no network, no downloads, skipped where it is missing."""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 10  # for what takes milliseconds on an idle machine
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # containers run tests as root
    "--disable-dev-shm-usage",  # and have little shared memory
    "--hide-scrollbars",  # as on a phone: they take no width
)


class Browser:
    """What the tests do with a page; `script` returns what JavaScript returns."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.script = driver.execute_script

    def open(self, path: Path, width: int = 1280, dark: bool = False) -> None:
        """Show a file as on a screen of this width, with nothing remembered of other pages."""
        self.emulate(width, dark)
        self.driver.get(path.as_uri())
        self.script("localStorage.clear(); delete document.documentElement.dataset.theme")
        self.driver.get(path.as_uri())

    def emulate(self, width: int = 1280, dark: bool = False, media: str = "") -> None:
        """Set the width in CSS pixels, the system's theme, and a medium other than the real one."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for what the browser does in its next frames; fails after seconds."""
        wait = pytest.importorskip("selenium.webdriver.support.wait")
        wait.WebDriverWait(self.driver, SECONDS, poll_frequency=0.02).until(lambda _: condition())

    def pdf(self) -> bytes:
        """Print the page."""
        return base64.b64decode(self._command("Page.printToPDF")["data"])

    def console(self) -> list[str]:
        """Return what the console said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the last call."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def _command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser; skips the test where Chromium or its driver is missing."""
    webdriver = pytest.importorskip("selenium.webdriver")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    driver_program = shutil.which("chromedriver")
    if program is None or driver_program is None:
        pytest.skip(f"no Chromium with chromedriver: {program}, {driver_program}")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, service.Service(driver_program))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
