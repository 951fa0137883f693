"Peers beside ours: the clones here are a few lines in the shape of tinyworlds."
import json
import pytest
import torch
from pokeidm.bench import bench_peer, nearest_width, peer_process, which_peer
from pokeidm.cli import main
from pokeidm.core import PokeidmError

MODEL = """
import os
import torch
from torch import nn
class {name}(nn.Module):
    def __init__(self, embed_dim, hidden_dim, num_blocks, num_heads, frame_size, patch_size, **own):
        super().__init__()
        assert num_heads == 8 and hidden_dim == 4*embed_dim and patch_size == 4 and set(own) == {own}
        self.layers = nn.Sequential(*(nn.Linear(embed_dim, embed_dim) for _ in range(num_blocks)))
        self.size = frame_size
    def forward(self, x, training=True, conditioning=None, targets=None):
        print("step", tuple(x.shape), os.environ.get("FAIL"))
        assert self.training and torch.is_grad_enabled() and x.shape[0:2] == (2, 3)
        if targets is None: assert x.shape[2:] == (3, *self.size) and x.min() < 0
        else: assert x.shape == (*targets.shape, 5) and targets.shape[2] == self.size[0]*self.size[1]//16 and conditioning.shape == (2, 2, 3)
        loss = self.layers(torch.ones(1, self.layers[0].in_features)).square().mean()
        return (loss, None) if targets is None else (None, None, loss)
"""
FILES = {
    "models/video_tokenizer.py": MODEL.format(name="VideoTokenizer", own={"latent_dim", "num_bins"}),
    "models/latent_actions.py": MODEL.format(name="LatentActionModel", own={"n_actions"}),
    "models/dynamics.py": MODEL.format(name="DynamicsModel", own={"latent_dim", "num_bins", "conditioning_dim"}),
    "models/fsq.py": "class FiniteScalarQuantizer:\n    def __init__(self, dim, bins): self.dim = dim\n    def get_latents_from_indices(self, k): return k[..., None].float().expand(*k.shape, self.dim)\n",
    "models/__init__.py": "",
    "utils/optimizer_utils.py": "import torch\ndef create_optimizer(model, args): return [torch.optim.AdamW(model.parameters(), lr=args.learning_rate)]\n",
}
SMALL = dict(rounds=1, batch=2, length=3, sizes=((24, 32),))

@pytest.fixture
def clone(tmp_path):
    for name, text in FILES.items():
        path = tmp_path/"clone"/name
        path.parent.mkdir(parents=True, exist_ok=True); path.write_text(text)
    return tmp_path/"clone"

def test_rows(clone):
    rows = bench_peer(clone, "cpu", **SMALL)
    assert [r["what"].split(" 24x32, ")[0] for r in rows] == ["train video tokenizer", "train action model", "train dynamics (flow / masked tokens)"]
    for r in rows:
        ours, theirs = float(r["what"].split(", ")[1].split()[0]), float(r["instead of"].removeprefix("tinyworlds, ").split()[0])
        assert abs(theirs/ours - 1) < .1 and r["ratio"] == pytest.approx(r["value"]/r["baseline"], abs=.02) and r["unit"] == "frames/s"

def test_a_step_trains(clone):
    "Each step moves the peer's weights: its loss falls (or the rows would time something else than training)."
    job = dict(part="tokenizer", batch=2, length=3, height=24, width=32, blocks=2, parameters=2*(16*16 + 16), device="cpu", threads=1)
    source = clone/"models/video_tokenizer.py"
    source.write_text(source.read_text().replace("return (loss, None)", "open(os.environ['SEEN'], 'a').write(f'{loss.item()}\\n'); return (loss, None)"))
    with pytest.MonkeyPatch.context() as m:
        m.setenv("SEEN", str(clone/"seen"))
        with peer_process(clone, job) as (count, step):
            assert count == job["parameters"]
            for _ in range(20): step()
    seen = [float(x) for x in (clone/"seen").read_text().split()]
    assert len(seen) == 20 and seen[-1] < .9*seen[0]

def test_nearest_width():
    for wanted in (1, 500, 600, 5000):      # of a layer of w x w + w, w a multiple of 4 from 8
        built = nearest_width(lambda w: torch.nn.Linear(w, w), wanted, 4).in_features
        assert built == min(range(8, 200, 4), key=lambda w: abs(w*w + w - wanted))

@pytest.mark.parametrize("damage, says", [
    (("models/fsq.py", "import packagethatisnowhere"), "No module named 'packagethatisnowhere'"), (("models/dynamics.py", "class Other: pass"), "DynamicsModel"),
    (("models/latent_actions.py", "import os; os._exit(3)"), "without a word"), (("utils/optimizer_utils.py", "raise OSError('two\\nlines')"), "lines")])
def test_a_peer_that_does_not_run(clone, damage, says):
    (clone/damage[0]).write_text(damage[1])
    with pytest.raises(PokeidmError, match="tinyworlds in .* does not run here") as e: bench_peer(clone, "cpu", **SMALL)
    assert says in str(e.value) and "\n" not in str(e.value)

def test_a_peer_that_ends_while_it_trains(clone):
    (clone/"models/video_tokenizer.py").write_text(FILES["models/video_tokenizer.py"].replace("        loss = ", "        os._exit(1)\n        loss = "))
    with pytest.raises(PokeidmError, match="does not run here"): bench_peer(clone, "cpu", **SMALL)

def test_command(clone, tmp_path, monkeypatch, capfd):
    "Our rows and those of peers that run are there, whatever becomes of the others; the record too."
    monkeypatch.setattr("pokeidm.bench.bench_peer", lambda folder, device: bench_peer(folder, device, **SMALL))
    monkeypatch.setattr("pokeidm.bench.bench_models", lambda device: [])
    broken = tmp_path/"broken"; broken.mkdir(); (broken/"models").mkdir()
    for name in FILES: (broken/name).parent.mkdir(exist_ok=True); (broken/name).write_text("import packagethatisnowhere")
    assert main(["bench", "--only", "models", "--peer", str(broken), str(clone), "--json", str(tmp_path/"out.json")]) == 2
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 3 == len(json.loads((tmp_path/"out.json").read_text())["rows"]) and "step (" not in out
    assert err.count("\n") == 1 and err.startswith("pokeidm: tinyworlds in ") and "broken" in err

@pytest.mark.parametrize("argv", [("--peer", "nowhere"), ("--peer", "{clone}", "{empty}"), ("--peer",), ("--only", "play", "--peer", "{clone}"), ("--only", "abacus", "--peer", "{clone}")])
def test_arguments(argv, clone, tmp_path, monkeypatch, capfd):
    "Everything that is wrong is said before anything is measured."
    monkeypatch.setattr("pokeidm.bench._parts", lambda device: pytest.fail("it measures"))
    (tmp_path/"empty").mkdir()
    assert main(["bench", *(a.format(clone=clone, empty=tmp_path/"empty") for a in argv)]) == 2
    out, err = capfd.readouterr()
    assert not out and err.startswith("pokeidm: ") and err.count("\n") == 1

def test_which_peer(clone):
    assert which_peer(clone) == "tinyworlds"
    (clone/"models/dynamics.py").unlink()
    with pytest.raises(PokeidmError, match="no clone of tinyworlds or Gaia"): which_peer(clone)
