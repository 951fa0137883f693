"""The training loop under faults: torn checkpoints, kill -9, loss that blows up, loggers that are missing, processes that die, networks that are cut."""
import os, shutil, signal, subprocess, sys, time, traceback
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
import numpy as np, pytest, torch
from test_store import proxy
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from pokeidm import checkpoint as C, train as T
from pokeidm.checkpoint import Mirror, checkpoints, load_model
from pokeidm.core import PokeidmError
from pokeidm.groups import Batches
from pokeidm.train import Board, TrainConfig, last_scores, train

@dataclass
class LineConfig: width: int = 2; tag: str = ""

class Line(nn.Module):
    kind, Config = "line", LineConfig
    def __init__(self, config): super().__init__(); self.config = config; self.layer = nn.Linear(config.width, 1)
    def loss(self, batch, done): return ((self.layer(batch + 0.01*torch.randn_like(batch)) - 1)**2).mean(), {}

def batches(step): return np.random.default_rng(step).normal(size=(8, 2)).astype(np.float32)
def weights(model): return torch.cat([p.detach().flatten() for p in model.parameters()])

CHILD = """
import sys, time; sys.path[:0] = [{tests!r}]
from test_train import *
def slow(step): time.sleep(0.02); return batches(step)
train(Line(LineConfig()), slow, TrainConfig(steps=120, save_interval=5, ema=0.9), save_dir={out!r}, resume=True, device="cpu")
"""

def test_killed_and_resumed_is_bit_identical(tmp_path):
    torch.manual_seed(0); whole = Line(LineConfig())
    config = TrainConfig(steps=120, save_interval=5, ema=0.9)
    code = CHILD.format(tests=os.path.dirname(__file__), out=str(tmp_path))
    code = code.replace("train(Line(LineConfig())", "torch.manual_seed(0); m = Line(LineConfig()); train(m")
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.time() + 120
    while not checkpoints(tmp_path) and time.time() < deadline: time.sleep(0.02)
    child.send_signal(signal.SIGKILL); child.wait()
    assert 0 < int(checkpoints(tmp_path)[-1].name[5:]) < 120
    resumed = Line(LineConfig())
    train(resumed, batches, config, save_dir=tmp_path, resume=True, device="cpu")
    train(whole, batches, config, device="cpu")
    assert torch.equal(weights(whole), weights(resumed))

def test_torn_checkpoint_is_passed_over(tmp_path):
    config = TrainConfig(steps=20, save_interval=10)
    train(Line(LineConfig()), batches, config, save_dir=tmp_path, device="cpu")
    newest = checkpoints(tmp_path)[-1]
    (newest/"state.pt").write_bytes((newest/"state.pt").read_bytes()[:100])
    model = Line(LineConfig())
    assert train(model, batches, config, save_dir=tmp_path, resume=True, device="cpu")[-1]["step"] == 20

def test_another_shape_is_refused(tmp_path):
    train(Line(LineConfig()), batches, TrainConfig(steps=5), save_dir=tmp_path, device="cpu")
    wide = lambda step: np.zeros((8, 3), np.float32)
    with pytest.raises(PokeidmError, match="another shape"):
        train(Line(LineConfig(width=3)), wide, TrainConfig(steps=9), save_dir=tmp_path, resume=True, device="cpu")

def test_infinite_loss_stops_and_keeps_the_checkpoint(tmp_path):
    def bad(step): return np.full((8, 2), np.nan if step >= 15 else 1.0, np.float32)
    with pytest.raises(PokeidmError, match="not finite"):
        train(Line(LineConfig()), bad, TrainConfig(steps=40, save_interval=10), save_dir=tmp_path, device="cpu")
    assert checkpoints(tmp_path)[-1].name == "step-0000010" and torch.isfinite(weights(load_model(Line, tmp_path))).all()

