"""The labeler in a real JupyterLab, server, kernel and all."""
import importlib, json, os, secrets, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest
from hands import Hands, write_video
from pokeidm.labeler import Spans, load_labels

ROOT = Path(__file__).resolve().parent.parent
READY = """async () => {
  await jupyterapp.restored;
  const panel = jupyterapp.shell.currentWidget;
  await panel.context.ready; await panel.context.sessionContext.ready; await panel.context.sessionContext.session.kernel.info;
}"""


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    "(address, folder, token) of a JupyterLab that knows nothing but one temporary folder."
    need = importlib.import_module if os.environ.get("POKEIDM_BROWSER") == "required" else pytest.importorskip
    for name in ("jupyterlab", "anywidget"): need(name)
    home = tmp_path_factory.mktemp("lab")
    quiet = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True); quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    write_video(home / "route 1.mp4")
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    places = dict(CONFIG="JUPYTER_CONFIG_DIR", DATA="JUPYTER_DATA_DIR", RUNTIME="JUPYTER_RUNTIME_DIR", settings="JUPYTERLAB_SETTINGS_DIR",
                  workspaces="JUPYTERLAB_WORKSPACES_DIR", ipython="IPYTHONDIR", user="HOME")
    env = {**os.environ, **{name: str(home / place) for place, name in places.items()}, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    token, log = secrets.token_hex(8), open(home / "log", "w")
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", f"--IdentityProvider.token={token}",
                               f"--ServerApp.root_dir={home}", "--LabApp.expose_app_in_browser=True"], env=env, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5), 60)
        yield f"http://127.0.0.1:{port}", home, token
    finally:
        server.terminate(); server.wait(20); log.close()


def wait(condition, seconds=30):
    "The first true answer of `condition`."
    end = time.monotonic() + seconds
    while True:
        try:
            if answer := condition(): return answer
        except OSError: pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


class Notebook(Hands):
    "A notebook in JupyterLab whose first cell makes the labeler."
    def __init__(self, browser, lab, name, *more):
        self.address, self.home, self.token = lab
        self.name, self.out = name, self.home / f"{name}_labels"
        cells = [f"from pokeidm.labeler import TimelineLabeler\nw = TimelineLabeler('route 1.mp4', out='{self.out.name}'); w", *more]
        (self.home / f"{name}.ipynb").write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "cells": [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": c} for i, c in enumerate(cells)]}))
        self.page = browser.new_page(viewport={"width": 1200, "height": 900})
        self.open()

    def open(self):
        self.page.goto(f"{self.address}/doc/tree/{self.name}.ipynb?token={self.token}")
        self.page.wait_for_function("!!window.jupyterapp?.shell.currentWidget?.context")
        self.page.evaluate(READY)
        self.page.add_style_tag(content=".pokeidm-labeler { background: black; color: white }")

    def command(self, name): return self.page.evaluate("name => { jupyterapp.commands.execute(name); }", name)
    def kernel(self, do): self.page.evaluate(f"async () => {{ await jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.{do}(); }}")
    def cells(self): return self.page.evaluate("jupyterapp.shell.currentWidget.content.widgets.length")

    def run(self):
        "Run the first cell and wait for stills."
        self.page.evaluate("() => { const n = jupyterapp.shell.currentWidget.content; n.deselectAll(); n.activeCellIndex = 0; }")
        self.command("notebook:run-cell")
        self.appear()

    def appear(self):
        self.page.locator(".pokeidm-labeler .status", has_text="seen").wait_for()
        self.page.wait_for_function("/ [1-9]\\d* % seen/.test(document.querySelector('.pokeidm-labeler .status').textContent)")
        self.page.locator("canvas.stills").scroll_into_view_if_needed()
        self.page.wait_for_timeout(300)

    @property
    def labels(self): return load_labels(self.out, self.home / "route 1.mp4")


@pytest.fixture
def notebook(browser, lab, request):
    made = []
    def make(*more): made.append(Notebook(browser, lab, request.node.name[5:], *more)); made[-1].run(); return made[-1]
    yield make
    for n in made: n.kernel("shutdown"); n.page.close()


def test_drag_to_file(notebook):
    it = notebook()
    it.drag(it.point(3), it.point(9))
    wait(lambda: it.labels)
    [span] = json.loads((it.out / "route 1.json").read_text())
    assert span == list(range(it.shown(3), it.shown(10))) == list(range(18, 60))
    it.command("docmanager:save"); it.page.wait_for_timeout(500)
    assert len((it.home / f"{it.name}.ipynb").read_text()) < 5000            # no picture is in there


def test_undo_and_keys_stay_in_the_widget(notebook):
    it = notebook("1 + 1")
    it.drag(it.point(3), it.point(9)); wait(lambda: it.labels)
    it.press("e", "Control+z", "Control+z", "Control+Shift+Z", "x", "d", "d", "b")      # x and d d would cut the cell, b would make one
    assert wait(lambda: it.labels) == Spans([(18, 59)]) and it.cells() == 2
    it.press("Control+z"); wait(lambda: it.labels == Spans())


def test_kernel_restart_and_resume(notebook):
    it = notebook()
    it.drag(it.point(0), it.point(1)); wait(lambda: it.labels)
    it.kernel("restart")
    it.drag(it.point(4), it.point(5))
    it.page.locator(".banner", has_text="NOT SAVED").wait_for()
    it.run()
    assert wait(lambda: it.labels == Spans([(0, 11), (24, 35)])) and not it.banner
    it.page.locator(".pokeidm-labeler").focus()
    it.press("Control+z"); wait(lambda: it.labels == Spans([(0, 11)]))
    it.press("Control+z"); wait(lambda: it.labels == Spans())                # made before the restart


def test_page_reload(notebook):
    it = notebook()
    it.drag(it.point(0), it.point(1)); wait(lambda: it.labels)
    it.open(); it.run()
    assert "2 % valid" in it.status
    it.drag(it.point(4), it.point(5)); wait(lambda: it.labels == Spans([(0, 11), (24, 35)]))


def test_long_running_cell(notebook):
    it = notebook("import time; time.sleep(4); open('slept', 'w').close()")
    it.page.evaluate("() => { jupyterapp.shell.currentWidget.content.activeCellIndex = 1; }")
    it.command("notebook:run-cell"); it.page.wait_for_timeout(500)
    it.drag(it.point(3), it.point(9))
    wait(lambda: it.labels == Spans([(18, 59)]))
    wait(lambda: (it.home / "slept").exists() and "saved in" in it.status and not it.banner)
