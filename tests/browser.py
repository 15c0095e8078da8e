"""What tests of pages do with a browser; the fixture `driver` is one."""


def wait(driver, script):
    """Until a script returns something true; fails after twenty seconds."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 20).until(lambda waiting: waiting.execute_script(script), script)


def resize(driver, width, height):
    # The window of a headless browser has a least width; the emulated screen has none.
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