def test_pickles_are_not_executed(tmp_path):
    import pickle
    train(Line(LineConfig()), batches, TrainConfig(steps=5), save_dir=tmp_path, device="cpu")
    class Evil:
        def __reduce__(self): return (os.system, (f"touch {tmp_path}/owned",))
    (checkpoints(tmp_path)[-1]/"state.pt").write_bytes(pickle.dumps(Evil()))
    train(Line(LineConfig()), batches, TrainConfig(steps=6), save_dir=tmp_path, resume=True, device="cpu")
    assert not (tmp_path/"owned").exists()

def test_clock_ends_the_run():
    history = train(Line(LineConfig()), batches, TrainConfig(steps=0, minutes=0.01), device="cpu")
    assert history[-1]["step"] > 0
    with pytest.raises(PokeidmError, match="needs an end"): train(Line(LineConfig()), batches, TrainConfig(steps=0), device="cpu")

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_update(tmp_path, number):
    class Hit(Line):
        def loss(self, batch, done):
            if self.training and done == 7/20: os.kill(os.getpid(), number)      # in the middle of update 8
            return super().loss(batch, done)
    config, before = TrainConfig(steps=20), signal.getsignal(number)
    torch.manual_seed(0); hit = Hit(LineConfig())
    with pytest.raises(KeyboardInterrupt): train(hit, batches, config, save_dir=tmp_path, device="cpu")
    assert [p.name for p in checkpoints(tmp_path)] == ["step-0000008"] and signal.getsignal(number) == before
    torch.manual_seed(0); whole = Line(LineConfig()); train(whole, batches, config, device="cpu")
    resumed = Line(LineConfig()); train(resumed, batches, config, save_dir=tmp_path, resume=True, device="cpu")
    assert torch.equal(weights(whole), weights(resumed))

def press(seconds=30.):
    "Ctrl-C now, in the middle of something long."
    os.kill(os.getpid(), signal.SIGINT)
    end = time.monotonic() + seconds
    while time.monotonic() < end: time.sleep(.01)

@pytest.mark.parametrize("hit", [1, 2])                       # in the middle of the run, and at its end
def test_an_evaluation_is_left_at_once_and_made_up_for(tmp_path, hit):
    config, seen, began = TrainConfig(steps=20, eval_interval=10), [], time.monotonic()
    def look(model):
        seen.append(model)
        if len(seen) == hit: press()
        return {"score": float(model.layer.weight.sum())}
    with pytest.raises(KeyboardInterrupt): train(new(Line), batches, config, save_dir=tmp_path, evaluate=look, device="cpu")
    assert time.monotonic() < began + 20 and [p.name for p in checkpoints(tmp_path)][-1] == f"step-{10*hit:07d}"
    again, whole = new(Line), new(Line)
    score = lambda model: {"score": float(model.layer.weight.sum())}
    history, expected = train(again, batches, config, save_dir=tmp_path, evaluate=score, resume=True, device="cpu"), train(whole, batches, config, evaluate=score, device="cpu")
    scores = lambda history: [(h["step"], h["val_score"]) for h in history if "val_score" in h]
    assert scores(history) == scores(expected) and len(scores(history)) == 2 and torch.equal(weights(whole), weights(again))

def test_ctrl_c_in_the_last_moment_ends_what_comes_after(tmp_path, monkeypatch):
    import pokeidm.train as module
    log = module._log
    monkeypatch.setattr(module, "_log", lambda *args: (log(*args), press(.1)))         # when it is known that this update is the last
    with pytest.raises(KeyboardInterrupt): train(new(Line), batches, TrainConfig(steps=5), save_dir=tmp_path, device="cpu")
    assert [p.name for p in checkpoints(tmp_path)] == ["step-0000005"]

def test_what_is_not_finite_is_never_saved(tmp_path):
    def bad(step): return np.full((8, 2), np.nan if step >= 12 else 1.0, np.float32)
    with pytest.raises(PokeidmError, match="not finite"):
        train(Line(LineConfig()), bad, TrainConfig(steps=40, save_interval=5), save_dir=tmp_path, device="cpu")       # between two logs
    assert checkpoints(tmp_path)[-1].name == "step-0000010"

