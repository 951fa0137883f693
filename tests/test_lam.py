"""The collapse canary: a small LAM on the overworld must find and use its codes, and one that does not learn must fail the same test."""
import numpy as np, pytest, torch
from pathlib import Path
from pokeidm.core import PokeidmError, read_json, seed_everything
from pokeidm.frames import extract, open_frames
from pokeidm.lam import ENCODERS, LAM, HeroFinder, LAMConfig, delta_psnr, hero_loss, knows_hero, meet_hero, merge_codes
from pokeidm.motion import who_stays
from pokeidm.metrics import DIRECTIONS, action_scores, pair_truth
from pokeidm.train import TrainConfig, train

SAMPLES = Path(__file__).resolve().parent.parent/"data_samples"

def pairs_of(clip, folder):
    store, truth = open_frames(extract(SAMPLES/f"{clip}.mp4", folder, "overworld", target_height=80, jump_seconds=0.5)), read_json(SAMPLES/f"{clip}.json")
    index, frames = store.meta["frames"]["index"], store.rows(0, len(store))
    return frames[:-1], frames[1:], np.array([pair_truth(truth, f, g) for f, g in zip(index, index[1:])])

@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    train = [pairs_of(f"overworld_train_{i}", folder) for i in (1, 2, 3)]      # three maps: on one, few people are met to tell the hero from
    return tuple(map(np.concatenate, zip(*train))), pairs_of("overworld_heldout", folder)

def fitted(clips, lr=3e-3, steps=300, constant=False):
    (before, after, truth), _ = clips
    moving, still = np.nonzero(np.isin(truth, DIRECTIONS[1:]))[0], np.nonzero(truth == "none")[0]
    def batches(step):
        g = np.random.default_rng(step); i = np.r_[g.choice(moving, 18), g.choice(still, 6)]
        return np.stack([before[i], after[i]], 1)
    seed_everything(0); lam = LAM(LAMConfig())
    if constant: lam.encoder.forward = lambda a, b: torch.zeros(len(a), 16); lam.encoder.learn = lambda a, b: (torch.zeros(len(a), 16), torch.zeros(()))
    train(lam, batches, TrainConfig(steps=steps, lr=lr, warmup=20), device="cpu")
    merge_codes(lam, before[::3], after[::3])
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

@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_keeps_the_contract(name):
    torch.manual_seed(0); lam = LAM(LAMConfig(encoder=name)); x = torch.rand(2, 3, 80, 120)
    seen = x[:1], x[:1].roll(3, 2)
    for before in (x, torch.zeros_like(x)): assert not lam.encoder(before, before).any(), "equal frames"
    z = lam.encoder(torch.cat([x, seen[0]]), torch.cat([x, seen[1]]))
    assert z.shape == (3, lam.config.dim) and z.isfinite().all() and not z[:2].any() and z[2].any()
    if hasattr(lam.encoder, "weight"): assert lam.encoder.weight(x).shape == (2, 80, 120)
    if hasattr(lam.encoder, "learn"):
        learnt, extra = lam.encoder.learn(*seen)
        assert learnt.shape == (1, lam.config.dim) and extra.ndim == 0
        (learnt.square().sum() + extra).backward()
    else: z.square().sum().backward()
    assert sum(p.grad.abs().sum() for p in lam.encoder.parameters() if p.grad is not None) > 0

@pytest.mark.parametrize("wrong, says", [(dict(encoder="eyes"), "no encoder 'eyes'"), (dict(size="XL"), "no size 'XL'"), (dict(decoder="magic"), "no decoder"),
                                         (dict(inject="shout"), "inject the action"), (dict(height=44), "multiples of 8"), (dict(height=16), "24 or more")])
def test_unusable_settings(wrong, says):
    with pytest.raises(PokeidmError, match=says): LAM(LAMConfig(**wrong))

@pytest.mark.parametrize("change", [dict(size="S"), dict(inject="add"), dict(inject="concat"), dict(decoder="residual"), dict(rollout=True), dict(quant="fsq"), dict(quant="emavq")])
def test_every_kind_draws_a_copy_at_first_and_learns(change):
    torch.manual_seed(0); lam = LAM(LAMConfig(height=40, width=40, **change)).train()
    frames = torch.randint(0, 255, (2, 3, 40, 40, 3), dtype=torch.uint8)
    loss, logs = lam.loss(frames, 1.); loss.backward()
    assert torch.isfinite(loss) and {"psnr", "hero"} <= logs.keys() and lam.decoder.out.weight.grad.abs().max() > 0
    drawn, seen = lam.eval().decode(frames[:, 0].numpy(), [1, 2]), lam.canvas(frames[:, 0])
    assert drawn.shape == seen.shape == (2, 3, 20, 20) and (drawn - seen).abs().mean() < .2

