"""`pokeidm train`: reads from S3 exactly what sync wrote, goes on bit for bit where it was killed, evaluates on its way, and refuses in one line."""
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from types import SimpleNamespace
from pokeidm.checkpoint import load_model
from pokeidm.cli import main
from pokeidm.core import PokeidmError
from pokeidm.frames import extract
from pokeidm.groups import Batches, write_groups
from pokeidm.recipes import encode_video, evaluate_tokenizer, load_groups, recipe, true_shifts, watch_collapse
from pokeidm.tokenizer import Tokenizer

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

@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"batch_size": -1}, {"length": 0}])
def test_recipe_refuses_what_holds_nothing(settings):
    with pytest.raises(PokeidmError, match=f"--(batch_size|num_images_in_video) {next(iter(settings.values()))} cannot"): recipe("lam", **settings)

@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A folder with frames of 40x60 and a tokenizer that was trained on them, for six updates without a break."
    home = tmp_path_factory.mktemp("train")
    extract(CLIP, home/"frames", "emerald", target_height=40)
    assert main([*line(home, "whole"), "--eval_interval", "4"]) == 0
    return home

def line(home, name): return f"train tokenizer --frames_dir {home}/frames --save_dir {home}/{name} --steps 6 --save_interval 1 --ema 0.9 --device cpu --batch_size 2".split()
def weights(folder): return (folder/"model/model.safetensors").read_bytes()

def test_interrupted_and_resumed_is_bit_identical(trained, monkeypatch, capsys):
    batch = Batches.__call__
    def stop(self, step):
        if step == 3: raise KeyboardInterrupt
        return batch(self, step)
    with monkeypatch.context() as m:
        m.setattr(Batches, "__call__", stop)
        assert main(line(trained, "halves")) == 130 and "--resume" in capsys.readouterr().err
    assert max(p.name for p in (trained/"halves").glob("step-*")) == "step-0000003" and not (trained/"halves/model").exists()
    assert main([*line(trained, "halves"), "--resume"]) == 0 and weights(trained/"halves") == weights(trained/"whole")
    assert main([*line(trained, "from"), "--resume_from", f"{trained}/halves"]) == 0 and weights(trained/"from") == weights(trained/"whole")

def test_killed_and_resumed_is_bit_identical(trained, monkeypatch):
    slow = "import sys, time; from pokeidm.cli import main; from pokeidm.groups import Batches as B; f = B.__call__\n" \
           "B.__call__ = lambda self, step: time.sleep(0.5) or f(self, step)\nsys.exit(main(sys.argv[1:]))"
    argv = [*line(trained, "killed"), "--checkpoint_dir", f"{trained}/elsewhere"]
    child = subprocess.Popen([sys.executable, "-c", slow, *argv], env={**os.environ, "PYTHONPATH": str(CLIP.parent.parent)}, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (trained/"elsewhere/step-0000002").exists() and time.time() < deadline and child.poll() is None: time.sleep(0.005)
    child.send_signal(signal.SIGKILL); child.wait()
    assert 2 <= int(max(p.name for p in (trained/"elsewhere").glob("step-*"))[5:]) < 6 and not (trained/"killed/model").exists()
    assert main([*argv, "--resume"]) == 0 and weights(trained/"killed") == weights(trained/"whole")

def test_it_goes_on_from_s3_where_nothing_else_is_left(s3, trained, capsys):
    argv = [*line(trained, "copied"), "--checkpoint_s3", "s3://bucket/run", "--eval_interval", "2", "--best", "psnr", "--keep", "1"]
    assert main([*argv, "--steps", "4"]) == 0 and "the best psnr was after" in capsys.readouterr().out
    shutil.rmtree(trained/"copied")
    assert main([*argv, "--resume"]) == 0
    record = json.loads(next((trained/"copied").glob("tokenizer-*.json")).read_text())["results"]["history"]
    assert [h["step"] for h in record if "val_psnr" in h] == [2, 4, 6] and all(h["samples_per_second"] > 0 for h in record if "loss" in h)
    assert main(argv) == 2 and "another run" in capsys.readouterr().err
    assert main([*argv, "--checkpoint_s3", "s3://nowhere/run"]) == 2 and "'nowhere' does not exist" in capsys.readouterr().err

def in_two_processes(*argv):
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "pokeidm", *argv],
                          env={**os.environ, "PYTHONPATH": str(CLIP.parent.parent), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)

@pytest.mark.parametrize("flags, says", [(("--frames_dir", "nowhere"), "nowhere does not exist"), (("--checkpoint_s3",), "another run")])
def test_what_two_processes_cannot_use_is_said_once(trained, flags, says):
    "What both find, and what only the first does, which leaves the other alone."
    if flags[0] == "--checkpoint_s3": shutil.copytree(max((trained/"whole").glob("step-*")), trained/"copies/step-0000006", dirs_exist_ok=True); flags += (str(trained/"copies"),)
    done = in_two_processes(*line(trained, "refused"), *flags)
    said = [l for l in done.stderr.splitlines() if "pokeidm: " in l]
    assert done.returncode and len(said) == 1 and says in said[0] and not (trained/"refused").exists(), done.stderr[-3000:]
    assert "pokeidm/cli.py" not in done.stderr                               # no traceback of ours

