"The tokenizer: shapes, bounds, causality, streams, the terms of the loss, sizes, first weights, bad input, and that it learns."
import json
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from pokeidm.checkpoint import load_model, save_model
from pokeidm.core import PokeidmError
from pokeidm.layers import RMSNorm
from pokeidm.tokenizer import SIZES, Tokenizer, TokenizerConfig, change_weights, changed_pixels, edge_loss, haar, pixel_error, to_unit
from pokeidm.train import TrainConfig, train


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


def test_clipped_errors_stop_pulling_when_they_are_small_and_only_then():
    black = torch.zeros(1, 2, 16, 24, 3, dtype=torch.uint8)
    pull = lambda clip: sum(p.grad.abs().sum().item() for p in _backward(Tokenizer(small(clip=clip)), black).parameters() if p.grad is not None)
    assert pull(100.) == 0 < pull(.01)
    x = torch.tensor([0., .01, .5]).requires_grad_(); pixel_error(x, torch.zeros(3), .01).sum().backward()
    assert x.grad.tolist() == [0, 0, 1]
    assert torch.equal(pixel_error(x, torch.zeros(3)), x.square())


def _backward(model, batch):
    model.loss(batch, .5)[0].backward()
    return model


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_edge_loss_is_zero_for_equal_pictures_only(h, w, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 2, 3, h, w, generator=g); y = x.clone()
    assert edge_loss(x, y) == 0
    y.view(-1)[seed % y.numel()] += .1                              # any one pixel counts, at every size, also where nothing can be halved
    assert edge_loss(x, y) > 0 and torch.isclose(edge_loss(x, y), edge_loss(y, x))
    y.requires_grad_(); edge_loss(y, x + 1).backward()
    assert y.grad.isfinite().all() and y.grad.any()


def test_haar_loses_nothing_and_minds_edges_more_than_shade():
    x = torch.rand(2, 3, 8, 12); rest, (down, across, diagonal) = (r := haar(x))[0], r[1].unbind(-3)
    assert torch.allclose(rest + down + across + diagonal, x[..., ::2, ::2], atol=1e-6) and torch.allclose(rest - down - across + diagonal, x[..., 1::2, 1::2], atol=1e-6)
    stripes = torch.zeros(1, 8, 8); stripes[..., ::2] = 1           # columns: the detail across, no other
    assert [float(d.abs().max()) for d in haar(stripes)[1].unbind(-3)] == [0, .5, 0]
    noise = .1*torch.randn(2, 3, 64, 64).sign()                     # as much squared error as a shade of 0.1
    assert edge_loss(noise, 0*noise) > 1.5*edge_loss(0*noise + .1, 0*noise) == pytest.approx(.15)


def test_perceptual_term_is_off_by_default_and_counts_when_on():
    off, on = Tokenizer(small()), Tokenizer(small(perceptual=2.))
    on.load_state_dict(off.state_dict()); x = clip()
    with torch.no_grad(): out = off.pixels(off.quantizer(off.squeezed(to_unit(x)))[0])
    assert (on.loss(x, .5)[0] - off.loss(x, .5)[0]).item() == pytest.approx(2*edge_loss(out, to_unit(x)).item(), rel=1e-4)
    assert all(p.grad.isfinite().all() for p in _backward(on, x).parameters() if p.grad is not None) and on.head[1].weight.grad.any()


@pytest.mark.parametrize("bad", [{"height": 18}, {"width": 2}, {"patch": 5}, {"patch": 0}, {"height": 0}, {"width": -24}, {"size": "XL"}, {"bins": (8, 1)},
                                 {"bins": ()}, {"bins": (8, 2.5)}, {"quant": "vq"}])
def test_bad_configurations(bad):
    with pytest.raises(PokeidmError) as e: Tokenizer(small(**bad))
    assert "\n" not in str(e.value) and ":" in str(e.value)         # one line: what, and how to mend


def test_frames_of_another_size():
    model = Tokenizer(small())
    for x in (torch.rand(1, 1, 3, 24, 16), torch.rand(1, 1, 3, 32, 24)):
        with pytest.raises(PokeidmError, match="16x24"): model.encode(x)
        with pytest.raises(PokeidmError, match="16x24"): model.stream().encode(x)
    with pytest.raises(PokeidmError): model.loss(clip(h=24, w=16), .5)


@pytest.mark.parametrize("x", [torch.zeros(1, 2, 3, 16, 24, dtype=torch.uint8), torch.rand(2, 3, 16, 24), torch.rand(1, 2, 16, 24, 3), torch.rand(1, 2, 4, 16, 24), torch.rand(1, 0, 3, 16, 24)])
def test_what_is_not_float_frames(x):
    with pytest.raises(PokeidmError, match="to_unit"): Tokenizer(small()).encode(x)


@pytest.mark.parametrize("shape", [(1, 1, 6, 4, 4), (1, 1, 4, 6, 5), (1, 4, 6, 4), (1, 1, 3, 8, 4)])
def test_latents_of_another_tokenizer(shape):
    with pytest.raises(PokeidmError, match="same tokenizer"): Tokenizer(small()).decode(torch.zeros(shape))


@pytest.mark.parametrize("other", [{"size": "tiny"}, {"temporal": True}, {"patch": 8}, {"bins": (8, 8, 8)}])
def test_checkpoint_of_another_shape(tmp_path, other):
    folder = save_model(Tokenizer(small()), tmp_path/"model"); stated = json.loads((folder/"config.json").read_text())
    stated["config"] |= other; (folder/"config.json").write_text(json.dumps(stated))
    with pytest.raises(PokeidmError) as e: load_model(Tokenizer, folder)
    assert "\n" not in str(e.value) and str(folder) in str(e.value)