def test_other_settings_of_the_same_shape_are_refused(tmp_path):
    train(Line(LineConfig(tag="8 8 6 5")), batches, TrainConfig(steps=5), save_dir=tmp_path, device="cpu")
    with pytest.raises(PokeidmError, match="tag 8 8 6 5 there and 5 6 8 8 here"):
        train(Line(LineConfig(tag="5 6 8 8")), batches, TrainConfig(steps=9), save_dir=tmp_path, resume=True, device="cpu")

def test_checkpoints_of_an_earlier_run_are_set_aside(tmp_path, capsys):
    for steps in (20, 3, 4): train(Line(LineConfig()), batches, TrainConfig(steps=steps), save_dir=tmp_path, device="cpu")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("step-*")) == ["before-1/step-0000020", "before-2/step-0000003", "step-0000004"]
    assert "before-1" in capsys.readouterr().out

def test_what_was_set_aside_stays_when_other_such_folders_are_removed(tmp_path):
    for steps in (20, 3): train(Line(LineConfig()), batches, TrainConfig(steps=steps), save_dir=tmp_path, device="cpu")
    (tmp_path/"before-1").rename(tmp_path/"before-2")
    for steps in (4, 5): train(Line(LineConfig()), batches, TrainConfig(steps=steps), save_dir=tmp_path, device="cpu")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("step-*")) == ["before-1/step-0000003", "before-2/step-0000020", "before-3/step-0000004", "step-0000005"]

def test_resume_from_another_folder_leaves_it_alone(tmp_path):
    config = TrainConfig(steps=12, save_interval=6, keep=9)
    torch.manual_seed(0); whole = Line(LineConfig()); train(whole, batches, config, save_dir=tmp_path/"a", device="cpu")
    other = Line(LineConfig()); train(other, batches, config, save_dir=tmp_path/"b", resume=tmp_path/"a/step-0000006", device="cpu")
    assert torch.equal(weights(whole), weights(other)) and len(checkpoints(tmp_path/"a")) == 2 and len(checkpoints(tmp_path/"b")) == 1
    with pytest.raises(PokeidmError, match="no whole checkpoint"): train(other, batches, config, save_dir=tmp_path/"c", resume=tmp_path/"none", device="cpu")
    assert not (tmp_path/"c").exists()

def watched(model): return {"psnr": 30.0, "nothing": None, "samples": np.zeros((4, 6, 3), np.uint8)}

def test_tensorboard_gets_every_number_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    def until(n):
        def some(step):
            if step == n: raise KeyboardInterrupt
            return batches(step)
        return some
    config = TrainConfig(steps=40, save_interval=10, eval_interval=20)
    run = lambda fetch, **more: train(Line(LineConfig()), fetch, config, save_dir=tmp_path/"c", evaluate=watched, device="cpu", board=Board(tmp_path), **more)
    with pytest.raises(KeyboardInterrupt): run(until(35))
    for p in checkpoints(tmp_path/"c")[-1:]: (p/"state.pt").unlink()          # torn at 35, so updates 21 to 35 are made twice
    history = run(batches, resume=True)
    events = EventAccumulator(str(tmp_path/"tensorboard")).Reload()
    assert [e.step for e in events.Scalars("train/grad_norm")] == [10, 20, 30, 40] and [e.step for e in events.Scalars("val/psnr")] == [20, 40]
    assert events.Images("samples") and sorted(p.name for p in (tmp_path/"samples").iterdir()) == ["samples-0000020.png", "samples-0000040.png"]
    assert last_scores(history) == {"psnr": 30.0}

