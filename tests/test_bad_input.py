"""Every command, every kind of bad input: a status that is not 0, one clear line, no traceback, nothing left behind."""
import json, shutil
from pathlib import Path
import av, numpy as np, pytest
from clips import clip, game
from pokeidm.cli import COMMANDS, main
from pokeidm.frames import extract
from pokeidm.video import barcode, write_clip

ROOT = Path(__file__).resolve().parent.parent
CLIP, TRUTH = ROOT/"data_samples/overworld_heldout.mp4", ROOT/"data_samples/overworld_heldout.json"

def sound_only(path):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono"); frame.sample_rate = 44100
        for packet in [*stream.encode(frame), *stream.encode()]: out.mux(packet)

def damaged(good, folder, array=None, meta=None, cut=None):
    "A copy of the extracted game `good` with another first shard, other entries in its meta, or a shard cut short."
    shutil.copytree(good, folder)
    (video,) = (folder/"game").glob("*/")
    shard = video/"frames-00000.npy"
    if array is not None: np.save(shard, array(np.load(shard)))
    if cut: shard.write_bytes(shard.read_bytes()[:cut])
    if meta is not None: (video/"meta.json").write_text(json.dumps(meta(json.loads((video/"meta.json").read_text()))))

@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "Bad things of all kinds. Read only."
    w = tmp_path_factory.mktemp("bad")
    for name in ("empty", "videos/empty.mp4"): (w/name).mkdir(parents=True)
    (w/"text.txt").write_text("words"); (w/"not.json").write_text("{"); (w/"list.json").write_text("[1, 2]"); (w/"binary").write_bytes(bytes(range(256))*9)
    v = w/"videos"
    (v/"text.mp4").write_text("this is no video"); (v/"zero.mp4").write_bytes(b""); (v/"torn.mp4").write_bytes(CLIP.read_bytes()[:3000])
    (v/"half.mp4").write_bytes(CLIP.read_bytes()[40000:]); sound_only(v/"sound.mp4")
    write_clip(v/"one.mp4", [barcode(0)], [0.0]); write_clip(v/"short.mp4", [barcode(i) for i in range(6)], [i/30 for i in range(6)])
    good = w/"good"; extract(clip(w/"walk.mp4", game(600, h=48, w=64), 96, 128), good, "game", target_height=48, drop=())
    damaged(good, w/"flat", lambda a: a[..., 0]); damaged(good, w/"other", lambda a: a[:, :20, :30]); damaged(good, w/"floats", lambda a: a.astype(np.float32))
    damaged(good, w/"fewer", lambda a: a[:3]); damaged(good, w/"nometa", meta=lambda m: {}); damaged(good, w/"listmeta", meta=lambda m: [1]); damaged(good, w/"tornnpy", cut=200)
    extract(clip(w/"brief.mp4", game(3, h=48, w=64), 96, 128), w/"oneframe", "game", target_height=48, drop=())
    (w/"model").mkdir(); (w/"model/config.json").write_text("{}"); (w/"model/model.safetensors").write_bytes(b"nothing")
    (w/"csv").write_text("a,b\n1,2\n"); (w/"actions.csv").write_text("frame,time,code,confidence,button\n0,0.000,0,0.000,none\n3,0.100,1,0.900,up\n")
    return w

