"Many videos: workers that die, a pipeline that is killed, hostile files, what is kept where, the summary and its page."
import json, multiprocessing, os, random, shutil, signal, subprocess, sys, threading, time
from html.parser import HTMLParser
from pathlib import Path
import pytest
from pokeidm import core
from pokeidm.core import PokeidmError, read_json, write_json
from pokeidm.frames import extract, list_videos, open_frames, truth_of
from pokeidm.pipeline import _attempt, _local_pool, clean_videos, extract_all, run_all, summary
from clips import clip, game

def files(root): return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}

# ---------- many videos

def fail(video, frames_dir, game): raise (PokeidmError("no") if game == "user" else ZeroDivisionError("bug"))
def die(video, frames_dir, game): os._exit(1) if video == "v" else None

def test_two_workers_one_bad_video(tmp_path):
    for name, seed in (("a", 1), ("b", 2)): clip(tmp_path/"raw"/"toy"/f"{name}.mp4", game(60, seed))
    (tmp_path/"raw"/"toy"/"bad.mp4").write_text("no video")
    seen = []
    out = extract_all(tmp_path/"raw", tmp_path/"two", num_video_workers=2, target_height=40, on_done=lambda folder: seen.append(folder.name))
    one = extract_all(tmp_path/"raw", tmp_path/"one", num_video_workers=1, target_height=40)
    assert [Path(d["video"]).name for d in out["done"]] == ["a.mp4", "b.mp4"] and sorted(seen) == ["a", "b"]
    assert [Path(f["video"]).name for f in out["failed"]] == ["bad.mp4"] and "\n" not in out["failed"][0]["reason"] and len(one["failed"]) == 1
    assert files(tmp_path/"one") == files(tmp_path/"two")

def test_failures_are_one_line_each_even_bugs_and_dead_workers():
    inline = run_all(fail, [[("v", "f", "user")], [("v", "f", "bug")]], num_workers=1)
    assert [p for _, _, p in inline] == ["no", "ZeroDivisionError: bug"]
    dead = {t[0]: p for t, _, p in run_all(die, [[(v, "f", "g")] for v in "uvw"], num_workers=2)}
    assert dead.keys() == set("uvw") and "died" in dead.pop("v") and not any(dead.values())      # only who kills its worker has failed

def test_upload_that_fails_keeps_everything(walk, tmp_path):
    def upload_fails(folder): raise PokeidmError("bucket is gone")
    video = clip(tmp_path/"raw"/"toy"/"v.mp4", game(60))
    out = extract_all(tmp_path/"raw", tmp_path/"f", num_video_workers=1, on_done=upload_fails, keep_local_videos=False, keep_local_frames=False)
    assert out["failed"][0]["reason"] == "bucket is gone" and video.exists() and len(list_videos(tmp_path/"f")) == 1
    out = extract_all(tmp_path/"raw", tmp_path/"f", num_video_workers=1, on_done=lambda f: None, keep_local_videos=False, keep_local_frames=False)
    assert out["done"] and not video.exists() and [p.name for p in Path(out["done"][0]["folder"]).iterdir()] == ["meta.json"]
    with pytest.raises(PokeidmError, match="missing"): open_frames(out["done"][0]["folder"])
    assert summary(tmp_path/"f")["videos"][0]["frames"] == 20

def test_frames_that_were_sent_away_are_not_made_again(tmp_path):
    clip(tmp_path/"raw"/"toy"/"v.mp4", game(60)); sent = []
    for _ in range(2): extract_all(tmp_path/"raw", tmp_path/"f", num_video_workers=1, on_done=lambda f: sent.append(len(list(f.iterdir()))), keep_local_frames=False)
    assert sent == [2, 1]

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

def test_the_page_and_the_card_hold_what_strangers_wrote_as_text(tmp_path):
    path = clip(tmp_path/"raw"/"toy"/"v.mp4", game(60))
    evil = "<script>alert(1)</script> | `x`"
    write_json(path.with_suffix(".info.json"), {"version": 1, "id": "v", "url": "https://example.org/v", "title": evil, "uploader": "a|b\nc", "license": None})
    extract_all(tmp_path/"raw", tmp_path/"f", num_video_workers=1); summary(tmp_path/"f")
    seen = []
    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs): seen.append(tag)
    page = (tmp_path/"f"/"dataset_summary.html").read_text(); Tags().feed(page)
    assert "script" not in seen and "svg" in seen and "alert(1)" in page
    row, = [line for line in (tmp_path/"f"/"dataset_card.md").read_text().split("\n") if "example.org" in line]
    assert row.replace("\\|", "").count("|") == 8 and "not stated" in row


