"Several processes train on data from S3 and share one cache on their machine: nothing is fetched twice, nothing is torn, and they learn what they would have learnt from the folder."
import os, subprocess, sys
from collections import Counter
from pathlib import Path
import pytest
from test_store import proxy
from pokeidm.frames import extract
from pokeidm.groups import write_groups
from pokeidm.store import sync

ROOT = Path(__file__).resolve().parent.parent

@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    "Three videos of one game, extracted, and how they are split."
    home = tmp_path_factory.mktemp("data")/"pokemon_frames"
    for name in ("heldout", "events", "train_1"): extract(ROOT/f"data_samples/overworld_{name}.mp4", home, "emerald", target_height=40)
    write_groups(home, num_images_in_video=2)
    return home

def in_two_processes(home, name, *flags):
    "What two processes that train say; the model is in `home/name`."
    line = f"train tokenizer --save_dir {home}/{name} --steps 6 --batch_size 2 --device cpu --tensorboard false"
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "pokeidm", *line.split(), *flags],
                          cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return (home/name/"model/model.safetensors").read_bytes()

def asked(proxy):
    "How often each object was fetched, by its key."
    return Counter(path.partition("?")[0].removeprefix("/bucket/") for method, path in proxy.arrived if method == "GET" and "list-type" not in path)

@pytest.mark.parametrize("flags", [(), ("--local_cache_gb", "1e-6")], ids=["whole", "tiny"])
def test_two_processes_share_one_cache(s3, proxy, frames, tmp_path, flags):
    there = {p.relative_to(frames).as_posix(): p.read_bytes() for p in frames.rglob("*") if p.suffix in (".npy", ".json")}
    assert sync(frames, "bucket")["failed"] == [] and len(there) == 8
    proxy.arrived.clear(); proxy.delay = 0.05                                    # both have asked before the first is answered
    shared = in_two_processes(tmp_path, "shared", "--frames_dir", "pokemon_frames/emerald", "--use_s3", "true", "--s3_bucket", "bucket", "--local_cache_dir", "cache", *flags)
    assert shared == in_two_processes(tmp_path, "alone", "--frames_dir", str(frames/"emerald"))
    cached = {p.relative_to(tmp_path/"cache/bucket").as_posix(): p.read_bytes() for p in (tmp_path/"cache/bucket").rglob("*") if p.is_file()}
    assert all(there[key] == whole for key, whole in cached.items()) and asked(proxy).keys() == there.keys()
    if not flags: assert cached.keys() == there.keys() and set(asked(proxy).values()) == {1}
