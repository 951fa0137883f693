"""The collapse canary: a small LAM on the overworld must find and use its codes, and one that does not learn must fail the same test."""
import numpy as np, pytest, torch
from pathlib import Path
from pokeidm.core import PokeidmError, read_json, seed_everything
from pokeidm.frames import extract, open_frames
from pokeidm.lam import LAM, LAMConfig, delta_psnr, label_frames, merge_codes
from pokeidm.metrics import DIRECTIONS, action_scores, pair_truth
from pokeidm.train import TrainConfig, train

SAMPLES = Path(__file__).resolve().parent.parent/"data_samples"

def pairs_of(clip, folder):
    store, truth = open_frames(extract(SAMPLES/f"{clip}.mp4", folder, "overworld", target_height=40, jump_seconds=0.5)), read_json(SAMPLES/f"{clip}.json")
    index, frames = store.meta["frames"]["index"], store.rows(0, len(store))
    return frames[:-1], frames[1:], np.array([pair_truth(truth, f, g) for f, g in zip(index, index[1:])])

@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    return pairs_of("overworld_train_1", folder), pairs_of("overworld_heldout", folder)

def fitted(clips, lr=2e-3, steps=120, constant=False):
    (before, after, truth), _ = clips
    moving, still = np.nonzero(np.isin(truth, DIRECTIONS[1:]))[0], np.nonzero(truth == "none")[0]
    def batches(step):
        g = np.random.default_rng(step); i = np.r_[g.choice(moving, 18), g.choice(still, 6)]
        return np.stack([before[i], after[i]], 1)
    seed_everything(0); lam = LAM(LAMConfig())
    if constant: lam.encoder.forward = lambda a, b: torch.zeros(len(a), 16)
    train(lam, batches, TrainConfig(steps=steps, lr=lr, warmup=20), device="cpu")
    merge_codes(lam, before, after)
    return lam

def canary(lam, clips):
    _, (before, after, truth) = clips
    scores = action_scores(truth, lam.pair_codes(before, after)[0])
    assert scores["perplexity"] > 3 and scores["commonest_share"] < 0.8, "collapsed"
    assert scores["nmi"] > 0.6 and scores["noop_recall"] > 0.9, scores
    assert delta_psnr(lam, before[:200], after[:200]) > 2

def test_canary_sings(clips): canary(fitted(clips), clips)

@pytest.mark.parametrize("broken", [dict(lr=1e-12, steps=5), dict(constant=True, steps=5)])
def test_canary_dies_when_training_is_broken(clips, broken):
    lam = fitted(clips, **broken)
    with pytest.raises(AssertionError): canary(lam, clips)

def test_identical_frames_are_code_zero_even_untrained(clips):
    frames = clips[1][0][:40]
    torch.manual_seed(1); lam = LAM(LAMConfig()).eval()
    assert not lam.pair_codes(frames, frames)[0].any() and lam.vectors(frames, frames).abs().max() == 0

def test_unknown_encoder():
    with pytest.raises(PokeidmError, match="no encoder 'eyes'"): LAM(LAMConfig(encoder="eyes"))