def test_what_the_second_process_finds_alone_is_not_lost(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1"); monkeypatch.setattr("pokeidm.cli.PATIENCE", 0)
    assert main(["train", "lam", "--device", "abacus"]) == 2 and "abacus" in capsys.readouterr().err

def test_two_processes_are_one_with_twice_the_batch(trained):
    two = in_two_processes(*line(trained, "two"))
    assert two.returncode == 0 and two.stdout.count("the model is in") == 1, two.stderr[-2000:]
    assert main([*line(trained, "one"), "--batch_size", "4"]) == 0
    ours, alone = (load_model(Tokenizer, trained/name/"model").state_dict() for name in ("two", "one"))
    assert all(np.allclose(ours[k], alone[k], rtol=1e-3, atol=1e-4) for k in alone) and len(list((trained/"two").glob("tokenizer-*.json"))) == 1
    assert not all(np.allclose(v, alone[k], rtol=1e-3, atol=1e-4) for k, v in load_model(Tokenizer, trained/"whole"/"model").state_dict().items())    # half the batch

def test_it_says_and_keeps_how_good_it_is(trained, capsys):
    assert main([*line(trained, "whole"), "--resume"]) == 0                         # there is nothing left to do but to say it
    said, record = capsys.readouterr().out, json.loads(next((trained/"whole").glob("tokenizer-*.json")).read_text())
    scores = record["results"]["evaluation"]
    assert {"psnr", "ssim", "changed_psnr", "usage", "perplexity", "bits_per_frame"} <= set(scores) and f"psnr {scores['psnr']:.4g}" in said
    assert [h["step"] for h in record["results"]["history"] if "val_psnr" in h] == [4, 6] and record["config"]["ema"] == 0.9
    assert sorted(p.name for p in (trained/"whole/samples").iterdir()) == ["samples-0000004.png", "samples-0000006.png"] and "samples/" in said
    _, val = load_groups(trained/"frames", 2)
    frames = val.batch(range(0, len(val), 7))
    again, decoded = evaluate_tokenizer(load_model(Tokenizer, trained/"whole"/"model"), frames, "cpu")
    assert np.isclose(again["psnr"], -10*np.log10(((decoded/255. - frames[:, -1]/255.)**2).mean()), atol=1e-3) and abs(again["psnr"] - scores["psnr"]) < 2

def test_a_field_of_a_configuration_is_a_flag(trained):
    argv = [*line(trained, "other"), "--steps", "2", "--patch", "8", "--temporal", "true", "--quant", "none", "--change_weight", "0", "--schedule", "wsd", "--tensorboard", "false"]
    assert main(argv) == 0
    saved = json.loads((trained/"other/model/config.json").read_text())["config"]
    assert (saved["patch"], saved["temporal"], saved["quant"], saved["change_weight"]) == (8, True, "none", 0) and not (trained/"other/tensorboard").exists()
    assert json.loads(next((trained/"other").glob("tokenizer-*.json")).read_text())["results"]["evaluation"].keys() == {"psnr", "ssim", "changed_psnr"}

@pytest.mark.parametrize("more, says", [
    ("--bins 8 8.5 6 5", "whole numbers"), ("--bins 8 1", "2 or more"), ("--bins eight", "eight"), ("--patch 7", "patch"), ("--size XXL", "XXL"), ("--quant vq", "vq"),
    ("--schedule linear", "cosine or wsd"), ("--precision fp8", "bf16"), ("--seed -1", "--seed"), ("--lr 0", "--lr"), ("--keep 0", "--keep"), ("--batch_size -2", "--batch_size"),
    ("--minutes -1", "--minutes"), ("--num_images_in_video 5000", "num_images_in_video"), ("--resume_from nowhere", "nowhere"), ("--latent_dim 3", "--latent_dim"),
    ("--frames_dir empty", "no extracted frames"), ("--frames_dir mixed", "sizes"), ("--checkpoint_dir whole --resume --bins 8 8 8", "another shape"),
    ("--checkpoint_dir whole --resume --bins 5 6 8 8", "another shape"), ("--save_dir frames/emerald_train_0_9_2_frames.json/in", "cannot write"),
])
def test_what_cannot_be_trained_is_one_line(trained, more, says, monkeypatch, capsys):
    monkeypatch.chdir(trained); (trained/"empty").mkdir(exist_ok=True)
    if "mixed" in more: extract(CLIP, "mixed", "a", target_height=40); extract(CLIP.with_name("overworld_train_2.mp4"), "mixed", "a", target_height=80)
    before = set(trained.rglob("*"))
    assert main([*line(trained, "bad"), *more.split()]) == 2
    err = [l for l in capsys.readouterr().err.strip().splitlines() if not l.startswith("no TensorBoard")]
    assert len(err) == 1 and err[0].startswith("pokeidm: ") and says in err[0], err
    assert {p for p in set(trained.rglob("*")) - before if not p.name.endswith("_frames.json")} == set()

def test_both_lines_of_the_first_version_one_after_the_other(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    argv = "train tokenizer --frames_dir frames/emerald --num_images_in_video 5 --batch_size 2 --save_dir fsq_full_train --checkpoint_dir full_train --bins 8 8 6 5 --steps 2 --device cpu".split()
    for more in (["--local_cache_dir", ""], ["--use_s3", "false"]): assert main([*argv, *more]) == 0, capsys.readouterr().err
    assert "before-1" in capsys.readouterr().out and (trained/"full_train/before-1/step-0000002/state.pt").exists()

def test_collapse_ends_the_run_after_three_bad_evaluations_in_a_row():
    good, one_code, deaf = ({"commonest_share": c, "shuffle_ratio": r, "perplexity": 2.} for c, r in ((.5, 3.), (.99, 3.), (.5, 1.)))
    bad = [0]
    for scores in (one_code, deaf, good, deaf, one_code): watch_collapse(scores, bad)
    with pytest.raises(PokeidmError, match="collapsed.*3 evaluations in a row"): watch_collapse(one_code, bad)
    watch_collapse({"commonest_share": .5, "shuffle_ratio": None, "perplexity": 2.}, bad); assert bad == [0]      # nothing moved: nothing to hear


def test_groups_that_are_there_count_more_than_split_and_say_so(trained, capsys):
    from pokeidm.recipes import _read_groups
    folder = next(p.parent for p in trained.rglob("*_train_*_frames.json"))
    name = next(folder.glob("*_train_*_frames.json")).name
    share, length = float(name.split("_train_")[1].rsplit("_", 2)[0].replace("_", ".")), int(name.rsplit("_", 2)[1])
    for split in (share, .5):
        _read_groups(SimpleNamespace(frames_dir=str(folder), use_s3=False, split=split, seed=0, model="tokenizer"), length)
        assert (name in capsys.readouterr().out) == (split != share)

CARPET = np.random.default_rng(0).integers(0, 256, (140, 140, 3), dtype=np.uint8)

def walked(steps):
    "Frames of a walk over the carpet on which the screen scrolls by `steps`, one more than these."
    at = 50 - np.cumsum([(0, 0), *steps], 0)
    return np.stack([CARPET[y:y + 40, x:x + 48] for y, x in at])

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([(0, 3), (0, -3), (3, 0), (-3, 0)])), min_size=1, max_size=6))
def test_the_scroll_that_happened_is_found(steps):
    "Whatever the share of the said scroll that a screen went, up to twice."
    said, went = np.array([d for _, d in steps]), np.array([np.array(d)//3*n for n, d in steps])
    assert np.array_equal(true_shifts(walked(went), torch.from_numpy(said)), went)

def test_a_still_code_never_scrolls_and_on_blank_ground_the_code_is_believed():
    frames = walked([(3, 0), (3, 0)])
    assert not true_shifts(frames, torch.zeros(2, 2, dtype=torch.long)).any()
    noise = np.random.default_rng(0).integers(100, 104, frames.shape, dtype=np.uint8)        # a codec's, which fits nothing
    for blank in (np.zeros_like(frames), noise): assert true_shifts(blank, torch.tensor([(3, 0), (0, -3)])).tolist() == [[3, 0], [0, -3]]

@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_a_video_is_encoded_with_each_frame_scrolled_as_far_as_it_went(monkeypatch, chunk):
    "The transformer's draft is then the next frame itself, but for the edges: also where a step was cut short."
    went = [(3, 0), (1, 0), (0, 0), (0, -5), (0, -3)]
    frames, codes = walked(went), np.array([1, 1, 1, 2, 2, 0])
    monkeypatch.setattr("pokeidm.recipes.label_frames", lambda *a, **k: (codes, None))
    store = type("Store", (), {"__len__": lambda s: len(frames), "rows": lambda s, a, b: frames[a:b]})()
    pixels = SimpleNamespace(parameters=lambda: iter(()), encode=lambda x: (x.movedim(2, -1), None))
    latents, into, scrolled = encode_video(pixels, None, store, ((0, 0), (3, 0), (0, -3)), chunk)
    assert latents.shape == scrolled.shape == (6, 40, 48, 3) and into.tolist() == [0, 1, 1, 1, 2, 2]
    for i in range(1, 6): assert np.abs(scrolled[i].astype(float) - latents[i])[5:-5, 5:-5].max() < 1e-3
    assert np.array_equal(scrolled[0], latents[0])
