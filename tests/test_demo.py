"""End to end, from mp4 to a world that plays, through the command line; killed on the way and run again."""
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest
from pokeidm.video import index_video

ROOT = Path(__file__).resolve().parent.parent
SAMPLES, REAL = ROOT/"data_samples", ROOT.parent/"shared/real/val"
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "MPLBACKEND": "agg"}

def command(*argv): return [sys.executable, "-m", "pokeidm", *map(str, argv)]
def run(*argv): return subprocess.run(command(*argv), capture_output=True, text=True, env=ENV, timeout=900)

@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")/"out"
    argv = ("demo", "--out", out, "--video", SAMPLES/"overworld_train_2.mp4", SAMPLES/"overworld_heldout.mp4", ROOT/"README.md", "--minutes", "3")
    child = subprocess.Popen(command(*argv), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 300
    while not (out/"lam/model/config.json").exists() and child.poll() is None and time.time() < deadline: time.sleep(0.1)
    child.send_signal(signal.SIGKILL); child.wait()                # in the middle of the world's training
    kept = (out/"lam/model/model.safetensors").read_bytes()
    done = run(*argv)
    assert done.returncode == 1 and "README.md" in done.stderr, done.stderr[-2000:]     # one of three inputs is no video
    assert (out/"lam/model/model.safetensors").read_bytes() == kept, "what was finished is not trained again"
    return out, json.loads((out/"report.json").read_text())

def test_report_has_its_form(demo):
    out, report = demo
    keys = {"tokenizer": {"psnr", "changed_psnr", "perplexity"}, "lam": {"nmi", "v_measure", "accuracy", "noop_recall", "noop_precision", "perplexity", "delta_psnr"},
            "world": {"psnr_1", "copy_psnr_1", "psnr_16", "delta_psnr_4", "ms_per_frame"}, "seconds": {"extract", "tokenizer", "lam", "dit", "evaluate"}}
    for part, wanted in keys.items(): assert wanted <= set(report[part]) and all(isinstance(report[part][k], (int, float)) for k in wanted), part
    assert set(report["baselines"]["global_shift"]) >= {"nmi", "accuracy"} and report["codes"]["0"] == "none"
    page = (out/"report.html").read_text()
    assert page.count("data:image/") >= 4 and "README.md" in page

def test_it_found_the_buttons(demo):
    _, report = demo
    # by the clock, so how far it gets depends on the machine: the full bars are in test_lam, by count
    assert report["lam"]["nmi"] > 0.5 and report["lam"]["delta_psnr"] > 0 and len(set(report["codes"].values()) & {"up", "down", "left", "right"}) >= 3

def test_it_plays_without_a_screen(demo, tmp_path):
    out, _ = demo
    done = run("play", "--run", out, "--record", tmp_path/"p.mp4", "--actions", "left,left,0,1")
    assert done.returncode == 0 and index_video(tmp_path/"p.mp4").n == 5, done.stderr
    done = run("play", "--run", out, "--record", tmp_path/"q.mp4", "--actions", "fly")
    assert done.returncode == 2 and "fly" in done.stderr and not (tmp_path/"q.mp4").exists()

def test_models_without_frames_play_from_a_video(demo, tmp_path):
    out, _ = demo
    for name in ("tokenizer", "lam", "dit"): shutil.copytree(out/name, tmp_path/"runs"/name)
    done = run("play", "--run", tmp_path/"runs", "--record", tmp_path/"p.mp4", "--actions", "1,1")
    assert done.returncode == 2 and "--video" in done.stderr
    done = run("play", "--run", tmp_path/"runs", "--record", tmp_path/"p.mp4", "--actions", "1,1", "--video", SAMPLES/"overworld_events.mp4")
    assert done.returncode == 0 and index_video(tmp_path/"p.mp4").n == 3, done.stderr

def test_a_world_comes_along(tmp_path):
    "Small, and playable right after the installation, where no demo has been run; it goes where the keys say."
    from pokeidm.recipes import shipped_world
    from pokeidm.world import World, steering
    assert sum(p.stat().st_size for p in shipped_world().rglob("*") if p.is_file()) < 8e6
    done = subprocess.run(command("play", "--record", tmp_path/"p.gif", "--actions", "left,left,up,none"), capture_output=True, text=True, env=ENV, cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path/"p.gif").stat().st_size > 1000, done.stderr
    world = World.load(shipped_world())
    assert {"up", "down", "left", "right", "none"} <= set(world.names.values()) and steering(world, world.starts[:, 0])["steering"] > .9

def test_it_labels_and_scores(demo, tmp_path):
    out, _ = demo
    done = run("label", SAMPLES/"overworld_heldout.mp4", ROOT/"LICENSE", "--lam", out/"lam", "--out", tmp_path)
    assert done.returncode == 1 and "LICENSE" in done.stderr
    csv = tmp_path/"overworld_heldout.actions.csv"
    assert csv.read_text().startswith("frame,time,code,confidence,button\n")
    done = run("score", "--pred", csv, "--truth", SAMPLES/"overworld_heldout.json", "--json", tmp_path/"s.json")
    assert done.returncode == 0 and json.loads((tmp_path/"s.json").read_text())["nmi"] > 0.5

def test_another_video_in_the_same_folder_is_refused(demo):
    out, _ = demo
    done = run("demo", "--out", out, "--video", SAMPLES/"overworld_events.mp4")
    assert done.returncode == 2 and "another --out" in done.stderr

def test_train_commands_of_the_first_version(demo, tmp_path):
    out, _ = demo
    argv = ("train", "tokenizer", "--frames_dir", out/"frames/data_samples", "--num_images_in_video", "5", "--batch_size", "2", "--save_dir", tmp_path/"fsq",
            "--checkpoint_dir", tmp_path/"ckpt", "--bins", "8", "8", "6", "5", "--local_cache_dir", "", "--device", "cpu")
    assert run(*argv, "--steps", "3").returncode == 0
    done = run(*argv, "--steps", "5", "--resume")
    assert done.returncode == 0 and "5 updates" in done.stdout and (tmp_path/"fsq/model/model.safetensors").exists()
    assert {p.name for p in (tmp_path/"ckpt").iterdir()} == {"step-0000003", "step-0000005"}

@pytest.mark.skipif(not REAL.exists(), reason="the real recordings are not here")
def test_a_real_recording(tmp_path):
    done = run("demo", "--out", tmp_path/"out", "--video", sorted(REAL.glob("*.mp4"))[0], "--minutes", "0.5")
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path/"out/report.json").read_text())
    assert report["lam"]["noop_recall"] is not None and report["world"]["ms_per_frame"] > 0
