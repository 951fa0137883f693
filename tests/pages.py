"Where the widgets live while they are tested: a bare page with a stub in front of the kernel's side, and a notebook in a real JupyterLab or Notebook 7."
import base64, json, secrets, time
from importlib.resources import files

# `dead`: "silent" or "throws"; `hold`: answers wait for release(); `slow`: every answer takes so many ms; `most`: how many questions were open at once.
STUB = """
window.leaked = []; for (const type of ["keydown", "keyup", "keypress"]) document.addEventListener(type, e => leaked.push(e.key));
window.model = { heard: [], sent: [], times: [], waiting: [], open: 0, most: 0, hold: false, slow: 0, dead: "",
  on(name, work) { this.heard.push(work); }, off(name, work) { this.heard = this.heard.filter(w => w !== work); },
  async send(message) {
    if (this.dead === "throws") throw Error("the comm is closed");
    if (this.dead) return;
    this.sent.push(message); this.times.push(performance.now()); this.most = Math.max(this.most, ++this.open);
    if (this.hold) this.waiting.push(message); else await this.answer(message); },
  async answer(message) {
    const answers = await kernel(message);
    if (this.slow) await new Promise(done => setTimeout(done, this.slow));
    this.open--;
    for (const [content, data] of answers) {
      const buffers = data.map(text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer));
      for (const work of this.heard) work(content, buffers);
    }
  },
  async release() { this.hold = false; while (this.waiting.length) await this.answer(this.waiting.shift()); } };

// rest(): until nothing is asked, drawn or about to be. A timer of 100 ms or more is what somebody waits for; hasten() makes those of seconds short.
const { setTimeout: wait, clearTimeout: forget, createImageBitmap: decode } = window, soon = new Set();
let decoding = 0, brief = ms => ms;
window.setTimeout = (work, ms = 0, ...more) => {
  const timer = wait(() => { soon.delete(timer); work(...more); }, brief(ms));
  if (ms < 100) soon.add(timer);
  return timer;
};
window.clearTimeout = timer => { soon.delete(timer); forget(timer); };
window.createImageBitmap = (...given) => { decoding++; return decode(...given).finally(() => decoding--); };
window.hasten = () => { brief = ms => ms < 1000 ? ms : 100; };
window.drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
window.rest = async () => { do await drawn(); while (soon.size || decoding || model.open && !model.hold); await drawn(); };
window.show = () => { window.stop = widget.render({ model, el: document.getElementById("here") }); };
"""
HTML = '<body style="background:black;color:white;margin:8px"><button id="outside">outside</button><div id="here" style="width:%dpx"></div></body>'


def bare_page(context, kernel, errors, width=700):
    "A page in which the messages of a widget go to `kernel`, which returns pairs of (content, buffers); what breaks in it goes to the list `errors`."
    page = context.new_page()
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.expose_function("kernel", lambda message: [[content, [base64.b64encode(b).decode() for b in buffers]] for content, buffers in kernel(message)])
    page.route("**/*", lambda route: route.fulfill(content_type="text/html", body=HTML % width))
    return page


def show(page, script):
    "Open the page (again) and show the widget `pokeidm/static/<script>`."
    page.goto("http://widget.test/")
    page.add_script_tag(content=STUB)
    page.add_script_tag(type="module", content=(files("pokeidm")/"static"/script).read_text().replace("export default", "window.widget =") + ";show();")
    page.wait_for_function("!!window.stop")


def wait(condition, seconds=30):
    "The first true answer of `condition`."
    end = time.monotonic() + seconds
    while True:
        try:
            if answer := condition(): return answer
        except OSError: pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


READY = """async () => {
  await jupyterapp.restored;
  const panel = jupyterapp.shell.currentWidget;
  await panel.context.ready; await panel.context.sessionContext.ready; await panel.context.sessionContext.session.kernel.info;
}"""
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


class Notebook:
    "A notebook in a page of its own. where: `doc/tree` is JupyterLab, `notebooks` Notebook 7."
    def __init__(self, page, lab, where="doc/tree"):
        self.page, (self.address, self.home, self.token), self.where = page, lab, where
        self.path = self.home/f"{where[:3]} {secrets.token_hex(4)}.ipynb"
        self.path.write_text(json.dumps(self.file()))
        self.open()

    def open(self):
        self.page.goto(f"{self.address}/{self.where}/{self.path.name}?token={self.token}")
        self.page.wait_for_function("!!window.jupyterapp?.shell.currentWidget?.context")
        self.page.evaluate(READY)

    @staticmethod
    def file(*cells):
        made = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": c} for i, c in enumerate(cells)]
        return {"nbformat": 4, "nbformat_minor": 5, "metadata": KERNEL, "cells": made}

    def fill(self, *cells):
        "Other cells, for another test: loading JupyterLab again would take most of the time of it."
        self.page.bring_to_front()
        self.page.evaluate("async file => { const { context } = jupyterapp.shell.currentWidget; context.model.fromJSON(file); await context.save(); }", self.file(*cells))

    def start(self, cell=0):
        "Run a cell; returns at once."
        self.page.evaluate("cell => { const n = jupyterapp.shell.currentWidget.content; n.deselectAll(); n.activeCellIndex = cell; jupyterapp.commands.execute('notebook:run-cell'); }", cell)

    def restart(self): self.page.evaluate("async () => { await jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart(); }")

    @property
    def state(self):
        "What a key that leaks would change: how many cells there are, which is chosen, the mode, how far it is scrolled."
        return self.page.evaluate("""() => { const n = jupyterapp.shell.currentWidget.content;
            return [n.widgets.length, n.activeCellIndex, n.mode, Math.round((n.node.querySelector('.jp-WindowedPanel-outer') ?? n.node).scrollTop)]; }""")

    @property
    def size(self):
        "Characters of the file after it was saved."
        self.page.evaluate("async () => { await jupyterapp.shell.currentWidget.context.save(); }")
        return len(self.path.read_text())
