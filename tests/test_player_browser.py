"""The player in a browser: the widget's JavaScript in a bare page, whose model is a stub in front of the real `Player`."""
import os
from types import SimpleNamespace
import numpy as np, pytest
from pages import bare_page, show, wait
from pokeidm import player as play
from pokeidm.core import PokeidmError

NAMES = {0: "none", 1: "up", 2: "left", 3: "right", 4: "down", 5: "up", 6: "other"}
CODES = [[0, 3, 1, 4], [0, 2, 2, 1], [0, 1, 1, 1]]
class Painted:
    "In place of a game: a frame in the colour of the code that was pressed last."
    def __init__(self, world, start): self.frame, self.count = np.asarray(start), 0
    def step(self, code, steps, guidance, temperature):
        if code >= 6: raise PokeidmError("this code breaks")
        self.frame, self.count = np.full((8, 12, 3), 20*code + steps, np.uint8), self.count + 1

@pytest.fixture
def open_page(browser, monkeypatch, tmp_path):
    "Opens a page whose player starts from clips in the colours 150, 151 … and 170 … and 190 …, with or without their codes."
    monkeypatch.setattr(play, "Game", Painted); monkeypatch.chdir(tmp_path)
    context, errors = browser.new_context(), []
    def open_page(codes=None, names=NAMES, clock=False, rate=10):
        clips = np.stack([[np.full((8, 12, 3), 150 + 20*k + i, np.uint8) for i in range(4)] for k in range(3)])
        player = play.Player(SimpleNamespace(names={}, actions=7, dit=SimpleNamespace(config=SimpleNamespace(scrolls=()))), clips, names, codes)
        page = bare_page(context, player.handle, errors)
        if clock: page.clock.install(time=0)
        show(page, "player.js")
        page.wait_for_function("document.querySelector('.count')?.textContent")
        if rate != 10: page.locator("input[name=rate]").fill(str(rate))
        page.locator(".pokeidm-player").focus()
        if clock: page.clock.pause_at(3_600_000)
        return page
    yield open_page
    assert not errors, errors
    context.close()

@pytest.fixture
def page(open_page): return open_page(rate=.2)                             # a press is one step, however slow the machine
@pytest.fixture
def lively(open_page): return open_page()
@pytest.fixture
def replayer(open_page): return open_page(CODES, clock=True)

def shown(page, which=0): return page.evaluate(f"[...document.querySelectorAll('canvas')[{which}].getContext('2d').getImageData(11, 7, 1, 1).data]")
def count(page): return page.locator(".count").inner_text()
def said(page): return page.locator(".said").inner_text()
def sent(page): return page.evaluate("model.sent.slice(1)")                 # all but the first, which opens the world
def steps(page): return [m["code"] for m in sent(page) if m["do"] == "step"]
def settle(page):
    "Wait until nothing is asked of the kernel, or it is told to hold its answer."
    page.wait_for_timeout(20)
    while page.evaluate("model.open > 0 && !model.hold"): page.wait_for_timeout(5)
def press(page, *keys):
    for key in keys: page.keyboard.press(key); settle(page)
def click(page, name): page.get_by_role("button", name=name).click(); settle(page)
def fill(page, name, value): page.locator(f"input[name={name}]").fill(str(value)); page.locator(".pokeidm-player").focus()
def held(page, key, ms): page.keyboard.down(key); page.wait_for_timeout(ms); page.keyboard.up(key); page.wait_for_timeout(60)

def test_the_start_frame_is_shown_as_it_is(page): assert shown(page) == [150, 150, 150, 255] and "arrow keys" in count(page) and not page.locator("canvas").nth(1).is_visible()

@pytest.mark.parametrize("keys, code", [(("ArrowUp", "w", "W", "1"), 1), (("ArrowLeft", "a", "2"), 2), (("ArrowRight", "d", "3"), 3), (("ArrowDown", "s", "4"), 4), ((" ", "0"), 0), (("5",), 5)])
def test_each_key_is_its_code(page, keys, code):
    for n, key in enumerate(keys, 1):
        press(page, key)
        assert shown(page)[0] == 20*code + 4 and count(page).startswith(f"frame {n},") and sent(page)[-1] == {"do": "step", "code": code, "steps": 4, "guidance": 1, "temperature": 1}
    assert len(sent(page)) == len(keys)