def test_what_is_rejected_the_second_time_goes_again(tmp_path):
    for k in range(2): clip(tmp_path/"raw"/"toy"/f"v{k}.mp4", game(120, k), 160, 240)
    for most, n in ((2, 2), (1, 1)):
        clean_videos(tmp_path/"raw", tmp_path/"clean", max_videos_per_game=most, num_video_workers=1)
        assert len(list((tmp_path/"clean"/"toy").glob("*.mp4"))) == n and len(list((tmp_path/"raw"/"toy").glob("*.mp4"))) == 2

def test_a_game_by_name_is_that_game_only(tmp_path):
    for g in ("red", "blue"): clip(tmp_path/"raw"/g/f"{g}.mp4", game(120), 160, 240)
    out = clean_videos(tmp_path/"raw", tmp_path/"clean", "red", num_video_workers=1)
    assert [Path(d["video"]).name for d in out["done"]] == ["red.mp4"] and not (tmp_path/"clean"/"blue").exists()
    assert Path(clean_videos(tmp_path/"raw"/"red", tmp_path/"other", "green", num_video_workers=1)["done"][0]["folder"]).name == "green"
    with pytest.raises(PokeidmError, match="no video of 'green'"): clean_videos(tmp_path/"raw", tmp_path/"clean", "green")

def test_one_bad_meta_does_not_stop_the_summary(tmp_path):
    for k in range(2): clip(tmp_path/"raw"/"toy"/f"v{k}.mp4", game(60, k))
    write_json(tmp_path/"raw"/"toy"/"v0.info.json", {"version": 1, "title": {"x": 1}, "url": ["a"], "chapters": 7})
    extract_all(tmp_path/"raw", tmp_path/"f", num_video_workers=1)
    (tmp_path/"f"/"toy"/"v1"/"meta.json").write_text("{}")
    out = summary(tmp_path/"f")
    assert [v["video_id"] for v in out["videos"]] == ["v0"] and [f["video"] for f in out["failed"]] == ["toy/v1"]
    assert (tmp_path/"f"/"dataset_card.md").exists() and "<" not in (tmp_path/"f"/"dataset_card.md").read_text()

# ---------- accidents

def test_a_worker_is_killed_midway_and_nothing_is_lost_or_double(tmp_path):
    for k in range(4): clip(tmp_path/"raw"/"toy"/f"v{k}.mp4", game(600, k), 160, 240)
    seen, killed = [], []
    def assassin():
        while not killed:
            time.sleep(0.01)
            if list((tmp_path/"two"/"toy").glob(".v*.tmp")) and (children := multiprocessing.active_children()):
                os.kill(children[0].pid, signal.SIGKILL); killed.append(children[0].pid)
    thread = threading.Thread(target=assassin, daemon=True); thread.start()
    out = extract_all(tmp_path/"raw", tmp_path/"two", num_video_workers=2, target_height=80, on_done=lambda folder: seen.append(folder.name))
    one = extract_all(tmp_path/"raw", tmp_path/"one", num_video_workers=1, target_height=80)
    assert killed and not out["failed"] and sorted(seen) == ["v0", "v1", "v2", "v3"] and len(one["done"]) == 4
    assert files(tmp_path/"one") == files(tmp_path/"two")

ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
PIPELINE = ["-m", "pokeidm", "pipeline", "--clean", "--extract", "--summary", "--num_video_workers", "2", "--target_height", "80"]

def start(folder): return subprocess.Popen([sys.executable, *PIPELINE], cwd=folder, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

def test_a_pipeline_killed_at_any_moment_and_run_again_gives_the_same_bytes(tmp_path):
    for k in range(3): clip(tmp_path/"raw_videos"/"toy"/f"v{k}.mp4", game(150, k), 160, 240)
    (tmp_path/"raw_videos"/"toy"/"bad.mp4").write_text("no video")
    begin = time.perf_counter(); assert start(tmp_path).wait() == 1; seconds = time.perf_counter() - begin
    undisturbed, rng, killed = files(tmp_path), random.Random(0), 0
    assert len([name for name in undisturbed if name.endswith("meta.json")]) == 3 and "logs/clean.json" in undisturbed
    while killed < 20:
        for d in ("clean_videos", "pokemon_frames", "logs"): shutil.rmtree(tmp_path/d, ignore_errors=True)
        for _ in range(5):                                                      # each goes on from where the one before was killed
            process = start(tmp_path)
            try: process.wait(rng.uniform(0.3, 1.0)*seconds)
            except subprocess.TimeoutExpired: process.kill(); killed += 1
            process.wait()
            for _, _, folder in list_videos(tmp_path/"pokemon_frames") if (tmp_path/"pokemon_frames").exists() else (): open_frames(folder)
        assert start(tmp_path).wait() == 1 and files(tmp_path) == undisturbed

def test_ctrl_c_ends_the_workers_and_leaves_nothing_half(tmp_path):
    for k in range(3): clip(tmp_path/"raw_videos"/"toy"/f"v{k}.mp4", game(900, k), 160, 240)
    argv = ["-m", "pokeidm", "pipeline", "--extract", "--clean_videos_dir", "raw_videos", "--num_video_workers", "2"]
    process = subprocess.Popen([sys.executable, *argv], cwd=tmp_path, env=ENV, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))                          # a background shell ignores it
    while not list(tmp_path.glob("pokemon_frames/toy/.v*.tmp")): assert process.poll() is None; time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and "interrupted" in said and "Traceback" not in said
    assert not list(tmp_path.glob("pokemon_frames/toy/.*"))

