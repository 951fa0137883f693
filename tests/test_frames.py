"What 08_frames' own assertions do not hold: exact rows, labels, jumps, collisions, interruption, damage, hostile files, a full disk."
import pickle, subprocess, sys, tempfile
from pathlib import Path
import numpy as np, pytest
from hypothesis import given, strategies as st
from pokeidm import frames as F
from pokeidm.core import PokeidmError, write_json
from pokeidm.flags import DROP, FLAGS, change_share
from pokeidm.frames import _PackedRows, _segments, extract, list_videos, open_frames, truth_of, why_dropped
from pokeidm.video import barcode, read_barcode, write_clip
from clips import clip, game

# ---------- extraction

def test_rows_are_the_source_frames_they_claim(tmp_path):
    "Barcoded pictures at 29.97: index, time and tick of every row."
    n = 200
    write_clip(tmp_path/"bars.mp4", [barcode(i, 128, 512) for i in range(n)], np.arange(n)*1001/30000 + 3, preset="veryfast", bf=3)
    store = open_frames(extract(tmp_path/"bars.mp4", tmp_path/"frames", "g", target_height=128))
    meta = store.meta["frames"]
    assert store.shape[1:] == (128, 512, 3) and len(store) == 67
    assert [read_barcode(p) for p in store.rows(0, len(store))] == meta["index"].tolist()
    assert np.allclose(np.array(meta["tick"])/10, meta["time"], atol=0.02) and np.allclose(meta["time"], np.array(meta["index"])*1001/30000, atol=1e-4)

def test_meta_agrees_with_itself(walk, tmp_path):
    store = open_frames(extract(walk, tmp_path, "toy", target_height=80))
    m = store.meta
    assert m["version"] == 1 and m["source"] == "walk.mp4" and len(m["sha256"]) == 64 and (m["width"], m["height"]) == (120, 80)
    assert all(len(v) == m["n"] == len(store) for v in m["frames"].values()) and sum(m["shards"]) == m["n"]
    assert m["segments"][0][0] == 0 and m["segments"][-1][1] == m["n"] and all(a[1] == b[0] for a, b in zip(m["segments"], m["segments"][1:]))
    for a, b in m["segments"]: assert m["frames"]["change"][a] == 0 and np.all(np.diff(m["frames"]["tick"][a:b]) == 1)
    again = change_share(store.rows(1, 30), store.rows(0, 29))
    assert np.allclose(again, m["frames"]["change"][1:30], atol=1e-4)

def test_only_labelled_spans_are_extracted_and_never_joined(walk, tmp_path):
    write_json(tmp_path/"labels"/"walk.json", [list(range(10, 31)), list(range(33, 64))])
    meta = open_frames(extract(walk, tmp_path/"frames", "toy", labels_dir=tmp_path/"labels")).meta
    assert meta["frames"]["index"].tolist() == [12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 54, 57, 60, 63]
    assert meta["segments"] == [[0, 7], [7, 18]] and meta["cuts"] == [{"row": 7, "index": 33, "reason": "label", "dropped": 0}]
    write_json(tmp_path/"labels"/"walk.json", [])
    with pytest.raises(PokeidmError): extract(walk, tmp_path/"none", "toy", labels_dir=tmp_path/"labels")
    assert not (tmp_path/"none"/"toy"/"walk").exists()

def test_intro_and_outro_are_left_out_of_long_videos_unless_labelled(walk, tmp_path, monkeypatch):
    index = lambda **k: open_frames(extract(walk, tmp_path, "toy", target_height=40, **k)).meta["frames"]["index"].tolist()
    assert index()[0] == 0 and index(skip_intro=1)[0] == 30 and index(skip_outro=0.5)[-1] == 72
    monkeypatch.setattr(F, "LONG", 2.0); monkeypatch.setattr(F, "INTRO", 0.5)
    assert index()[0] == 15 and index()[-1] == 72 and index(skip_intro=0)[0] == 0
    write_json(tmp_path/"labels"/"walk.json", [list(range(90))])
    assert index(labels_dir=tmp_path/"labels")[0] == 0

def test_chapters_at_known_bad_places_are_left_out(tmp_path):
    path = clip(tmp_path/"run.mp4", game())
    write_json(path.with_suffix(".info.json"), {"version": 1, "id": "x", "title": "t", "chapters": [{"start": 0, "end": 1, "title": "Viridian"},
        {"start": 1, "end": 2, "title": "Koga's Gym"}, {"start": 2, "end": 3, "title": "Kogasville"}]})
    table = {"toy": {"title": "Toy", "console": "GBA", "search": [], "names": ["toy"], "bad": [{"words": ["koga"], "why": "floor pads teleport"}]}}
    meta = open_frames(extract(path, tmp_path/"f", "toy", target_height=40, games=table)).meta
    times = meta["frames"]["time"]
    assert len(times) == 20 and not ((times >= 1) & (times < 2)).any() and meta["cuts"][0]["reason"] == "gap"
    assert meta["origin"]["title"] == "t" and meta["bad_spans"] == [[1.0, 2.0, "floor pads teleport"]]
    assert len(open_frames(extract(path, tmp_path/"other", "toy", target_height=40, games={}))) == 30