def test_no_key_leaks_and_none_from_outside_acts(page):
    press(page, "ArrowUp", "x", "r", "Enter", "Escape", "?")
    assert page.evaluate("leaked") == [] and [m["do"] for m in sent(page)] == ["step", "reset"]
    for name in ("steps", "rate"): page.locator(f"input[name={name}]").focus(); press(page, "ArrowUp", "b", "Enter")
    page.get_by_label("as").focus(); press(page, "w", "v", "Escape"); press(page, "Control+s", "Control+c")
    assert page.evaluate("leaked") == [] and [m["do"] for m in sent(page)] == ["step", "reset"] and page.get_by_label("as").input_value() == "play.gifwv"
    page.locator("#outside").focus(); press(page, "ArrowUp", "x")
    assert set(page.evaluate("leaked")) == {"ArrowUp", "x"} and len(sent(page)) == 2

def test_no_arrow_scrolls_the_notebook_even_where_the_world_does_not_know_it(open_page):
    page = open_page(names={})
    page.evaluate("document.body.style.height = '3000px'"); page.locator("canvas").first.click()
    press(page, "ArrowDown", " ", "ArrowDown"); page.wait_for_timeout(100)
    assert page.evaluate("window.scrollY") == 0 and not sent(page)

def test_what_the_fields_say_goes_with_every_frame_and_an_empty_one_says_nothing(page):
    page.locator("input[name=steps]").fill("9"); press(page, "ArrowUp")
    assert not sent(page), "arrows in a field are the field's"
    for name, value in (("guidance", 2.5), ("temperature", .3), ("rate", "")): fill(page, name, value)
    click(page, "2: left")
    assert sent(page) == [{"do": "step", "code": 2, "steps": 10, "guidance": 2.5, "temperature": .3}] and shown(page)[0] == 50
    fill(page, "steps", ""); press(page, "ArrowUp")
    assert sent(page)[-1] == {"do": "step", "code": 1, "guidance": 2.5, "temperature": .3} and shown(page)[0] == 24

def test_the_world_stands_while_nothing_is_pressed(page):
    press(page, "ArrowUp"); page.wait_for_timeout(400)
    assert steps(page) == [1]

def tick(page, ms): page.clock.run_for(ms); settle(page)

@pytest.mark.parametrize("rate", [2, 10, 50])
def test_a_held_key_plays_exactly_at_the_rate(open_page, rate):
    page, period = open_page(clock=True), 1000//rate
    fill(page, "rate", rate); page.keyboard.down("ArrowRight"); settle(page)
    for n in range(1, 6):
        assert len(steps(page)) == n
        tick(page, period - 2); assert len(steps(page)) == n
        tick(page, 2)
    page.keyboard.up("ArrowRight"); tick(page, 3000)
    assert steps(page) == [3]*6, "let go, it stands"

def test_a_frame_that_is_late_does_not_delay_the_next_and_is_not_made_up_for(open_page):
    page = open_page(clock=True)
    page.keyboard.down("ArrowRight"); settle(page)
    page.evaluate("model.hold = true"); tick(page, 100); tick(page, 130)               # asked at 100, answered at 230
    assert len(steps(page)) == 2
    page.evaluate("model.release()"); settle(page); assert len(steps(page)) == 3
    tick(page, 68); assert len(steps(page)) == 3
    tick(page, 4); assert len(steps(page)) == 4, "at 300, as if nothing had been"
    page.evaluate("model.hold = true"); tick(page, 100); tick(page, 950); page.evaluate("model.release()"); settle(page)
    assert len(steps(page)) == 6, "one asked at 400, one at its answer, none for those that were missed"
    tick(page, 96); assert len(steps(page)) == 6
    tick(page, 6); assert len(steps(page)) == 7

