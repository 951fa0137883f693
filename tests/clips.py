"Clips made for tests: a camera over random tiles, blown up and boxed as an upload would be."
from pathlib import Path
import numpy as np
from pokeidm.video import write_clip

REAL = Path(__file__).resolve().parents[2]/"shared"/"real"      # not part of the project; these tests are skipped without it

def game(n=90, seed=0, h=160, w=240, step=2):
    "A camera over random 16-pixel tiles: 8 frames a tile, now and then a pause."
    rng = np.random.default_rng(seed)
    tiles = rng.integers(30, 225, (8, 1, 1, 3)) + rng.integers(-25, 25, (8, 16, 16, 1))
    ground = tiles[rng.integers(0, 8, (64, 64))].transpose(0, 2, 1, 3, 4).reshape(1024, 1024, 3).astype(np.uint8)
    at, path = np.array([400, 400]), []
    while len(path) < n:
        d = [(0, step), (0, -step), (step, 0), (-step, 0), (0, 0)][rng.integers(5)]
        if not all(100 < a + 8*k < 700 for a, k in zip(at, d)): continue
        for _ in range(8): at = at + d; path.append(at)
    return np.stack([ground[y:y + h, x:x + w] for y, x in path[:n]])

def upload(pictures, height, width, box=None, colour=0):
    x, y, w, h = box or (0, 0, width, height)
    rows, columns = (((np.arange(n) + 0.5)*m/n).astype(int) for n, m in ((h, pictures.shape[1]), (w, pictures.shape[2])))
    for p in pictures:
        frame = np.full((height, width, 3), colour, np.uint8)
        frame[y:y + h, x:x + w] = p[rows][:, columns]
        yield frame

def clip(path, pictures, height=320, width=480, box=None, colour=0, fps=30, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, upload(pictures, height, width, box, colour), np.arange(len(pictures))/fps, **{"preset": "veryfast", **options})
    return path
