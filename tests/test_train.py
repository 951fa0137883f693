"""The training loop under faults: torn checkpoints, kill -9, loss that blows up, loggers that are missing."""
import os, signal, subprocess, sys, time
from dataclasses import dataclass
from types import SimpleNamespace
import numpy as np, pytest, torch
from torch import nn
from pokeidm.core import PokeidmError
from pokeidm.train import Board, TrainConfig, checkpoints, last_scores, load_model, save_model, train

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