def test_training_goes_on_without_tensorboard(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(Line(LineConfig()), batches, TrainConfig(steps=5), evaluate=watched, device="cpu", board=Board(tmp_path))
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1 and "pip install tensorboard" in err[0] and [p.name for p in tmp_path.iterdir()] == ["samples"]

def test_wandb_only_when_asked(tmp_path, monkeypatch):
    logged = []
    def init(**settings): logged.append(settings); return SimpleNamespace(log=lambda numbers, step: logged.append((step, numbers)), finish=lambda: logged.append("finished"))
    import accelerate                    # it looks for W&B by itself, once
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda picture: "image"))
    go = lambda **asked: train(Line(LineConfig()), batches, TrainConfig(steps=10), evaluate=watched, device="cpu", board=Board(tmp_path, tensorboard=False, **asked))
    go(); assert not logged
    go(wandb=True)
    assert logged[0]["config"]["steps"] == 10 and logged[1][0] == 10 and "train/loss" in logged[1][1] and logged[2][1] == {"val/psnr": 30.0, "samples": "image"}
    assert logged[-1] == "finished"
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PokeidmError, match="pokeidm.wandb"): go(wandb=True)


# --- parts and processes ---

class Plain(nn.Module):
    "Draws no random numbers, so that how its batches are cut makes no difference."
    kind, Config = "plain", LineConfig
    def __init__(self, config): super().__init__(); self.config = config; self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    def loss(self, batch, done): return (self.layers(batch) - batch[:, :1]*batch[:, 1:]).square().mean(), {"mean": batch.mean()}

class Numbers:
    "50 groups, as `Batches` takes them; keeps which it was asked for."
    def __init__(self): self.data, self.asked = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32), []
    def __len__(self): return len(self.data)
    def batch(self, rows): self.asked.append(rows.tolist()); return self.data[rows]

def new(cls=Plain, seed=0): torch.manual_seed(seed); return cls(LineConfig())

def test_batches_one_after_the_other_are_one_large_batch():
    config, one, many = TrainConfig(steps=30, ema=.9, warmup=3, lr=.01), new(), new()
    at_once = train(one, Batches(Numbers(), 8), config, device="cpu")
    in_parts = train(many, Batches(Numbers(), 2), replace(config, accumulate=4), device="cpu")
    assert torch.allclose(weights(one), weights(many), rtol=1e-5, atol=1e-6) and not torch.allclose(weights(one), weights(new()), atol=1e-2)
    assert np.allclose([[h[k] for k in ("loss", "grad_norm")] for h in at_once], [[h[k] for k in ("loss", "grad_norm")] for h in in_parts], rtol=1e-4)

def test_parts_stopped_in_the_middle_of_an_update_go_on_from_the_one_before(tmp_path):
    config = TrainConfig(steps=12, accumulate=3, save_interval=5)
    def stop(part):
        if part == 3*7 + 1: raise KeyboardInterrupt
        return batches(part)
    whole, cut, again = new(Line), new(Line), new(Line)
    train(whole, batches, config, device="cpu")
    with pytest.raises(KeyboardInterrupt): train(cut, stop, config, save_dir=tmp_path, device="cpu")
    assert [p.name for p in checkpoints(tmp_path)] == ["step-0000005"]          # half an update is no place to go on from
    train(again, batches, config, save_dir=tmp_path, resume=True, device="cpu")
    assert torch.equal(weights(whole), weights(again))

class Coded(Line):
    "Noise of its own in every process, and a codebook that it changes by its own hand."
    def __init__(self, config): super().__init__(config); self.codebook = nn.Parameter(torch.zeros(3))
    def loss(self, batch, done):
        if self.training: self.codebook.data += torch.randn(3)
        return super().loss(batch, done)[0] + .1*(self.codebook[:2]*self.layer.weight).sum() + 0*self.codebook.sum(), {}

class Hit(Coded):
    "One process of several is told to stop in the middle of update 8."
    def loss(self, batch, done):
        if self.training and done == 7/20 and os.environ["RANK"] == "1": os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(batch, done)

