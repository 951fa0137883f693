"Blocks of the models: properties that hold for every shape, in training and in half precision."
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from pokeidm.core import PokeidmError
from pokeidm.layers import (Attention, KVCache, RMSNorm, SpaceTimeBlock, SwiGLU, init_weights, patchify, rope_1d, rope_2d, rotate, starts_at_zero,
                            token_grid, unpatchify)


def block(temporal=True, cond_dim=None, dim=32, heads=2):
    "A block whose output layers are not zero, so that it does something."
    b = SpaceTimeBlock(dim, heads, temporal=temporal, cond_dim=cond_dim)
    for m in b.modules(): m.zero_start = False
    torch.manual_seed(0)
    return init_weights(b)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_patchify_round_trip(B, T, C, h, w, p):
    x = torch.rand(B, T, C, h*p, w*p)
    tokens = patchify(x, p)
    assert tokens.shape == (B, T, h*w, C*p*p)
    assert torch.equal(unpatchify(tokens, p, (h, w)), x)
    assert torch.equal(tokens[0, 0, -1].view(C, p, p), x[0, 0, :, -p:, -p:])          # the last token is the lower right patch


@pytest.mark.parametrize("h, w, p", [(9, 8, 4), (8, 9, 4), (8, 8, 0)])
def test_sizes_that_do_not_divide(h, w, p):
    with pytest.raises(PokeidmError): token_grid(h, w, p)


def test_unpatchify_wrong_grid():
    with pytest.raises(PokeidmError): unpatchify(torch.zeros(1, 1, 6, 48), 4, (2, 2))
    with pytest.raises(PokeidmError): unpatchify(torch.zeros(1, 1, 6, 50), 4, (2, 3))


def test_rope_2d_is_relative_in_both_axes_and_keeps_lengths():
    q, k = torch.randn(2, 1, 16).double()
    table = tuple(t.double() for t in rope_2d((6, 7), 16))
    rq, rk = rotate(q.expand(42, 16), table), rotate(k.expand(42, 16), table)
    score = (rq @ rk.T).view(6, 7, 6, 7)
    assert torch.allclose(score[:-1, :-1, :-1, :-1], score[1:, 1:, 1:, 1:], atol=1e-5)
    assert not torch.allclose(score[0, 0, 0, 3], score[0, 0, 3, 0], atol=1e-3)        # rows and columns are told apart
    assert torch.allclose(rq.norm(dim=-1), q.norm().expand(42))


def test_rope_tables_made_under_inference_mode_can_be_trained_with():
    rope_1d.cache_clear(); rope_2d.cache_clear()
    b = block()
    with torch.inference_mode(): b(torch.randn(1, 3, 20, 32), (4, 5))
    b(torch.randn(1, 3, 20, 32), (4, 5)).sum().backward()


def test_tokens_of_a_frame_are_equivariant_but_for_position():
    "Without rotation attention ignores order; with it order matters."
    a = init_weights(Attention(32, 2)); nn.init.normal_(a.out.weight)
    x, order = torch.randn(1, 12, 32), torch.randperm(12)
    assert torch.allclose(a(x)[:, order], a(x[:, order]), atol=1e-5)
    rope = rope_2d((3, 4), 16)
    assert not torch.allclose(a(x, rope)[:, order], a(x[:, order], rope), atol=1e-3)


@pytest.mark.parametrize("cond_dim", [None, 8])
def test_causal_bit_for_bit(cond_dim):
    b, x = block(cond_dim=cond_dim), torch.randn(2, 5, 12, 32)
    cond = torch.randn(2, 5, 8) if cond_dim else None
    y = x.clone(); y[:, 3:] = torch.randn(2, 2, 12, 32)*10
    with torch.no_grad(): before, after = b(x, (3, 4), cond), b(y, (3, 4), cond)
    assert torch.equal(before[:, :3], after[:, :3]) and not torch.equal(before[:, 3:], after[:, 3:])


def test_frames_do_not_mix_without_time():
    b, x = block(temporal=False), torch.randn(2, 3, 12, 32)
    with torch.no_grad(): assert torch.allclose(b(x, (3, 4)).flatten(0, 1)[:, None], b(x.flatten(0, 1)[:, None], (3, 4)), atol=1e-6)