@given(st.lists(st.tuples(*[st.booleans()]*3), min_size=1, max_size=40), st.sampled_from([0, 0.25, 1]), st.integers(0, 3), st.sets(st.sampled_from(["fade", "battle"])))
def test_every_row_is_kept_or_dropped_for_a_reason_and_segments_hold_no_gap(rows, jump, most, drop):
    flags = {name: np.array([r[k] for r in rows]) for k, name in enumerate(("fade", "battle", "identical"))}
    why = why_dropped(flags, np.arange(len(rows))/10, tuple(sorted(drop)), jump, most)
    kept, segments, cuts, dropped = _segments(np.arange(len(rows))*3, why, np.full(len(rows), "", object))
    assert len(kept) + sum(dropped.values()) == len(rows) and sum(c["dropped"] for c in cuts) == len(rows) - len(kept)
    assert [r for a, b in segments for r in range(a, b)] == list(range(len(kept)))
    assert all((np.diff(kept[a:b]) == 1).all() for a, b in segments) and all(kept[a] > kept[a - 1] + 1 for a, _ in segments if a)
    assert all(why[flags[name]].all() for name in drop)
    if not jump and not most: assert {w for w in why if w} <= drop

def test_what_to_drop_is_a_choice(tmp_path):
    p = game(240); p[90:93] = 0
    path = clip(tmp_path/"black.mp4", p, 160, 240)
    n = {name: len(open_frames(extract(path, tmp_path/name, "g", target_height=80, jump_seconds=1, drop=drop))) for name, drop in DROP.items()}
    assert n["all"] == 80 and n["world"] == n["lam"] == 70 and set(DROP["lam"]) <= set(FLAGS)
    with pytest.raises(PokeidmError, match="--drop fade batle"): extract(path, tmp_path, "g", drop=("fade", "batle"))

@pytest.mark.parametrize("bad", [dict(target_fps=0), dict(target_fps=float("nan")), dict(target_fps=float("inf")), dict(target_height=0), dict(target_height=10**5),
                                 dict(jump_seconds=-1), dict(jump_seconds=float("nan")), dict(max_static_seconds=-1), dict(skip_intro=-5)])
def test_settings_that_cannot_be_used(walk, tmp_path, bad):
    with pytest.raises(PokeidmError, match="--" + next(iter(bad))): extract(walk, tmp_path/"f", "toy", **bad)
    assert not (tmp_path/"f").exists()

@pytest.mark.parametrize("meta", ["[1]", "{", "{}", '{"sha256": 1}'])
def test_a_meta_that_cannot_be_read_is_made_again(walk, tmp_path, meta):
    folder = extract(walk, tmp_path, "toy", target_height=40); (folder/"meta.json").write_text(meta)
    assert len(open_frames(extract(walk, tmp_path, "toy", target_height=40))) == 30

def test_jump_seconds_really_skips_ahead(tmp_path):
    p = game(240); p[90:93] = 0
    path = clip(tmp_path/"black.mp4", p, 160, 240)
    for seconds, dropped in ((0, 1), (1, 10), (2.5, 25)):
        meta = open_frames(extract(path, tmp_path/str(seconds), "g", target_height=80, jump_seconds=seconds)).meta
        assert sum(meta["dropped"].values()) == dropped and meta["segments"] == [[0, 30], [30, 80 - dropped]]

def test_long_standstills_are_thinned(tmp_path):
    p = game(30); path = clip(tmp_path/"pause.mp4", np.concatenate([p, np.repeat(p[-1:], 150, 0), p[::-1]]), 160, 240)
    counts = [open_frames(extract(path, tmp_path/str(s), "g", target_height=80, max_static_seconds=s)).meta for s in (0, 1)]
    assert counts[0]["n"] == 70 and counts[1]["dropped"] == {"duplicate": 70 - counts[1]["n"]} and 28 <= counts[1]["n"] <= 34
    assert len(counts[1]["segments"]) == 2 and len(counts[0]["segments"]) == 1

def test_a_video_slower_than_the_target_is_one_segment(tmp_path):
    meta = open_frames(extract(clip(tmp_path/"slow.mp4", game(40, step=1), fps=8), tmp_path, "g", target_height=80)).meta
    assert meta["n"] == 40 and meta["segments"] == [[0, 40]]

def test_same_name_other_video(walk, tmp_path):
    other = clip(tmp_path/"elsewhere"/"walk.mp4", game(60, seed=3))
    a, b = extract(walk, tmp_path/"f", "toy"), extract(other, tmp_path/"f", "toy")
    assert a != b and a.name == "walk" and b.name.startswith("walk-") and extract(other, tmp_path/"f", "toy") == b
    assert {v for _, v, _ in list_videos(tmp_path/"f")} == {a.name, b.name}

def test_settings_or_source_change_means_again(tmp_path):
    path = clip(tmp_path/"a.mp4", game(60))
    first = extract(path, tmp_path/"f", "g", target_height=80)
    assert open_frames(extract(path, tmp_path/"f", "g", target_height=40)).shape[1] == 40
    clip(path, game(90, seed=4))
    assert extract(path, tmp_path/"f", "g", target_height=40) == first and len(open_frames(first)) == 30

