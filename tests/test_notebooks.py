"""Every notebook runs top to bottom; cells flagged `slow` or `cuda` are passed over, as nbdev does."""
import os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
RUN = """
import sys; from pathlib import Path; from nbdev.test import test_nb
sys.exit(not test_nb(Path(sys.argv[1]).resolve(), skip_flags=["slow", "cuda"], basepath=sys.argv[2])[0])
"""

@pytest.mark.parametrize("path", NOTEBOOKS)
def test_runs(path):
    env = {**os.environ, "TQDM_DISABLE": "1", "MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", RUN, path, str(ROOT)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]

def test_there_are_notebooks(): assert len(NOTEBOOKS) > 15
