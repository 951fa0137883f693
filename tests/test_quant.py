"Quantizers: one contract, balance, round trips, gradients, state in checkpoints."
import math
import pytest, torch
from hypothesis import given, settings, strategies as st
from pokeidm.core import PokeidmError
from pokeidm.quant import EMAVQ, FSQ, NSVQ, QUANTIZERS, far_sample, follow, kmeans, make_quantizer, reseed, usage_logs

NAMES = tuple(QUANTIZERS)      # a new one is held to the contract by being in it


def make(name, vocab=8, dim=3, **options): return make_quantizer(name, vocab=vocab, dim=dim, levels=(4, 3, 2), **options)


def clouds(n, d=3, k=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(k, d, generator=torch.Generator().manual_seed(9)), dim=1)[torch.randint(k, (n,), generator=g)]*3 + .1*torch.randn(n, d, generator=g)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_contract(name, dtype, training):
    q = make(name).train(training)
    z = torch.randn(2, 5, 3).to(dtype).requires_grad_()
    for progress in (None, 0., .5, 1.):
        heard, indices, logs = q(z, progress)
        assert heard.shape == z.shape and heard.dtype == dtype and heard.isfinite().all()
        assert indices.shape == (2, 5) and indices.dtype == torch.int64 and 0 <= indices.min() and indices.max() < q.vocab
        assert {"usage", "perplexity", "top", "gap"} <= logs.keys() and not logs["perplexity"].requires_grad
    if training or name in ("fsq", "none"):
        heard.float().sum().backward()
        assert z.grad.isfinite().all() and z.grad.abs().sum() > 0


def trained(name, training=False):
    "A quantizer after 60 steps, and a copy of it."
    torch.manual_seed(0)
    q, copy = make(name, every=10**9), make(name, every=10**9)
    for s in range(60): q(clouds(64, seed=s))
    copy.load_state_dict(q.state_dict())
    return q.train(training), copy.train(training)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_bf16_says_the_same_words(name, training):
    "bf16 inputs: the words and vectors of the same numbers in fp32. Under autocast: exactly what fp32 gives."
    q, copy = trained(name, training)
    z = clouds(400).bfloat16()
    torch.manual_seed(1); full = q(z.float(), .9)
    torch.manual_seed(1); low = copy(z, .9)
    assert low[0].dtype == torch.bfloat16 and torch.equal(low[1], full[1]) and torch.equal(low[0], full[0].bfloat16())
    q, copy = trained(name, training)
    torch.manual_seed(1); full = q(clouds(400), .9)
    with torch.autocast("cpu", torch.bfloat16): torch.manual_seed(1); auto = copy(clouds(400), .9)
    assert auto[0].dtype == torch.float32 and torch.equal(auto[0], full[0]) and torch.equal(auto[1], full[1])


def test_fsq_bounds_bf16_in_fp32():
    "In bf16 the tanh would move 3 numbers in a thousand across a border."
    q, z = FSQ((16, 12, 12, 12)), torch.randn(5000, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(q(z)[1], q(z.float())[1])


def compiled(q, **options):
    "`q` traced as torch.compile does, and the list of its graphs."
    graphs = []
    def keep(graph, inputs): graphs.append(graph); return graph.forward
    torch._dynamo.reset()
    return torch.compile(q, backend=keep, **options), graphs


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="no torch.compile")
@pytest.mark.parametrize("name", NAMES)
def test_compiles_into_one_graph(name):
    "One graph, not traced again when progress moves on, with the same words, vectors and gradients. (Learnt codebooks: at inference.)"
    q, copy = trained(name, training=name in ("fsq", "none"))
    fast, graphs = compiled(copy, fullgraph=True)
    for progress in (.2, .5, .9):
        z, same = (clouds(64, seed=3).requires_grad_() for _ in "ab")
        a, b = q(z, progress), fast(same, progress)
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and all(torch.allclose(a[2][k], b[2][k]) for k in a[2])
        if a[0].requires_grad and name != "nsvq": a[0].square().sum().backward(); b[0].square().sum().backward(); assert torch.equal(z.grad, same.grad)
    assert len(graphs) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_a_value(name):
    "On the meta device tensors have no values, so whatever asks for one (.item(), bincount, nonzero: a wait on a GPU) fails."
    q = make(name).train(name in ("fsq", "none")).to("meta")
    heard, indices, logs = q(torch.randn(2, 5, 3, device="meta"), .5)
    assert heard.shape == (2, 5, 3) and indices.shape == (2, 5) and q.codes(indices).shape == (2, 5, 3) and logs["usage"].shape == ()


