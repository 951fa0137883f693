import io, json, subprocess, sys
from importlib.resources import files
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from hypothesis import given, settings, strategies as st
from pokeidm import labeler
from pokeidm.core import PokeidmError
from pokeidm.labeler import (History, Labels, Session, Spans, TimelineLabeler, _numbers, actions, append_journal, find_suggestions, glimpse, labels_path, load_labels,
                             progress_of, read_journal, save_labels, suggest, video_digest, video_facts)
from pokeidm.video import barcode, index_video, read_barcode, read_frames, write_clip

N = 40
pair = st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)).map(sorted)


def clip(path, n=60, times=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, (barcode(i, 96, 144) for i in range(n)), np.arange(n) / 30 if times is None else times, **options)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory): return clip(tmp_path_factory.mktemp("videos") / "route 1.abc.mp4")


@settings(deadline=None)
@given(st.lists(pair, max_size=6), st.lists(st.tuples(st.sampled_from(["add", "erase", "invert", "union", "without"]), pair), max_size=8))
def test_spans_behave_like_a_set_of_frames(start, steps):
    spans, model = Spans(start), {f for a, b in start for f in range(a, b + 1)}
    for do, (a, b) in steps:
        new = set(range(a, b + 1))
        if do == "invert": spans, model = spans.invert(N), set(range(N)) - model
        elif do == "union": spans, model = spans.union(Spans([(a, b)])), model | new
        elif do == "without": spans, model = spans.without(Spans([(a, b), (0, 0)])), model - new - {0}
        else: spans, model = getattr(spans, do)(a, b), model | new if do == "add" else model - new
    assert spans.frames() == sorted(model) and len(spans) == len(model)
    assert [f in spans for f in range(N)] == [f in model for f in range(N)]
    assert spans == Spans.from_frames(model)                                # one set, one form
    assert all(b + 1 < c for (_, b), (c, _) in zip(spans.pairs, spans.pairs[1:]))


@pytest.mark.parametrize("bad", [(5, 3), (-1, 2)])
def test_spans_refuse(bad):
    with pytest.raises(PokeidmError): Spans([bad])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)).map(sorted), max_size=5))
def test_the_file_is_every_frame_of_every_span(video, tmp_path_factory, pairs):
    out, spans, facts = tmp_path_factory.mktemp("labels"), Spans(pairs), video_facts(video)
    save_labels(out, video, spans, facts)
    chunks = json.loads((out / "route 1.abc.json").read_text())
    assert chunks == [list(range(a, b + 1)) for a, b in spans]
    meta = json.loads((out / "route 1.abc.meta.json").read_text())
    assert meta["spans"] == [list(p) for p in spans] and (meta["frames"], meta["size"], meta["fps"]) == (60, video.stat().st_size, 30)
    assert load_labels(out, video) == spans
    assert sorted(p.name for p in out.iterdir()) == ["route 1.abc.json", "route 1.abc.meta.json"]


@pytest.mark.parametrize("text, words", [("{}", "list of lists"), ("[1, 2]", "list of lists"), ('[["1"]]', "list of lists"), ("[[1.5]]", "list of lists"),
    ("[[true]]", "list of lists"), ("[[-1]]", "list of lists"), ("[[1", "JSON"), ("[[59, 60]]", "another video")])
def test_bad_label_files_get_a_line(video, tmp_path, text, words):
    labels_path(tmp_path, video).write_text(text)
    with pytest.raises(PokeidmError, match=words): load_labels(tmp_path, video)


def test_labels_by_hand_need_no_sidecar(video, tmp_path):
    labels_path(tmp_path, video).write_text("[[7, 5, 6], [], [9]]")
    assert load_labels(tmp_path, video) == Spans([(5, 7), (9, 9)])


@pytest.mark.parametrize("size", [1, 1000, 10 * 2**20])
def test_digest_sees_other_videos(tmp_path, size):
    data = bytearray(np.random.default_rng(0).bytes(size))
    (tmp_path / "a").write_bytes(data); data[-1] ^= 1
    (tmp_path / "b").write_bytes(data); (tmp_path / "c").write_bytes(data + b"\0")
    assert len({video_digest(tmp_path / n) for n in "abc"}) == 3
    (tmp_path / "empty").write_bytes(b"")
    assert video_digest(tmp_path / "empty")


