"""Ctrl-C at any moment of any long command: it ends within seconds, with one line and no process left; what has a final name is whole; the same line goes on, to the same bytes."""
import os, shutil, signal, subprocess, sys, time
from contextlib import suppress
from pathlib import Path
import pytest
from clips import clip, game
from pokeidm.cli import main
from pokeidm.frames import extract
from pokeidm.groups import write_groups
from pokeidm.lam import LAM, LAMConfig
from pokeidm.tokenizer import Tokenizer, TokenizerConfig
from pokeidm.train import save_model

ROOT = Path(__file__).resolve().parent.parent
TRAIN = "--frames_dir frames/toy --steps 12 --save_interval 1 --keep 99 --batch_size 2 --save_dir out --tensorboard false --device cpu --resume"
PIPELINE = "pipeline --clean --extract --summary --raw_videos_dir videos --clean_videos_dir out/clean --frames_dir out/frames --logs_dir out/logs --num_video_workers 2 --target_height 48 --min_gameplay_ratio 0"
TABLE = {   # the line, and when Ctrl-C comes: when a file is there, a library in memory, a worker born; `twice`: and again a moment later
    "pipeline": (PIPELINE, ["workers", "twice out/clean/*/.*", "out/clean/*/*.json", "twice out/frames/*/.*", "out/frames/*/*/meta.json"]),
    "groups": ("groups --frames_dir frames --num_images_in_video 4", ["_hashlib", "twice multiarray_umath"]),
    "sync": ("sync --source many --bucket bucket --num_upload_threads 2", ["_ssl", "twice sent"]),
    "tokenizer": (f"train tokenizer {TRAIN}", ["libtorch_cpu", "out/step-*", "twice out/step-0000007"]),
    "lam": (f"train lam {TRAIN} --height 40 --width 48", ["out/step-0000004"]),
    "dit": (f"train dit {TRAIN} --tokenizer tokenizer --lam lam --width 32 --depth 1 --heads 2", ["twice out/step-0000002"]),
    "label": ("label long.mp4 --out out --lam lam --device cpu", ["libavcodec", "twice out/.*.journal/*.npy"]),
}

@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "Videos, frames, groups, and models that have learnt nothing. Read only."
    home = tmp_path_factory.mktemp("home")
    for k in range(4): clip(home/f"videos/toy/v{k}.mp4", game(150, k, 48, 64), 96, 128, preset="ultrafast")
    for k in range(2): extract(home/f"videos/toy/v{k}.mp4", home/"frames", "toy", target_height=48, drop=())
    write_groups(home/"frames", split=0.5, num_images_in_video=2); write_groups(home/"frames", split=0.5, num_images_in_video=3)
    clip(home/"long.mp4", game(1800, 9, 48, 64), 48, 64, preset="ultrafast")
    (home/"many").mkdir()
    for k in range(150): (home/f"many/{k}.bin").write_bytes(os.urandom(9999))
    save_model(Tokenizer(TokenizerConfig(height=48, width=64)), home/"tokenizer")
    lam = LAM(LAMConfig(height=40, width=48)); save_model(lam, home/"lam", names=lam.names)
    return home

def files(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts}

def made(folder, home):
    "What a command has made in its copy of `home`: bytes by path, without what tells of times and of places."
    found, before = files(folder), files(home)
    return {k: v for k, v in found.items() if k not in before and not k.endswith(("state.pt", "tokenizer.json", ".log")) and not k.split("/")[-1].startswith(("tokenizer-", "lam-", "dit-"))}

def members(group):
    "The processes of a process group."
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try: state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError: continue
        if int(pgrp) == group and state not in "ZX": found.append(int(stat.parent.name))
    return found

def seen(folder, pattern):
    found = set()
    for p in folder.glob(pattern) if "/" in pattern else ():
        with suppress(OSError): found.add((p, p.stat().st_mtime_ns))
    return found

def reached(moment, process, folder, sent, before):
    if moment == "sent": return sent()
    if moment == "workers": return len(members(process.pid)) > 2       # and they that see to its memory
    if "/" in moment: return seen(folder, moment) - before
    try: return moment in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError: return False

def wait(what, seconds):
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end: return False
        time.sleep(.002)
    return True

def interrupt(words, folder, moment, sent):
    "Run `pokeidm words` as a shell does, and press Ctrl-C at `moment`, as a terminal does: its workers get it too. Returns what it said, or None if it was done before."
    twice, moment = moment.startswith("twice "), moment.removeprefix("twice ")
    before = seen(folder, moment)
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)                     # a background shell ignores it
    process = subprocess.Popen([sys.executable, "-m", "pokeidm", *words.split()], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard)
    try:
        wait(lambda: process.poll() is not None or reached(moment, process, folder, sent, before), 120)
        if process.poll() == 0: return None                                              # this machine had something else to do
        assert process.poll() is None, process.stderr.read()[-2000:]
        for _ in range(1 + twice):
            if process.poll() is None: os.killpg(process.pid, signal.SIGINT)
            time.sleep(.05*twice)
        _, said = process.communicate(timeout=30)
        assert wait(lambda: not members(process.pid), 5), "processes are left"
    finally:
        if members(process.pid): os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, (process.returncode, said)
    return said

@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
@pytest.mark.parametrize("name", TABLE)
def test_ctrl_c_at_any_moment(name, home, tmp_path, monkeypatch, s3):
    words, moments = TABLE[name]
    stored = lambda: {o["Key"]: s3.get_object(Bucket="bucket", Key=o["Key"])["Body"].read() for o in s3.list_objects_v2(Bucket="bucket").get("Contents", ())}
    folder = tmp_path/"here"
    def finish():
        assert main(words.split()) == 0
        return stored() if name == "sync" else made(folder, home)
    def begin():                                                # always in the same place: frames know where they are from
        monkeypatch.chdir(tmp_path); shutil.rmtree(folder, ignore_errors=True); shutil.copytree(home, folder); monkeypatch.chdir(folder)
        for key in stored(): s3.delete_object(Bucket="bucket", Key=key)
    begin(); whole = finish()
    begin()
    for moment in moments:
        for _ in range(5):
            said = interrupt(words, folder, moment, stored)
            if said is not None: break
            begin()
        assert said is not None, f"five times it was done before {moment}"
        assert len(said.splitlines()) == 1 and said.startswith("pokeidm: interrupted"), said
        there = stored() if name == "sync" else made(folder, home)
        hidden = [k for k in there if any(part.startswith(".") for part in k.split("/"))]
        assert not [k for k in hidden if k.endswith((".tmp", ".old")) or ".tmp/" in k] and (not hidden or name == "label"), hidden       # label's journal
        assert {k: v for k, v in there.items() if k not in hidden}.items() <= whole.items(), (moment, there.keys() - whole.keys())
    assert finish() == whole and whole
