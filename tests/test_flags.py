"What 07_flags' own assertions do not hold: other styles of panels, static rooms, slow fades, breaks, odd sizes, real recordings."
import json
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from pokeidm.flags import DROP, FEATURES, FLAGS, STILL, change_share, find_flags, measure, runs
from pokeidm.overworld import NATIVE, simulate
from pokeidm.video import index_video, read_frames, sample_frames
from pokeidm.view import View, scaler
from clips import REAL, game

def flags(pictures, fps=10.0, **k): return find_flags(measure(np.ascontiguousarray(pictures), fps), fps, **k)
def none(got, *names): return not any(got[name].any() for name in names)
def fade(picture, rows=5, up=False):
    out = (picture*np.linspace(1, 0, rows + 1)[1:, None, None, None]).astype(np.uint8)
    return out[::-1] if up else out

def f1(flag, true): return 2*(flag & true).sum()/max(flag.sum() + true.sum(), 1)

@pytest.fixture(scope="module")
def play():
    "A minute of the overworld at 10 fps with noise of a codec: pictures, state, whether equal to the row before."
    frames, truth = simulate(60, seed=104, tileset=3, npcs=12, talk=3, menu=3, battle=2, warp=4, visit=0)
    rows = frames[::3]
    noisy = (rows + np.random.default_rng(0).integers(-3, 4, rows.shape)).clip(0, 255).astype(np.uint8)
    return noisy, np.array(truth["state"])[::3], np.append(False, (rows[1:] == rows[:-1]).all((1, 2, 3)))

# ---------- pairs of rows

def test_change_does_not_wrap():
    a = np.full((4, 4, 3), 100, np.uint8)
    assert change_share(a, a - 1) == 0 and change_share(a, a + 1) == 0 and change_share(a, a + 20) == 1

@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5), st.integers(-24, 24), st.booleans())
def test_a_scroll_of_up_to_24_pixels_is_play(seed, shift, vertical):
    big = game(1, seed, 208, 288)[0]
    dy, dx = (shift, 0) if vertical else (0, shift)
    got = flags(np.stack([big[24:184, 24:264], big[24 + dy:184 + dy, 24 + dx:264 + dx]]))
    assert got["scroll"][1] == (shift != 0) and got["identical"][1] == (shift == 0) and none(got, "cut", "teleport", "fade", "local")

@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.floats(0.1, 0.7))
def test_fades_and_places_are_told_apart(seed, level):
    a, other = game(1, seed)[0], game(1, seed + 100)[0]
    got = flags(np.stack([a, a, (a*level).astype(np.uint8), a]))
    assert got["fade"].tolist() == [False, False, True, False] and none(got, "cut", "teleport")
    got = flags(np.stack([a, other]))
    assert got["cut"][1] != got["teleport"][1] and none(got, "fade", "scroll", "local")

@pytest.mark.parametrize("rows", [3, 6, 10, 15])
def test_slow_fades_are_found_whole(rows):
    p = game(60, 3)[::3]
    film = np.concatenate([p, fade(p[-1], rows), fade(p[-1], rows, True), p[::-1]])
    got = flags(film)["fade"]
    assert got[20:19 + 2*rows].all() and not got[:20].any() and not got[21 + 2*rows:].any()

# ---------- chunks, sizes, breaks

@settings(max_examples=25, deadline=None)
@given(st.data())
def test_chunks_do_not_matter(play, data):
    p = play[0][200:260, ::2, ::2]
    whole, cuts = measure(p), sorted(data.draw(st.sets(st.integers(1, 59), max_size=6)))
    parts = [measure(p[max(a - 1, 0):b], chunk=data.draw(st.integers(1, 40)))[min(a, 1):] for a, b in zip([0, *cuts], [*cuts, 60])]
    assert np.concatenate(parts).tobytes() == whole.tobytes()

def test_little_is_enough(play):
    assert FEATURES.itemsize <= 100 and len(measure(play[0][:0])) == 0 and set(find_flags(measure(play[0][:0]))) == set(FLAGS)
    assert none(flags(play[0][:1]), "identical", "local", "scroll", "cut", "teleport", "fade") and measure(play[0][:1])["change"][0] == 0
    assert all(set(names) <= set(FLAGS) for names in DROP.values())

def test_parts_are_judged_for_themselves():
    a, b = game(60, 1)[::3], game(60, 2)[::3]
    joined, breaks = np.concatenate([a, b]), np.arange(40) == 20
    assert flags(joined)["cut"][20] or flags(joined)["teleport"][20]
    got, apart = flags(joined, breaks=breaks), [flags(a), flags(b)]
    for name in FLAGS: assert np.array_equal(got[name], np.concatenate([x[name] for x in apart])), name
    assert not any(got[name][20] for name in FLAGS)

def test_one_explanation_a_row(play):
    got = flags(play[0])
    count = np.sum([got[k] for k in ("local", "scroll", "teleport", "cut", "fade")], 0)
    assert (count <= 1).all() and ((count == 1) | got["identical"])[1:].all() and all(v.dtype == bool and len(v) == 600 for v in got.values())

# ---------- states