@pytest.mark.parametrize("make", [dict(), dict(bf=3, g=20), dict(times=np.arange(60) / 29.97 + 1.7), dict(times=np.cumsum(np.tile([1, 3, 1, 1], 15)) / 60)])
def test_stills_show_the_frames_they_name_and_tile_the_video(tmp_path, make):
    session = Session(clip(tmp_path / "a.mp4", **make), tmp_path / "out")
    [(message, [numbers])] = session.handle({"do": "open"})
    numbers, v = np.frombuffer(numbers, "<i4"), session.video
    answers = list(session.handle({"do": "look", "video": 0, "near": [n - 1 for n in numbers.tolist()[1:3]], "stills": [numbers.tolist()], "first": 0, "last": 59}))
    pictures = [(m, read_barcode(np.array(Image.open(io.BytesIO(data[0]))))) for m, data in answers if m["is"] == "still"]
    assert all(m["frame"] == seen for m, seen in pictures) and [m["near"] for m, _ in pictures[:3]] == [True, True, False]
    assert [seen for m, seen in pictures if not m["near"]] == numbers.tolist() and len(numbers) > 4 and numbers[0] == 0
    assert answers[-1][0] == {"is": "seen", "video": 0, "seen": [(0, 59)]} and v.labels.seen == Spans([(0, 59)])


@pytest.mark.parametrize("make", [dict(), dict(bf=3, g=20), dict(times=np.arange(200) / 29.97 + 1.7), dict(times=np.cumsum(np.tile([1, 3, 1, 1], 50)) / 60)])
def test_the_first_minute_is_numbered_like_the_whole(tmp_path, make):
    path = clip(tmp_path / "a.mp4", n=200, **make)
    part, whole = glimpse(path, packets=120)
    index = index_video(path)
    assert not whole and 40 < part.n < 120 and np.array_equal(part.pts, index.pts[:part.n]) and part.time_base == index.time_base
    assert np.array_equal(part.keys, index.keys[index.keys < part.n]) and glimpse(path)[1]


def test_a_first_minute_that_marks_no_key_frame_can_be_read(tmp_path, monkeypatch):
    path, found = clip(tmp_path / "a.mp4", n=200), labeler._packet_times
    monkeypatch.setattr(labeler, "_packet_times", lambda *a: (lambda pts, keys, complete: (pts, [False] * len(keys), complete))(*found(*a)))
    part, whole = glimpse(path, packets=120)
    assert not whole and part.keys.tolist() == [0] and [n for n, _ in read_frames(path, part, [5])] == [5]


def test_a_long_video_is_shown_before_it_is_indexed_and_edits_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(labeler.glimpse, "__defaults__", (120, 16))
    path, out = clip(tmp_path / "a.mp4", n=200), tmp_path / "out"
    save_labels(out, path, Spans([(150, 160)]))
    session = Session(path, out)
    [(early, [some])] = session.handle({"do": "open"})
    looked = session.handle({"do": "look", "video": 0, "stills": [[0, 6]], "first": 0, "last": 11})
    assert not early["video"]["whole"] and early["spans"] == [] and 40 < early["video"]["n"] < 120 and next(looked)[0]["frame"] == 0
    [(late, [all_])] = session.handle({"do": "whole", "video": 0})
    assert late["video"]["whole"] and late["spans"] == [(150, 160)] and late["video"]["n"] == 200 and all_.startswith(some)
    [(answer, _)] = Session(path, out).handle({"do": "add", "video": 0, "first": 190, "last": 195})
    assert answer["spans"] == [(150, 160), (190, 195)] and load_labels(out, path) == Spans(answer["spans"])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30_000), st.integers(0, 12_000))
def test_numbers_as_text(first, more): assert _numbers(first, first + more) == ", ".join(map(str, range(first, first + more + 1)))


EDIT = st.one_of(st.builds(lambda do, p: {"do": do, "first": p[0], "last": p[1]}, st.sampled_from(["add", "erase", "seen"]), pair),
                 st.sampled_from([{"do": do} for do in ("undo", "undo", "redo", "invert")]))
FACTS = {"video": "a.mp4", "fps": 30, "frames": N, "size": 1, "digest": "0"}


