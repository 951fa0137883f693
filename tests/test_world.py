import json
from types import SimpleNamespace
import numpy as np, pytest, torch
import torch.nn.functional as F
from pokeidm.core import PokeidmError
from pokeidm.dit import DiT, DiTConfig, connect, make_drafts, new_caches
from pokeidm.quant import NoQuant
from pokeidm.tokenizer import Tokenizer, TokenizerConfig
from pokeidm.memory import Map
from pokeidm.world import Game, World, decode, encode, evaluate_world, key_codes, next_frame_scores, next_latents, record, rollout, rollout_scores, settled, steering, _Games


@pytest.fixture(scope="module")
def world():
    "Untrained, but with everything connected: what it shows depends on all that it is given."
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(height=16, width=24))
    scrolls = [(0, 0), (3, 0), (-3, 0), (0, 3), (0, -3), (0, 0), (6, 0), (0, 6)]
    return World(connect(tokenizer), connect(DiT(DiTConfig(grid=(4, 6), width=32, depth=2, heads=2, temporal_every=2, scrolls=scrolls)), std=.3), snap=True).eval()

@pytest.fixture(scope="module")
def clips(): return np.random.default_rng(0).integers(0, 256, (5, 8, 16, 24, 3), dtype=np.uint8)

def test_the_pressed_action_makes_the_next_frame_and_only_later_ones(world, clips):
    "Off by one, and pressing a key would change nothing or the frame after."
    codes = np.array([[1, 2, 3, 4]])
    base = rollout(world, clips[:1, :1], codes)
    for place in range(4):
        other = codes.copy(); other[0, place] = 7
        played = rollout(world, clips[:1, :1], other)
        changes = [not np.array_equal(played[0, i], base[0, i]) for i in range(4)]
        assert changes[:place + 1] == [False]*place + [True]

def test_the_pressed_action_stands_with_the_new_frame(world, clips):
    "Without time attention a frame sees its own action only: the pressed one, not the one between the given frames."
    torch.manual_seed(0)
    alone = World(world.tokenizer, connect(DiT(DiTConfig(grid=(4, 6), width=32, depth=1, heads=2, temporal_every=0)), std=.3)).eval()
    base, between, pressed = (rollout(alone, clips[:1, :2], [a]) for a in ([1, 2], [5, 2], [1, 5]))
    assert np.array_equal(base, between) and not np.array_equal(base, pressed)

def test_actions_between_given_frames_count(world, clips):
    "With a window of two frames the action between them is seen, in its place."
    base = rollout(world, clips[:1, :2], [[1, 2]])
    assert not np.array_equal(base, rollout(world, clips[:1, :2], [[5, 2]]))
    assert np.array_equal(rollout(world, clips[:1, :3], [[1, 2, 3]]), rollout(world, clips[:1, :3], [[6, 2, 3]]))       # outside the window

def test_a_game_is_a_rollout_of_one(world, clips):
    world.start(clips[0, 0])
    assert np.array_equal(np.stack([world.step(a) for a in (1, 2, 0)]), world.rollout(clips[:1, :1], [[1, 2, 0]])[0])

def test_the_same_seed_gives_the_same_game_and_another_another(world, clips):
    play = lambda seed: rollout(world, clips[:1, :1], [[1, 1]], seed=seed)
    assert np.array_equal(play(3), play(3)) and not np.array_equal(play(3), play(4))

def test_generated_latents_are_on_the_tokenizers_grid(world, clips):
    before, actions, q = encode(world.tokenizer, clips[:2, :1]), torch.zeros(2, 1, dtype=torch.long), world.tokenizer.quantizer
    go = lambda: next_latents(world, make_drafts(before, before), actions, new_caches(world.dit, 2))
    new = go()
    assert torch.equal(new, q.codes(q.indices(new)))
    world.snap = False
    try: free = go()
    finally: world.snap = True
    assert not torch.equal(free, q.codes(q.indices(free)))

