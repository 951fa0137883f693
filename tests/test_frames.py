"What 06_frames' own assertions do not hold: bars of all kinds, real recordings, labels, collisions, interruption, damage, workers."
import json, pickle
from pathlib import Path
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from pokeidm import frames as F
from pokeidm.core import PokeidmError, read_json, write_json
from pokeidm.frames import (clean_videos, change_share, examine, extract, extract_all, find_crop, find_native, find_view, list_videos,
                            open_frames, run_all, summary, truth_of)
from pokeidm.video import barcode, index_video, read_barcode, write_clip

REAL = Path(__file__).resolve().parents[2]/"shared"/"real"      # not part of the project; these tests are skipped without it

def game(n=90, seed=0, h=160, w=240, step=2):
    "A camera over random 16-pixel tiles: 8 frames a tile, now and then a pause."
    rng = np.random.default_rng(seed)
    tiles = rng.integers(30, 225, (8, 1, 1, 3)) + rng.integers(-25, 25, (8, 16, 16, 1))
    ground = tiles[rng.integers(0, 8, (64, 64))].transpose(0, 2, 1, 3, 4).reshape(1024, 1024, 3).astype(np.uint8)
    at, path = np.array([400, 400]), []
    while len(path) < n:
        d = [(0, step), (0, -step), (step, 0), (-step, 0), (0, 0)][rng.integers(5)]
        if not all(100 < a + 8*k < 700 for a, k in zip(at, d)): continue
        for _ in range(8): at = at + d; path.append(at)
    return np.stack([ground[y:y + h, x:x + w] for y, x in path[:n]])

def upload(pictures, height, width, box=None, colour=0):
    x, y, w, h = box or (0, 0, width, height)
    rows, columns = (((np.arange(n) + 0.5)*m/n).astype(int) for n, m in ((h, pictures.shape[1]), (w, pictures.shape[2])))
    for p in pictures:
        frame = np.full((height, width, 3), colour, np.uint8)
        frame[y:y + h, x:x + w] = p[rows][:, columns]
        yield frame

def clip(path, pictures, height=320, width=480, box=None, colour=0, fps=30, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, upload(pictures, height, width, box, colour), np.arange(len(pictures))/fps, **{"preset": "veryfast", **options})
    return path

@pytest.fixture(scope="module")
def walk(tmp_path_factory): return clip(tmp_path_factory.mktemp("walk")/"raw"/"toy"/"walk.mp4", game())

# ---------- crop and grid

BOXES = [(480, 854, (67, 0, 720, 480), 0), (360, 640, (50, 0, 540, 360), (30, 60, 90)), (480, 640, (0, 26, 640, 426), 0), (720, 1280, (160, 40, 960, 640), 255)]

@pytest.mark.parametrize("height,width,box,colour", BOXES)
@pytest.mark.parametrize("codec,options", [("libx264", dict(crf=30)), ("libvpx-vp9", dict(deadline="realtime", cpu_used=8, preset=""))])
def test_bars_are_found_through_the_codec(tmp_path, height, width, box, colour, codec, options):
    options = {k: v for k, v in options.items() if v != ""}
    path = tmp_path/"bars.mp4"
    write_clip(path, upload(game(40)[::4], height, width, box, colour), np.arange(10)/5, codec=codec, **options)
    view = find_view(path)
    x, y, w, h = view.crop
    ix, iy = min(x + w, box[0] + box[2]) - max(x, box[0]), min(y + h, box[1] + box[3]) - max(y, box[1])
    assert ix*iy/(w*h + box[2]*box[3] - ix*iy) >= 0.98 and view.native == (160, 240)

def test_a_black_picture_keeps_all(): assert find_crop(np.zeros((5, 60, 90, 3), np.uint8)) == (0, 0, 90, 60)

@settings(max_examples=10, deadline=None)
@given(st.floats(1.4, 4), st.integers(0, 3))
def test_any_scale_is_found(scale, seed):
    h, w = round(160*scale), round(240*scale)
    assert find_native(np.stack(list(upload(game(40, seed)[::8], h, w)))) == (160, 240)

def test_noise_is_no_pixel_art():
    pictures = np.random.default_rng(0).integers(0, 255, (6, 480, 640, 3)).astype(np.uint8)
    assert find_native(pictures) is None

