"""The command line: instant, forgiving in form, one clear line for what it cannot use, nothing half-written left behind."""
import os, subprocess, sys
from pathlib import Path
import pytest
from pokeidm.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
CLIP = ROOT/"data_samples/overworld_heldout.mp4"

def run(*argv, cwd=None):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    return subprocess.run([sys.executable, "-m", "pokeidm", *map(str, argv)], capture_output=True, text=True, env=env, cwd=cwd, timeout=300)

def test_help_imports_no_torch():
    code = "import sys, pokeidm.cli as c; c.main(['--help']); sys.exit(any(m in sys.modules for m in ('torch', 'boto3', 'yt_dlp', 'matplotlib', 'nbdev', 'fastcore')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for (name,) in COMMANDS)

def test_runtime_never_imports_nbdev():
    modules = [p.stem for p in (ROOT/"pokeidm").glob("*.py") if not p.stem.startswith("_")]
    code = f"import sys, importlib; [importlib.import_module('pokeidm.' + m) for m in {modules!r}]; sys.exit(any(m in sys.modules for m in ('nbdev', 'fastcore')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

@pytest.mark.parametrize("argv, says", [
    (["demo", "--minuts", "3"], "--minuts"), (["demo", "--minutes", "many"], "many"), (["pipeline", "--use_s3", "perhaps"], "perhaps"),
    (["train", "wings"], "wings"), (["nonsense"], "nonsense"), (["pipeline"], "--extract"),
    (["pipeline", "--extract", "--target_fps", "0"], "target_fps"), (["pipeline", "--clean", "--num_video_workers", "0"], "num_video_workers"),
    (["pipeline", "--clean", "--min_gameplay_ratio", "2"], "min_gameplay_ratio"), (["pipeline", "--clean", "--extract", "--preset", "wrong"], "wrong"),
    (["pipeline", "--clean", "--executor", "slurm"], "slurm"), (["pipeline", "--extract", "--games_file", "none.json"], "none.json"),
    (["groups", "--frames_dir", "nowhere"], "nowhere"), (["groups", "--split", "7"], "split"),
    (["train", "tokenizer", "--frames_dir", "nowhere"], "nowhere"), (["train", "tokenizer", "--bins", "1", "1"], "bins"),
    (["train", "lam", "--device", "abacus"], "abacus"),
    (["label", "no.mp4", "--lam", "nowhere"], "nowhere"), (["score", "--pred", "no.csv", "--truth", "no.json"], "no.csv"),
    (["play", "--run", "nowhere", "--record", "x.mp4", "--actions", "1"], "nowhere"),
    (["sync", "--source", "nowhere", "--bucket", "b"], "nowhere"),
])
def test_unusable_arguments_are_one_line(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1 and err[0].startswith("pokeidm: ") and says in err[0] and not list(tmp_path.iterdir())

def test_demo_of_what_is_no_video(tmp_path):
    "In a process of its own; all other bad input is in test_bad_input."
    (tmp_path/"text.mp4").write_text("this is no video")
    done = run("demo", "--out", tmp_path/"out", "--video", tmp_path/"text.mp4")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "text.mp4" in done.stderr, done.stderr
    assert not (tmp_path/"out").exists()

def test_demo_leaves_what_is_not_its_own(tmp_path, capsys):
    (tmp_path/"mine").mkdir(); (tmp_path/"mine"/"thesis.txt").write_text("precious")
    assert main(["demo", "--out", str(tmp_path/"mine"), "--video", str(CLIP)]) == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1
    assert [p.name for p in (tmp_path/"mine").iterdir()] == ["thesis.txt"]

def test_pipeline_goes_on_past_a_bad_video(tmp_path):
    game = tmp_path/"clean"/"overworld"; game.mkdir(parents=True)
    (game/"bad.mp4").write_text("no video"); os.link(CLIP, game/"good.mp4")
    done = run("pipeline", "--extract", "--clean_videos_dir", tmp_path/"clean", "--frames_dir", tmp_path/"frames", "--num_video_workers", "1", "--target_height", "80", cwd=tmp_path)
    assert done.returncode == 1 and "bad.mp4" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path/"frames/overworld/good/meta.json").exists() and not (tmp_path/"frames/overworld/bad").exists()
    done = run("groups", "--frames_dir", tmp_path/"frames", "--split", "0.8", "--num_images_in_video", "4")
    assert done.returncode == 0 and (tmp_path/"frames/overworld_train_0_8_4_frames.json").exists(), done.stderr

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
f=$(complete -p pokeidm | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "$f" pokeidm "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""

@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    import contextlib, io
    with contextlib.redirect_stdout(io.StringIO()) as said: assert main(["completion", "bash"]) == 0
    path = tmp_path_factory.mktemp("completion")/"pokeidm.bash"; path.write_text(said.getvalue())
    return path

@pytest.mark.parametrize("words, gives", [
    (["pi"], {"pipeline"}), (["train", ""], {"tokenizer", "lam", "dit"}), (["pipeline", "--ext"], {"--extract"}), (["train", "dit", "--lam"], {"--lam"}),
    (["train", "tokenizer", "--change"], {"--change_weight"}), (["doc"], {"doctor"}), (["play", "--re"], {"--record"}), (["label", "--zzz"], {""}),
    (["label", "--lam", "data_sam"], {"data_samples"}),
])
def test_bash_completes(words, gives, bash_script):
    done = subprocess.run(["bash", "--norc", "-c", COMPLETE, "bash", str(bash_script), "pokeidm", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and set(done.stdout.rstrip("\n").split("\n")) >= gives and len(set(done.stdout.split())) <= max(3, len(gives)), done

def test_completion_of_other_shells_and_without_shtab(capsys, monkeypatch):
    for shell in ("zsh", "fish"): assert main(["completion", shell]) == 0 and "change_weight" in capsys.readouterr().out
    assert main(["completion", "abacus"]) == 2 and "abacus" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2 and "pip install shtab" in capsys.readouterr().err

def test_version(capsys):
    from configparser import ConfigParser
    settings = ConfigParser(delimiters=["="]); settings.read(ROOT/"settings.ini")
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"pokeidm {settings['DEFAULT']['version']}\n"
