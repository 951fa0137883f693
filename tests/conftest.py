"""Shared settings: no progress bars, no display, and no deadlines on machines that other work shares. And what the widgets are tested in: Chromium, and a Jupyter server."""
import importlib, os, secrets, shutil, socket, subprocess, sys, time, urllib.request
from functools import cache
from pathlib import Path
for name, value in {"TQDM_DISABLE": "1", "MPLBACKEND": "agg", "OMP_WAIT_POLICY": "PASSIVE"}.items(): os.environ.setdefault(name, value)
import pytest
from clips import clip, game
from hypothesis import settings
from pages import wait

settings.register_profile("pokeidm", deadline=None)
settings.load_profile("pokeidm")


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    "A clip of a walk: of the game `toy`, as it was scraped."
    return clip(tmp_path_factory.mktemp("walk")/"raw"/"toy"/"walk.mp4", game())


def need(*modules):
    "Skip if one is not installed, or fail where POKEIDM_BROWSER=required."
    for name in modules: (importlib.import_module if os.environ.get("POKEIDM_BROWSER") == "required" else pytest.importorskip)(name)


@pytest.fixture(scope="session")
def chromium():
    "The path of Chromium. Without it tests are skipped, or fail where POKEIDM_BROWSER=required."
    need("playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not path: (pytest.fail if os.environ.get("POKEIDM_BROWSER") == "required" else pytest.skip)("there is no Chromium: apt-get install chromium")
    return path


@pytest.fixture(scope="module")
def browser(chromium):
    "A headless Chromium; one a module, for Playwright's event loop is in the way of other tests."
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


@pytest.fixture(scope="session")
def lab(chromium, tmp_path_factory):
    "(address, folder, token) of a Jupyter server, JupyterLab and Notebook 7, that knows nothing but one temporary folder."
    need("jupyterlab", "notebook", "anywidget")
    home = tmp_path_factory.mktemp("lab")
    quiet = home/"settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True); quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    places = dict(CONFIG="JUPYTER_CONFIG_DIR", DATA="JUPYTER_DATA_DIR", RUNTIME="JUPYTER_RUNTIME_DIR", settings="JUPYTERLAB_SETTINGS_DIR",
                  workspaces="JUPYTERLAB_WORKSPACES_DIR", ipython="IPYTHONDIR", user="HOME")
    env = {**os.environ, **{name: str(home/place) for place, name in places.items()}, "PYTHONPATH": str(Path(__file__).parent.parent), "NO_PROXY": "127.0.0.1"}
    token, log = secrets.token_hex(8), open(home/"log", "w")
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home}",
                               "--LabApp.expose_app_in_browser=True", "--JupyterNotebookApp.expose_app_in_browser=True"], env=env, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5), 60)
        yield f"http://127.0.0.1:{port}", home, token
    finally:
        server.terminate(); server.wait(20); log.close()


@pytest.fixture(scope="module")
def notebook(browser, lab):
    "`notebook(cls, where)`: a `Notebook` of that class in JupyterLab or Notebook 7, opened once for all tests of a module."
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    yield cache(lambda cls, where="doc/tree": cls(context.new_page(), lab, where))
    context.close()
