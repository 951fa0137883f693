"""A wheel of a clean checkout installs by itself and answers at once; the sdist holds all that it is made of, and no more."""
import re, shutil, subprocess, sys, tarfile, zipfile
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path
import pytest
import pokeidm

ROOT = Path(__file__).resolve().parent.parent

@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "The folder with both; the wheel is built from the sdist."
    source, out = tmp_path_factory.mktemp("source")/"pokeidm", tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for f in filter(None, files):
        if (ROOT/f).is_file() and not f.endswith((".mp4", ".ipynb", ".gif")): (source/f).parent.mkdir(parents=True, exist_ok=True); shutil.copy(ROOT/f, source/f)
    subprocess.run([sys.executable, "-m", "build", "-o", str(out), str(source)], check=True, capture_output=True, text=True)
    return out

@pytest.fixture(scope="module")
def wheel(built): return next(built.glob("*.whl"))

@pytest.fixture(scope="module")
def meta(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    return message_from_string(zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("METADATA"))).decode())

def settings():
    cfg = ConfigParser(delimiters=["="]); cfg.read(ROOT/"settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]

def test_wheel_holds_the_package_and_its_scripts(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"pokeidm/cli.py", "pokeidm/py.typed", "pokeidm/__init__.pyi"} <= set(names) and any(n.startswith("pokeidm/static/") for n in names)
    assert not any(n.split("/")[0] in ("nbs", "tests", "data_samples", "public") for n in names)
    own = [n for n in names if not n.startswith("pokeidm-")]
    assert set(own) == {p.relative_to(ROOT).as_posix() for p in (ROOT/"pokeidm").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert any(n.endswith("/LICENSE") for n in names) and "pokeidm=pokeidm.__main__:run" in zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("entry_points.txt"))).decode().replace(" ", "")

def test_sdist_is_whole_and_lean(built):
    names = {n.partition("/")[2] for n in tarfile.open(next(built.glob("*.tar.gz"))).getnames()}
    assert {"settings.ini", "setup.py", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "pokeidm/cli.py", "pokeidm/py.typed", "pokeidm/__init__.pyi"} <= names and any(n.startswith("pokeidm/static/") for n in names)
    assert not any(n.split("/")[0] in ("nbs", "data_samples", "public", ".ci", ".git") or n.endswith(".ipynb") for n in names)

def test_metadata(meta):
    cfg, wanted = settings(), meta.get_all("Requires-Dist")
    required = [l for l in wanted if "extra ==" not in l]
    assert required and not any(x in l for l in required for x in ("nbdev", "fastcore", "jupyter"))
    assert len(required) == len(cfg["requirements"].split()) and meta["Version"] == cfg["version"] and meta["Requires-Python"] == ">=3.11"
    assert {f"Programming Language :: Python :: 3.{n}" for n in (11, 12, 13)} <= set(meta.get_all("Classifier"))
    assert set(meta.get_all("Provides-Extra")) == {"notebooks", "cluster", "wandb", "dev"}
    for extra in ("notebooks", "cluster", "wandb"):
        assert sum(f'extra == "{extra}"' in l for l in wanted) == len(cfg[f"{extra}_requirements"].split()), extra

def test_one_version_everywhere(meta):
    newest = re.search(r"^## (\S+) ", (ROOT/"CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1]
    said = subprocess.run([sys.executable, "-m", "pokeidm", "--version"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert settings()["version"] == meta["Version"] == pokeidm.__version__ == newest == said.removeprefix("pokeidm ").strip()

def test_help_from_the_wheel_needs_nothing_heavy(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), str(wheel)], check=True)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from pokeidm.cli import main; import pokeidm; assert sys.argv[1] in pokeidm.__file__ and pokeidm.PokeidmError in main.__globals__.values(); main(['--help'])"
    done = subprocess.run([sys.executable, "-S", "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)   # -S: no site-packages at all
    assert done.returncode == 0 and "demo" in done.stdout, done.stderr