def everything(history): return history.spans, history.seen, history.past, history.future


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(EDIT, st.booleans(), st.booleans()), max_size=12))
def test_history_survives_any_restart(tmp_path_factory, steps):
    "Also when the machine stops in the middle of a line, and when a page sends an edit twice."
    out, video = tmp_path_factory.mktemp("labels"), Path("a.mp4")
    plain, labels = History(N), Labels(out, video, FACTS)
    for k, (edit, restart, torn) in enumerate(steps):
        edit = {**edit, "id": f"{k}"}
        plain.apply(edit); labels.do(edit); labels.do(edit)
        if torn: labels.disk.journal.open("a").write('\n{"do": "inv')
        if restart: labels = Labels(out, video, FACTS)
        assert everything(labels.history) == everything(plain) and load_labels(out, video, FACTS) == plain.spans and not labels.problem


def test_a_torn_line_never_swallows_the_next(tmp_path):
    for k in range(3):
        append_journal(tmp_path / "j", [{"do": "add", "first": k, "last": k}, {"do": "undo"}])
        with open(tmp_path / "j", "ab") as f: f.write(b'\n{"do": "inv')
    assert [e["do"] for e in read_journal(tmp_path / "j")] == ["add", "undo"] * 3


def test_the_journal_only_grows_and_the_version_before_is_kept(video, tmp_path):
    labels, facts, before = Labels(tmp_path, video, video_facts(video)), video_facts(video), b""
    for k in range(4):
        old = labels.disk.path.read_bytes() if k else None
        labels.do({"do": "add", "first": 10 * k, "last": 10 * k + 5})
        assert labels.disk.journal.read_bytes().startswith(before); before = labels.disk.journal.read_bytes()
        if k: assert (tmp_path / "route 1.abc.json~").read_bytes() == old
    assert Labels(tmp_path, video, facts).spans == labels.spans and len(read_journal(labels.disk.journal)) == 5


def test_two_windows_on_one_video_lose_nothing(video, tmp_path):
    one, two = (Labels(tmp_path, video, video_facts(video)) for _ in range(2))
    one.do({"do": "add", "first": 0, "last": 5}); two.do({"do": "add", "first": 10, "last": 15}); one.do({"do": "add", "first": 20, "last": 25})
    assert load_labels(tmp_path, video) == one.spans == Labels(tmp_path, video, video_facts(video)).spans == Spans([(0, 5), (10, 15), (20, 25)])


def test_labels_deleted_by_hand_are_gone_and_can_be_had_back(video, tmp_path):
    labels = Labels(tmp_path, video, video_facts(video)); labels.do({"do": "add", "first": 0, "last": 5}); labels.disk.path.unlink()
    labels = Labels(tmp_path, video, video_facts(video)); assert labels.spans == Spans() and not labels.disk.path.exists()
    labels.do({"do": "undo"}); assert load_labels(tmp_path, video) == Spans([(0, 5)])
    labels.disk.path.unlink(); labels.do({"do": "add", "first": 9, "last": 9}); assert load_labels(tmp_path, video) == Spans([(0, 5), (9, 9)])   # while it is open: kept


def test_the_journal_of_another_video_is_not_ours(video, tmp_path):
    other = Labels(tmp_path, video, {**video_facts(video), "digest": "f" * 64, "frames": 99}); other.do({"do": "add", "first": 0, "last": 50})
    with pytest.raises(PokeidmError, match="another video"): Labels(tmp_path, video, video_facts(video))
    for p in (other.disk.path, other.disk.path.with_suffix(".meta.json")): p.unlink()
    labels = Labels(tmp_path, video, video_facts(video)); assert labels.spans == Spans() and not labels.history.past
    labels.do({"do": "add", "first": 1, "last": 2}); assert Labels(tmp_path, video, video_facts(video)).spans == Spans([(1, 2)])


@pytest.mark.parametrize("where", ["open", "fsync"])
def test_a_full_disk_keeps_the_work(video, tmp_path, monkeypatch, where):
    import errno, os
    labels = Labels(tmp_path / "out", video, video_facts(video)); labels.do({"do": "add", "first": 0, "last": 5})
    def full(*a, **k): raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(*((labeler.Path, "write_text") if where == "open" else (os, "fsync")), full)
        labels.do({"do": "add", "first": 10, "last": 15, "id": "a"}); labels.see(0, 9)
        assert "No space left" in labels.problem and "free some space" in labels.problem and labels.spans == Spans([(0, 5), (10, 15)])
        again = Labels(tmp_path / "out", video, video_facts(video)); again.do({"do": "add", "first": 10, "last": 15, "id": "a"})      # a kernel that starts meanwhile, told by the page
        assert again.spans == labels.spans
    assert load_labels(tmp_path / "out", video) in (Spans([(0, 5)]), labels.spans)
    labels.save()
    assert not labels.problem and load_labels(tmp_path / "out", video) == labels.spans == Labels(tmp_path / "out", video, video_facts(video)).spans
    assert not list((tmp_path / "out").glob(".*"))