def test_learnt_codebooks_train_under_compile():
    q, copy = trained("emavq", training=True)
    fast, _ = compiled(copy)
    for s in range(3):
        torch.manual_seed(s); a = q(clouds(64, seed=s), .5)
        torch.manual_seed(s); b = fast(clouds(64, seed=s), .5)
        assert torch.equal(a[1], b[1]) and torch.allclose(a[0], b[0], atol=1e-6)
    assert torch.allclose(q.vectors(), copy.vectors(), atol=1e-6) and q.step == copy.step == 63


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["nsvq", "emavq"]), st.integers(2, 300), st.integers(1, 16), st.booleans(), st.integers(0, 99), st.sampled_from([1., 1e-3]))
def test_words_and_vectors_of_any_learnt_codebook(name, vocab, dim, fixed_zero, seed, spread):
    "Round trip of the whole vocabulary, also of codes close together far from the origin, in whatever shape and batch they come."
    torch.manual_seed(seed)
    q = make_quantizer(name, vocab=vocab, dim=dim, fixed_zero=fixed_zero).eval()
    q.set_codes(torch.arange(vocab), 1 + spread*torch.randn(vocab, dim))
    every, codes = torch.arange(vocab), q.vectors().detach()
    exact = (codes[:, None] == codes).all(2).int().argmax(1)                        # the first of exact twins, if there are any
    assert torch.equal(q.indices(codes), exact) and torch.equal(q.indices(codes[:, None]), exact[:, None])
    assert torch.equal(torch.cat([q.indices(c) for c in codes.split(7)]), exact) and torch.equal(q.codes(every), q.vectors())
    assert torch.equal(q(codes)[0], codes)


@pytest.mark.parametrize("name", ["fsq", "nsvq", "emavq"])
def test_hard_at_inference_and_round_trip_of_the_whole_vocabulary(name):
    q = make(name).eval()
    every = torch.arange(q.vocab)
    assert torch.equal(q.indices(q.codes(every)), every)
    heard, indices, logs = q(torch.randn(50, 3))
    assert torch.allclose(heard, q.codes(indices), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 16), min_size=1, max_size=4))