def test_the_screen_scrolls_as_the_pressed_action_says(clips):
    "An untrained world with an exact tokenizer shows the scrolled frame: the right one, of the frame now, by the action now."
    exact = SimpleNamespace(grid=(8, 12), quantizer=NoQuant(12), config=SimpleNamespace(height=16, width=24), parameters=lambda: iter(()),
                            encode=lambda x: (F.pixel_unshuffle(x, 2).movedim(2, -1), None), decode=lambda z: F.pixel_shuffle(z.movedim(-1, 2), 2).clamp(0, 1))
    dit = DiT(DiTConfig(grid=(8, 12), latent_dim=12, width=32, depth=1, heads=2, scrolls=[(0, 0), (3, 0), (0, -5)] + [(0, 0)]*5))
    scrolls = World.__new__(World); torch.nn.Module.__init__(scrolls)
    scrolls.dit, scrolls.window, scrolls.snap, scrolls.detail, scrolls.names, scrolls.stays = dit, 2, False, 0, {}, torch.zeros(8, 12, dtype=torch.bool); object.__setattr__(scrolls, "tokenizer", exact)
    played = rollout(scrolls, clips[:1, :2], [[4, 1, 2]])[0]
    now, share = clips[0, 1].astype(float), torch.tensor(3.).sigmoid().item()
    for frame, (dy, dx) in zip(played, ((3, 0), (0, -5))):
        moved = now[np.clip(np.arange(16) - dy, 0, 15)][:, np.clip(np.arange(24) - dx, 0, 23)]
        now = share*moved + (1 - share)*now
        assert np.abs(frame - now).max() < 1.5
        now = frame.astype(float)

def test_known_places_keep_their_own_pixels():
    "Of a tokenizer that keeps the mean of 2 x 2 pixels, what is a draft's has the draft's pixels; what came in is the last draft's, whatever is predicted; the rest is decoded, or a sight."
    blocky = SimpleNamespace(grid=(4, 6), decode=lambda z: z.movedim(-1, 2).repeat_interleave(2, -1).repeat_interleave(2, -2))
    torch.manual_seed(0)
    pooled = lambda x: F.avg_pool2d(x.flatten(0, -4), 2).unflatten(0, x.shape[:-3]).movedim(-3, -1)
    two, sights = torch.rand(1, 1, 2, 3, 8, 12)*.5 + torch.tensor([0., .5])[:, None, None, None], torch.rand(4, 3, 8, 12)
    world = SimpleNamespace(tokenizer=blocky, detail=1e-3, recall=0., sights=range(4), stays=torch.zeros(4, 6, dtype=torch.bool), memories=lambda: (pooled(sights), sights))
    drafts, still = pooled(two), torch.zeros(1, 1, 2, dtype=torch.long)
    go = lambda latents, shifts=still: settled(world, latents, drafts, two, shifts, world.stays[None])
    for c in (0, 1): assert torch.allclose(go(drafts[:, :, c])[1], two[:, :, c], atol=.02) and torch.equal(go(drafts[:, :, c])[0], drafts[:, :, c])
    other = pooled(sights)[2][None, None]
    assert torch.allclose(go(other)[1], blocky.decode(other), atol=.02)
    world.recall = 1e-3
    assert torch.allclose(go(other)[1][0, 0], sights[2], atol=.02)
    edge = go(other, torch.tensor([[[0, -3]]]))
    assert torch.equal(edge[0][..., 4:, :], drafts[:, :, 1, :, 4:]) and torch.allclose(edge[1][..., -2:], two[:, :, 1, ..., -2:], atol=.02) and torch.equal(edge[0][..., :4, :], pooled(sights)[2][None, None][..., :4, :])

def test_who_goes_back_finds_what_he_left(clips):
    "An exact world over noise: six steps away and six back, and all that left the screen is there again."
    exact = SimpleNamespace(grid=(8, 12), quantizer=NoQuant(12), config=SimpleNamespace(height=16, width=24), parameters=lambda: iter(()),
                            encode=lambda x: (F.pixel_unshuffle(x, 2).movedim(2, -1), None), decode=lambda z: F.pixel_shuffle(z.movedim(-1, 2), 2).clamp(0, 1))
    dit = DiT(DiTConfig(grid=(8, 12), latent_dim=12, width=32, depth=1, heads=2, scrolls=[(0, 0), (0, -2), (0, 2)] + [(0, 0)]*5))
    dit.first[1] = 50.                                    # the scrolled draft, nothing else
    world = World.__new__(World); torch.nn.Module.__init__(world)
    world.dit, world.window, world.snap, world.detail, world.recall, world.names, world.sights, world.stays = dit, 2, False, 1., 0., {}, (), torch.zeros(8, 12, dtype=torch.bool); object.__setattr__(world, "tokenizer", exact)
    frame = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    there = rollout(world, frame[None, None], [[1]*3])[0, -1]
    assert np.array_equal(there[:, :18], frame[:, 6:]) and not np.array_equal(there[:, 18:], np.repeat(frame[:, -1:], 6, 1))
    back = rollout(world, frame[None, None], [[1]*3 + [2]*3])[0, -1]
    assert np.abs(back.astype(float) - frame).mean() < 1
    world.detail = 0.
    lost = rollout(world, frame[None, None], [[1]*3 + [2]*3])[0, -1]
    assert np.abs(lost.astype(float) - frame).mean() > 10

