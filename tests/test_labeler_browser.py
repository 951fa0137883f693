"""The labeler in a browser: the widget's JavaScript in a bare page, whose model is a stub in front of the real `Session`."""
import errno, json, os, shutil
import pytest
from hands import Hands, barcode_of, write_video
from pages import bare_page, show
from pokeidm.labeler import Session, Spans, labels_path, load_labels, read_journal, save_labels

@pytest.fixture(scope="module")
def video(tmp_path_factory): return write_video(tmp_path_factory.mktemp("videos") / "route 1.mp4")


class Labeler(Hands):
    "The widget in a bare page."
    def __init__(self, browser, video, out, width=700, **options):
        self.video, self.out, self.options, self.asked, self.errors = video, out, options, [], []
        self.context = browser.new_context()
        self.page = bare_page(self.context, self.kernel, self.errors, width)
        self.load()

    def load(self):
        "Open the page and run the cell, in a kernel that has just started."
        self.session = Session(self.video, self.out, **self.options)
        show(self.page, "labeler.js")
        self.page.wait_for_function("document.querySelector('.status').textContent")
        self.rest()
        self.page.locator(".pokeidm-labeler").focus()

    def kernel(self, message): self.asked.append(message); return list(self.session.handle(message))

    def rest(self): self.page.evaluate("rest()")

    def near(self, side):
        "(number in the large picture, number and word in the line below it) of one side of the magnifier."
        canvas, figure = self.page.locator(f"canvas.{side}"), self.page.locator(f"figure:has(canvas.{side})")
        _, frame, _, *valid = figure.inner_text().split()
        return barcode_of(canvas.screenshot()), int(frame), " ".join(valid)

    @property
    def labels(self): return load_labels(self.out, self.video)


@pytest.fixture
def labeler(browser, video, tmp_path):
    made = []
    def make(**options):
        made.append(Labeler(browser, options.pop("video", video), options.pop("out", tmp_path / "out"), **options))
        return made[-1]
    yield make
    for m in made:
        assert not m.errors, m.errors
        m.context.close()


def test_what_is_dragged_over_is_what_is_in_the_file(labeler):
    "The numbers in the pictures on the screen are the numbers in the file, at both ends and in between."
    it = labeler()
    it.drag(it.point(3), it.point(12))
    [span] = json.loads(labels_path(it.out, it.video).read_text())
    assert span == list(range(it.shown(3), it.shown(13)))     # up to the frame before the next still
    assert it.labels == Spans([(18, 77)]) and "saved in route 1.json" in it.status and not it.banner
    assert it.all_shown(25) == list(range(0, 150, 6))


def test_the_other_way_round_erasing_and_the_way_back(labeler):
    it = labeler()
    it.drag(it.point(12), it.point(3))                       # backwards
    it.drag(it.point(5), it.point(6), keys=["Alt"])
    assert it.labels == Spans([(18, 29), (42, 77)])
    states = [it.labels]
    it.press("Control+z"); states.append(it.labels)
    it.press("Control+z"); states.append(it.labels)
    it.press("Control+Shift+Z", "Control+y")
    assert states[1:] == [Spans([(18, 77)]), Spans()] and it.labels == states[0]
    it.page.locator("button.undo").click(); it.rest()
    assert it.labels == states[1]


def test_undo_and_redo_survive_a_restart(labeler):
    it = labeler()
    it.drag(it.point(0), it.point(1)); it.drag(it.point(7), it.point(8)); it.press("Control+z")
    it.load()
    assert it.labels == Spans([(0, 11)])
    it.press("Control+Shift+Z"); assert it.labels == Spans([(0, 11), (42, 53)])
    it.press("Control+z", "Control+z"); assert it.labels == Spans()
    assert it.page.locator("button.undo").is_disabled() and it.page.locator("button.redo").is_enabled()


def test_a_drag_beyond_the_window_scrolls(labeler):
    it = labeler()
    x, y = it.point(22)
    it.page.mouse.move(x, y); it.page.mouse.down(); it.page.mouse.move(x, y + 150, steps=4)
    it.page.wait_for_function("parseInt(document.querySelector('.status').textContent.split('–')[1]) >= 200")
    it.page.mouse.up(); it.rest()
    [(first, last)] = it.labels
    assert first == 22 * 6 and last >= 30 * 6 and last == it.shown(23) - 1 and it.shown(22) == last - 5


