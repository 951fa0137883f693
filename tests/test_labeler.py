import io, json, subprocess, sys
from importlib.resources import files
import numpy as np, pytest
from PIL import Image
from hypothesis import given, settings, strategies as st
from pokeidm import labeler
from pokeidm.core import PokeidmError
from pokeidm.labeler import Session, Spans, TimelineLabeler, labels_path, load_labels, save_labels, video_digest, video_facts
from pokeidm.video import barcode, read_barcode, write_clip

N = 40
pair = st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)).map(sorted)


def clip(path, n=60, times=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, (barcode(i, 96, 144) for i in range(n)), np.arange(n) / 30 if times is None else times, **options)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory): return clip(tmp_path_factory.mktemp("videos") / "route 1.abc.mp4")


@settings(deadline=None)
@given(st.lists(pair, max_size=6), st.lists(st.tuples(st.sampled_from(["add", "erase", "invert", "union"]), pair), max_size=8))
def test_spans_behave_like_a_set_of_frames(start, steps):
    spans, model = Spans(start), {f for a, b in start for f in range(a, b + 1)}
    for do, (a, b) in steps:
        new = set(range(a, b + 1))
        if do == "invert": spans, model = spans.invert(N), set(range(N)) - model
        elif do == "union": spans, model = spans.union(Spans([(a, b)])), model | new
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
    answers = list(session.handle({"do": "window", "video": 0, "first": 0, "last": 999}))
    shown = {m["still"]: read_barcode(np.array(Image.open(io.BytesIO(data)))) for m, [data] in answers}
    assert shown == dict(enumerate(numbers.tolist())) and len(shown) > 4
    ends = [v.frames(i, i) for i in range(len(numbers))]
    assert [a for a, _ in ends] == [0] + [b + 1 for _, b in ends[:-1]] and ends[-1][1] == message["video"]["n"] - 1 == 59
    assert all(a <= f <= b for f, (a, b) in zip(numbers, ends))


def test_edits_survive_a_new_session(video, tmp_path):
    first = Session(video, tmp_path)
    first.handle({"do": "add", "video": 0, "first": 4, "last": 2})              # dragged backwards
    [(answer, _)] = Session(video, tmp_path).handle({"do": "open"})
    assert answer["spans"] == [(12, 29)] and load_labels(tmp_path, video) == Spans([(12, 29)])


def test_history(video, tmp_path):
    session = Session(video, tmp_path)
    def do(what, *stills): return session.handle({"do": what, "video": 0, **dict(zip(("first", "last"), stills))})[0][0]["spans"]
    states = [do("add", 0, 1), do("add", 3, 3), do("erase", 0, 0), do("invert")]
    assert do("erase", 3, 3) == states[-1]                                      # nothing to erase: no step of history
    assert [do("undo") for _ in range(5)] == [*states[-2::-1], [], []]
    assert [do("redo") for _ in range(2)] == states[:2]
    new = do("add", 9, 9)
    assert do("redo") == new and load_labels(tmp_path, video) == Spans(new)     # a new edit ends the old future


def test_a_folder_with_a_bad_video_and_two_of_one_name(tmp_path):
    (tmp_path / "v/0_bad.mp4").parent.mkdir(); (tmp_path / "v/0_bad.mp4").write_text("no video"); (tmp_path / "v/notes.txt").touch()
    clip(tmp_path / "v/ruby/a.mp4"); clip(tmp_path / "v/sapphire/a.mp4", n=50)
    session = Session(tmp_path / "v", tmp_path / "out")
    [(answer, _)] = session.handle({"do": "open"})
    assert answer["videos"] == ["0_bad.mp4", "a.mp4", "a.mp4"] and answer["video"]["number"] == 1
    session.handle({"do": "add", "video": 1, "first": 0, "last": 0})
    for number, words in [(0, "not a readable video"), (2, "another video"), (7, "")]:
        [(answer, _)] = session.handle({"do": "open", "video": number})
        assert answer["is"] == "error" and words in answer["text"] and session.video.number == 1
    assert session.handle({"do": "add", "video": 2, "first": 0, "last": 9}) == []
    assert load_labels(tmp_path / "out", tmp_path / "v/ruby/a.mp4") == Spans([(0, 5)])


@pytest.mark.parametrize("message", [{}, {"do": "format disk", "video": 0}, {"do": "window"}, {"do": "add", "video": 0, "first": "x", "last": 1},
                                     {"do": "open", "video": "x"}])
def test_nonsense_from_the_page_is_answered_not_raised(video, tmp_path, message):
    [(answer, _)] = Session(video, tmp_path).handle({"video": 0, **message})
    assert answer["is"] == "error" and not list(tmp_path.iterdir())


def test_the_newest_window_wins(video, tmp_path):
    session = Session(video, tmp_path)
    first, second = (session.handle({"do": "window", "video": 0, "first": a, "last": a + 3}) for a in (0, 6))
    assert list(first) == [] and [m["still"] for m, _ in second] == [6, 7, 8, 9]


def test_the_widget_answers_edits_while_stills_are_decoded(video, tmp_path):
    pytest.importorskip("anywidget")
    widget, sent = TimelineLabeler(video, tmp_path), []
    widget.send = lambda content, buffers=None: sent.append(content)
    widget.answer({"do": "window", "video": 0, "first": 0, "last": 99})
    widget.answer({"do": "add", "video": 0, "first": 1, "last": 1})
    widget.answer({"do": "window", "video": 0})
    widget._decoder.shutdown()
    assert {m["is"] for m in sent} == {"still", "spans", "error"} and load_labels(tmp_path, video) == widget.spans == Spans([(6, 11)])
    assert "export default" in (files("pokeidm") / "static" / "labeler.js").read_text()


def test_memory_of_stills_is_bounded(video, tmp_path):
    session = Session(video, tmp_path)
    session.pictures.limit = 3000
    assert len(list(session.handle({"do": "window", "video": 0, "first": 0, "last": 9}))) == 10
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
