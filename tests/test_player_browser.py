"""The player in a browser: the widget's JavaScript in a bare page, whose model is a stub in front of the real `Player`."""
import base64
from importlib.resources import files
from types import SimpleNamespace
import numpy as np, pytest
from pokeidm import player as play
from pokeidm.core import PokeidmError

NAMES = {0: "none", 1: "up", 2: "left", 3: "right", 4: "down", 5: "up", 6: "other"}
STUB = """
window.leaked = []; document.addEventListener("keydown", e => leaked.push(e.key));
window.model = { heard: [], sent: [], hold: false, waiting: [],
  on(name, work) { this.heard.push(work); }, off(name, work) { this.heard = this.heard.filter(w => w !== work); },
  async send(message) { this.sent.push(message); if (this.hold) this.waiting.push(message); else await this.answer(message); },
  async answer(message) {
    for (const [content, data] of await kernel(message)) {
      const buffers = data.map(text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer));
      for (const work of this.heard) work(content, buffers);
    }
  },
  async release() { this.hold = false; while (this.waiting.length) await this.answer(this.waiting.shift()); } };
window.stop = player.render({ model, el: document.getElementById("here") });
"""

class Painted:
    "In place of a game: a frame in the colour of the code that was pressed last."
    def __init__(self, model, start): self.frame, self.count = np.asarray(start), 0
    def step(self, code, steps, guidance):
        if code >= 6: raise PokeidmError("this code breaks")
        self.frame, self.count = np.full((8, 12, 3), 20*code + steps, np.uint8), self.count + 1

@pytest.fixture
def page(browser, monkeypatch):
    monkeypatch.setattr(play, "Game", Painted)
    player = play.Player(SimpleNamespace(names={}, actions=7), np.stack([np.full((8, 12, 3), 200 + k, np.uint8) for k in range(3)]), NAMES)
    context = browser.new_context(); page = context.new_page(); errors = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.expose_function("kernel", lambda message: [[content, [base64.b64encode(b).decode() for b in buffers]] for content, buffers in player.handle(message)])
    page.route("**/*", lambda route: route.fulfill(content_type="text/html", body='<button id="outside">outside</button><div id="here"></div>'))
    page.goto("http://player.test/")
    page.add_script_tag(type="module", content=(files("pokeidm")/"static"/"player.js").read_text().replace("export default", "window.player =") + STUB)
    page.wait_for_function("document.querySelector('span')?.textContent")
    page.locator("#here > div").focus()
    yield page
    assert not errors, errors
    context.close()

def shown(page): return page.evaluate("[...document.querySelector('canvas').getContext('2d').getImageData(11, 7, 1, 1).data]")
def status(page): return page.locator("span").inner_text()
def press(page, *keys):
    for key in keys: page.keyboard.press(key); page.wait_for_timeout(60)

def test_the_start_frame_is_shown_as_it_is(page): assert shown(page) == [200, 200, 200, 255] and "arrow keys" in status(page)

@pytest.mark.parametrize("key, code", [("ArrowUp", 1), ("ArrowLeft", 2), ("ArrowRight", 3), ("ArrowDown", 4), (" ", 0)])
def test_each_key_is_its_code(page, key, code):
    press(page, key)
    assert shown(page)[0] == 20*code + 4 and status(page).startswith("frame 1,") and page.evaluate("model.sent.at(-1)") == {"do": "step", "code": code, "steps": 4, "guidance": 1}

def test_no_key_leaks_and_none_from_outside_acts(page):
    press(page, "ArrowUp", "a", "d", "Enter", "Escape")
    assert page.evaluate("leaked") == [] and page.evaluate("model.sent.length") == 2
    page.locator("#outside").focus(); press(page, "ArrowUp", "x")
    assert page.evaluate("leaked") == ["ArrowUp", "x"] and page.evaluate("model.sent.length") == 2

def test_digits_go_into_the_fields_and_arrows_in_them_do_not_play(page):
    page.locator("input[title='flow steps a frame']").fill("9"); press(page, "ArrowUp")
    assert page.evaluate("model.sent.length") == 1
    page.locator("button", has_text="2: left").click(); page.wait_for_timeout(60)
    assert page.evaluate("model.sent.at(-1).steps") == 10 and shown(page)[0] == 50 and page.evaluate("leaked") == []

def test_a_held_key_does_not_flood_the_kernel(page):
    page.evaluate("model.hold = true"); press(page, *["ArrowUp"]*8, "ArrowDown")
    assert page.evaluate("model.sent.length") == 2, "one is under way, the newest waits"
    page.evaluate("model.release()"); page.wait_for_timeout(100)
    assert [m["code"] for m in page.evaluate("model.sent")[1:]] == [1, 4] and shown(page)[0] == 84 and status(page).startswith("frame 2,")

def test_reset_takes_the_start_that_was_chosen(page):
    press(page, "ArrowUp"); page.locator("input[title='start frame']").fill("2"); page.locator("button", has_text="reset").click(); page.wait_for_timeout(60)
    assert shown(page)[0] == 202 and "arrow keys" in status(page)
    press(page, "ArrowDown"); assert status(page).startswith("frame 1,"), "the focus is on the player again"

def test_what_went_wrong_is_said_and_play_goes_on(page):
    page.locator("button", has_text="6: other").click(); page.wait_for_timeout(60)
    assert status(page) == "this code breaks"
    press(page, "ArrowUp"); assert shown(page)[0] == 24

def test_a_page_that_is_gone_listens_no_more(page):
    page.evaluate("stop()"); assert page.evaluate("model.heard.length") == 0
