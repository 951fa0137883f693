"Motion of the hero against the ground, on made pictures of which it is known."
import pytest, torch
from hypothesis import given, settings, strategies as st
from pokeidm.core import PokeidmError
from pokeidm.motion import direction, ground_motion, matched_motion, relative_motion, star, who_stays

def scene(hero, camera, seed, size=8):
    g = torch.Generator().manual_seed(seed)
    world, figure = torch.rand(1, 3, 120, 160, generator=g), torch.rand(1, 3, size, size, generator=g)
    (y, x), (cy, cx) = hero, camera
    world[..., y:y+size, x:x+size] = figure
    return world[..., cy:cy+80, cx:cx+120]

@settings(max_examples=40, deadline=None)
@given(st.sampled_from(star()[1:]), st.booleans(), st.integers(0, 99))
def test_the_hero_against_the_ground(step, follows, seed):
    (dy, dx), at = step, (54, 70)
    camera = (20 + dy*follows, 20 + dx*follows)
    before, after = scene(at, (20, 20), seed), scene((at[0] + dy, at[1] + dx), camera, seed)
    evidence = relative_motion(before, after)
    assert star()[evidence.argmax()] == step and abs(float(evidence.sum()) - 1) < 1e-5 and evidence.min() >= 0

def test_nothing_is_exactly_nothing():
    x = torch.rand(2, 3, 40, 48); e = relative_motion(x, x)
    assert torch.equal(e[:, 0], torch.ones(2)) and not e[:, 1:].any()
    flat = torch.zeros(1, 3, 40, 48); assert relative_motion(flat, flat)[0, 0] == 1
    assert torch.isfinite(relative_motion(flat, flat + .5)).all()

def test_weight_silences_a_mover():
    a, b = scene((54, 70), (20, 20), 0), scene((57, 70), (20, 20), 0)
    assert star()[relative_motion(a, b).argmax()] == (3, 0) and relative_motion(a, b, torch.zeros(1, 80, 120)).argmax() == 0

def test_a_floor_of_tiles_moves_nobody(n=60):
    "The floor that the hero uncovers looks like the floor one tile further, and his legs move; still he is seen where he goes."
    found = 0
    for seed in range(n):
        g = torch.Generator().manual_seed(seed); floor, hero = torch.rand(1, 3, 80, 120, generator=g), torch.rand(3, 9, 9, generator=g); floor[..., 16:64, 24:96] = torch.rand(3, 8, 8, generator=g).repeat(1, 6, 9)
        dy, dx = [(0, 3), (0, -3), (3, 0), (-3, 0)][seed % 4]; pair = [floor.clone(), floor.clone()]
        for k, x in enumerate(pair): x[..., 36 + k*dy:, 50 + k*dx:][..., :9, :9] = hero*(.2 + .8*torch.rand(9, 9, generator=g))
        found += star()[relative_motion(*pair).argmax()] == (dy, dx)
    assert found >= .9*n, found

def test_a_hero_who_treads_on_the_spot_stays(n=40):
    "A quarter of his legs is what was two pixels further up before, the rest of him is as it was: with the hero's weights he stays, without them somebody moved."
    moved = {True: 0, False: 0}
    for seed in range(n):
        g = torch.Generator().manual_seed(seed); floor, hero = torch.rand(1, 3, 80, 120, generator=g), torch.rand(3, 20, 8, generator=g)
        legs, some = hero.clone(), torch.rand(10, 8, generator=g) < .25; legs[:, 10:][:, some] = hero[:, 8:18][:, some]
        weight, pair = torch.zeros(1, 80, 120), [floor.clone(), floor.clone()]; weight[:, 30:50, 50:58] = 1
        for x, figure in zip(pair, (hero, legs)): x[..., 30:50, 50:58] = figure
        for known in moved: moved[known] += int(relative_motion(*pair, weight if known else None).argmax() > 0)
    assert moved[False] > .9*n and moved[True] < moved[False] - .2*n, moved

def test_who_stays_is_silent_on_a_standing_ground():
    a, b = scene((54, 70), (20, 20), 0), scene((57, 70), (20, 20), 0)
    assert not torch.cat(who_stays(a, b)).any()
    a, b = scene((54, 70), (20, 20), 0), scene((57, 70), (23, 20), 0)
    hero, ground = who_stays(a, b)
    assert hero[0, 36:40, 52:56].all() and not (hero & ground).any() and ground.float().mean() > .4

def test_small_frames_are_refused():
    with pytest.raises(PokeidmError, match="too small"): ground_motion(*torch.rand(2, 1, 3, 16, 16))

def test_codes_are_directions():
    pairs = [(scene((54, 70), (20, 20), 0), scene((54 + y, 70 + x), (20, 20), 0)) for y, x in ((-2, 0), (2, 0), (0, -2), (0, 2))]
    assert matched_motion(*(torch.cat(x) for x in zip(*pairs))).tolist() == [1, 2, 3, 4]
    assert direction(0, 0) == direction(2, 2) == "other"
