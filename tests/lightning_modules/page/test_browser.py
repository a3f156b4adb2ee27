"""The page in a real browser: what a lab does with it, wide and narrow, and whom it calls."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lightning_modules.page import laboratory

pytest.importorskip("gradio", reason="`xxact serve` is an extra: .[serve]")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is an extra: .[browser]")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
#: Seconds for an answer, on a machine that does other things, too.
PATIENCE = 90
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no chromium here: apt-get install chromium-driver"
    ),
]


class Page:
    """A page in the browser."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        driver.get(address)
        self.wait(lambda: driver.find_elements(By.ID, "ask"))

    def wait(self, until: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, PATIENCE, 0.1).until(lambda _: until())

    def find(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.driver.find_element(By.CSS_SELECTOR, selector).text)

    def drop(self, file: Path) -> str:
        """What is said of a scan as soon as it is dropped."""
        self.find("#scan input[type=file]")[0].send_keys(str(file))
        return str(self.wait(lambda: self.text("#note").strip()))

    def give(self, which: str, text: str) -> None:
        field = self.find(f"#{which} input, #{which} textarea")[0]
        field.send_keys(text, Keys.TAB)

    def ask(self) -> str:
        """The answer's text; what was there before is waited out."""
        self.driver.execute_script(
            "for (const x of document.querySelectorAll('#answer .x-answer, #answer .x-error'))"
            " x.remove()"
        )
        self.driver.find_element(By.ID, "ask").click()
        self.wait(lambda: self.find("#answer .x-answer, #answer .x-error"))
        return self.text("#answer")

    def calls(self) -> set[str]:
        """Addresses that the page has asked for; the browser's own pages are none."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                given = message["params"]
                found.add(str(given.get("url") or given["request"]["url"]))
        return {url for url in found if url.startswith(("http", "ws"))}


@pytest.fixture(scope="module")
def address(lab: Path) -> Iterator[str]:
    with laboratory.serving(lab) as address:
        yield address
    assert (lab / "calls.log").read_text() == ""


@pytest.fixture(scope="module", params=[1280, 420], ids=["wide", "narrow"])
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
        "--disable-background-networking", "--disable-component-update", "--no-first-run",
        # Headless windows are never narrower than 500 points unless told so.
        f"--window-size={request.param},1000",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(DRIVER or ""))
    found.set_script_timeout(PATIENCE)
    found.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": request.param, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
    )
    yield found
    found.quit()


@pytest.fixture
def page(driver: Any, address: str) -> Page:
    return Page(driver, address)


def test_a_scan_and_a_formula_to_an_answer(page: Page, lab: Path, address: str) -> None:
    assert "The answer appears here" in page.text("#answer")
    said = page.drop(lab / "scan.xy")
    assert "scan.xy" in said
    assert "give it below" in said
    page.give("wavelength", "CuKa")
    page.wait(lambda: "give it below" not in page.text("#note"))
    page.give("composition", "NaCl")
    page.find("#only input")[0].click()
    said = page.ask()
    assert "NaCl · scan.xy" in said
    assert "from composition and pattern" in said
    assert "90 % interval" in said
    assert "contradict" in said.lower()
    assert "Known materials whose lines fit" in said
    assert "Nearest known materials" in said
    pictures = page.find("#answer img.x-picture")
    assert len(pictures) == 2
    for picture in pictures:
        assert page.driver.execute_script("return arguments[0].naturalWidth", picture) > 500
    assert [a.get_attribute("download") for a in page.find("#answer a.x-download")] == [
        "prediction.csv", "matches.csv"
    ]  # fmt: skip
    # The page is never wider than the window; wide tables scroll within it.
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.driver.execute_script(wide) <= 1
    # Asked again, the scan is still there; on the disk it is not.
    page.give("composition", "2")
    assert "NaCl2" in page.ask()
    assert laboratory.left_over(lab) == []
    calls = page.calls()
    assert any("/assets/" in url for url in calls)
    assert {url for url in calls if not url.startswith(address)} == set()


def test_a_file_with_its_own_wavelength_needs_none(page: Page, lab: Path) -> None:
    said = page.drop(lab / "scan.xrdml")
    assert "1.5418" in said
    assert "give it below" not in said
    assert "from the pattern alone" in page.ask()


def test_a_mistake_is_one_line_on_the_page(page: Page, lab: Path) -> None:
    assert page.ask() == "error: nothing is given: drop a scan, give a composition, or both"
    assert page.drop(lab / "broken.xrdml").startswith("error: broken.xrdml")
    assert "broken.xrdml" in page.ask()
    page.find("#scan button[aria-label]")[0].click()
    page.wait(lambda: not page.text("#note").strip())
    assert "nothing is given" in page.ask()
    page.give("composition", "Xx2")
    said = page.ask()
    assert "not predicted" in said
    assert "Traceback" not in said


def test_a_scan_without_wavelength_is_not_guessed(page: Page, lab: Path) -> None:
    page.drop(lab / "scan.xy")
    assert "the wavelength is unknown" in page.ask()
    assert page.find("#answer .x-error[role=alert]")


def test_too_large_a_scan_is_refused(page: Page, lab: Path) -> None:
    page.find("#scan input[type=file]")[0].send_keys(str(lab / "large.xy"))
    said = page.wait(lambda: " ".join(x.text for x in page.find(".toast-body, #note, #scan")))
    page.wait(lambda: "20" in " ".join(x.text for x in page.find(".toast-body, #note, #scan")))
    assert "Traceback" not in said
    assert laboratory.left_over(lab) == []


def test_no_script_of_the_page_fails(page: Page) -> None:
    # What the pages before left behind, such as the upload that was refused.
    page.driver.get_log("browser")
    page.give("composition", "Fe2O3")
    assert "from the composition alone" in page.ask()
    entries = page.driver.get_log("browser")
    assert [entry["message"] for entry in entries if entry["level"] == "SEVERE"] == []


def test_the_description_of_the_api_loads_nothing_from_elsewhere(page: Page, address: str) -> None:
    page.driver.get(f"{address}/?view=api")
    page.wait(lambda: "/answer" in page.driver.page_source)
    assert {url for url in page.calls() if not url.startswith(address)} == set()
