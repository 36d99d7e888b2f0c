"""A real browser for the tests of the report and the dashboard: Chromium without a window, driven through its own driver.

``tests/conftest.py`` imports the fixtures, so that any test may ask for ``browser``. Where there is no browser, the test is
skipped and says why; ``scripts/setup_browser.sh`` installs Debian's.
"""

import base64
import json
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # containers, where tests often run, do not grant what the sandbox needs
    "--disable-gpu",
    "--use-angle=swiftshader",  # WebGL by the processor
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NO_REQUEST = ("data:", "blob:", "about:", "chrome:", "chrome-error:")  # nothing is asked for outside the page


class Browser:
    """One tab, what it printed to its console, and everything it asked for."""

    def __init__(self, driver) -> None:
        self.driver = driver
        self._console: list[dict] = []
        self._requests: list[str] = []

    def open(self, target: str | Path) -> None:
        """Load a file (a path) or an address, and wait until it has loaded."""
        self._opened = target.resolve().as_uri() if isinstance(target, Path) else target
        self.driver.get(self._opened)

    def console_errors(self) -> list[str]:
        """Return the errors on the console since the tab was opened: scripts that threw, files that are missing."""
        self._console += self.driver.get_log("browser")
        return [entry["message"] for entry in self._console if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Return every address that the tab asked for beside the page itself, other files of the disk included."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                self._requests.append(message["params"]["url"])
        page = self._opened.split("#")[0]
        return [url for url in self._requests if not url.startswith(NO_REQUEST) and url.split("#")[0] != page]

    def run(self, script: str, *arguments):
        """Return what a piece of JavaScript returns, for example ``return document.title``."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> list:
        """Return the elements that a CSS selector matches."""
        return self.driver.find_elements("css selector", selector)

    def wait(self, script: str, seconds: float = 10.0):
        """Wait until a piece of JavaScript returns something true, and return that; fail after so many seconds."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, 0.1).until(lambda driver: driver.execute_script(script), script)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page's view, in CSS pixels; narrower than any window may be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def emulate(self, *, dark: bool = False, paper: bool = False) -> None:
        """Show the page as to somebody who prefers dark colours, or as it will be printed."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        media = {"media": "print" if paper else "", "features": features}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Write a PNG of what is seen, or of the whole page."""
        return self._save("Page.captureScreenshot", {"captureBeyondViewport": True} | self._extent() if whole else {}, path)

    def pdf(self, path: Path) -> Path:
        """Print the page, with its backgrounds, to a PDF."""
        return self._save("Page.printToPDF", {"printBackground": True}, path)

    def _extent(self) -> dict:
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _save(self, command: str, arguments: dict, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.driver.execute_cdp_cmd(command, arguments)["data"]))
        return path


@pytest.fixture(scope="session")
def browser_driver(tmp_path_factory):
    """One browser for all tests of a session, in a profile of its own."""
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        missing = "browser (chromium)" if binary is None else "driver of the browser (chromedriver)"
        pytest.skip(f"there is no {missing}; on Debian: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, "--window-size=1280,900", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:  # the path of the driver is given: selenium would look for one on the network
        started = webdriver.Chrome(options, webdriver.ChromeService(executable_path=driver))
    except WebDriverException as error:
        pytest.skip(f"{binary} does not start: {(error.msg or '').splitlines()[0]}")
    started.set_page_load_timeout(60)
    yield started
    started.quit()


@pytest.fixture
def browser(browser_driver):
    """Return a fresh tab of 1280 x 900 pixels, in light colours."""
    home = browser_driver.current_window_handle
    browser_driver.switch_to.new_window("tab")
    for log in ("browser", "performance"):
        browser_driver.get_log(log)
    tab = Browser(browser_driver)
    tab.resize(1280, 900)
    tab.emulate()
    yield tab
    browser_driver.close()
    browser_driver.switch_to.window(home)