def test_shift_click_extends(labeler):
    it = labeler()
    it.drag(it.point(2), it.point(4))
    it.drag(it.point(14), it.point(14), keys=["Shift"])
    assert it.labels == Spans([(12, 89)])                    # from where the first drag began


def test_an_edge_is_dragged_and_the_magnifier_shows_both_sides_of_it(labeler):
    it = labeler()
    it.drag(it.point(3), it.point(7))                        # frames 18 to 47
    it.drag(it.point(7, 0.98), it.point(12, 0.9))
    assert it.labels == Spans([(18, 77)])
    it.rest()
    assert it.near("before") == (77, 77, "valid") and it.near("after") == (78, 78, "not valid")
    it.drag(it.point(3, 0.02), it.point(5, 0.1))
    assert it.labels == Spans([(30, 77)])
    assert it.near("before") == (29, 29, "not valid") and it.near("after") == (30, 30, "valid")


@pytest.mark.parametrize("keys, end, then", [("]", 30, [(29, 77)]), ("]]", 78, [(30, 76)])])
def test_an_edge_moves_by_one_frame(labeler, video, tmp_path, keys, end, then):
    save_labels(tmp_path / "out", video, Spans([(30, 77)]))
    it = labeler()
    it.press(*keys); it.press(",")
    assert it.labels == Spans(then) and it.near("after")[:2] == (end - 1, end - 1) and it.near("before")[:2] == (end - 2, end - 2)
    it.press(".", "."); it.page.locator("button.back").click(); it.rest()
    assert it.labels == Spans([(30, 77)])
    it.press("Escape"); assert not it.page.locator("canvas.before").is_visible()


