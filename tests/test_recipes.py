"""Training reads from S3 exactly what sync wrote, over HTTP; and the settings of a recipe give way to flags."""
from pathlib import Path
import pytest
from test_store import address, s3
from pokeidm.cli import main
from pokeidm.frames import extract
from pokeidm.groups import write_groups
from pokeidm.recipes import load_groups, recipe

CLIP = Path(__file__).resolve().parent.parent/"data_samples/overworld_heldout.mp4"

def test_sync_then_train_from_s3(s3, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path); monkeypatch.setenv("POKEIDM_S3_BUCKET", "bucket")
    extract(CLIP, "pokemon_frames", "emerald", target_height=40)
    manifest, _ = write_groups("pokemon_frames")["emerald"]
    assert main(["sync", "--source", str(manifest), "--bucket", "bucket", "--verbose"]) == 0
    (tmp_path/"pokemon_frames").rename(tmp_path/"elsewhere")
    argv = "train tokenizer --frames_dir pokemon_frames/emerald --num_images_in_video 5 --batch_size 2 --save_dir fsq --checkpoint_dir full --bins 8 8 6 5 --use_s3 true --steps 2 --device cpu"
    assert main([*argv.split(), "--local_cache_dir", "cache"]) == 0, capsys.readouterr().err
    assert (tmp_path/"fsq/model/model.safetensors").exists()
    for a in (tmp_path/"elsewhere/emerald").rglob("*.npy"): assert a.read_bytes() == next((tmp_path/"cache").rglob(a.name)).read_bytes()
    whole = argv.replace("pokemon_frames/emerald", "pokemon_frames").replace("fsq", "all")
    assert main([*whole.split(), "--local_cache_dir", "cache3", "--local_cache_gb", "1e-6"]) == 0, capsys.readouterr().err      # a cache of 1 kB
    assert sum(p.stat().st_size for p in (tmp_path/"cache3").rglob("*") if p.is_file()) < 5e6 and (tmp_path/"all/model/model.safetensors").exists()
    assert main([*argv.replace("emerald", "ruby").split(), "--local_cache_dir", "cache2"]) == 2 and "sync" in capsys.readouterr().err

def test_frames_uploaded_while_they_are_extracted(s3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"clean_videos/emerald").mkdir(parents=True); (tmp_path/"clean_videos/emerald/one.mp4").symlink_to(CLIP)
    argv = "pipeline --extract --use_s3 --s3_bucket bucket --s3_prefix all --num_video_workers 1 --target_height 40 --keep_local_frames false"
    assert main(argv.split()) == 0
    keys = {o["Key"] for o in s3.list_objects_v2(Bucket="bucket")["Contents"]}
    assert keys == {"all/emerald/one/frames-00000.npy", "all/emerald/one/meta.json"} and not list((tmp_path/"pokemon_frames").rglob("*.npy"))

def test_manifests_of_ones_own_are_used(tmp_path):
    extract(CLIP, tmp_path, "emerald", target_height=40)
    write_groups(tmp_path, split=0.5, num_images_in_video=3)
    before = {p: p.read_bytes() for p in tmp_path.glob("*.json")}
    train, val = load_groups(tmp_path/"emerald", 3)
    assert {p: p.read_bytes() for p in tmp_path.glob("*.json")} == before and train.n == 3 and 0.5 < len(train)/len(val) < 2

def test_recipe_gives_way_to_flags():
    loop, batch, length = recipe("lam", batch_size=7, length=4, lr=1.0, steps=0, minutes=None)
    assert (batch, length, loop.lr) == (7, 4, 1.0) and loop.steps > 0 and recipe("lam", minutes=1)[0].steps == 0
