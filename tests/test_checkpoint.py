"Checkpoints are in the order of their updates, whatever the length of the number; the newest is gone on from, kept, and copied first."
import shutil
from pathlib import Path
import pytest, torch
from test_train import Line, LineConfig, batches
from pokeidm import checkpoint as C
from pokeidm.checkpoint import Mirror, checkpoints, load_model, model_folder, save_model, step_name, step_of
from pokeidm.train import TrainConfig, train

FAR = (9_999_999, 10_000_000)

def saved(folder, *steps):
    for step in steps:
        model = Line(LineConfig()); torch.nn.init.constant_(model.layer.bias, step)
        save_model(model, Path(folder)/step_name(step), {"step": step})
    return folder

def test_the_newest_is_the_one_with_the_largest_number(tmp_path):
    saved(tmp_path, *reversed(FAR), 500)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-0000500", "step-9999999", "step-10000000"]
    assert model_folder(tmp_path).name == "step-10000000" and load_model(Line, tmp_path).layer.bias.item() == FAR[1]

@pytest.mark.parametrize("name", ["step-", "step-best", "step-5a", "step-5/6", "best", "step-٣"])
def test_other_names_are_passed_over(tmp_path, name):
    saved(tmp_path, 5); shutil.copytree(tmp_path/step_name(5), tmp_path/name)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-0000005"] and step_of(name) == -1

def test_a_run_goes_on_past_ten_million_and_keeps_the_newest(tmp_path):
    train(Line(LineConfig()), batches, TrainConfig(steps=2), save_dir=tmp_path, device="cpu")
    path = checkpoints(tmp_path)[0]
    state = torch.load(path/"state.pt", weights_only=True); state["step"] = FAR[1] - 3; torch.save(state, path/"state.pt")
    path.rename(tmp_path/step_name(state["step"]))
    config = TrainConfig(steps=FAR[1] + 2, save_interval=1)
    train(Line(LineConfig()), batches, config, save_dir=tmp_path, resume=True, device="cpu")
    assert [p.name for p in checkpoints(tmp_path)] == ["step-10000001", "step-10000002"]

def test_the_newest_is_copied_first(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(C.Copies, "send", lambda self, path: sent.append(path.name))
    mirror = Mirror(f"{tmp_path}/bucket"); mirror.open(saved(tmp_path/"run", *FAR), resume=True)
    mirror.close()
    assert sent == ["step-10000000", "step-9999999"]