def test_a_video_that_is_no_pixel_art_is_scaled_all_the_same(tmp_path):
    yy, xx = np.mgrid[:240, :426]
    waves = [np.stack([128 + 100*np.sin(xx/(9 + c) + yy/17 + k/3) for c in range(3)], -1).astype(np.uint8) for k in range(30)]
    write_clip(tmp_path/"waves.mp4", waves, np.arange(30)/10)
    meta = open_frames(extract(tmp_path/"waves.mp4", tmp_path/"frames", "film", target_height=80)).meta
    assert meta["native"] is None and (meta["height"], meta["width"]) == (80, 144)

@pytest.mark.skipif(not REAL.exists(), reason="needs the recordings of a real game")
def test_real_recordings_are_brought_back_to_their_grid():
    clips = [REAL/"train"/"tux_18_rival_house.mp4", REAL/"val"/"tux_10_dragonscave.mp4"]       # a dark room that never scrolls; a cave
    assert all(find_view(c) == F.View((0, 0, 720, 480), (160, 240)) for c in clips)

@pytest.mark.skipif(not REAL.exists(), reason="needs the recordings of a real game")
def test_walking_in_a_real_game_is_never_called_a_cut(tmp_path):
    name = "tux_07_rubberduck_city"
    meta = open_frames(extract(REAL/"val"/f"{name}.mp4", tmp_path, "tux", target_height=80)).meta
    assert meta["n"] == 750 and meta["segments"] == [[0, 750]] and truth_of(REAL/"val"/f"{name}.mp4")["fps"] == 30

# ---------- flags

def test_change_does_not_wrap():
    a = np.full((4, 4, 3), 100, np.uint8)
    assert change_share(a, a - 1) == 0 and change_share(a, a + 1) == 0 and change_share(a, a + 20) == 1

@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5), st.integers(-24, 24), st.booleans())
def test_a_scroll_of_up_to_24_pixels_is_play(seed, shift, vertical):
    big = game(1, seed, 208, 288)[0]
    dy, dx = (shift, 0) if vertical else (0, shift)
    pair = np.stack([big[24:184, 24:264], big[24 + dy:184 + dy, 24 + dx:264 + dx]])
    assert list(examine(pair)[1]) == ["", ""]

@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.floats(0.1, 0.7))
def test_fades_and_places_are_told_apart(seed, level):
    a, other = game(1, seed)[0], game(1, seed + 100)[0]
    pale = (a*level).astype(np.uint8)
    assert list(examine(np.stack([a, a, pale, a]))[1]) == ["", "", "flash", ""]
    assert examine(np.stack([a, other]))[1][1] in ("cut", "teleport")

# ---------- extraction

def test_rows_are_the_source_frames_they_claim(tmp_path):
    "Barcoded pictures at 29.97: index, time and tick of every row."
    n = 200
    write_clip(tmp_path/"bars.mp4", [barcode(i, 128, 512) for i in range(n)], np.arange(n)*1001/30000 + 3, preset="veryfast", bf=3)
    store = open_frames(extract(tmp_path/"bars.mp4", tmp_path/"frames", "g", target_height=128))
    meta = store.meta["frames"]
    assert store.shape[1:] == (128, 512, 3) and len(store) == 67
    assert [read_barcode(p) for p in store.rows(0, len(store))] == meta["index"]
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
    assert meta["frames"]["index"] == [12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 54, 57, 60, 63]
    assert meta["segments"] == [[0, 7], [7, 18]] and meta["cuts"] == [{"row": 7, "index": 33, "reason": "label", "dropped": 0}]
    write_json(tmp_path/"labels"/"walk.json", [])
    with pytest.raises(PokeidmError): extract(walk, tmp_path/"none", "toy", labels_dir=tmp_path/"labels")
    assert not (tmp_path/"none"/"toy"/"walk").exists()

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
    monkeypatch.setattr(F._Ledger, "finish", stop)
    with pytest.raises(KeyboardInterrupt): extract(walk, tmp_path, "toy", target_height=40)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before and [p.name for p in folder.parent.iterdir()] == ["walk"]

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

# ---------- many videos

def fail(video, frames_dir, game): raise (PokeidmError("no") if game == "user" else ZeroDivisionError("bug"))
def die(video, frames_dir, game):
    import os
    os._exit(1)

