"""Every notebook runs top to bottom; cells flagged `slow` or `cuda` are passed over, as nbdev does."""
import os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
RUN = """
import sys; from pathlib import Path; from nbdev.test import test_nb
sys.exit(not test_nb(Path(sys.argv[1]).resolve(), skip_flags=["slow", "cuda"], basepath=sys.argv[2])[0])
"""

def run(path):
    env = {**os.environ, "TQDM_DISABLE": "1", "MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", RUN, path, str(ROOT)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)

@pytest.fixture(scope="module")
def runs(request):
    "The notebooks that are asked for, two at a time."
    wanted = [item.callspec.params["path"] for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    with ThreadPoolExecutor(2) as pool:
        yield {path: pool.submit(run, path) for path in wanted}
        pool.shutdown(cancel_futures=True)

@pytest.mark.parametrize("path", NOTEBOOKS)
def test_runs(path, runs):
    done = runs[path].result()
    assert done.returncode == 0, done.stderr[-3000:]

def test_there_are_notebooks(): assert len(NOTEBOOKS) > 15
