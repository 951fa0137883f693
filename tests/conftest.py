"""Shared settings: no progress bars, no display, and no deadlines on machines that other work shares."""
import os, shutil, socket, subprocess, sys, time, urllib.request
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


@pytest.fixture(scope="module")
def address():
    "Where a real S3 server (moto) of its own listens."
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try: socket.create_connection(("127.0.0.1", port), 1).close(); break
            except OSError: time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally: server.terminate(); server.wait()


@pytest.fixture
def s3(address, monkeypatch):
    "A client of that server, emptied, with one bucket called `bucket`; the environment names the server too."
    import boto3
    for name in [n for n in os.environ if n.startswith("AWS_")]: monkeypatch.delenv(name)
    for name, value in dict(AWS_ENDPOINT_URL=address, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true",
                            AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull, NO_PROXY="127.0.0.1").items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(address + "/moto-api/reset", method="POST")).read()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    return client