def worker(out):
    "What each of two processes does in the next test."
    rank, config = int(os.environ["RANK"]), TrainConfig(steps=20, save_interval=5, ema=.9, eval_interval=10, warmup=3, lr=.01)
    def look(model): (out/f"evaluated-{rank}").touch(); return {"score": 1.}
    def stop(k):
        if k//2 == 13: raise KeyboardInterrupt
        return batches(k)
    took = {"again": [], "after": []}
    def noting(name): return lambda k: took[name].append(k) or batches(k)
    numbers, plain, whole, cut, again, hit, after = Numbers(), new(), new(Coded), new(Coded), new(Coded, rank), new(Hit), new(Hit, rank)
    history = train(plain, Batches(numbers, 5), config, save_dir=out/"plain", evaluate=look, device="cpu", board=Board(out))
    train(whole, batches, config, device="cpu")
    for model, fetch, name, more in ((cut, stop, "cut", {}), (again, noting("again"), "cut", {"resume": True}), (hit, batches, "hit", {})):
        try: train(model, fetch, config, save_dir=out/name, device="cpu", **more)
        except KeyboardInterrupt: assert model in (cut, hit)
    first = [p.name for p in checkpoints(out/"hit")]
    os.environ["RANK"] = "none"; train(after, noting("after"), config, save_dir=out/"hit", resume=True, device="cpu")
    results = {"asked": numbers.asked, "history": history, "hit": first, "took": {k: min(v) for k, v in took.items()}, **{k: weights(m) for k, m in dict(plain=plain, whole=whole, again=again, after=after).items()}}
    torch.save(results, out/f"result-{rank}.pt")

def launch(code, *launcher):
    "Run Python code in two processes; returns the finished launcher."
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *(launcher or ("-m", "torch.distributed.run", "--nproc_per_node", "2")), code], env=env, capture_output=True, text=True, timeout=180)

def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    (tmp_path/"work.py").write_text(f"from pathlib import Path\nfrom test_train import worker\nworker(Path({str(tmp_path)!r}))\n")
    done = launch(str(tmp_path/"work.py"))
    assert done.returncode == 0, done.stderr[-3000:]
    ours = [torch.load(tmp_path/f"result-{r}.pt") for r in (0, 1)]
    alone, numbers = new(), Numbers()
    history = train(alone, Batches(numbers, 10), TrainConfig(steps=20, ema=.9, warmup=3, lr=.01), device="cpu")
    for mine in ours: assert torch.allclose(mine["plain"], weights(alone), rtol=1e-5, atol=1e-6)
    assert np.allclose(ours[0]["history"][0]["loss"], history[0]["loss"], rtol=1e-4)          # that of all processes
    for epoch in range(4): assert sorted(sum((sum(r["asked"][5*epoch:5*epoch + 5], []) for r in ours), [])) == list(range(50))       # once each
    assert sum((r["asked"][0] for r in ours), []) == numbers.asked[0]
    for name in ("whole", "again", "after"): assert torch.equal(ours[0][name][3:], ours[1][name][3:])      # the codebook is that of the first
    assert torch.equal(ours[0]["whole"], ours[0]["again"]) and torch.equal(ours[0]["whole"], ours[0]["after"])        # stopped, gone on
    assert [r["took"] for r in ours] == [{"again": 2*10 + r, "after": 2*8 + r} for r in (0, 1)]
    assert [r["hit"] for r in ours] == [["step-0000005", "step-0000008"]]*2                   # all stopped after the same update
    assert (tmp_path/"evaluated-0").exists() and not (tmp_path/"evaluated-1").exists() and len(list(tmp_path.glob("tensorboard/*"))) == 1
    assert [h["val_score"] for r in ours for h in r["history"] if "val_score" in h] == [1.]*4

DYING = """
from test_train import *
def dying(k):
    if k == 2*13 + 1: os.kill(os.getpid(), signal.SIGKILL)
    return batches(k)
try: train(new(Line), dying, TrainConfig(steps=20, save_interval=5), save_dir={out!r}, device="cpu")
except PokeidmError as e: sys.exit(f"pokeidm: {{e}}")
"""

@pytest.mark.parametrize("split", ["false", "true"])
def test_a_process_that_dies_ends_the_run_with_one_line(tmp_path, monkeypatch, split):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", split)
    (tmp_path/"work.py").write_text(DYING.format(out=str(tmp_path/"run")))
    done = launch(str(tmp_path/"work.py"))
    said = [line for line in done.stderr.splitlines() if "pokeidm: " in line]
    assert done.returncode and len(said) == 1 and "another process of this run is gone" in said[0] and "step-0000010" in said[0], done.stderr[-3000:]
    assert "work.py\", line" not in done.stderr                                             # no traceback of ours
    assert train(new(Line), batches, TrainConfig(steps=20), save_dir=tmp_path/"run", resume=True, device="cpu")[-1]["step"] == 20