def test_edits_survive_a_new_session(video, tmp_path):
    first = Session(video, tmp_path)
    first.handle({"do": "add", "video": 0, "first": 29, "last": 12})            # dragged backwards
    [(answer, _)] = Session(video, tmp_path).handle({"do": "open"})
    assert answer["spans"] == [(12, 29)] and load_labels(tmp_path, video) == Spans([(12, 29)]) and answer["undo"] == 1


def test_history(video, tmp_path):
    session = Session(video, tmp_path)
    def do(what, *frames): return session.handle({"do": what, "video": 0, **dict(zip(("first", "last"), frames))})[0][0]["spans"]
    states = [do("add", 0, 11), do("add", 18, 23), do("erase", 0, 5), do("invert")]
    assert do("erase", 18, 23) == states[-1]                                    # nothing to erase: no step of history
    assert [do("undo") for _ in range(5)] == [*states[-2::-1], [], []]
    assert [do("redo") for _ in range(2)] == states[:2]
    new = do("add", 54, 59)
    assert do("redo") == new and load_labels(tmp_path, video) == Spans(new)     # a new edit ends the old future


def test_an_edit_of_nothing_says_that_nothing_is_valid(video, tmp_path):
    Session(video, tmp_path).handle({"do": "erase", "video": 0, "first": 0, "last": 59})
    assert load_labels(tmp_path, video) == Spans() and labels_path(tmp_path, video).read_text() == "[]\n"


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(["cut", "battle", "identical", "scroll"]), st.lists(pair, max_size=4)), st.sampled_from([1.0, 10.0, 20.0]))
def test_suggestions_keep_clear_of_what_is_flagged(flags, fps):
    spans = suggest(flags, N, fps)
    bad = Spans([s for name in ("cut", "battle") for s in flags.get(name, ())])
    assert all(b - a + 1 >= fps / 2 and b < N for a, b in spans)
    assert all(b - a + 1 < fps / 5 for a, b in _inside(bad, spans))                 # only short holes are closed
    assert suggest({}, N, fps) == Spans([(0, N - 1)]) and actions(spans, spans) == 0 and actions(spans) == len(spans.pairs)


def _inside(a, b): return a.without(b.invert(N))


def test_suggestions_are_found_or_left_out(video, tmp_path):
    index = index_video(video)
    for name, meta in {"other": {"source": "x.mp4", "source_frames": 60, "flags": {"cut": [[0, 59]]}}, "abc": {"source": video.name, "source_frames": 60, "flags": {"menu": [[0, 48], [58, 900]]}},
                       "old": {"source": video.name, "source_frames": 61, "flags": {}}, "list": []}.items():
        (tmp_path / "g" / name).mkdir(parents=True); (tmp_path / "g" / name / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "g/bad").mkdir(); (tmp_path / "g/bad/meta.json").write_text("{")
    assert find_suggestions(tmp_path, video, index) == find_suggestions(tmp_path / "g/abc/meta.json", video, index) == Spans()      # 9 frames are too few
    assert find_suggestions({"cut": [[10, 70]]}, video, index) == Spans() and find_suggestions([[55, 70], [99, 100]], video, index) == Spans([(55, 59)])
    assert find_suggestions(tmp_path / "nothing", video, index) == find_suggestions(None, video, index) == Spans()
    [(answer, _)] = Session(video, tmp_path / "out", suggestions={}).handle({"do": "open"})
    assert answer["suggestions"] == [(0, 59)]


def test_a_folder_with_a_bad_video_and_two_of_one_name(tmp_path):
    (tmp_path / "v/0_bad.mp4").parent.mkdir(); (tmp_path / "v/0_bad.mp4").write_text("no video"); (tmp_path / "v/notes.txt").touch()
    clip(tmp_path / "v/ruby/a.mp4"); clip(tmp_path / "v/sapphire/a.mp4", n=50)
    session = Session(tmp_path / "v", tmp_path / "out")
    [(answer, _)] = session.handle({"do": "open"})
    assert [v["name"] for v in answer["videos"]] == ["0_bad.mp4", "a.mp4", "a.mp4"] and answer["video"]["number"] == 1
    session.handle({"do": "add", "video": 1, "first": 0, "last": 5})
    for number, words in [(0, "not a readable video"), (2, "another video"), (7, "")]:
        [(answer, _)] = session.handle({"do": "open", "video": number})
        assert answer["is"] == "error" and words in answer["text"] and session.video.number == 1
    [(answer, _)] = session.handle({"do": "open", "video": 1})
    assert [(v["valid"], v["seen"]) for v in answer["videos"]][:2] == [(0, 0), (0.1, 0)]
    assert session.handle({"do": "add", "video": 2, "first": 0, "last": 9}) == []
    assert load_labels(tmp_path / "out", tmp_path / "v/ruby/a.mp4") == Spans([(0, 5)])