@pytest.mark.parametrize("style", ["as it is", "dark boxes", "half size", "5 fps", "no transitions", "black border"])
def test_states_in_other_styles(play, style):
    p, state, _ = play; p, fps = p.copy(), 10
    if style == "dark boxes":
        for s, cut in (("dialog", np.s_[112:157, 4:236]), ("battle", np.s_[112:157, 4:236]), ("menu", np.s_[2:114, 138:238])):
            p[(state == s, *cut)] = 255 - p[(state == s, *cut)]
    if style == "half size": p = p.reshape(len(p), 80, 2, 120, 2, 3).mean((2, 4)).astype(np.uint8)
    if style == "5 fps": p, state, fps = p[::2], state[::2], 5
    if style == "no transitions": p, state = p[state != "transition"], state[state != "transition"]
    if style == "black border": p = np.pad(p, ((0, 0), (12, 12), (20, 20), (0, 0)))
    got = flags(p, fps)
    scores = {s: f1(got[s], state == s) for s in ("battle", "dialog", "menu")}
    assert all((state == s).any() for s in scores) and min(scores.values()) >= 0.95, scores

def test_equal_rows_are_identical(play):
    assert f1(flags(play[0])["identical"], play[2]) > 0.97 and STILL < 0.001

def walker(rows, size=(160, 240), seed=0):
    "A still room in a black border, with a flat floor, in which a small figure walks about."
    rng, room = np.random.default_rng(seed), np.zeros((*size, 3), np.uint8)
    room[16:150, 40:200] = (224, 184, 112); room[16:40, 40:200] = (150, 160, 170); room[60:90, 60:100] = (120, 80, 40)
    at, out = np.array([130, 100]), []
    for k in range(rows):
        if k % 4 == 0: d = np.array([(0, 5), (0, -5), (5, 0), (-5, 0), (0, 0)][rng.integers(5)])
        if 45 < at[0] + d[0] < 132 and 104 < at[1] + d[1] < 180: at = at + d
        p = room.copy(); p[at[0]:at[0] + 16, at[1]:at[1] + 14] = (200, 40, 60); p[at[0] + 4:at[0] + 9, at[1] + 3:at[1] + 11] = (250, 220, 180)
        out.append(p)
    return np.stack(out)

def test_a_still_room_is_no_battle_and_no_menu():
    street, room = game(120, 4)[::3], walker(150)
    film = np.concatenate([street, fade(street[-1]), fade(room[0], up=True), room, fade(room[-1]), fade(np.roll(street[-1], 16, 0), up=True), np.roll(street[::-1], 16, 1)])
    got = flags(film)
    assert none(got, "battle", "menu", "dialog", "cut", "scroll") or not any(got[k][52:195].any() for k in ("battle", "menu", "dialog", "cut", "scroll", "fade"))
    assert len(runs(got["fade"])) == 2 and got["local"][52:195].mean() > 0.5 and got["teleport"].sum() == 2

def test_a_menu_that_fills_the_screen():
    street = game(120, 5)[::3]
    page = np.full((160, 240, 3), 60, np.uint8); page[10:90, 20:220] = (200, 210, 220); page[20:60:8, 40:120] = 30; page[120:150, 10:230] = 240
    pages = np.repeat(page[None], 40, 0)
    for k in range(40): pages[k, 20 + 8*(k//8):24 + 8*(k//8), 28:34] = 250
    film = np.concatenate([street, fade(street[-1]), fade(page, up=True), pages, fade(page), fade(street[-1], up=True), street[::-1]])
    got = flags(film)
    a, b = runs(got["menu"])[0]
    assert len(runs(got["menu"])) == 1 and abs(a - 50) <= 1 and abs(b - 90) <= 1 and none(got, "battle", "dialog", "cut", "teleport")

# ---------- a real game

def real(name, fps=10, height=160):
    video = REAL/f"{name}.mp4"; index = index_video(video); numbers, _ = sample_frames(index, fps)
    rows = np.stack([p for _, p in read_frames(video, index, numbers, scaler(View((0, 0, 720, 480), NATIVE), height, 3*height//2))])
    return rows, np.array(json.loads(video.with_suffix(".json").read_text())["state"])[numbers]

@pytest.mark.skipif(not REAL.exists(), reason="needs the recordings of a real game")
@pytest.mark.parametrize("name,fps,height", [("val/tux_07_rubberduck_city", 10, 160), ("train/tux_18_rival_house", 10, 80), ("train/tux_06_candy_port", 5, 80)])
def test_walking_in_a_real_game_is_nothing_else(name, fps, height):
    got = flags(real(name, fps, height)[0], fps)
    assert none(got, "cut", "teleport", "fade", "battle", "menu", "dialog") and (got["scroll"] | got["local"]).mean() > 0.3

@pytest.mark.skipif(not REAL.exists(), reason="needs the recordings of a real game")
@pytest.mark.parametrize("name,wanted", [("scenes/tux_r1_route3", {"battle": 0.98}), ("scenes/tux_r3_paper_town", {"dialog": 0.95, "menu": 0.9, "transition": 0.9})])
def test_states_of_a_real_game(name, wanted):
    rows, state = real(name); got = flags(rows); got["transition"] = got["fade"]
    for s, least in wanted.items(): assert f1(got[s], state == s) >= least, s