NOTEBOOK = """
from test_train import *
from accelerate import notebook_launcher
def work(): train(m := new(Line), batches, TrainConfig(steps=6), save_dir={out!r}, device="cpu"); torch.save(weights(m), f"{out}/{{os.environ['RANK']}}.pt")
notebook_launcher(work, num_processes=2)
"""

def test_from_a_notebook(tmp_path):
    done = launch(NOTEBOOK.format(out=str(tmp_path)), "-c")
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.equal(torch.load(tmp_path/"0.pt"), torch.load(tmp_path/"1.pt")) and [p.name for p in checkpoints(tmp_path)] == ["step-0000006"]

def test_other_ways_to_spread_a_model_are_refused(monkeypatch):
    import accelerate
    from accelerate.utils import DistributedType
    monkeypatch.setattr(accelerate.Accelerator, "distributed_type", DistributedType.DEEPSPEED)
    with pytest.raises(PokeidmError, match="DEEPSPEED.*MULTI_GPU or FSDP"): train(new(), batches, TrainConfig(steps=2), device="cpu")


# --- the best one, the clock, the speed ---

@pytest.mark.parametrize("best, kept", [("psnr", 20), ("min:error", 30), ("", None), ("ssim", None)])
def test_the_best_checkpoint_is_kept_and_survives_a_resume(tmp_path, best, kept, capsys):
    scores, seen = {10: (20, 3), 20: (25, 2), 30: (float("nan"), 1), 40: (24, 4), 50: (23, 5), 60: (22, 6)}, {}
    config = TrainConfig(steps=60, keep=1, save_interval=7, eval_interval=10, best=best, ema=.9)
    at = []
    def look(model): at.append((at[-1] if at else 0) + 10); seen[at[-1]] = weights(model).clone(); return dict(zip(("psnr", "error"), map(float, scores[at[-1]])))
    def until(n): return lambda step: batches(step) if step < n else exec("raise KeyboardInterrupt")
    run = lambda fetch, **more: train(new(Line), fetch, config, save_dir=tmp_path, evaluate=look, device="cpu", **more)
    with pytest.raises(KeyboardInterrupt): run(until(45))
    run(batches, resume=True)
    assert [p.name for p in checkpoints(tmp_path)] == [f"step-{s:07d}" for s in ([kept] if kept else []) + [60]]
    if kept: assert torch.equal(weights(load_model(Line, tmp_path/f"step-{kept:07d}")), seen[kept])
    assert ("none of the scores: psnr, error" in capsys.readouterr().err) == (best == "ssim")

def test_evaluating_does_not_use_up_the_minutes(monkeypatch):
    now = [0.]
    monkeypatch.setattr(T, "time", SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic))
    class Second(Line):
        def loss(self, batch, done):
            if self.training: now[0] += 1
            return super().loss(batch, done)
    def look(model): now[0] += 100; return {}
    history = train(new(Second), batches, TrainConfig(steps=0, minutes=1, eval_interval=7), evaluate=look, device="cpu")
    assert history[-1]["step"] == 60 and now[0] == 60 + 100*9
    assert {h["samples_per_second"] for h in history if "loss" in h} == {8.}

def test_what_the_device_could_do(monkeypatch):
    monkeypatch.setattr(T, "peak_flops", lambda device, precision="no": 1e9)
    watched, unwatched, config = new(Line), new(Line), TrainConfig(steps=20, clip_norm=1e9)
    history = train(watched, batches, config, device="cpu")
    for h in history: assert np.isclose(h["mfu"], h["samples_per_second"]*2*2*2/1e9)          # two numbers to one: forward, and the gradient of the weights
    monkeypatch.undo(); train(unwatched, batches, config, device="cpu")
    assert torch.equal(weights(watched), weights(unwatched))