def test_local_mixer_in_a_block_keeps_causality_and_starts_as_the_identity():
    b, x = SpaceTimeBlock(32, 2, temporal=True, local=True), torch.randn(2, 4, 12, 32)
    assert torch.equal(init_weights(b)(x, (3, 4)), x)
    for m in b.modules(): m.zero_start = False
    init_weights(b); y = x.clone(); y[:, 2:] += 1
    with torch.no_grad(): before, after = b(x, (3, 4)), b(y, (3, 4))
    assert torch.equal(before[:, :2], after[:, :2]) and not torch.equal(before[:, 2:], after[:, 2:])


def test_condition_reaches_its_own_frame_only():
    b, x, cond = block(cond_dim=8, temporal=False), torch.randn(1, 3, 12, 32), torch.randn(1, 3, 8)
    other = cond.clone(); other[:, 1] += 1
    with torch.no_grad(): changed = (b(x, (3, 4), cond) != b(x, (3, 4), other)).flatten(2).any(-1)[0]
    assert changed.tolist() == [False, True, False]


def test_cache_window_keeps_the_newest():
    b, x = block(), torch.randn(1, 6, 4, 32)
    cache = KVCache(window=3)
    with torch.no_grad():
        for t in range(6): y = b(x[:, t:t+1], (2, 2), cache=cache)
        assert cache.k.shape[-2] == 3 and cache.position == 6
        assert torch.allclose(y, b(x[:, 3:], (2, 2))[:, -1:], atol=1e-5)              # as if only the last three frames existed


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.sampled_from([None, 1, 2, 4]))
def test_cache_gives_the_same_for_every_split(pieces, window):
    "Without a window that of the whole clip; with one that of frame after frame."
    b, x = block(), torch.randn(1, sum(pieces), 4, 32)
    def run(sizes):
        cache = KVCache(window)
        return torch.cat([b(part, (2, 2), cache=cache) for part in x.split(sizes, 1)], 1)
    with torch.no_grad():
        assert torch.allclose(run(pieces), run([1]*sum(pieces)), atol=1e-5)
        assert torch.allclose(run(pieces), b(x, (2, 2)), atol=1e-5) or window and window < sum(pieces)


def test_cache_goes_on_with_the_batch_it_began_with():
    b, cache = block(), KVCache()
    b(torch.randn(1, 2, 4, 32), (2, 2), cache=cache)
    with pytest.raises(PokeidmError, match="batch"): b(torch.randn(2, 2, 4, 32), (2, 2), cache=cache)


def test_every_weight_is_initialised():
    "Fill with NaN first: whatever `init_weights` forgets shows."
    model = nn.ModuleDict({"block": SpaceTimeBlock(32, 2, True, cond_dim=8), "plain": SpaceTimeBlock(32, 2), "conv": nn.Conv2d(3, 64, 3), "embed": nn.Embedding(9, 32),
                           "head": starts_at_zero(nn.Linear(32, 4))})
    for m in model.modules():
        if not isinstance(m, RMSNorm):
            for p in m.parameters(recurse=False): nn.init.constant_(p, float("nan"))
    init_weights(model)
    assert all(p.isfinite().all() for p in model.parameters())
    assert model["head"].weight.count_nonzero() == 0 == model["plain"].mlp.down.weight.count_nonzero()
    assert model["block"].mlp.down.weight.count_nonzero() > 0 == model["block"].modulation[1].weight.count_nonzero()
    w = model["conv"].weight
    assert abs(w.std().item() * 27**.5 - .88) < .08 and w.abs().max() <= 2 * 27**-.5 + 1e-6      # truncated at two deviations: 0.88 of 1/sqrt(fan in)
    assert not torch.equal(w[0], w[1])


def test_gradients_reach_everything_after_one_step():
    b = init_weights(SpaceTimeBlock(32, 2, True, cond_dim=8))
    x, cond, opt = torch.randn(2, 3, 12, 32), torch.randn(2, 3, 8), torch.optim.SGD(b.parameters(), .1)
    for _ in range(2):
        opt.zero_grad(); (b(x, (3, 4), cond) - 1).pow(2).mean().backward(); opt.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in b.parameters())


def test_bf16_is_near_fp32():
    b, x = block(), torch.randn(1, 3, 12, 32)
    with torch.no_grad():
        full = b(x, (3, 4))
        with torch.autocast("cpu", torch.bfloat16): half = b(x, (3, 4))
    assert (half - full).abs().max() < .15 and half.isfinite().all()


def test_widths_that_do_not_split():
    for dim, heads in [(30, 4), (24, 4)]:
        with pytest.raises(PokeidmError): Attention(dim, heads)


def test_swiglu_costs_what_a_plain_mlp_would():
    n = sum(p.numel() for p in SwiGLU(96).parameters())
    assert abs(n / (8*96*96) - 1) < .05