@pytest.mark.parametrize("temporal", [False, True])
def test_sizes_on_the_dial(temporal):
    "Parameter counts without memory for them, frame and video tokenizer, both patches."
    for patch in (4, 8):
        with torch.device("meta"): counts = {s: sum(p.numel() for p in Tokenizer(TokenizerConfig(s, temporal=temporal, patch=patch)).parameters())/1e6 for s in SIZES}
        assert counts.pop("nano") < .7 and list(counts) == ["tiny", "S", "M", "L"]
        for n, aim in zip(counts.values(), (1, 12, 50, 100)): assert abs(n/aim - 1) < .25


def test_first_weights():
    "Each matrix as `init_weights` promises, whatever PyTorch would have put there; output layers of the steps zero; another seed, other weights."
    torch.manual_seed(0); model = Tokenizer(TokenizerConfig("tiny", temporal=True))
    torch.manual_seed(1); other = dict(Tokenizer(TokenizerConfig("tiny", temporal=True)).named_modules())
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for name, m in linear:
        assert m.bias is None or not m.bias.any()
        if name.endswith((".out", ".down")): assert not m.weight.any(), name
        else:
            assert m.weight.std().item() * m.weight[0].numel()**.5 == pytest.approx(.88, abs=.12), name       # truncated at two deviations
            assert not torch.equal(m.weight, other[name].weight), name
    assert len(linear) == 34 and all((m.weight == 1).all() for m in model.modules() if isinstance(m, RMSNorm))


def test_big_patches_at_the_native_size():
    "8 × 8 patches on 240 × 160: a grid of 20 × 30, 11 bits a patch."
    model = Tokenizer(TokenizerConfig(patch=8, height=160, width=240, temporal=True))
    x = clip(1, 2, 160, 240)
    z, words = model.eval().encode(to_unit(x))
    assert z.shape == (1, 2, 20, 30, 4) and model.decode(z).shape == (1, 2, 3, 160, 240) and model.quantizer.vocab == 1920
    loss, _ = model.train().loss(x, .5); loss.backward()
    assert loss.isfinite() and model.head[1].weight.grad.any()


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.booleans(), st.sampled_from(["tiny", "deep"]))
def test_a_stream_gives_what_the_whole_clip_gives(pieces, temporal, size):
    "Any split, any length (training sees 2 to 5 frames), local windows and full attention; the caches of the two directions are apart."
    model, x = _models(temporal, size), to_unit(clip(2, sum(pieces), seed=len(pieces)))
    with torch.no_grad(): z, words = model.encode(x); y = model.decode(z)
    stream = model.stream()
    parts = [stream.encode(part) for part in x.split(pieces, 1)]
    shown = torch.cat([stream.decode(part) for part in z.split(pieces[::-1], 1)], 1)
    assert torch.allclose(torch.cat([p[0] for p in parts], 1), z, atol=1e-5) and torch.equal(torch.cat([p[1] for p in parts], 1), words)
    assert torch.allclose(shown, y, atol=1e-5)


def _models(temporal, size, made={}):
    SIZES["deep"] = (32, 4, 4, 2, False)                            # no size of the package: full attention at a width for tests
    try: return made.setdefault((temporal, size), awake(Tokenizer(small(size=size, temporal=temporal))))
    finally: del SIZES["deep"]


@pytest.mark.parametrize("T", range(1, 33))
def test_any_length_and_the_first_frame_alone(T, x=to_unit(clip(1, 32))):
    model = _models(True, "deep"); z, _ = (encoded := model.stream().encode(x[:, :T]))
    assert z.shape[1] == T and encoded[1].shape[:2] == (1, T)
    with torch.no_grad():
        assert torch.allclose(model.squeezed(x[:, :T])[:, :1], model.squeezed(x[:, :1]), atol=1e-5)
        y = model.decode(model.encode(x[:, :T])[0])
        assert y.shape == x[:, :T].shape and y.isfinite().all() and torch.allclose(y[:, :1], model.decode(z[:, :1]), atol=1e-5)


def test_a_stream_hears_the_past_up_to_its_window_and_keeps_no_graph():
    model, x = _models(True, "deep"), to_unit(clip(1, 12))
    last = lambda window, start: model.stream(window).encode(x[:, start:])[0][:, -1]
    assert not torch.allclose(last(None, 0), last(None, 8), atol=1e-3) and torch.allclose(last(1, 0), last(1, 8), atol=1e-5)
    stream = model.stream(window=3)
    for t in range(12): z, _ = stream.encode(x[:, t:t+1]); y = stream.decode(z)
    assert all(c.k.shape[-2] == 3 and c.position == 12 for c in stream.seen + stream.shown) and not z.requires_grad and not y.requires_grad
    with pytest.raises(PokeidmError, match="batch"): stream.encode(x[:, :1].expand(2, -1, -1, -1, -1))


def test_a_deep_stack_survives_a_rate_three_times_too_high():
    "L's depth, narrow: every update finite, and it has learnt something in the end."
    SIZES["narrow"] = (32, *SIZES["L"][1:3], 2, False)
    try: model = Tokenizer(small(size="narrow"))
    finally: del SIZES["narrow"]
    frames = torch.zeros(2, 2, 16, 24, 3, dtype=torch.uint8); frames[..., ::8, :, 1] = 200; frames[:, 1, :, :12, 0] = 255
    history = train(model, lambda step: frames, TrainConfig(steps=120, lr=1.2e-2, warmup=10), device="cpu")
    assert all(np.isfinite([h["loss"], h["grad_norm"]]).all() for h in history) and history[-1]["psnr"] > history[0]["psnr"] + 8


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