def test_another_rate_counts_at_once(open_page):
    page = open_page(clock=True)
    fill(page, "rate", .1); page.get_by_label("go on").check(); settle(page)
    tick(page, 500); assert len(steps(page)) == 1
    page.locator("input[name=rate]").fill("10"); settle(page); assert len(steps(page)) == 2

def test_held_keys_in_real_time(lively):
    page = lively
    held(page, "ArrowRight", 1250)
    n = len(steps(page))
    assert 7 <= n <= 14 and page.evaluate("model.most") == 1
    page.wait_for_timeout(300); assert len(steps(page)) == n

def test_rate_zero_is_as_fast_as_it_goes_and_one_at_a_time(page):
    fill(page, "rate", 0); page.evaluate("model.slow = 10")
    held(page, "ArrowRight", 1000)
    assert len(steps(page)) > 14 and page.evaluate("model.most") == 1

def test_a_slow_world_is_a_slow_game_and_never_a_queue(lively):
    page = lively
    page.evaluate("model.slow = 250")
    held(page, "ArrowRight", 1000); page.wait_for_timeout(400)
    n = len(steps(page))
    assert 2 <= n <= 5 and page.evaluate("model.most") == 1
    page.wait_for_timeout(600); assert len(steps(page)) == n

def test_the_repeats_of_the_keyboard_do_not_count(page):
    fill(page, "rate", 1)
    page.keyboard.down("ArrowUp")
    for _ in range(10): page.keyboard.down("ArrowUp"); page.wait_for_timeout(20)
    page.keyboard.up("ArrowUp")
    assert steps(page) == [1]

def test_taps_are_answered_at_once_and_the_newest_waits(page):
    press(page, "ArrowUp", "ArrowDown", "ArrowUp")
    assert steps(page) == [1, 4, 1], "the rate is for holding"
    page.evaluate("model.hold = true"); press(page, *["ArrowUp"]*8, "ArrowDown")
    assert len(sent(page)) == 4, "one is under way, the newest waits"
    page.evaluate("model.release()"); page.wait_for_timeout(100)
    assert steps(page)[3:] == [1, 4] and shown(page)[0] == 84 and count(page).startswith("frame 5,")

def test_the_key_pressed_last_is_played_and_the_one_below_it_again_after(lively):
    page = lively
    page.keyboard.down("ArrowUp"); page.wait_for_timeout(350); page.keyboard.down("ArrowLeft"); page.wait_for_timeout(350)
    page.keyboard.up("ArrowLeft"); page.wait_for_timeout(350); page.keyboard.up("ArrowUp")
    played = steps(page)
    first, last = played.index(2), len(played) - 1 - played[::-1].index(2)
    assert set(played[:first]) == set(played[last + 1:]) == {1} and set(played[first:last + 1]) == {2} and last > first

def test_a_button_is_held_like_a_key(lively):
    page = lively
    page.get_by_role("button", name="5: up").hover(); page.mouse.down(); page.wait_for_timeout(550); page.mouse.up(); page.wait_for_timeout(250)
    assert 3 <= len(steps(page)) <= 7 and set(steps(page)) == {5}
    press(page, "ArrowUp"); assert steps(page)[-1] == 1, "the focus is on the player again"

def test_a_button_works_from_the_keyboard_alone(page):
    page.get_by_role("button", name="5: up").focus(); press(page, "Enter"); page.wait_for_timeout(300)
    assert steps(page) == [5]

def test_a_key_that_is_down_when_the_focus_goes_is_let_go(lively):
    page = lively
    page.keyboard.down("ArrowUp"); page.wait_for_timeout(250); page.locator("#outside").focus(); page.wait_for_timeout(60)
    n = len(steps(page)); page.wait_for_timeout(400)
    assert len(steps(page)) == n >= 2

