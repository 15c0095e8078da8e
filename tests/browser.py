"""What tests of pages do with a browser; the fixture `driver` is one."""

import json


def wait(driver, script):
    """Until a script returns something true; fails after twenty seconds."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 20).until(lambda waiting: waiting.execute_script(script), script)


def resize(driver, width, height):
    # The window of a headless browser has a least width; the emulated screen has none.
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def written(folder, page):
    """The address of a page in a new file."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


def opened(driver, address, width=1400, height=1000):
    """Open a page and wait until all its plots are drawn; logs begin at the page."""
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    resize(driver, width, height)
    driver.get(address)
    plots = driver.execute_script("return document.querySelectorAll('.plot').length")
    wait(driver, f"return document.documentElement.dataset.drawn === '{plots}'")
    return plots


def asked(driver):
    """Addresses that a page has asked for since it was opened, without what it holds itself."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    found = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return {url for url in found if not url.startswith(("data:", "blob:"))}


def overflow(driver):
    """Pixels that a page is wider than its window."""
    hidden = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    return driver.execute_script(hidden)


def prefer(driver, scheme=None):
    """Light or dark, as a system would ask for; None for the browser's own."""
    features = [{"name": "prefers-color-scheme", "value": scheme}] if scheme else []
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