def test_an_interruption_leaves_what_was_there(walk, tmp_path, monkeypatch):
    folder = extract(walk, tmp_path, "toy", target_height=80)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(F._PackedRows, "close", stop)
    with pytest.raises(KeyboardInterrupt): extract(walk, tmp_path, "toy", target_height=40)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before and [p.name for p in folder.parent.iterdir()] == ["walk"]

def test_a_full_disk_is_one_line_and_keeps_what_was_there(walk, tmp_path):
    "The limit on the size of a file fails a write as a full disk would."
    folder = extract(walk, tmp_path, "toy", target_height=40)
    code = """import resource, signal, sys; from pokeidm.frames import extract; from pokeidm.core import PokeidmError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try: extract(sys.argv[1], sys.argv[2], "toy", target_height=160)
except PokeidmError as e: print(e)"""
    out = subprocess.run([sys.executable, "-c", code, str(walk), str(tmp_path)], capture_output=True, text=True)
    assert out.stdout.count("\n") == 1 and "free some space" in out.stdout and not out.stderr, out.stderr
    assert open_frames(folder).shape[1] == 40 and [p.name for p in folder.parent.iterdir()] == ["walk"]
    assert open_frames(extract(walk, tmp_path, "toy", target_height=160)).shape[1] == 160

@given(st.integers(1, 60), st.integers(1, 7), st.data())
def test_rows_taken_out_of_shards_leave_the_others_in_order(n, rows, data):
    keep = sorted(data.draw(st.sets(st.integers(0, n - 1))))
    with tempfile.TemporaryDirectory() as d:
        shards = _PackedRows(d, (2, 2, 3), rows)
        for i in range(n): shards.add(np.full((2, 2, 3), i, np.uint8))
        shards.keep(keep); lengths = shards.close()
        files = [np.load(p) for p in sorted(Path(d).iterdir())]
    assert [len(f) for f in files] == lengths and [int(v) for f in files for v in f[:, 0, 0, 0]] == keep and all(l == rows for l in lengths[:-1])

@pytest.mark.parametrize("start,stop", [(0, 30), (5, 17), (9, 10), (10, 20), (0, 0), (29, 30), (30, 30)])
def test_rows_over_shards(walk, tmp_path, monkeypatch, start, stop):
    whole = open_frames(extract(walk, tmp_path/"a", "toy", target_height=40)).rows(0, 30)
    monkeypatch.setattr(F._Shards.__init__, "__defaults__", (10,))
    store = open_frames(extract(walk, tmp_path/"b", "toy", target_height=40))
    assert store.meta["shards"] == [10, 10, 10] and np.array_equal(store.rows(start, stop), whole[start:stop])
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copy[29], whole[29]) and len(pickle.dumps(store)) < 20_000
    with pytest.raises(PokeidmError): store.rows(0, 31)

@pytest.mark.parametrize("damage", ["shorten", "remove", "garble meta", "old meta"])
def test_damaged_folders_are_named(walk, tmp_path, damage):
    folder = extract(walk, tmp_path, "toy", target_height=40)
    shard, meta = folder/"frames-00000.npy", folder/"meta.json"
    if damage == "shorten": shard.write_bytes(shard.read_bytes()[:1000])
    if damage == "remove": shard.unlink()
    if damage == "garble meta": meta.write_text("{")
    if damage == "old meta": meta.write_text('{"version": 0}')
    with pytest.raises(PokeidmError) as e: open_frames(folder)
    assert "\n" not in str(e.value)

def test_a_plain_folder_of_pictures_is_read_in_the_order_of_its_numbers(tmp_path):
    from PIL import Image
    folder = tmp_path/"toy"/"old"; folder.mkdir(parents=True)
    for i in (0, 2, 10, 9): Image.fromarray(np.full((8, 12, 3), i, np.uint8)).save(folder/f"frame_{i}.png")
    store = open_frames(folder)
    assert store.rows(0, 4)[:, 0, 0, 0].tolist() == [0, 2, 9, 10] and store.shape == (4, 8, 12, 3) and list_videos(tmp_path)[0][:2] == ("toy", "old")

def test_list_videos_from_every_height(walk, tmp_path):
    folder = extract(walk, tmp_path, "toy", target_height=40); (tmp_path/".hidden").mkdir(); (tmp_path/"notes.txt").touch()
    assert [list_videos(d)[0][:2] for d in (tmp_path, tmp_path/"toy", folder)] == [("toy", "walk")]*3
    with pytest.raises(PokeidmError): list_videos(tmp_path/"nothing")

def test_truth_must_be_a_truth_file(tmp_path):
    (tmp_path/"v.mp4").touch()
    for bad in ("[1]", "{", '{"fps": 30}', '{"fps": 30, "actions": ["up"], "motion": []}'):
        (tmp_path/"v.json").write_text(bad); assert truth_of(tmp_path/"v.mp4") is None
    (tmp_path/"v.json").unlink(); assert truth_of(tmp_path/"v.mp4") is None
