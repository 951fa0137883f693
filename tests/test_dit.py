import pytest, torch
from pokeidm.core import PokeidmError
from pokeidm.dit import DiT, DiTConfig, connect, draft_weights, flow_loss, influence, make_drafts, new_caches, peek

SMALL = dict(grid=(4, 6), latent_dim=3, actions=5, width=32, depth=2, heads=2, temporal_every=2)

def build(B=2, T=3, **config):
    torch.manual_seed(0)
    model = DiT(DiTConfig(**{**SMALL, **config})).eval()
    one = (*model.config.grid, model.config.latent_dim)
    return model, [torch.randn(B, T, *one), torch.rand(B, T), torch.randint(0, 5, (B, T)), torch.randn(B, T, model.config.drafts, *one)]

SCROLLS = [(0, 0), (2, 0), (-2, 0), (0, 3), (0, -3)]


@pytest.mark.parametrize("config", [dict(), dict(scrolls=SCROLLS), dict(action_by="token", kernels=False), dict(action_by="both"), dict(action_by="token")])
def test_actions_reach_their_own_frame_and_never_an_earlier_one(config):
    model, inputs = build(**config)
    table = influence(connect(model), inputs)
    assert (table.diagonal() > 1e-5).all() and not table.tril(-1).any()
    assert (table[0, 1:] > 0).all()                       # through time attention


def test_a_shifted_alignment_is_caught():
    "The same test on a model whose actions are off by one must fail."
    model, inputs = build()
    shifted = lambda noisy, t, actions, drafts: model.forward(noisy, t, actions.roll(-1, 1), drafts)
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
    assert torch.equal(model(*inputs), inputs[3][:, :, 0] if expected == "past" else torch.zeros_like(inputs[0]))

@pytest.mark.parametrize("target, residual", [("x", False), ("v", True)])
def test_drafts_are_mixed_only_where_the_change_of_one_is_predicted(target, residual):
    model, inputs = build(target=target, residual=residual, scrolls=SCROLLS)
    assert model.masks == 0 and not model(*inputs).any()
    connect(model)
    assert influence(model, inputs, "drafts").diagonal().all()      # they are read all the same

def test_each_place_may_take_the_draft_it_likes():
    model, inputs = build(scrolls=SCROLLS)
    with torch.no_grad(): model.head.bias[:4] = 30.                 # the four latents of a patch: the frame before, for sure
    assert torch.allclose(model(*inputs), inputs[3][:, :, 0], atol=1e-5)

def test_a_hidden_action_shows_no_scrolling():
    before, scrolled = torch.randn(2, 2, 3, 4, 6, 3)
    hidden = torch.tensor([[True, False, False], [False, True, True]])
    drafts = make_drafts(before, scrolled, hidden)
    assert torch.equal(drafts[:, :, 0], before) and torch.equal(drafts[:, :, 1][hidden], before[hidden]) and torch.equal(drafts[:, :, 1][~hidden], scrolled[~hidden])
    assert make_drafts(before).shape == (2, 3, 1, 4, 6, 3)

@pytest.mark.parametrize("window", [None, 1, 2, 4])
def test_what_is_kept_equals_what_is_computed_anew(window):
    model, inputs = build(T=6, scrolls=SCROLLS, depth=4, action_by="both")
    connect(model)
    whole, caches = model(*inputs, new_caches(model, window)), new_caches(model, window)
    for i in range(6):
        now = [x[:, i:i + 1] for x in inputs]
        model(now[0] + 1, *now[1:], peek(caches))                   # a step from noise: not remembered
        assert torch.allclose(model(*now, caches)[:, 0], whole[:, i], atol=1e-5)
    if window is None: assert torch.allclose(whole, model(*inputs), atol=1e-5)
    else: assert not torch.allclose(whole, model(*inputs), atol=1e-3)


def test_every_parameter_gets_a_gradient():
    model, inputs = build(action_by="both", scrolls=SCROLLS)
    connect(model)
    inputs[2] = torch.arange(6).view(2, 3) % 6            # every action, and "unknown"
    (model(*inputs) - 1).square().mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_bad_input_is_one_line():
    model, (noisy, t, actions, drafts) = build()
    for bad in ((noisy[:, :, :2], t, actions, drafts), (noisy, t[:, :2], actions, drafts), (noisy, t, actions, drafts[:, :2]), (noisy, t, actions, drafts[:, :, 0])):
        with pytest.raises(PokeidmError) as e: model(*bad)
        assert "\n" not in str(e.value)


def test_config_survives_json():
    import json
    from dataclasses import asdict
    config = DiTConfig(**SMALL, scrolls=SCROLLS)
    assert DiTConfig(**json.loads(json.dumps(asdict(config)))) == config

def test_shortcuts_are_learnt_and_told():
    "The length of a step reaches the prediction, and only a part of the batch, late in training, is spent on it."
    model, (noisy, t, actions, drafts) = build(shortcut=.25)
    connect(model)
    say = lambda step: model(noisy, t, actions, drafts, step=torch.full_like(t, step))
    assert not torch.equal(say(1.), say(.25)) and torch.equal(say(0.), say(2.**-6))
    latents, codes = torch.randn(4, 3, 4, 6, 3), torch.randint(0, 5, (4, 3))
    asked = []
    model.forward = lambda *a, step=None, **k: (asked.append(step), DiT.forward(model, *a, step=step, **k))[1]
    model.loss((latents, codes), .2); assert len(asked) == 1 and not asked[0].any()
    asked.clear(); model.loss((latents, codes), .9)
    assert len(asked) == 3 and (asked[-1][:1] > 0).all() and not asked[-1][1:].any()          # two for the target, of one sample; then the batch
    assert asked[0].shape[0] == 1


def test_the_loss_looks_where_no_draft_shows_what_is_there():
    data = torch.zeros(2, 1, 4, 6, 3); draft = data.clone(); draft[0, 0, :2] = 1          # of the first frame half is wrong, of the second nothing
    weights = draft_weights(data, draft, 3.)
    assert torch.allclose(weights.mean((1, 2, 3, 4)), torch.ones(2)) and (weights[1] == 1).all()
    assert torch.allclose(weights[0, 0, 0, 0], 4*weights[0, 0, 3, 0]) and (draft_weights(data, draft, 0.) == 1).all()

def test_an_untrained_model_pays_more_for_what_changes():
    "It repeats the last frame: all of its error is where that is wrong, and counts more the more weight that has."
    latents = torch.zeros(1, 2, 4, 6, 3); latents[0, 1, 0, 0] = 1                         # one place of 24
    costs = []
    for weight in (0., 5.):
        torch.manual_seed(0)
        model = DiT(DiTConfig(**SMALL, change_weight=weight, context_noise=0., action_drop=0.)).eval()
        torch.manual_seed(1)
        costs.append(flow_loss(model, latents, torch.zeros(1, 2, dtype=torch.long))[0].item())
    assert abs(costs[1]/costs[0] - 6/((23 + 6)/24)) < 1e-4


def test_gradients_are_the_same_on_every_run():
    "Or a run that was stopped and goes on would not be the run that was not. Two threads may add up in any order what one kernel gets from several frames."
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model, (latents, *_) = build(B=8, T=4); connect(model)
        def gradients():
            torch.manual_seed(1); model.zero_grad()
            flow_loss(model, latents, torch.zeros(8, 4, dtype=torch.long), latents)[0].backward()
            return [p.grad.clone() for p in model.parameters()]
        first = gradients()
        assert all(torch.equal(a, b) for _ in range(50) for a, b in zip(first, gradients()))
    finally: torch.set_num_threads(before)
