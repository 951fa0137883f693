import pytest, torch
from pokeidm.core import PokeidmError
from pokeidm.dit import DiT, DiTConfig, connect, influence

SMALL = dict(grid=(4, 6), latent_dim=3, actions=5, width=32, depth=2, heads=2, temporal_every=2)

def build(B=2, T=3, **config):
    torch.manual_seed(0)
    model = DiT(DiTConfig(**{**SMALL, **config})).eval()
    noisy, past = torch.randn(2, B, T, *model.config.grid, model.config.latent_dim)
    return model, [noisy, torch.rand(B, T), torch.randint(0, 5, (B, T)), past]


@pytest.mark.parametrize("config", [dict(), dict(action_by="token", kernels=False), dict(action_by="both"), dict(action_by="token")])
def test_actions_reach_their_own_frame_and_never_an_earlier_one(config):
    model, inputs = build(**config)
    table = influence(connect(model), inputs)
    assert (table.diagonal() > 1e-5).all() and not table.tril(-1).any()
    assert (table[0, 1:] > 0).all()                       # through time attention


def test_a_shifted_alignment_is_caught():
    "The same test on a model whose actions are off by one must fail."
    model, inputs = build()
    shifted = lambda noisy, t, actions, past: model.forward(noisy, t, actions.roll(-1, 1), past)
    shifted_model = type("Shifted", (), {"__call__": staticmethod(shifted), "config": model.config})()
    table = influence(connect(model) and shifted_model, inputs)
    assert table.tril(-1).any()


def test_without_time_attention_frames_are_alone():
    model, inputs = build(temporal_every=0)
    table = influence(connect(model), inputs)
    assert (table.diagonal() > 1e-5).all() and table.count_nonzero() == 3


@pytest.mark.parametrize("target, residual, expected", [("x", True, "past"), ("x", False, "zero"), ("v", True, "zero")])
def test_what_an_untrained_model_says(target, residual, expected):
    model, inputs = build(target=target, residual=residual)
    assert torch.equal(model(*inputs), inputs[3] if expected == "past" else torch.zeros_like(inputs[0]))


def test_every_parameter_gets_a_gradient():
    model, inputs = build(action_by="both")
    connect(model)
    inputs[2] = torch.arange(6).view(2, 3) % 6            # every action, and "unknown"
    (model(*inputs) - 1).square().mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_bad_input_is_one_line():
    model, (noisy, t, actions, past) = build()
    for bad in ((noisy[:, :, :2], t, actions, past), (noisy, t[:, :2], actions, past), (noisy, t, actions, past[:, :2])):
        with pytest.raises(PokeidmError) as e: model(*bad)
        assert "\n" not in str(e.value)


def test_config_survives_json():
    import json
    from dataclasses import asdict
    config = DiTConfig(**SMALL)
    assert DiTConfig(**json.loads(json.dumps(asdict(config)))) == config