VIDEOS = ["missing.mp4", "empty.mp4", "text.mp4", "zero.mp4", "torn.mp4", "half.mp4", "sound.mp4"]
FRAMES = ["missing", "empty", "text.txt", "flat", "other", "floats", "fewer", "nometa", "listmeta", "tornnpy", "oneframe"]
TABLE = [
    *((name, "--no_such_flag") for (name,) in COMMANDS), *(("train", m, "--no_such_flag") for m in ("tokenizer", "lam", "dit")), ("no_such_command",),
    *(("demo", "--out", "out", "--video", f"@videos/{v}") for v in (*VIDEOS, "one.mp4", "short.mp4")),
    *(("label", f"@videos/{v}", "--out", "out") for v in VIDEOS),
    *(("play", "--record", "out.mp4", "--actions", "1,1", "--video", f"@videos/{v}") for v in VIDEOS),
    *(("groups", "--frames_dir", f"@{f}") for f in FRAMES),
    *(("train", m, "--frames_dir", f"@{f}", "--steps", "1", "--save_dir", "out") for m in ("tokenizer", "lam") for f in FRAMES),
    *(("train", "dit", "--frames_dir", f"@{f}", "--steps", "1", "--save_dir", "out", "--tokenizer", f"{ROOT}/data_samples/world/tokenizer", "--lam", f"{ROOT}/data_samples/lam") for f in FRAMES),
    *(("train", "dit", "--frames_dir", "@good", "--steps", "1", "--tokenizer", t, "--lam", f"{ROOT}/data_samples/lam") for t in ("@missing", "@empty", "@model", "@text.txt")),
    *(("train", m, "--frames_dir", "@good", "--steps", "1", *bad) for m, *bad in (("dit",), ("tokenizer", "--batch_size", "0"), ("lam", "--lr", "-1"), ("tokenizer", "--size", "XXXL"), ("tokenizer", "--quant", "abacus"),
      ("lam", "--encoder", "abacus"), ("lam", "--quant", "abacus"), ("tokenizer", "--bins", "0"), ("tokenizer", "--num_images_in_video", "0"), ("tokenizer", "--split", "7"), ("tokenizer", "--save_dir", "@text.txt/out"))),
    ("train", "tokenizer", "--use_s3"),
    *(("label", CLIP, "--lam", m, "--out", "out") for m in ("@missing", "@empty", "@model", "@text.txt")), ("label", CLIP, "--target_fps", "0"), ("label", CLIP, "--out", "@text.txt/out"),
    *(("label", CLIP, "--examples", e, "--out", "out") for e in ("@missing", "@empty", "@csv", "@binary")),
    *(("pipeline", stage, flag, f) for stage, flag in (("--clean", "--raw_videos_dir"), ("--extract", "--clean_videos_dir"), ("--summary", "--frames_dir")) for f in ("@missing", "@empty", "@text.txt")),
    ("pipeline", "--clean", "--raw_videos_dir", "@bad_game", "--clean_videos_dir", "clean", "--num_video_workers", "1"),
    ("pipeline", "--extract", "--clean_videos_dir", "@bad_game", "--frames_dir", "frames", "--num_video_workers", "1"),
    *(("pipeline", "--summary", "--frames_dir", f"@{f}") for f in ("nometa", "listmeta")),
    *(("pipeline", "--extract", "--games_file", f) for f in ("@missing", "@not.json", "@list.json", "@binary", "@empty")), ("pipeline", "--scrape", "--cookies_file", "@missing", "--video_url", "http://127.0.0.1:9/x"),
    *(("score", "--pred", p, "--truth", t) for p, t in (("@missing", TRUTH), ("@csv", TRUTH), ("@binary", TRUTH), ("@empty", TRUTH), ("@actions.csv", "@missing"), ("@actions.csv", "@not.json"), ("@actions.csv", "@list.json"), ("@actions.csv", "@empty"))),
    *(("play", "--run", r, "--record", "out.mp4", "--actions", "1") for r in ("@missing", "@empty", "@model", "@text.txt")),
    ("play", "--record", "@text.txt/out.mp4", "--actions", "1"), ("play", "--record", "out.mp4", "--actions", "99"), ("play", "--record", "out.mp4", "--actions", "sideways"), ("play", "--record", "out.mp4"),
    ("demo", "--out", "@text.txt"), ("demo", "--out", "@text.txt/out", "--video", CLIP), ("demo", "--minutes", "0", "--out", "out"), ("demo", "--minutes", "nan", "--out", "out"), ("demo", "--device", "abacus", "--out", "out"),
    *(("sync", "--source", s, "--bucket", "b") for s in ("@missing", "@empty", "@text.txt")), ("sync", "--source", "@flat"), ("sync", "--source", "@flat", "--bucket", "No Such Bucket"),
    ("bench", "--only", "abacus"), ("bench", "--peer", "@missing"), ("bench", "--peer", "@text.txt"), ("completion",), ("completion", "abacus"),
]

@pytest.mark.parametrize("argv", TABLE, ids=lambda argv: " ".join(str(a).removeprefix(f"{ROOT}/") for a in argv))
def test_one_clear_line(argv, world, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path); monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9"); monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if "@bad_game" in argv: shutil.copytree(world/"videos", tmp_path/"bad_game/game"); argv = [str(a).replace("@bad_game", "bad_game") for a in argv]
    status = main([str(world/a[1:]) if str(a).startswith("@") else str(a) for a in argv])
    out, err = capfd.readouterr()
    lines = [l for l in err.splitlines() if l.strip()]
    assert status in (1, 2) and "Traceback" not in out + err, (status, out, err)
    assert lines and all(l.startswith("pokeidm: ") for l in lines) and (status == 1 or len(lines) == 1), err
    if status == 2: assert not [p for p in tmp_path.iterdir() if p.name in ("out", "out.mp4", "labels", "runs")], [*tmp_path.rglob("*")]

def test_the_same_without_the_damage(world, tmp_path, monkeypatch, capfd):
    "So that the table fails for its own reasons. A single frame is enough to be labelled, and to start a world from."
    monkeypatch.chdir(tmp_path); shutil.copytree(world/"good", tmp_path/"good")
    for line in ("groups --frames_dir good", "train tokenizer --frames_dir good --steps 1 --save_dir out --tensorboard false", "train lam --frames_dir good --steps 1 --save_dir lam --tensorboard false", "pipeline --summary --frames_dir good",
                 f"score --pred {world}/actions.csv --truth {TRUTH}", f"label {world}/videos/one.mp4 --out labels", f"play --record out.mp4 --actions 1 --video {world}/videos/one.mp4"):
        assert main(line.split()) == 0, (line, capfd.readouterr().err)
