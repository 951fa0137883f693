"""A wheel of a clean checkout installs by itself and answers at once."""
import os, shutil, subprocess, sys, zipfile
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent

@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source")/"pokeidm", tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for f in filter(None, files):
        if (ROOT/f).is_file() and not f.endswith((".mp4", ".ipynb", ".gif")): (source/f).parent.mkdir(parents=True, exist_ok=True); shutil.copy(ROOT/f, source/f)
    subprocess.run([sys.executable, "-m", "build", "-o", str(out), str(source)], check=True, capture_output=True, text=True)
    return next(out.glob("*.whl"))

def test_wheel_holds_the_package_and_its_scripts(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "pokeidm/cli.py" in names and any(n.startswith("pokeidm/static/") for n in names)
    assert not any(n.split("/")[0] in ("nbs", "tests", "data_samples", "public") for n in names)
    meta = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("METADATA"))).decode()
    required = [l for l in meta.splitlines() if l.startswith("Requires-Dist") and "extra ==" not in l]
    assert required and not any(x in l for l in required for x in ("nbdev", "fastcore", "jupyter"))

def test_help_from_the_wheel_needs_nothing_heavy(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), str(wheel)], check=True)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from pokeidm.cli import main; import pokeidm; assert sys.argv[1] in pokeidm.__file__; main(['--help'])"
    done = subprocess.run([sys.executable, "-S", "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)   # -S: no site-packages at all
    assert done.returncode == 0 and "demo" in done.stdout, done.stderr
