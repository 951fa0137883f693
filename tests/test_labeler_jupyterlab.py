"""The labeler in a real JupyterLab and Notebook 7: server, kernel and all."""
import json
import pytest
from hands import Hands, write_video
from pages import Notebook, wait
from pokeidm.labeler import Spans, load_labels


class Labeler(Hands, Notebook):
    "A notebook whose first cell makes the labeler."
    def open(self):
        super().open()
        self.page.add_style_tag(content=".pokeidm-labeler { background: black; color: white }")

    def fill(self, out, *more):
        self.video, self.out = self.home/"route 1.mp4", self.home/out
        if not self.video.exists(): write_video(self.video)
        super().fill(f"from pokeidm.labeler import TimelineLabeler\nw = TimelineLabeler('route 1.mp4', out='{out}'); w", *more)

    def run(self):
        "Run the first cell and wait for stills."
        self.start()
        self.page.wait_for_function("/ [1-9]\\d* % seen/.test(document.querySelector('.pokeidm-labeler .status')?.textContent)")
        self.page.locator("canvas.stills").scroll_into_view_if_needed()

    @property
    def labels(self): return load_labels(self.out, self.video)


@pytest.fixture
def labeler(notebook, request):
    def make(*more, where="doc/tree"):
        it = notebook(Labeler, where)
        it.fill(f"{request.node.originalname} {where[:3]}", *more); it.run()
        return it
    return make


@pytest.mark.parametrize("where", ["doc/tree", "notebooks"])
def test_drag_to_file(labeler, where):
    it = labeler(where=where)
    it.drag(it.point(3), it.point(9))
    wait(lambda: it.labels)
    [span] = json.loads((it.out/"route 1.json").read_text())
    assert span == list(range(it.shown(3), it.shown(10))) == list(range(18, 60)) and it.size < 5000      # no picture is in the notebook


@pytest.mark.parametrize("where", ["doc/tree", "notebooks"])
def test_undo_and_keys_stay_in_the_widget(labeler, where):
    it = labeler("1 + 1", where=where)
    it.drag(it.point(3), it.point(9)); wait(lambda: it.labels)
    before = it.state
    it.press("e", "Control+z", "Control+z", "Control+Shift+Z", "x", "d", "d", "b", "Enter")      # x and d d would cut the cell, b would make one
    assert wait(lambda: it.labels) == Spans([(18, 59)]) and it.state == before
    it.press("Control+z"); wait(lambda: it.labels == Spans())


def test_kernel_restart_and_resume(labeler):
    it = labeler()
    it.drag(it.point(0), it.point(1)); wait(lambda: it.labels)
    it.restart()
    it.drag(it.point(4), it.point(5))
    it.page.locator(".banner", has_text="NOT SAVED").wait_for()
    it.run()
    assert wait(lambda: it.labels == Spans([(0, 11), (24, 35)])) and not it.banner
    it.page.locator(".pokeidm-labeler").focus()
    it.press("Control+z"); wait(lambda: it.labels == Spans([(0, 11)]))
    it.press("Control+z"); wait(lambda: it.labels == Spans())                # made before the restart


def test_page_reload(labeler):
    it = labeler()
    it.drag(it.point(0), it.point(1)); wait(lambda: it.labels)
    it.open(); it.run()
    assert "2 % valid" in it.status
    it.drag(it.point(4), it.point(5)); wait(lambda: it.labels == Spans([(0, 11), (24, 35)]))


def test_long_running_cell(labeler):
    it = labeler("import time; open('sleeps', 'w').close(); time.sleep(3); open('slept', 'w').close()")
    it.start(1); wait((it.home/"sleeps").exists)
    it.drag(it.point(3), it.point(9))
    wait(lambda: it.labels == Spans([(18, 59)]))
    wait(lambda: (it.home/"slept").exists() and "saved in" in it.status and not it.banner)