def test_a_rollout_draws_from_what_was_drawn():
    torch.manual_seed(0); lam = LAM(LAMConfig(height=40, width=40, rollout=True)); torch.nn.init.normal_(lam.decoder.out.weight, std=.1)
    seen, codes = torch.rand(6, 3, 20, 20), torch.randn(6, 16)
    rolled, alone = lam.draw(seen, codes, 3), lam.decoder(seen, codes)
    assert torch.allclose(rolled[[0, 3]], alone[[0, 3]], atol=1e-5) and not torch.allclose(rolled[1], alone[1], atol=1e-3)

def test_the_hero_finder_learns_who_stays():
    """A figure stays in the middle while noise scrolls; another goes with the ground."""
    torch.manual_seed(0); g = torch.Generator().manual_seed(1); finder = HeroFinder(24); optimizer = torch.optim.AdamW(finder.parameters(), 3e-3)
    hero, other = torch.tensor([.9, .2, .2])[:, None, None], torch.tensor([.2, .2, .9])[:, None, None]
    def pair():
        world = .6*torch.rand(3, 120, 160, generator=g); y, x = torch.randint(30, 70, (2,), generator=g); world[:, y:y+8, x:x+8] = other
        frames = torch.stack([world[:, 20:100, 20+d:140+d] for d in (0, 3)]).clone(); frames[:, :, 36:44, 56:64] = hero
        return frames[:1], frames[1:]
    for _ in range(60):
        pairs = [pair() for _ in range(4)]; a, b = (torch.cat(x) for x in zip(*pairs))
        loss = hero_loss(finder(b), *who_stays(a, b)); optimizer.zero_grad(); loss.backward(); optimizer.step()
    a, b = pair(); p = finder(b)[0].sigmoid(); at = (b[0] - other).abs().sum(0) < 1e-3
    assert p[38:42, 58:62].mean() > .8 and p[at].mean() < .3 and p.mean() < .2

def test_another_games_hero_is_met():
    "In one game red is the hero and blue goes with the ground, in the other it is the other way round: a finder says that it does not know him, and gets to."
    red, blue = [.9, .2, .2], [.2, .2, .9]
    def pairs(hero, other, n=24):
        g, (hero, other) = torch.Generator().manual_seed(0), (torch.tensor(c)[:, None, None] for c in (hero, other)); a, b = [], []
        for _ in range(n):
            world = .6*torch.rand(3, 120, 160, generator=g); y, x = torch.randint(30, 70, (2,), generator=g); world[:, y:y+8, x:x+8] = other
            frames = torch.stack([world[:, 20:100, 20+d:140+d] for d in (0, 3)]).clone(); frames[:, :, 36:44, 56:64] = hero
            a.append(frames[0]); b.append(frames[1])
        return torch.stack(a), torch.stack(b)
    torch.manual_seed(0); finder, one, two = HeroFinder(24), pairs(red, blue), pairs(blue, red)
    assert meet_hero(finder, *one, steps=60) > .7
    assert knows_hero(finder, *two) < .5 < meet_hero(finder, *two, steps=80)
    assert np.isnan(knows_hero(finder, two[0], two[0])), "nothing scrolled"
    finder.forget(); assert (finder(two[0]) == 2).all()

def test_half_sure_codes_join_the_sure_ones():
    lam = LAM(LAMConfig(height=40, width=40)).eval(); lam.names = {}
    book = torch.zeros(8, 16); book[1, 0], book[2, 0], book[3, 1], book[4, 2] = 1, .6, 1, -1; lam.quantizer.codebook.data = book
    import pokeidm.lam as module
    def names(lam, before, after): lam.names = {0: "none", 1: "left", 2: "other", 3: "up", 4: "other"}; return np.array([0, 1, 1, 2, 3, 4])
    with pytest.MonkeyPatch.context() as patch: patch.setattr(module, "name_codes", names); merge_codes(lam, None, None)
    assert lam.action.tolist()[:5] == [0, 1, 1, 3, 4] and lam.names[2] == "left" and lam.names[4] == "other"
