"""The doctor: one line for each thing, a mend where one is due, and a status that says whether one can go on."""
import shutil, subprocess, sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path
import pytest
from pokeidm.cli import main

ROOT = Path(__file__).resolve().parent.parent
WANTED = ["numpy>=1.26", "accelerate>=1.2", "torch>=2.6", "av>=13", 'jupyterlab>=4.2; extra == "notebooks"', 'pytest>=8; extra == "dev"']

@pytest.fixture(autouse=True)
def wanted(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: WANTED)
    monkeypatch.delenv("POKEIDM_S3_BUCKET", raising=False)

def lines(capsys):
    out, err = capsys.readouterr()
    assert not err and "Traceback" not in out
    return {what: (kind.strip(), says) for kind, what, says in ((l[:6], *l[6:].split(": ", 1)) for l in out.splitlines()[:-1])}

def test_a_sound_machine(capsys):
    assert main(["doctor"]) == 0
    found = lines(capsys)
    assert {"python", "numpy", "torch", "av", "jupyterlab", "device", "ffmpeg", "disk"} <= found.keys() and "pytest" not in found and "s3" not in found
    assert all(kind in ("ok", "mend") for kind, _ in found.values()) and all((" -> " in says) == (kind == "mend") for kind, says in found.values())

@pytest.mark.parametrize("name, status", [("av", 1), ("torch", 1), ("accelerate", 1), ("jupyterlab", 0)])
def test_a_missing_package(name, status, monkeypatch, capsys):
    there = metadata.version
    def version(n):
        if n == name: raise metadata.PackageNotFoundError(n)
        return there(n)
    monkeypatch.setattr(metadata, "version", version); monkeypatch.setitem(sys.modules, name, None)
    assert main(["doctor"]) == status
    found = lines(capsys)
    assert found[name][0] == "mend" and f"pip install '{name}>=" in found[name][1]
    assert name not in ("av", "torch") or found[f"{name} loads"][0] == "mend"

def test_old_packages(monkeypatch, capsys):
    monkeypatch.setattr(metadata, "version", lambda name: {"torch": "1.13.1+cu117", "yt-dlp": "2024.12.6"}.get(name, "999"))
    assert main(["doctor"]) == 1
    found = lines(capsys)
    assert "pip install -U 'torch>=2.6'" in found["torch"][1] and "pip install -U yt-dlp" in found["yt-dlp age"][1] and found["numpy"][0] == "ok"

def test_nothing_is_installed(tmp_path):
    "Not even pokeidm: its folder alone, no site-packages."
    shutil.copytree(ROOT/"pokeidm", tmp_path/"pokeidm", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([sys.executable, "-S", "-m", "pokeidm", "doctor"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 1 and "pip install -e ." in done.stdout and "mend  torch loads" in done.stdout and not done.stderr, done.stderr

def test_a_driver_without_cuda_and_a_full_disk(monkeypatch, capsys):
    import torch
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False); monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("usage", "free")(10**8))
    assert main(["doctor"]) == 1
    found = lines(capsys)
    assert found["device"][0] == found["disk"][0] == "mend" and "torch" in found["device"][1] and "0.1 GB" in found["disk"][1]

def test_a_bucket_that_answers_and_others(s3, monkeypatch, capsys):
    assert main(["doctor", "--s3_bucket", "bucket"]) == 0 and lines(capsys)["s3"] == ("ok", "bucket 'bucket' answers, and is empty")
    s3.put_object(Bucket="bucket", Key="a", Body=b"a"); monkeypatch.setenv("POKEIDM_S3_BUCKET", "bucket")
    assert main(["doctor"]) == 0 and lines(capsys)["s3"] == ("ok", "bucket 'bucket' answers")
    assert main(["doctor", "--s3-bucket", "another"]) == 1 and "'another'" in lines(capsys)["s3"][1]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"): monkeypatch.delenv(name)
    assert main(["doctor"]) == 1 and "AWS_ACCESS_KEY_ID" in lines(capsys)["s3"][1]

def test_a_bucket_out_of_reach(s3, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert main(["doctor", "--s3_bucket", "bucket"]) == 1
    assert lines(capsys)["s3"][0] == "mend" and capsys.readouterr().err == ""