def test_the_hero_is_recalled_whole(world, clips):
    "What stays is of one sight, or of the frame before; and where the first frame shows no hero, nothing is put there."
    hero = np.zeros((4, 6), bool); hero[1:3, 2:4] = True
    where = np.kron(hero, np.ones((4, 4), bool))
    sights = np.random.default_rng(0).integers(0, 256, (6, 16, 24, 3), dtype=np.uint8)
    some = World(world.tokenizer, world.dit, sights=sights, stays=hero, recall=0).eval()
    games = lambda frame: Game(some, frame).games
    shifts, drafts = torch.zeros(1, 1, 2, dtype=torch.long), torch.rand(1, 1, 2, 4, 6, world.tokenizer.quantizer.dim)
    go = lambda stays: settled(some, some.memories()[0][3][None, None], drafts, torch.rand(1, 1, 2, 3, 16, 24), shifts, stays)
    _, picture, choice = go(some.stays[None])
    assert (choice[0][hero] == 2).all() and (choice[0][~hero] == 3).all()
    inner = np.zeros_like(where); inner[6:10, 10:14] = True                       # away from the soft border
    assert np.abs(255*picture[0, 0].movedim(0, -1).numpy() - sights[3])[inner].max() < 2
    some.recall = 1e-6
    for frame, there in ((sights[2], True), (255 - sights[2], False)):
        g = games(frame); g._begin(0, torch.from_numpy(frame).movedim(-1, 0)/255)
        assert bool(g.stays.any()) == there == bool(g.maps[0].stays.any())

def test_a_map_is_not_carried_off():
    "Where the screen stood still, whatever the code says, the map goes back; a scene that is all new begins a new map."
    games = _Games.__new__(_Games)
    games.world, begun = SimpleNamespace(detail=.1, stays=torch.zeros(4, 6, dtype=torch.bool)), []
    games._begin = lambda i, picture: begun.append(i)
    first = torch.rand(3, 16, 24)
    games.maps = {0: Map(first, torch.zeros(16, 24, dtype=torch.bool), first[None])}
    drafts = torch.stack([torch.zeros(1, 4, 6, 2), torch.ones(1, 4, 6, 2)], 1)
    games.maps[0].scroll((0, -4))
    games._keep(first[None], torch.zeros(1, 4, 6, dtype=torch.long), drafts, [(0, -4)])
    assert torch.equal(games.maps[0].scroll((0, 0)), first) and not begun
    moved = games.maps[0].scroll((0, -4))
    games._keep(moved[None], torch.ones(1, 4, 6, dtype=torch.long), drafts, [(0, -4)])
    assert torch.equal(games.maps[0].scroll((0, 0)), moved) and torch.equal(moved[..., :20], first[..., 4:])
    games._keep(first[None], torch.full((1, 4, 6), 3), drafts, [(0, -4)])
    assert begun == [0]

def test_a_key_plays_the_code_that_scrolls(world):
    names = {0: "none", 5: "up", 6: "up", 1: "up", 7: "left"}
    assert key_codes(world, names) == {"none": 0, "up": 1, "left": 7}
    assert key_codes(world, {0: "none", 5: "up", 6: "up"}) == {"none": 0, "up": 6}

def test_steering_presses_each_direction_once(world, clips):
    assert steering(world, clips[:, 0])["steering"] is None
    named = World(world.tokenizer, world.dit, {0: "none", 3: "left", 7: "left", 5: "up"})
    assert steering(named, clips[:, 0])["steering"] in [i/10 for i in range(11)]        # five frames, two keys

def test_temperature_is_the_scale_of_the_noise(world, clips):
    go = lambda seed, temperature: rollout(world, clips[:1, :1], [[1, 1]], seed=seed, temperature=temperature)
    assert np.array_equal(go(3, 0.), go(4, 0.)) and not np.array_equal(go(3, 1.), go(4, 1.)) and not np.array_equal(go(3, 1.), go(3, .5))

def test_a_tokenizer_that_looks_back_in_time_is_refused(world):
    with pytest.raises(PokeidmError, match="single frames"): World(Tokenizer(TokenizerConfig(height=16, width=24, temporal=True)), world.dit)

def test_guidance_one_is_none_and_zero_ignores_the_action(world, clips):
    plain = World(world.tokenizer, world.dit, snap=True, detail=0)          # detail is that of the drafts, which are the action's
    go = lambda a, g: rollout(plain, clips[:1, :1], [[a]], guidance=g)
    assert np.array_equal(go(1, 0.), go(5, 0.)) and not np.array_equal(go(1, 2.), go(1, 1.))