def hold(folder, seconds):
    "Write something, and take `seconds` to clear it away when told to end."
    remove = core._remove
    core._remove = lambda path: (time.sleep(seconds), remove(path))
    with core.atomic_path(Path(folder)/"x") as tmp: tmp.write_text("half"); time.sleep(60)

def test_a_worker_that_clears_up_is_not_disturbed_by_the_end_of_another(tmp_path):
    "The pool tells all the others to end, once more, as soon as it finds one gone."
    with pytest.raises(KeyboardInterrupt), _local_pool(2) as pool:
        for seconds in (0, 2): pool.submit(_attempt, hold, [(str(tmp_path), seconds)], {})
        while len(list(tmp_path.glob(".x.*"))) < 2: time.sleep(.01)
        raise KeyboardInterrupt
    while multiprocessing.active_children(): time.sleep(.05)
    assert not list(tmp_path.glob(".x.*"))

def mutations(data, count, seed=0):
    "`count` damaged versions of a file: cut short, bytes flipped, a piece doubled, zeroed or lost, empty."
    rng = random.Random(seed)
    for _ in range(count):
        b, kind = bytearray(data), rng.choice(["cut", "flip", "flip", "zero", "lose", "double", "empty", "head"])
        a = rng.randrange(len(b)); z = min(len(b), a + rng.choice([1, 16, 1000, 10_000]))
        if kind == "cut": b = b[:a]
        if kind == "flip":
            for _ in range(rng.choice([1, 10, 200])): b[rng.randrange(len(b))] ^= 1 << rng.randrange(8)
        if kind == "head": b[rng.randrange(64)] ^= 255
        if kind == "zero": b[a:z] = bytes(z - a)
        if kind == "lose": del b[a:z]
        if kind == "double": b[a:a] = b[a:z]
        yield b"" if kind == "empty" else bytes(b)

def test_200_damaged_videos_are_each_extracted_or_named(tmp_path):
    whole = clip(tmp_path/"whole.mp4", game(60), 160, 240, bf=2).read_bytes()
    raw = tmp_path/"raw"/"toy"; raw.mkdir(parents=True)
    for k, data in enumerate(mutations(whole, 196)): (raw/f"m{k:03d}.mp4").write_bytes(data)
    for name, data in {"a picture.mp4": b"\x89PNG\r\n" + bytes(99), "text.mkv": b"hello", "none.webm": b"", "really mp4.avi": whole}.items(): (raw/name).write_bytes(data)
    before = time.monotonic()
    out = extract_all(tmp_path/"raw", tmp_path/"f", num_video_workers=2, target_height=40)
    assert time.monotonic() - before < 300 and len(out["done"]) + len(out["failed"]) == 200
    assert not [f for f in out["failed"] if "died" in f["reason"] or "\n" in f["reason"] or "Error:" in f["reason"]]
    assert len(out["failed"]) > 20 and len(out["done"]) > 50 and "really mp4.avi" in {Path(d["video"]).name for d in out["done"]}
    for d in out["done"]: store = open_frames(d["folder"]); assert len(store.rows(0, len(store))) == len(store) > 0

def test_a_dask_cluster_gives_the_same_bytes_though_a_worker_is_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    for k in range(4): clip(tmp_path/"raw"/"toy"/f"v{k}.mp4", game(300, k), 160, 240)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1") as cluster:
        address = cluster.scheduler_address.removeprefix("tcp://")
        killed = []
        def assassin():
            while not killed:
                time.sleep(0.01)
                for left in (tmp_path/"dask"/"toy").glob(".v*.tmp"): killed.append(int(left.name.split("-")[-1].split(".")[0])); os.kill(killed[0], signal.SIGKILL); return
        threading.Thread(target=assassin, daemon=True).start()
        out = extract_all(tmp_path/"raw", tmp_path/"dask", executor=f"dask://{address}", target_height=80)
    extract_all(tmp_path/"raw", tmp_path/"one", num_video_workers=1, target_height=80)
    assert killed and not out["failed"] and len(out["done"]) == 4 and files(tmp_path/"dask") == files(tmp_path/"one")

def test_executors_that_are_not_there():
    for name, words in (("slurm", "not known"), ("dask://127.0.0.1:9", "no Dask scheduler")):
        with pytest.raises(PokeidmError, match=words): run_all(die, [[("a", "f", "g")], [("b", "f", "g")]], executor=name)