def test_two_workers_one_bad_video(tmp_path):
    for name, seed in (("a", 1), ("b", 2)): clip(tmp_path/"raw"/"toy"/f"{name}.mp4", game(60, seed))
    (tmp_path/"raw"/"toy"/"bad.mp4").write_text("no video")
    seen = []
    out = extract_all(tmp_path/"raw", tmp_path/"two", num_video_workers=2, target_height=40, on_done=lambda folder: seen.append(folder.name))
    one = extract_all(tmp_path/"raw", tmp_path/"one", num_video_workers=1, target_height=40)
    assert [Path(d["video"]).name for d in out["done"]] == ["a.mp4", "b.mp4"] and sorted(seen) == ["a", "b"]
    assert [Path(f["video"]).name for f in out["failed"]] == ["bad.mp4"] and "\n" not in out["failed"][0]["reason"] and len(one["failed"]) == 1
    files = lambda d: {p.relative_to(d).as_posix(): p.read_bytes() for p in d.rglob("*") if p.is_file()}
    assert files(tmp_path/"one") == files(tmp_path/"two")

def test_failures_are_one_line_each_even_bugs_and_dead_workers():
    inline = run_all(fail, [[("v", "f", "user")], [("v", "f", "bug")]], num_workers=1)
    assert [p for _, _, p in inline] == ["no", "ZeroDivisionError: bug"]
    dead = run_all(die, [[("v", "f", "g")], [("w", "f", "g")]], num_workers=2)
    assert len(dead) == 2 and all("died" in p for _, _, p in dead)

def test_upload_that_fails_keeps_everything(walk, tmp_path):
    def upload_fails(folder): raise PokeidmError("bucket is gone")
    video = clip(tmp_path/"raw"/"toy"/"v.mp4", game(60))
    out = extract_all(tmp_path/"raw", tmp_path/"f", num_video_workers=1, on_done=upload_fails, keep_local_videos=False, keep_local_frames=False)
    assert out["failed"][0]["reason"] == "bucket is gone" and video.exists() and len(list_videos(tmp_path/"f")) == 1
    out = extract_all(tmp_path/"raw", tmp_path/"f", num_video_workers=1, on_done=lambda f: None, keep_local_videos=False, keep_local_frames=False)
    assert out["done"] and not video.exists() and not list_videos(tmp_path/"f")

def test_clean_keeps_links_caps_and_says_why(walk, tmp_path):
    for k in range(3): clip(tmp_path/"raw"/"toy"/f"v{k}.mp4", game(120, k), 160, 240)
    write_json(tmp_path/"raw"/"toy"/"v0.json", {"fps": 30, "actions": ["up"], "motion": ["up"]})
    clip(tmp_path/"raw"/"toy"/"short.mp4", game(12), 160, 240)
    out = clean_videos(tmp_path/"raw", tmp_path/"clean", max_videos_per_game=2, num_video_workers=1)
    assert [Path(d["video"]).stem for d in out["done"]] == ["v0", "v1"] and truth_of(tmp_path/"clean"/"toy"/"v0.mp4")
    why = {Path(f["video"]).stem: f["reason"] for f in out["failed"]}
    assert "too short" in why["short"] and "already" in why["v2"] and not (tmp_path/"clean"/"toy"/"v2.mp4").exists()
    assert read_json(tmp_path/"clean"/"toy"/"short.mp4.json")["kept"] is False and read_json(tmp_path/"clean"/"toy"/"v0.mp4.json")["native"] == [160, 240]
    assert clean_videos(tmp_path/"raw", tmp_path/"clean", max_videos_per_game=2, num_video_workers=1) == out

def test_summary_counts(walk, tmp_path, capsys):
    extract(walk, tmp_path, "toy", target_height=40)
    out = summary(tmp_path)
    assert out["games"]["toy"]["frames"] == 30 and out["games"]["toy"]["pairs"] == 29 and json.loads((tmp_path/"dataset_summary.json").read_text()) == out
    assert "toy" in capsys.readouterr().out
    with pytest.raises(PokeidmError): summary(tmp_path/"toy"/"walk"/"..."/"x")

def test_truth_must_be_a_truth_file(tmp_path):
    (tmp_path/"v.mp4").touch()
    for bad in ("[1]", "{", '{"fps": 30}', '{"fps": 30, "actions": ["up"], "motion": []}'):
        (tmp_path/"v.json").write_text(bad); assert truth_of(tmp_path/"v.mp4") is None
    (tmp_path/"v.json").unlink(); assert truth_of(tmp_path/"v.mp4") is None