def test_fsq_any_levels(levels):
    q = FSQ(levels)
    every = torch.arange(q.vocab)[:: max(1, q.vocab // 5000)]
    codes = q.codes(every)
    assert torch.equal(q.indices(codes), every) and codes.abs().max() <= 1 and q.vocab == math.prod(levels)
    heard, indices, _ = q(torch.randn(200, len(levels)) * 100)             # saturated inputs stay in range
    assert heard.abs().max() <= 1 and torch.equal(q.indices(heard), indices)


@pytest.mark.parametrize("L", range(2, 17))
def test_fsq_balance_and_symmetry(L):
    z = torch.randn(40000, 1, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(FSQ([L])(z)[1], minlength=L) / len(z) * L
    assert .65 < share.min() and share.max() < 1.25
    z = z[z.abs().sum(1) > 1e-3]
    assert torch.equal(FSQ([L])(z)[1], L - 1 - FSQ([L])(-z)[1]) or L % 2 == 0


def test_fsq_nearest_level_and_straight_through():
    q, z = FSQ((5, 4)), torch.randn(300, 2, requires_grad=True)
    heard, _, _ = q(z)
    soft = q.bound(z)
    grid = [torch.linspace(-1, 1, L) for L in q.levels]
    for d in range(2):
        inside = soft[:, d].abs() <= 1
        assert torch.allclose(heard[inside, d], grid[d][(soft[inside, d, None] - grid[d]).abs().argmin(1)], atol=1e-6)
    heard.sum().backward(); straight = z.grad.clone(); z.grad = None
    q.bound(z).sum().backward()
    assert torch.allclose(straight, z.grad)


@pytest.mark.parametrize("levels", [(8, 8, 6, 5), (2, 2, 2, 2), (16, 12, 12, 12), (7,), (3, 2)])
def test_fsq_against_vector_quantize_pytorch(levels):
    vq = pytest.importorskip("vector_quantize_pytorch")
    theirs = vq.FSQ(levels=list(levels), preserve_symmetry=True, bound_hard_clamp=True)
    ours, z = FSQ(levels), torch.randn(2, 500, len(levels))
    heard, indices, _ = ours(z)
    their_heard, their_indices = theirs(ours.bound(z).clamp(-1, 1))
    assert torch.equal(their_indices.long(), indices) and torch.allclose(their_heard, heard, atol=1e-5)
    some = torch.arange(0, ours.vocab, 7)
    assert torch.allclose(theirs.indices_to_codes(some), ours.codes(some), atol=1e-6)


@pytest.mark.parametrize("levels", [[], [1, 8], [8, 2.5], ["a"], [0], 8, None, [2]*40, [True, 8], [8, math.inf], [8, math.nan]])
def test_bad_bins(levels):
    with pytest.raises(PokeidmError): make_quantizer("fsq", levels=levels)


def test_bins_may_come_as_text(): assert make_quantizer("fsq", levels=["8", "8", "6", "5"]).vocab == 1920


def test_bad_names_and_sizes():
    for options in ({"name": "vq"}, {"name": "nsvq", "vocab": 1}, {"name": "emavq", "dim": 0}):
        with pytest.raises(PokeidmError): make_quantizer(**options)


def test_nsvq_noise_is_as_long_as_the_error_and_its_gradient_moves_the_codes():
    q = NSVQ(4, 8); q.started.fill_(True)
    z = torch.randn(64, 8, requires_grad=True)
    heard, indices, _ = q(z, .9)
    error = (z - q.codes(indices)).norm(dim=1)
    assert torch.allclose((heard - z).norm(dim=1), error, atol=1e-4)
    assert not torch.allclose(heard, q(z, .9)[0])                                   # noise, not the code
    (heard - z).pow(2).sum().backward()                                             # = sum of squared errors: its gradient is known
    expected = torch.zeros(4, 8).index_add_(0, indices, 2*(q.codes(indices) - z)).detach()
    assert torch.allclose(q.codebook.grad, expected, atol=1e-3)


def test_emavq_against_vector_quantize_pytorch():
    "Words, vectors, loss and moving averages agree, step by step, but for its Laplace smoothing of the counts (eps 1e-5)."
    vq = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    theirs = vq.VectorQuantize(dim=3, codebook_size=8, decay=.9, commitment_weight=.25, threshold_ema_dead_code=0, rotation_trick=False)
    ours = EMAVQ(8, 3, decay=.9, every=10**9); ours.started.fill_(True)
    ours.set_codes(torch.arange(8), theirs.codebook.data)
    for s in range(20):
        z = clouds(64, seed=s)
        (heard, indices, logs), (their_heard, their_indices, their_loss) = ours(z, .5), theirs(z)
        assert torch.equal(indices, their_indices) and torch.allclose(heard, their_heard, atol=1e-4) and torch.allclose(logs["loss"], their_loss.sum(), rtol=1e-3)
        assert torch.allclose(ours.vectors(), theirs.codebook, atol=1e-4)


def test_emavq_leaves_unused_codes_where_they_are():
    "A ratio of two fading averages slides to the origin instead: there a word that nobody has trained would answer for small vectors."
    q = EMAVQ(3, 2, decay=.5)
    q.set_codes(torch.arange(3), torch.tensor([[1., 0], [0, 1], [7, 7]]))
    for _ in range(300): follow(q, torch.tensor([[1., 0], [0, 3]]), torch.tensor([0, 1]))
    assert q.vectors()[2].tolist() == [7, 7] and torch.allclose(q.vectors()[:2], torch.tensor([[1., 0], [0, 3]]), atol=1e-4)


def test_emavq_passes_the_gradient_and_follows_its_data():
    torch.manual_seed(0)
    q, z = EMAVQ(8, 3), torch.randn(32, 3, requires_grad=True)
    heard, _, logs = q(z)
    heard.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z)) and logs["loss"] > 0
    for s in range(200): q(clouds(64, seed=s))
    q.eval(); x = clouds(1000)
    assert "loss" not in q(x)[2] and (q(x)[0] - x).norm(dim=1).mean() < .3 and q(x)[2]["usage"] == 1


@pytest.mark.parametrize("name", ["nsvq", "emavq"])
def test_no_quantization_before_warmup_then_kmeans(name):
    torch.manual_seed(0)
    q = make(name)
    for s in range(10):
        x = clouds(64, seed=s); heard, _, _ = q(x, .1)
        assert torch.equal(heard, x) and not q.started
    q(clouds(64), .31)
    assert q.started and q.eval()(clouds(500))[1].unique().numel() >= 7             # k-means found the clouds


@pytest.mark.parametrize("name", ["nsvq", "emavq"])
def test_dead_codes_are_reseeded_until_settled(name):
    "Codes put where nothing is must come back before 80 %, and stay where they are after."
    for progress, alive in ((.5, True), (.9, False)):
        torch.manual_seed(0)
        q = make(name); q.started.fill_(True)
        q.set_codes(torch.arange(8), torch.cat([torch.zeros(1, 3), torch.full((7, 3), 50.)]))
        for s in range(260): q(clouds(64, seed=s), progress)
        used = q.eval()(clouds(1000))[1].unique().numel()
        assert used == 8 if alive else used == 1


@pytest.mark.parametrize("name", ["nsvq", "emavq"])
def test_fixed_zero_never_moves(name):
    torch.manual_seed(0)
    q = make(name, fixed_zero=True)
    scale = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.AdamW([*q.parameters(), scale], .1)
    for s in range(200):
        x = clouds(64, seed=s); heard, _, logs = q(x*scale, s/200)
        optimizer.zero_grad(); ((heard - x).pow(2).mean() + logs.get("loss", 0)).backward(); optimizer.step()
        assert (q.vectors()[0] == 0).all()
    q.use.zero_(); reseed(q)
    assert (q.vectors()[0] == 0).all() and (q.vectors()[1:].norm(dim=1) > 1).all()
    assert q.eval()(torch.zeros(5, 3))[1].tolist() == [0]*5


@pytest.mark.parametrize("name", ["nsvq", "emavq"])
def test_state_dict_goes_on_exactly(name):
    q = make(name)
    for s in range(60): q(clouds(64, seed=s), .5)
    copy = make(name); copy.load_state_dict(q.state_dict())
    for s in range(60, 120):
        torch.manual_seed(s); a = q(clouds(64, seed=s), .5)
        torch.manual_seed(s); b = copy(clouds(64, seed=s), .5)
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert torch.equal(q.vectors(), copy.vectors()) and q.step == 120 == copy.step


@pytest.mark.parametrize("name", ["nsvq", "emavq"])
def test_reseeding_makes_no_twins(name):
    "Seven dead codes and one live one: all eight words are heard at once, which replacement noise of 1e-12 does not do."
    torch.manual_seed(0)
    q = make(name)
    q.set_codes(torch.arange(8), torch.cat([clouds(1), torch.full((7, 3), 50.)]))
    q.memory.add(clouds(512, seed=1)); q.use.copy_(torch.tensor([1.] + [0]*7))
    assert reseed(q) == 7 and (torch.pdist(q.vectors().detach()) > .1).all()
    assert q.eval()(clouds(1000))[1].unique().numel() == 8


def test_kmeans_survives_identical_points_and_keeps_fixed_centres_out():
    assert kmeans(torch.ones(20, 2), 4).isfinite().all()
    torch.manual_seed(0)
    x = torch.cat([torch.zeros(50, 2), torch.ones(50, 2)*5])
    centre = kmeans(x, 1, fixed=torch.zeros(1, 2))
    assert centre.shape == (1, 2) and (centre - 5).abs().max() < .3
    assert torch.equal(far_sample(x, torch.zeros(1, 2)), torch.full((1, 2), 5.))


def test_usage_logs_of_known_counts():
    logs = usage_logs(torch.tensor([0, 0, 1, 1]), 4)
    assert logs["usage"] == .5 and math.isclose(logs["perplexity"], 2, rel_tol=1e-5) and logs["top"] == .5


def test_none_is_the_identity_or_bounded():
    z = torch.randn(4, 3)*5
    assert torch.equal(make("none")(z)[0], z) and make_quantizer("none", dim=3, bounded=True)(z)[0].abs().max() <= 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_fsq_of_nan_is_a_word(value):
    "A run that has diverged must end with 'the loss is not finite', not with an index out of range."
    q, bad = FSQ((8, 5)), torch.full((3, 2), value)
    for words in (q(bad)[1], q.indices(bad)): assert 0 <= words.min() and words.max() < 40


@pytest.mark.parametrize("name", ["fsq", "nsvq", "emavq"])
def test_gap_is_the_relative_quantization_error(name):
    "In training as at inference, noise or not."
    for q in trained(name, training=True)[0], trained(name)[0]:
        z = clouds(200); codes = q.vectors().detach().clone() if name != "fsq" else None; _, indices, logs = q(z, .9)
        soft, hard = (q.bound(z), q.codes(indices)) if name == "fsq" else (z, codes[indices])
        assert torch.isclose(logs["gap"], (soft - hard).norm() / hard.norm(), rtol=1e-4)
