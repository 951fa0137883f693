"""The player in a real JupyterLab and Notebook 7, with the world that comes along and the cell that `pokeidm play` writes."""
import numpy as np, pytest
from pages import Notebook, wait
from pokeidm.demo import PLAY, open_world
from pokeidm.recipes import shipped_world
from pokeidm.world import Game, key_codes


@pytest.fixture(scope="module")
def world(): return open_world(shipped_world(), "cpu")[0]


class Play(Notebook):
    "A notebook whose first cell makes the player."
    def fill(self):
        super().fill(PLAY.format(run=str(shipped_world()), starts="world.starts"), *["1 + 1"]*30)           # enough cells that it could be scrolled

    def run(self):
        "Run the first cell, wait for the picture, and put it where a click reaches it."
        self.start()
        self.page.locator(".pokeidm-player .count", has_text="click here").wait_for(timeout=60_000)
        self.page.locator(".pokeidm-player canvas").first.scroll_into_view_if_needed()

    @property
    def shown(self):
        "(how many frames were played, the picture), of one moment."
        words, height, width, *rgba = self.page.evaluate("""(() => { const at = name => document.querySelector('.pokeidm-player ' + name), c = at('canvas');
            return [at('.count').textContent, c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; })()""")
        return int(words.split()[1].strip(",")) if words.startswith("frame") else 0, np.array(rgba, np.uint8).reshape(height, width, 4)[..., :3]

    def after(self, n): return wait(lambda: (now := self.shown)[0] >= n and now)


@pytest.fixture
def play(notebook):
    def play(where="doc/tree"):
        it = notebook(Play, where)
        it.fill(); it.run()
        return it
    return play


def near(a, b): return np.abs(a.astype(int) - b).max() <= 2


@pytest.mark.parametrize("where", ["doc/tree", "notebooks"])
def test_the_world_is_played_by_buttons_and_keys_and_no_key_leaks(play, world, where):
    it, game, codes = play(where), Game(world, world.starts[0, 0]), key_codes(world)
    assert np.array_equal(it.shown[1], game.frame)
    it.page.get_by_role("button", name=f"{codes['right']}: right").click()
    assert near(it.after(1)[1], game.step(codes["right"], steps=4))                              # the very frame that the world makes of it
    before = it.state
    it.page.keyboard.down("ArrowDown"); it.after(4); it.page.keyboard.up("ArrowDown")
    n, picture = it.shown
    for _ in range(n - 1): game.step(codes["down"], steps=4)
    assert near(picture, game.frame)
    for key in ("x", "b", "Enter", "Escape", "Shift+M", "0", "0"): it.page.keyboard.press(key)   # 0 0 would restart the kernel, x cut the cell, b make one
    it.after(n + 1)
    assert it.state == before and it.page.locator("dialog").count() == 0
    it.page.keyboard.press("r"); wait(lambda: it.shown[0] == 0)
    assert np.array_equal(it.shown[1], world.starts[0, 0]) and it.state == before and it.size < 40_000      # no picture is in the notebook


def test_a_kernel_that_restarts_is_gone_until_the_cell_is_run_again(play, world):
    it, said = play(), lambda: it.page.locator(".pokeidm-player .said").inner_text()
    it.restart()
    it.page.evaluate("(() => { const wait = setTimeout; window.setTimeout = (work, ms, ...more) => wait(work, ms === 10000 ? 100 : ms, ...more); })()")
    it.page.locator(".pokeidm-player canvas").first.click(); it.page.keyboard.press("d")
    wait(lambda: "the kernel does not answer" in said())
    assert it.shown[0] == 0 and np.array_equal(it.shown[1], world.starts[0, 0])                  # the last picture stays
    it.run()
    assert not said()
    it.page.locator(".pokeidm-player canvas").first.click(); it.page.keyboard.press("d"); it.after(1)