@pytest.mark.parametrize("message", [{}, {"do": "format disk", "video": 0}, {"do": "look"}, {"do": "look", "stills": 3, "first": 0, "last": 1}, {"do": "add", "video": 0, "first": "x", "last": 1},
    {"do": "add", "first": 1}, {"do": "add", "first": float("inf"), "last": 1}, {"do": "invert", "id": []}, {"do": "set", "spans": [[0, 5]]}, {"do": "density", "fps": "x"}, {"do": "density", "fps": -1}, {"do": "open", "video": "x"}])
def test_nonsense_from_the_page_is_answered_not_raised(video, tmp_path, message):
    [(answer, _)] = Session(video, tmp_path).handle({"video": 0, **message})
    assert answer["is"] == "error" and not list(tmp_path.iterdir())


def look(*stills, **more): return {"do": "look", "video": 0, "stills": stills, "first": 0, "last": 5, **more}


def test_the_newest_request_wins(video, tmp_path):
    session = Session(video, tmp_path)
    first, second = session.handle(look([0, 6])), session.handle(look([36, 42], [0], first=36, last=47))
    assert list(first) == [] and [m.get("frame", m["is"]) for m, _ in second] == [36, 42, "seen", 0]
    assert session.video.labels.seen == Spans([(36, 47)])                       # what was scrolled past was not seen


def test_seen_survives_and_counts_as_progress(video, tmp_path):
    list(Session(video, tmp_path).handle(look([0], last=29)))
    session = Session(video, tmp_path)
    assert session.video.labels.seen == Spans([(0, 29)]) and progress_of(tmp_path, video) == (0, 0.5) and not labels_path(tmp_path, video).exists()
    session.handle({"do": "add", "video": 0, "first": 0, "last": 14}); assert progress_of(tmp_path, video) == (0.25, 0.5)
    labels_path(tmp_path, video).with_suffix(".meta.json").write_text("[]"); assert progress_of(tmp_path, video) == (0, 0)


def test_density(video, tmp_path):
    session = Session(video, tmp_path)
    for fps, count in ((1, 2), (0, 60), (15, 30), (5, 10)):
        [(answer, [numbers])] = session.handle({"do": "density", "video": 0, "fps": fps})
        assert len(np.frombuffer(numbers, "<i4")) == count and answer["video"]["density"] == fps


def test_the_widget_answers_edits_while_stills_are_decoded(video, tmp_path):
    pytest.importorskip("anywidget")
    widget, sent = TimelineLabeler(video, tmp_path), []
    widget.send = lambda content, buffers=None: sent.append(content)
    for message in ({"do": "open"}, look(list(range(60))), {"do": "add", "video": 0, "first": 6, "last": 11}, {"do": "look", "video": 0}, {"do": "ping"}): widget.answer(message)
    widget._decoder.shutdown()
    assert {m["is"] for m in sent} == {"video", "still", "spans", "seen", "error", "pong"} and load_labels(tmp_path, video) == widget.spans == Spans([(6, 11)])
    assert "export default" in (files("pokeidm") / "static" / "labeler.js").read_text()


def test_memory_of_stills_is_bounded(video, tmp_path):
    session = Session(video, tmp_path)
    session.pictures.limit = 3000
    assert sum(m["is"] == "still" for m, _ in session.handle(look(list(range(10))))) == 10
    assert 0 < session.pictures.size == sum(map(len, session.pictures.kept.values())) <= 3000


def test_import_is_light_and_the_rest_works_without_anywidget():
    code = """if 1:
        import sys; sys.modules['anywidget'] = None
        from pokeidm import labeler
        assert not {'torch', 'matplotlib', 'ipywidgets'} & sys.modules.keys()
        try: labeler._widget_class()
        except labeler.PokeidmError as e: assert "pokeidm[notebooks]" in str(e)
        else: raise SystemExit(1)"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
