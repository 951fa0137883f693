"""The training loop under faults: torn checkpoints, kill -9, loss that blows up."""
import os, signal, subprocess, sys, time
from dataclasses import dataclass
import numpy as np, pytest, torch
from torch import nn
from pokeidm.core import PokeidmError
from pokeidm.train import TrainConfig, checkpoints, load_model, save_model, train

@dataclass
class LineConfig: width: int = 2

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
