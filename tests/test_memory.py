"""The memory of long runs is flat: four times the work takes no more of it, where keeping all that was seen would."""
import os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from clips import clip, game
from pokeidm.frames import extract
from pokeidm.groups import write_groups
from pokeidm.lam import LAM, LAMConfig
from pokeidm.layers import KVCache
from pokeidm.memory import Map
from pokeidm.train import save_model
from pokeidm.world import World

ROOT = Path(__file__).resolve().parent.parent
SHORT, LONG, SIZE = 1800, 5400, (80, 120)                     # frames; those that the long video has more than the short one are 100 MB
MUCH = 60                                                     # MB
COMMAND = "import sys; from pokeidm.cli import main; assert main(sys.argv[1:]) == 0; print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
def peak(folder, *words):
    "The most memory, in MB, that `pokeidm words` takes."
    done = subprocess.run([sys.executable, "-c", COMMAND, *map(str, words)], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])/1024

@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A short and a long video, each in a folder of its own; the frames of the short one, and a LAM that has learnt nothing."
    home = tmp_path_factory.mktemp("memory")
    pictures = game(SHORT, 0, *SIZE)
    there_and_back = np.concatenate([pictures, pictures[::-1], pictures])
    for name, some in (("short", pictures), ("long", there_and_back)): clip(home/name/"toy"/"v.mp4", some, *SIZE, preset="ultrafast")
    extract(home/"short"/"toy"/"v.mp4", home/"frames", "toy", target_height=48, drop=())
    write_groups(home/"frames", split=.5)
    lam = LAM(LAMConfig(height=40, width=48)); save_model(lam, home/"lam", names=lam.names)
    return home

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")

@pytest.mark.parametrize("line", ["pipeline --clean --raw_videos_dir {size} --clean_videos_dir clean-{size} --logs_dir logs --num_video_workers 1 --target_height 48 --min_gameplay_ratio 0",
                                  "pipeline --extract --clean_videos_dir {size} --frames_dir frames-{size} --logs_dir logs --num_video_workers 1 --target_height 80 --target_fps 30",
                                  "label {size}/toy/v.mp4 --out labels-{size} --lam lam --device cpu --target_fps 30"], ids=lambda line: " ".join(line.split()[:2]))
def test_of_a_long_video(home, line):
    short, long = (peak(home, *line.format(size=size).split()) for size in ("short", "long"))
    assert long < short + MUCH, (short, long)

def test_of_a_long_training(home):
    line = "train tokenizer --frames_dir frames/toy --batch_size 2 --save_dir out-{n} --tensorboard false --device cpu --save_interval 10 --eval_interval 20 --steps {n}"
    short, long = (peak(home, *line.format(n=n).split()) for n in (40, 140))
    assert long < short + MUCH, (short, long)

def test_of_a_long_game():
    "What a game keeps of what was played is as large after ten times its window as after twice."
    world = World.load(ROOT/"data_samples/world")
    game, kept = world.start(world.starts[0][-1]), []
    for k in range(160):
        game.step(k//8 % world.actions, steps=1)
        kept.append(sum(x.nbytes for x in tensors(game.games.__dict__)))
    assert kept[-1] == kept[79] > kept[0]

def tensors(x):
    "All tensors in `x`, through lists, dicts and caches."
    if isinstance(x, torch.Tensor): yield x
    elif isinstance(x, (dict, KVCache, Map)): yield from tensors(list((x if isinstance(x, dict) else vars(x)).values()))
    elif isinstance(x, (list, tuple)):
        for y in x: yield from tensors(y)
