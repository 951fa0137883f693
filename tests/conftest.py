"""Shared settings: no progress bars, no display, and no deadlines on machines that other work shares."""
import os, shutil
for name, value in {"TQDM_DISABLE": "1", "MPLBACKEND": "agg", "OMP_WAIT_POLICY": "PASSIVE"}.items(): os.environ.setdefault(name, value)
import pytest
from hypothesis import settings

settings.register_profile("pokeidm", deadline=None)
settings.load_profile("pokeidm")


@pytest.fixture(scope="module")
def browser():
    "A headless Chromium. Without one its tests are skipped, or fail where POKEIDM_BROWSER=required."
    from importlib.util import find_spec
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    why = "there is no Chromium: apt-get install chromium" if not chromium else "" if find_spec("playwright") else "there is no Playwright: pip install 'pokeidm[dev]'"
    if why and os.environ.get("POKEIDM_BROWSER") == "required": pytest.fail(why)
    if why: pytest.skip(why)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        yield browser
        browser.close()
