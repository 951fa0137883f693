"A model that is split over processes (FSDP) is trained to the weights of one that is not, and its checkpoints are the same: a run goes on with or without."
import os
from dataclasses import replace
import numpy as np, pytest, torch
from test_train import Numbers, Plain, launch, models, new, weights
from pokeidm import train as T
from pokeidm.checkpoint import load_model
from pokeidm.core import PokeidmError
from pokeidm.groups import Batches
from pokeidm.train import TrainConfig, train

CONFIG = TrainConfig(steps=20, save_interval=10, keep=9, ema=.9, warmup=3, lr=.01, clip_norm=.05, eval_interval=10)     # every gradient is clipped

class Counting(Plain):
    "Blocks as the models here have them, one within another, and a buffer that it writes itself: the sum of what the first process saw."
    def __init__(self, config):
        super().__init__(config)
        self.blocks = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ModuleList([torch.nn.Linear(2, 2)])[0]) for _ in range(2)])
        self.register_buffer("seen", torch.zeros(()))
    def loss(self, batch, done):
        if self.training: self.seen += batch.sum()
        target = batch[:, :1]*batch[:, 1:]
        for block in self.blocks: batch = batch + block(batch)
        return (self.layers(batch) - target).square().mean() + 0*self.seen, {}

def run(out, model, size, config=CONFIG, evaluated=None, **more):
    "Train on the 50 groups, `size` in the batch of a process; what was evaluated is added to `evaluated`."
    def look(model): evaluated.append(weights(model).clone()); return {"score": 1.}
    return train(model, Batches(Numbers(), size), config, save_dir=out, evaluate=look if evaluated is not None else None, device="cpu", **more)

def worker(out):
    "What each of two processes does."
    rank, whole, again, seen, parts = int(os.environ["RANK"]), new(Counting, int(os.environ["RANK"])), new(Counting, 7), [], new(Counting)
    begun = T.Run(new(Counting), CONFIG, torch.device("cpu"))
    held = [sum(p.to_local().numel() for p in model.parameters()) for model in (begun.model, begun.average)]
    history = run(out/"split", whole, 5, evaluated=seen)
    run(out/"parts", parts, 1, replace(CONFIG, accumulate=5))
    run(out/"half", again, 5, replace(CONFIG, save_interval=20), evaluated=[], resume=out/"split/step-0000010")
    if (out/"alone").exists(): run(out/"taken", taken := new(Counting, 8), 5, evaluated=[], resume=out/"alone/step-0000010"); torch.save(weights(taken), out/f"taken-{rank}.pt")
    torch.save({"whole": weights(whole), "again": weights(again), "parts": weights(parts), "seen": seen, "history": history, "type": type(whole).__name__, "buffer": whole.seen, "held": held}, out/f"result-{rank}.pt")
    trained = []
    for model, batch in models():
        try: train(model, lambda k: batch, TrainConfig(steps=2, ema=.9), device="cpu"); trained.append(model.kind)
        except PokeidmError as e: trained.append(str(e))
    torch.save(trained, out/f"trained-{rank}.pt")

@pytest.fixture(scope="module")
def results(tmp_path_factory):
    "The folder, what each process of two that share the model has, and what one has that has it all."
    out = tmp_path_factory.mktemp("split")
    one, seen = new(Counting), []
    history = run(out/"alone", one, 10, evaluated=seen)
    (out/"work.py").write_text(f"from pathlib import Path\nfrom test_train_split import worker\nworker(Path({str(out)!r}))\n")
    with pytest.MonkeyPatch.context() as m: m.setenv("ACCELERATE_USE_FSDP", "true"); done = launch(str(out/"work.py"))
    assert done.returncode == 0, done.stderr[-3000:]
    return out, [torch.load(out/f"result-{r}.pt") for r in (0, 1)], dict(weights=weights(one), seen=seen, history=history)

def test_each_holds_its_part(results):
    _, ours, alone = results
    for of_both in zip(*(mine["held"] for mine in ours)): assert sum(of_both) == len(alone["weights"]) and max(of_both) < .7*sum(of_both)       # odd lengths, and small

def near(a, b): return torch.allclose(a, b, rtol=1e-5, atol=1e-5)

def test_two_processes_that_share_a_model_are_one_with_twice_the_batch(results):
    out, ours, alone = results
    assert not near(alone["weights"], weights(new(Counting)))
    for mine in ours:
        assert near(mine["whole"], alone["weights"]) and near(mine["parts"], alone["weights"]) and mine["type"] == "Counting"
        assert torch.equal(mine["whole"], ours[0]["whole"])
    assert len(ours[0]["seen"]) == 2 and not ours[1]["seen"] and all(map(near, ours[0]["seen"], alone["seen"]))
    clipped = [[h["grad_norm"] for h in history if "loss" in h] for history in (ours[0]["history"], alone["history"])]
    assert np.allclose(*clipped, rtol=1e-4) and min(clipped[0]) > CONFIG.clip_norm

def test_what_a_model_writes_itself_follows_the_first_process(results):
    _, ours, _ = results
    sums = [float(Batches(Numbers(), 5)(k).sum()) for k in range(40)]
    for r, mine in enumerate(ours): assert np.isclose(mine["buffer"], sum(sums[:38:2]) + sums[38 + r], rtol=1e-4)       # up to its own last batch

def test_what_they_save_is_what_one_saves(results):
    out, ours, _ = results
    split, alone = (torch.load(out/name/"step-0000010/state.pt", weights_only=True) for name in ("split", "alone"))
    assert split.keys() == alone.keys() and split["optimizer"]["param_groups"] == alone["optimizer"]["param_groups"]
    for name in ("model", "average"):
        assert split[name].keys() == alone[name].keys() and all(type(v) is torch.Tensor and near(v, alone[name][k]) for k, v in split[name].items() if not k.endswith("seen"))
    for i, moments in alone["optimizer"]["state"].items():
        for k, v in moments.items(): assert type(mine := split["optimizer"]["state"][i][k]) is torch.Tensor and mine.shape == v.shape and near(mine, v)
    assert torch.equal(weights(load_model(Counting, out/"split/step-0000020")), ours[0]["whole"])

def test_a_run_goes_on_split_or_not(results):
    out, ours, alone = results
    for r, mine in enumerate(ours):
        assert torch.equal(mine["again"], mine["whole"])                               # to the last bit, by as many processes
        assert near(torch.load(out/f"taken-{r}.pt"), alone["weights"])                 # split from the middle on
    one = new(Counting, 9); run(out/"given", one, 10, evaluated=[], resume=out/"split/step-0000010")
    assert near(weights(one), alone["weights"])                          # split up to the middle

def test_every_model_can_be_split_unless_its_codebook_is_learnt(results):
    out, *_ = results
    for r in (0, 1):
        fsq, *learnt, dit = torch.load(out/f"trained-{r}.pt")
        assert (fsq, dit) == ("tokenizer", "dit") and len(learnt) == 2 and all("learnt codebook" in said and "--quant fsq" in said for said in learnt)