def test_go_on_waits_in_real_time_while_the_player_has_the_focus(lively):
    page = lively
    page.get_by_label("go on").check(); page.wait_for_timeout(560)
    assert 3 <= len(steps(page)) <= 8 and set(steps(page)) == {0}
    held(page, "ArrowUp", 250); assert 1 in steps(page) and steps(page)[-1] == 0
    page.locator("#outside").focus(); page.wait_for_timeout(60); n = len(steps(page)); page.wait_for_timeout(400)
    assert len(steps(page)) == n
    page.get_by_label("go on").uncheck(); page.wait_for_timeout(60); n = len(steps(page)); page.wait_for_timeout(400)
    assert len(steps(page)) == n

def test_reset_takes_the_start_that_was_chosen(page):
    press(page, "ArrowUp"); page.get_by_label("start").fill("2"); click(page, "reset")
    assert shown(page)[0] == 190 and "arrow keys" in count(page)
    press(page, "ArrowDown"); assert count(page).startswith("frame 1,"), "the focus is on the player again"
    press(page, "r"); assert shown(page)[0] == 190
    page.get_by_label("start").fill("1"); press(page, "Enter"); assert shown(page)[0] == 170

def test_what_went_wrong_is_said_and_play_goes_on(page):
    click(page, "6: other")
    assert said(page) == "this code breaks"
    page.get_by_label("start").fill("9"); click(page, "reset"); assert said(page) == "there is no start 9: choose 0 to 2"
    press(page, "ArrowUp"); assert shown(page)[0] == 24 and not said(page)

def test_a_code_that_breaks_ends_what_plays_by_itself(lively):
    page = lively
    page.get_by_role("button", name="6: other").hover(); page.mouse.down(); page.wait_for_timeout(500)
    assert steps(page) == [6]
    page.mouse.up()

def test_replay_plays_the_videos_own_actions_beside_it(replayer):
    page = replayer
    assert shown(page, 1)[0] == 150 and "real video" in page.locator(".near").inner_text()
    fill(page, "rate", 4); press(page, "v")
    for k, code in enumerate(CODES[0][1:], 1):
        tick(page, 240 if k > 1 else 0)
        assert k == 1 or count(page).startswith(f"frame {k - 1},")
        tick(page, 10 if k > 1 else 0)
        assert count(page).startswith(f"frame {k},") and (shown(page)[0], shown(page, 1)[0]) == (20*code + 4, 150 + k)
        near = -20*np.log10(abs(20*code + 4 - 150 - k)/255)
        assert page.locator(".near").inner_text() == f"the real video, PSNR {round(near, 1):g} dB"
    tick(page, 500)
    assert [m["do"] for m in sent(page)] == ["replay"]*3 and page.get_by_role("button", name="replay").is_visible() and not page.evaluate("leaked.length")

def test_replay_pauses_goes_on_and_begins_again(replayer):
    page = replayer
    fill(page, "rate", 2); press(page, "v"); click(page, "pause"); tick(page, 700)
    assert len(sent(page)) == 1 and count(page).startswith("frame 1,")
    fill(page, "rate", 10); click(page, "replay"); tick(page, 100); tick(page, 100); assert count(page).startswith("frame 3,")
    fill(page, "rate", 0); press(page, "v"); wait(lambda: len(sent(page)) == 7 and count(page).startswith("frame 3,"))
    assert [m["do"] for m in sent(page)] == ["replay"]*3 + ["reset"] + ["replay"]*3 and shown(page, 1)[0] == 153

def test_reset_ends_a_replay(replayer):
    page = replayer
    fill(page, "rate", 5); press(page, "v", "r"); tick(page, 500)
    assert [m["do"] for m in sent(page)] == ["replay", "reset"] and shown(page)[0] == shown(page, 1)[0] == 150

def test_a_key_of_ones_own_leaves_the_recording(replayer):
    page = replayer
    fill(page, "rate", 1); press(page, "v", "ArrowLeft"); tick(page, 1100)
    assert [m["do"] for m in sent(page)] == ["replay", "step"] and shown(page)[0] == 44
    assert shown(page, 1) == [128, 128, 128, 255] and page.locator(".near").inner_text() == "you left the recording"
    fill(page, "rate", 0); page.get_by_label("start").fill("1"); click(page, "replay"); wait(lambda: count(page).startswith("frame 3,"))
    assert shown(page, 1)[0] == 173 and shown(page)[0] == 24