def test_the_keyboard_alone_and_no_key_leaks(labeler):
    it = labeler()
    it.press("v"); assert it.labels == Spans([(0, 29)])                      # a row of five stills
    it.press("ArrowDown", "ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "v"); assert it.labels == Spans([(0, 29), (36, 53)])
    it.press("Home", " "); assert it.labels == Spans([(6, 29), (36, 53)])
    it.press("PageDown", "Shift+V"); assert it.labels == Spans([(6, 29), (36, 53), (150, 299)])
    it.press("e"); assert it.labels == Spans([(6, 29), (36, 53), (180, 299)])
    it.press("Home", "Shift+E", "End", "i"); assert it.labels == Spans([(0, 179), (300, 599)])
    it.press("n", "PageUp", "?", "a", "+", "-", "[", "x")
    assert it.page.locator(".keys").is_visible() and not it.page.evaluate("leaked.length")
    it.page.locator("#outside").focus(); it.press("v")
    assert it.page.evaluate("leaked.length") and it.labels == Spans([(0, 179), (300, 599)])


def test_n_finds_what_nobody_has_looked_at_then_what_is_not_valid(labeler):
    it = labeler()
    it.press("v")
    for frame in (150, 300, 450, 30): it.press("n"); assert f"frames {frame}–" in it.status
    assert "100 % seen" in it.status


def test_suggestions_are_faint_until_one_key_accepts_them(labeler):
    it = labeler(suggestions=[[12, 29], [60, 119], [400, 499]])
    assert not it.labels and it.page.locator("button.accept").is_enabled()
    it.press("a"); assert it.labels == Spans([(12, 29)])
    it.press("a"); assert it.labels == Spans([(12, 29), (60, 119)]) and "frames 396–" in it.status
    it.press("Control+z"); assert it.labels == Spans([(12, 29)])
    it.press("Shift+A"); assert it.labels == Spans([(12, 29), (60, 119), (400, 499)])
    assert it.page.locator("button.accept").is_disabled()


@pytest.mark.parametrize("keys, step", [("+", 2), ("++", 1), ("-", 30)])
def test_denser_and_sparser_stills_are_as_exact(labeler, keys, step):
    it = labeler()
    it.press(*keys); it.rest()
    assert it.all_shown(20) == list(range(0, 20 * step, step))
    it.drag(it.point(3), it.point(7))
    assert it.labels == Spans([(3 * step, 8 * step - 1)])


@pytest.mark.parametrize("dead", ["silent", "throws"])
def test_a_dead_kernel_is_seen_and_the_work_comes_back(labeler, dead):
    it = labeler()
    it.drag(it.point(0), it.point(1))
    it.page.evaluate(f"hasten(); model.dead = '{dead}'")
    it.drag(it.point(5), it.point(6)); it.press("Control+z", "i")
    it.page.wait_for_function("document.querySelector('.banner').textContent")
    assert "NOT SAVED" in it.banner and "3 edits are kept" in it.banner and "not saved yet" in it.status
    assert it.labels == Spans([(0, 11)])
    it.load()                                                # the kernel and the page start again
    it.rest()
    assert it.labels == Spans([(12, 599)]) and not it.banner and "saved in" in it.status
    assert [e["do"] for e in read_journal(it.out / "route 1.journal.jsonl") if e.get("do", "seen") != "seen"] == ["add", "add", "undo", "invert"]
    it.load(); assert it.labels == Spans([(12, 599)])        # and once only


def test_a_kernel_that_was_only_busy_counts_no_edit_twice(labeler):
    it = labeler()
    it.page.evaluate("hasten(); model.hold = true")
    it.press("i"); it.page.wait_for_function("document.querySelector('.banner').textContent.startsWith('NOT SAVED')")
    it.page.evaluate("model.release()"); it.page.wait_for_function("!document.querySelector('.banner').textContent"); it.rest()
    assert it.labels == Spans([(0, 599)]) and not it.banner and it.page.locator("button.undo").is_enabled()


def test_a_disk_that_says_no(labeler, tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    it = labeler()
    it.page.evaluate("hasten()")
    it.drag(it.point(0), it.point(1))
    assert "NOT SAVED: cannot write" in it.banner and "1 edit is kept" in it.banner
    (tmp_path / "out").unlink()
    it.page.wait_for_function("!document.querySelector('.banner').textContent")     # the page asks again by itself
    assert it.labels == Spans([(0, 11)]) and not it.banner


@pytest.mark.parametrize("where, error", [("pathlib.Path.mkdir", errno.EROFS), ("os.fsync", errno.ENOSPC)])
def test_edits_that_the_disk_refuses_are_not_saved_and_not_lost(labeler, monkeypatch, where, error):
    "A read-only folder, and a disk that is full: until it takes them they are counted, also by a page and a kernel that start again meanwhile."
    it = labeler()
    it.drag(it.point(0), it.point(1))
    with monkeypatch.context() as disk:
        def refuse(*_, **__): raise OSError(error, os.strerror(error))
        disk.setattr(where, refuse)
        it.drag(it.point(5), it.point(6)); it.press("i")
        for _ in range(2):
            assert "NOT SAVED" in it.banner and os.strerror(error) in it.banner and "2 edits are kept" in it.banner
            assert "not saved yet" in it.status and it.labels == Spans([(0, 11)])
            it.load()
        it.page.evaluate("hasten()"); it.press("v"); assert "3 edits are kept" in it.banner
    it.page.wait_for_function("!document.querySelector('.banner').textContent")     # nobody does anything: the page asks again by itself
    assert it.labels == it.session.video.labels.spans == Spans([(0, 29), (42, 599)]) and "saved in route 1.json" in it.status
    assert [e["do"] for e in read_journal(it.out / "route 1.journal.jsonl") if e.get("do", "seen") != "seen"] == ["add", "add", "invert", "add"]
    assert not it.page.evaluate("localStorage.length")


def test_the_next_page_is_there_before_it_is_asked_for(labeler):
    it = labeler()
    it.page.evaluate("model.dead = 'silent'")
    it.press("PageDown")
    assert it.all_shown(25) == list(range(150, 300, 6))


def test_whoever_scrolls_fast_asks_once(labeler):
    it = labeler()
    it.asked.clear()
    it.page.evaluate("for (let k = 0; k < 3; k++) document.querySelector('button.down').click()")
    it.rest()
    assert [m["first"] for m in it.asked if m["do"] == "look"] == [450]


def test_a_folder(labeler, video, tmp_path):
    (tmp_path / "v").mkdir()
    for name in ("a.mp4", "b.mp4"): shutil.copy(video, tmp_path / "v" / name)
    (tmp_path / "v" / "c.mp4").write_text("no video")
    it = labeler(video=tmp_path / "v")
    it.drag(it.point(0), it.point(9)); it.press("Shift+N")
    it.rest()
    assert "b.json" in it.status and it.page.locator("select option").all_inner_texts()[0].startswith("a.mp4 · 10 % valid, 25 % seen")
    it.drag(it.point(0), it.point(0)); it.page.locator("button.next").click(); it.rest()
    assert "not a readable video" in it.banner and it.page.locator("select").input_value() == "1"
    assert load_labels(it.out, tmp_path / "v" / "a.mp4") == Spans([(0, 59)]) and load_labels(it.out, tmp_path / "v" / "b.mp4") == Spans([(0, 5)])