def test_scores_are_right_for_a_world_that_copies(clips):
    "An untrained world without noise says 'nothing changes': its score is that of copying the tokenized frame, and actions are worth nothing."
    still = World(Tokenizer(TokenizerConfig(height=16, width=24)), DiT(DiTConfig(grid=(4, 6), width=32, depth=1, heads=2))).eval()
    same = np.repeat(decode(still.tokenizer, encode(still.tokenizer, clips[:, :1])), 6, 1)     # frames that the tokenizer reproduces nearly
    codes = np.random.default_rng(1).integers(0, 8, (5, 6))
    assert next_frame_scores(still, same, codes)["psnr_1"] > 100       # nothing of a frame that stays is lost
    still.detail = 0
    scores = next_frame_scores(still, same, codes) | rollout_scores(still, same, codes, (2, 4, 16))
    assert scores["psnr_1"] == pytest.approx(scores["ceiling_psnr_1"], abs=.01) and scores["copy_psnr_1"] > 100
    assert scores["delta_psnr_4"] == 0 and scores["psnr_4"] == pytest.approx(scores["ceiling_psnr_4"], abs=.01) and scores["delta_psnr_16"] is None

class FakeLAM:
    def pair_codes(self, before, after, merged=True): return np.arange(len(before)) % 8, np.ones(len(before))

class FakeGroups:
    def __init__(self, clips): self.clips = clips
    def __len__(self): return len(self.clips)
    def batch(self, indices): return self.clips[indices]

def test_evaluation_is_json_whatever_the_groups(world, clips):
    for some in (clips, clips[:, :2], np.zeros_like(clips)):               # long, pairs only, nothing moves
        scores = evaluate_world(world, FakeLAM(), FakeGroups(some))
        json.dumps(scores, allow_nan=False)
        assert (scores["psnr_1"] is None) == (not some.any()) == (scores["pairs"] == 0)      # nothing moves: said, not left out
        assert scores["ms_per_frame"] > 0 and (scores["delta_psnr_4"] is None) == (some.shape[1] == 2)
    with pytest.raises(PokeidmError): evaluate_world(world, FakeLAM(), FakeGroups(clips[:0]))

def test_save_and_load(world, clips, tmp_path):
    world = World(world.tokenizer, world.dit, {0: "none", 3: "left"}, snap=True).eval()
    kept = World.load(World(world.tokenizer, world.dit, snap=True, detail=.25, recall=.5, starts=clips[:, :2], sights=clips[:2, 0], stays=np.eye(4, 6)).save(tmp_path/"v"))
    assert (kept.detail, kept.recall) == (.25, .5) and np.array_equal(kept.stays, np.eye(4, 6)) and np.array_equal(kept.sights, clips[:2, 0]) and kept.dit.config.scrolls == world.dit.config.scrolls and np.array_equal(kept.starts, clips[:, :2])
    (tmp_path/"v"/"starts.npy").write_bytes(b"no frames")
    with pytest.raises(PokeidmError, match="start frames"): World.load(tmp_path/"v")
    again = World.load(world.save(tmp_path/"w"))
    assert again.names == world.names and np.array_equal(again.rollout(clips[:1, :1], [[3]]), world.rollout(clips[:1, :1], [[3]]))
    with pytest.raises(PokeidmError): World.load(tmp_path/"w"/"dit")
    with pytest.raises(PokeidmError): World.load(tmp_path/"nowhere")

@pytest.mark.parametrize("go", [
    lambda w, c, d: Game(w, c[0, 0, :8]), lambda w, c, d: Game(w, c[0, 0].astype(float)), lambda w, c, d: Game(w, c[0, 0]).step(8),
    lambda w, c, d: Game(w, c[0, 0]).step(-1), lambda w, c, d: rollout(w, c[:1, :2], [[1]]), lambda w, c, d: record(w, c[0, 0], [1], d/"x.avi"),
    lambda w, c, d: record(w, c[0, 0], [9], d/"x.mp4"), lambda w, c, d: World(w.tokenizer, w.dit).step(1)])
def test_bad_input_is_one_line_and_leaves_nothing(world, clips, tmp_path, go):
    with pytest.raises(PokeidmError) as e: go(world, clips, tmp_path)
    assert "\n" not in str(e.value) and not list(tmp_path.iterdir())

@pytest.mark.parametrize("name, scale", [("a.mp4", 2), ("a.gif", 3), ("b.mp4", 3)])
def test_recordings_play_back(world, clips, tmp_path, name, scale):
    import av
    with av.open(str(record(world, clips[0, 0], [1, 2, 3], tmp_path/name, scale=scale))) as video:
        frames = [f.to_ndarray(format="rgb24") for f in video.decode(video=0)]
    assert len(frames) == 4 and frames[0].shape == (16*scale, 24*scale, 3)