def test_without_codes_there_is_nothing_to_replay(page):
    press(page, "v"); page.wait_for_timeout(200)
    assert not sent(page) and not page.get_by_role("button", name="replay").is_visible()

def test_record_stop_and_save(page, tmp_path):
    assert page.get_by_role("button", name="save").is_disabled()
    click(page, "record"); press(page, "ArrowUp", "ArrowLeft")
    click(page, "stop (3)"); press(page, "ArrowDown")
    page.get_by_label("as").fill("walk.mp4"); fill(page, "rate", 0); click(page, "save"); page.wait_for_timeout(300)
    assert said(page) == "saved 3 frames as walk.mp4" and os.listdir(tmp_path) == ["walk.mp4"]
    click(page, "save"); page.wait_for_timeout(300); assert said(page) == "saved 3 frames as walk-2.mp4"
    page.get_by_label("as").fill("../walk.mp4"); click(page, "save")
    assert "plain name" in said(page) and sorted(os.listdir(tmp_path)) == ["walk-2.mp4", "walk.mp4"] and not (tmp_path.parent/"walk.mp4").exists()

def test_no_click_is_lost_while_a_frame_is_under_way(page):
    page.evaluate("model.hold = true"); press(page, "ArrowUp"); click(page, "record"); press(page, "ArrowDown"); page.evaluate("model.release()"); page.wait_for_timeout(150)
    assert [m["do"] for m in sent(page)] == ["step", "record", "step"] and page.get_by_role("button", name="stop (2)").is_visible()

def test_help_focus_and_labels(page):
    outline = lambda: page.evaluate("getComputedStyle(document.querySelector('.pokeidm-player')).outlineStyle")
    assert outline() == "solid" and not page.locator(".help").is_visible()
    press(page, "?"); assert "W A S D" in page.locator(".help").inner_text()
    click(page, "?"); assert not page.locator(".help").is_visible()
    page.locator("#outside").focus(); assert outline() == "none"
    page.locator("canvas").first.click(); assert outline() == "solid"
    assert page.get_by_role("button", name="1: up ↑").get_attribute("title") == "key: ↑ W 1" and page.get_by_role("button", name="5: up").get_attribute("title") == "key: 5"
    unnamed = page.evaluate("[...document.querySelectorAll('input')].filter(i => !i.labels.length && !i.title).length")
    assert unnamed == 0 and page.get_by_role("img", name="what the world shows").is_visible()

@pytest.mark.parametrize("name", ["constructor", "<b>bold</b>", "__proto__", ""])
def test_any_name_is_only_text(open_page, name):
    page = open_page(names={3: name}, rate=.2)
    press(page, "3"); assert steps(page) == [3] and page.locator("b").count() == 0 and page.locator("button", has_text=name or "3").count() >= 1

def test_a_kernel_that_is_gone_is_said(open_page):
    page = open_page(rate=.2)
    page.evaluate("(() => { hasten(); model.hold = true; })()")
    press(page, "ArrowUp", "ArrowUp"); page.wait_for_function("document.body.innerText.includes('kernel does not answer')"); assert "kernel does not answer" in said(page)
    page.evaluate("model.release()"); page.wait_for_function("document.body.innerText.includes('frame 2,')"); assert not said(page) and count(page).startswith("frame 2,")

def test_another_view_of_the_player_shows_what_it_is_at(page):
    page.get_by_label("start").fill("2"); press(page, "Enter", "Escape", "ArrowUp")
    page.evaluate("(() => { stop(); document.getElementById('here').replaceChildren(); show(); })()"); settle(page)
    assert shown(page)[0] == 24 and count(page).startswith("frame 1,") and page.get_by_label("start").input_value() == "2"

def test_a_page_that_is_gone_listens_no_more(lively):
    page = lively
    page.keyboard.down("ArrowUp"); page.wait_for_timeout(150); page.evaluate("stop()"); n = len(steps(page)); page.wait_for_timeout(300)
    assert page.evaluate("model.heard.length") == 0 and len(steps(page)) == n