@pytest.mark.parametrize("name, peak", [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-40GB", 312e12), ("NVIDIA L40S", 362e12),
                                        ("Tesla T4", 65e12), ("NVIDIA GeForce RTX 4090", 165e12), ("NVIDIA RTX A1000", None)])
def test_the_device_is_known_by_its_name(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert T.peak_flops("cuda", "bf16") == peak and (not peak or T.peak_flops("cuda") < peak) and T.peak_flops("cpu") is None

class Waits(TorchDispatchMode):
    "Counts what would make a GPU's host wait: reading a number, or a shape that hangs on one."
    def __init__(self): super().__init__(); self.found = []
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2"):
            lines = [f"{f.name}: {f.line}" for f in traceback.extract_stack() if os.sep + "pokeidm" + os.sep in f.filename]
            if "F.one_hot" not in lines[-1]: self.found.append(lines[-1])                    # looks at its values on a CPU only
        return func(*args, **(kwargs or {}))

def models():
    from pokeidm.dit import DiT, DiTConfig
    from pokeidm.lam import LAM, LAMConfig
    from pokeidm.tokenizer import Tokenizer, TokenizerConfig
    frames = np.random.default_rng(0).integers(0, 255, (2, 2, 40, 64, 3), np.uint8)
    for quant in ("fsq", "nsvq"): yield Tokenizer(TokenizerConfig(height=40, width=64, quant=quant)), frames
    yield LAM(LAMConfig(height=40, width=64)), frames
    yield DiT(DiTConfig(grid=(4, 6), latent_dim=4, actions=8)), (np.zeros((4, 3, 4, 6, 4), np.float32), np.zeros((4, 3), np.int64), np.zeros((4, 3, 4, 6, 4), np.float32))

def test_nothing_waits_for_the_device_between_two_logs():
    for model, batch in models():
        run = T.Run(model.train(), TrainConfig(steps=6, ema=.9), torch.device("cpu"))
        run.optimizer.step = lambda: None                       # fused on a GPU; on a CPU it reads its own counters
        fetch = lambda part: T._each(torch.as_tensor, batch)
        for _ in range(4): run.update(fetch)                    # past the warm-up of the codebook
        with Waits() as waits: run.update(fetch)
        waits.found = [w for w in waits.found if "update_parameters" not in w]
        assert not waits.found, (model.kind, waits.found)
        waits.found.clear()
        with waits: T._numbers(run, run.update(fetch))
        assert waits.found                                      # and it would notice


# --- copies elsewhere ---

def objects(s3): return sorted(o["Key"] for o in s3.list_objects_v2(Bucket="bucket").get("Contents", ()))
def three(*steps): return sorted(f"run/step-{s:07d}/{f}" for s in steps for f in ("model.safetensors", "state.pt", "config.json"))

def test_a_run_goes_on_from_s3_on_another_machine(s3, tmp_path):
    config = TrainConfig(steps=40, save_interval=5, ema=.9, eval_interval=10, best="score")
    def look(model): look.n = getattr(look, "n", 0) + 1; return {"score": -abs(look.n - 1)}            # the first is the best
    def stop(step): return batches(step) if step < 27 else exec("raise KeyboardInterrupt")
    def slow(part): time.sleep(.01); return stop(part)
    whole, cut, again = new(Line), new(Line), new(Line)
    train(whole, batches, config, device="cpu")
    with pytest.raises(KeyboardInterrupt): train(cut, slow, config, save_dir=tmp_path/"here", evaluate=look, device="cpu", mirror=Mirror("s3://bucket/run"))
    assert objects(s3) == three(10, 25, 27)                                                            # what is kept here: the newest two and the best
    for f in ("model.safetensors", "state.pt"): s3.put_object(Bucket="bucket", Key=f"run/step-0000030/{f}", Body=b"torn")      # never finished
    train(again, batches, config, save_dir=tmp_path/"there", evaluate=look, resume=True, device="cpu", mirror=Mirror("s3://bucket/run"))
    assert torch.equal(weights(whole), weights(again))
    assert objects(s3) == three(10, 35, 40) and [p.name for p in checkpoints(tmp_path/"there")] == ["step-0000010", "step-0000035", "step-0000040"]
    with pytest.raises(PokeidmError, match="another run.*--resume"): train(cut, batches, config, save_dir=tmp_path/"new", device="cpu", mirror=Mirror("s3://bucket/run"))
    assert objects(s3) == three(10, 35, 40) and not (tmp_path/"new").exists()

def test_a_network_that_is_cut_costs_a_line(s3, proxy, tmp_path, capsys):
    mirror = Mirror("s3://bucket/run")
    def idle(): mirror.job and mirror.job.result()
    def cut(step):
        if step == 7: idle(); proxy.down()
        if step == 18: idle(); assert mirror.failed; proxy.up()
        return batches(step)
    train(new(Line), cut, TrainConfig(steps=20, save_interval=5, keep=3), save_dir=tmp_path, device="cpu", mirror=mirror)
    said = [l for l in capsys.readouterr().err.splitlines() if l.strip()]
    assert len(said) == 1 and "training goes on" in said[0], said
    assert objects(s3) == three(10, 15, 20) and not mirror.failed
    sent = [path for method, path in proxy.arrived if method == "PUT"]
    assert len(sent) == 12 and all(path.endswith("config.json") for path in sent[2::3])               # what makes a checkpoint whole is sent last
    proxy.down()
    with pytest.raises(PokeidmError, match="cannot reach S3"): Mirror("s3://bucket/run")                # told before anything is trained

def test_what_never_arrived_is_named_and_sent_by_the_next_run(s3, proxy, tmp_path, capsys):
    mirror = Mirror("s3://bucket/run")
    train(new(Line), lambda step: proxy.alive and proxy.down() or batches(step), TrainConfig(steps=10, save_interval=5), save_dir=tmp_path, device="cpu", mirror=mirror)
    said = [l for l in capsys.readouterr().err.splitlines() if l.strip()]
    assert len(said) == 2 and "training goes on" in said[0] and said[1].startswith("step-0000005, step-0000010 never reached") and not objects(s3)
    proxy.up()
    train(new(Line), batches, TrainConfig(steps=10), save_dir=tmp_path, resume=True, device="cpu", mirror=Mirror("s3://bucket/run"))
    assert objects(s3) == three(5, 10)

def test_a_folder_that_vanishes_takes_no_copies_with_it(s3, tmp_path):
    mirror = Mirror("s3://bucket/run")
    train(new(Line), batches, TrainConfig(steps=10, save_interval=5), save_dir=tmp_path/"run", device="cpu", mirror=mirror)
    shutil.rmtree(tmp_path/"run"); mirror.due.add("step-0000010"); C._catch_up(mirror)
    assert objects(s3) == three(5, 10)

@pytest.mark.parametrize("name", ["step-..\\..\\x", "step-zzz", "step-"])
def test_only_checkpoints_are_brought(s3, tmp_path, name):
    for f in C.FILES: s3.put_object(Bucket="bucket", Key=f"run/{name}/{f}", Body=b"{}")
    train(new(Line), batches, TrainConfig(steps=2), save_dir=tmp_path/"run", resume=True, device="cpu", mirror=Mirror("s3://bucket/run"))
    assert [p.name for p in (tmp_path/"run").iterdir()] == ["step-0000002"] and len(objects(s3)) == 6

def test_every_setting_says_what_it_is():
    import inspect, re
    from pokeidm.dit import DiTConfig
    from pokeidm.lam import LAMConfig
    from pokeidm.tokenizer import TokenizerConfig
    for config in (TrainConfig, TokenizerConfig, LAMConfig, DiTConfig):
        for f in fields(config): assert re.search(rf"^\s+{f.name}: [^#\n]*#\s*\S", inspect.getsource(config), re.M) or re.search(rf"\b{f.name}\b", config.__doc__), (config, f.name)
