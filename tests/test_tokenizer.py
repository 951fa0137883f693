"The tokenizer: shapes, bounds, causality, weights of the loss, bad sizes, and that it learns."
import numpy as np
import pytest, torch
from torch import nn
from pokeidm.core import PokeidmError
from pokeidm.tokenizer import SIZES, Tokenizer, TokenizerConfig, change_weights, changed_pixels, to_unit
from pokeidm.train import TrainConfig, load_model, save_model, train


def small(**changes): return TokenizerConfig(**{"height": 16, "width": 24, **changes})


def awake(model):
    "Output layers start at zero, which hides faults: give them weights."
    torch.manual_seed(0)
    for p in model.parameters():
        if p.ndim > 1 and not p.any(): nn.init.normal_(p, std=.05)
    return model.eval()


def clip(B=2, T=3, h=16, w=24, seed=0): return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (B, T, h, w, 3), dtype=np.uint8))


@pytest.mark.parametrize("quant", ["fsq", "nsvq", "emavq", "none"])
@pytest.mark.parametrize("temporal", [False, True])
def test_contract(quant, temporal):
    model = awake(Tokenizer(small(quant=quant, temporal=temporal)))
    for T in (1, 2, 5):
        x = to_unit(clip(T=T))
        with torch.no_grad(): z, words = model.encode(x); y = model.decode(z*3)
        assert z.shape == (2, T, 4, 6, 4) and words.shape == (2, T, 4, 6) and words.dtype == torch.int64
        if quant in ("fsq", "none"): assert z.abs().max() <= 1
        assert words.max() < model.quantizer.vocab and y.shape == x.shape and y.min() >= 0 and y.max() <= 1
        if quant == "fsq": assert torch.equal(model.quantizer.indices(z), words) and torch.allclose(model.quantizer.codes(words), z)


@pytest.mark.parametrize("quant", ["fsq", "nsvq", "emavq", "none"])
def test_every_parameter_gets_a_gradient_after_one_step(quant):
    model = Tokenizer(small(quant=quant, temporal=True)).train()
    optimizer = torch.optim.SGD(model.parameters(), .1)
    for progress in (.5, .6):
        loss, logs = model.loss(clip(seed=1), progress)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    assert loss.isfinite() and {"psnr", "changed_psnr", "perplexity"} <= logs.keys() and all(torch.as_tensor(v).ndim == 0 for v in logs.values())
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("T", [1, 4])
def test_frame_tokenizer_treats_frames_alone_and_video_tokenizer_is_causal(T):
    x = to_unit(clip(T=4)); y = x.clone(); y[:, T:] = torch.rand(2, 4 - T, 3, 16, 24)
    for temporal in (False, True):
        model = awake(Tokenizer(small(temporal=temporal)))
        with torch.no_grad():
            assert torch.equal(model.encode(x)[1][:, :T], model.encode(y)[1][:, :T])
            z = model.encode(x)[0]; other = z.clone(); other[:, T:] = -other[:, T:]
            assert torch.equal(model.decode(z)[:, :T], model.decode(other)[:, :T])
            z[:, 0] = -z[:, 0]
            later = torch.equal(model.decode(z)[:, 1:], model.decode(other)[:, 1:])
        assert T == 1 or later == (not temporal)              # only the video tokenizer hears the past


def test_change_weights():
    x = torch.zeros(3, 2, 3, 8, 8)
    x[0, 1, :, :2] = .5; x[1, 1, :, :2] = 1/255; x[2, 1] = .5
    changed = changed_pixels(x)
    assert changed[0, :, 0, :2].all() and not changed[0, :, 0, 2:].any()
    assert not changed[1].any() and changed[2].all()          # one grey level is the codec's noise
    w = change_weights(changed, 3.)
    assert torch.allclose(w.mean((1, 2, 3, 4)), torch.ones(3)) and torch.isclose(w[0, 1, 0, 0, 0] / w[0, 1, 0, 7, 7], torch.tensor(4.))
    assert (w[1] == 1).all() and (w[2] == 1).all() and (change_weights(changed_pixels(x[:, :1]), 3.) == 1).all()


def test_change_weight_changes_the_loss_only_where_something_moved():
    model = [Tokenizer(small(change_weight=w)) for w in (0., 5.)]
    model[1].load_state_dict(model[0].state_dict())
    still = clip(T=1).expand(-1, 2, -1, -1, -1); moving = still.clone(); moving[:, 1, :4] //= 4
    loss = lambda m, b: m.loss(b, .5)[0].item()
    assert loss(model[0], still) == pytest.approx(loss(model[1], still), rel=1e-5)
    assert loss(model[0], moving) != pytest.approx(loss(model[1], moving), rel=1e-3)


def test_clipped_errors_bound_the_loss():
    black = torch.zeros(1, 2, 16, 24, 3, dtype=torch.uint8)
    assert Tokenizer(small(clip=.01)).loss(black, .5)[0] <= .1 + 1e-6 < Tokenizer(small()).loss(black, .5)[0]


@pytest.mark.parametrize("bad", [{"height": 18}, {"width": 2}, {"patch": 5}, {"size": "XL"}, {"bins": (8, 1)}, {"bins": ()}, {"quant": "vq"}])
def test_bad_configurations(bad):
    with pytest.raises(PokeidmError): Tokenizer(small(**bad))


def test_frames_of_another_size():
    model = Tokenizer(small())
    for x in (torch.rand(1, 1, 3, 24, 16), torch.rand(1, 1, 3, 32, 24)):
        with pytest.raises(PokeidmError, match="16x24"): model.encode(x)
    with pytest.raises(PokeidmError): model.loss(clip(h=24, w=16), .5)


def test_sizes_on_the_dial():
    "Parameter counts without memory for them."
    with torch.device("meta"): counts = {s: sum(p.numel() for p in Tokenizer(small(size=s)).parameters())/1e6 for s in SIZES}
    assert counts["tiny"] < 1.3 and 10 < counts["S"] < 14 and 45 < counts["M"] < 55 and 90 < counts["L"] < 110


def test_learns_and_survives_a_checkpoint(tmp_path):
    "A still picture of two colours is learnt in a few dozen steps; a learning rate of zero is not."
    frames = torch.zeros(2, 2, 16, 24, 3, dtype=torch.uint8); frames[..., ::8, :, 1] = 200; frames[:, 1, :, :12, 0] = 255
    def final(lr):
        model = Tokenizer(small())
        train(model, lambda step: frames, TrainConfig(steps=60, lr=lr, warmup=5), device="cpu")
        return model, model.loss(frames, 1.)[1]["psnr"].item()
    model, psnr = final(3e-3)
    assert psnr > 20 > final(1e-9)[1]
    save_model(model, tmp_path/"model"); again = load_model(Tokenizer, tmp_path/"model")
    assert again.config == model.config and torch.equal(again.encode(to_unit(frames))[1], model.encode(to_unit(frames))[1])
    assert model.encode(to_unit(frames))[1].unique().numel() > 2
