"""The overworld's rules, its truth, and the clips that are shipped."""
import subprocess, sys
from pathlib import Path
import av, numpy as np, pytest
from hypothesis import given, settings, strategies as st
from pokeidm import overworld as ow
from pokeidm.core import PokeidmError, read_json

SHIPPED = Path(__file__).resolve().parent.parent/"data_samples"
LISTS = ("actions", "moved", "motion", "state", "pos", "facing", "cause", "running")


def test_import_is_light():
    code = "import sys, pokeidm.overworld; print([m for m in ('torch', 'matplotlib', 'av') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_same_seed_same_frames():
    (a, ta), (b, tb), (c, _) = ow.simulate(3, seed=4), ow.simulate(3, seed=4), ow.simulate(3, seed=5)
    assert (a == b).all() and ta == tb and (a != c).any()


def test_sixty_fps_shows_the_same_game():
    (slow, ts), (fast, tf) = ow.simulate(8, seed=1, fps=30, visit=0), ow.simulate(8, seed=1, fps=60, visit=0)
    assert (slow == fast[::2]).all() and ts["pos"] == tf["pos"][::2]
    for i in range(1, len(slow)):                                        # a pair's row covers the entries after its first frame
        pair = set(tf["motion"][2*i - 1:2*i + 1])
        assert ts["motion"][i] in pair and ts["moved"][i] == (pair != {"none"})


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 3), st.lists(st.tuples(st.sampled_from(ow.BUTTONS), st.integers(1, 40), st.booleans()), max_size=25))
def test_rules_hold_whatever_is_pressed(seed, presses):
    world = _world(seed)
    for button, frames, run in presses:
        for _ in range(frames):
            before, tile = world.pos, (world.hero.x, world.hero.y)
            world.step(button, run)
            dx, dy = np.subtract(world.pos, before)
            assert world.moved == bool(dx or dy) and not world.layout.solid[world.hero.y, world.hero.x]
            if world.motion in ow.STEPS: assert np.allclose((dx, dy), np.multiply(ow.STEPS[world.motion], (2 if world.running else 1)/16))
            else: assert world.motion == ("teleport" if world.moved else "none")
            if world.state != "overworld" and world.motion != "teleport": assert (world.hero.x, world.hero.y) == tile or world.moved
        assert world.render().shape == (160, 240, 3)


def _world(seed, known={}):
    "An overworld whose costly picture is painted once a seed."
    if seed not in known: known[seed] = ow.paint(ow.make_layout(seed), ow.make_tileset(0))
    paint, ow.paint = ow.paint, lambda *_: known[seed]
    try: return ow.Overworld(seed, encounters=0.5)
    finally: ow.paint = paint


def test_running_takes_half_the_time_and_steps_end_on_tiles():
    for run, frames in ((False, 16), (True, 8)):
        world = _world(1)
        world.people.clear()
        world.hero.facing, start = "left", world.pos
        for _ in range(3): world.step("left", run)                       # let go early: the step is finished all the same
        for k in range(frames - 3): assert world.pos != (start[0] - 1, start[1]); world.step("noop")
        assert world.pos == (start[0] - 1, start[1])
        world.step("noop")
        assert not world.moved


@pytest.mark.parametrize("seed", range(12))
def test_every_door_leads_somewhere_and_back(seed):
    layout = ow.make_layout(seed)
    outside = ow.reach(layout, layout.start)
    assert layout.warps and outside.sum() > 400
    for door, ((x, y), facing) in layout.warps.items():
        dx, dy = ow.STEPS[ow.OPPOSITE[facing]]
        assert not layout.solid[y, x] and (x + dx, y + dy) in layout.warps, "what a door leads to lies before another door"
        back = layout.warps[x + dx, y + dy][0]
        assert abs(back[0] - door[0]) + abs(back[1] - door[1]) == 1
    h, w = layout.solid.shape
    y, x = np.nonzero(~layout.solid)
    assert min(y.min() - 5, x.min() - 8, h - 6 - y.max(), w - 9 - x.max()) >= 0, "the camera would leave the picture"


@pytest.mark.parametrize("seed", (6, 7, 8))
def test_player_does_not_get_stuck(seed):
    world = _world(seed)
    world.encounters, keys, tiles, streak = 0, ow.player(world, seed), set(), 0
    for _ in range(60*45//2):
        button, run = next(keys)
        for _ in range(2): world.step(button, run)
        tiles.add((world.hero.x, world.hero.y))
        streak = streak + 1 if world.cause == "bump" else 0
        assert streak < 60
    assert len(tiles) > 40


def test_events_happen_and_end():
    _, truth = ow.simulate(60, seed=22, visit=0, talk=2, menu=2, battle=2, warp=5)
    assert set(truth["state"]) == {"overworld", "dialog", "menu", "battle", "transition"}
    assert truth["motion"].count("teleport") >= 2
    for i, (state, motion) in enumerate(zip(truth["state"], truth["motion"])):
        if motion == "teleport": assert state == "transition" and truth["moved"][i]
        if state in ("dialog", "menu", "battle"): assert motion == "none"
    last = max(i for i, s in enumerate(truth["state"]) if s == "battle")
    assert "overworld" in truth["state"][last:]


def test_clip_has_its_truth_beside_it(tmp_path):
    truth = ow.render_clip(tmp_path/"a.mp4", 1, seed=3, bars=10, scale=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.mp4"]
    assert read_json(tmp_path/"a.json")["motion"] == truth["motion"] and truth["video"] == [480, 740] and truth["crop"] == [10, 0, 720, 480]
    with av.open(str(tmp_path/"a.mp4")) as c:
        frames = [f.to_ndarray(format="rgb24") for f in c.decode(video=0)]
        assert c.streams.video[0].codec_context.name == "h264" and c.streams.video[0].average_rate == 30
    native, _ = ow.simulate(1, seed=3)
    assert len(frames) == len(native) == len(truth["pos"]) and frames[0].shape == (480, 740, 3)
    assert frames[5][:, :8].max() < 24 and np.abs(frames[5][1::3, 11:-10:3].astype(int) - native[5]).mean() < 8


def test_other_scales_have_even_sides(tmp_path):
    assert ow.render_clip(tmp_path/"a.mp4", 0.2, scale=4.5, fps=60)["video"] == [720, 1080]
    assert ow.render_clip(tmp_path/"b.mp4", 0.2, scale=1.33)["video"] == [212, 320]


@pytest.mark.parametrize("kwargs, word", [(dict(fps=29), "29"), (dict(seconds=0), "0"), (dict(name="a.avi"), "mp4")])
def test_bad_requests_leave_nothing(tmp_path, kwargs, word):
    with pytest.raises(PokeidmError, match=word): ow.render_clip(tmp_path/kwargs.pop("name", "a.mp4"), **{"seconds": 1} | kwargs)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    render, calls = ow.Overworld.render, []
    def stop(self):
        calls.append(1)
        if len(calls) > 120: raise KeyboardInterrupt
        return render(self)
    monkeypatch.setattr(ow.Overworld, "render", stop)
    with pytest.raises(KeyboardInterrupt): ow.render_clip(tmp_path/"a.mp4", 6)
    assert not list(tmp_path.iterdir())


def test_unknown_button(): pytest.raises(PokeidmError, _world(1).step, "jump")


def test_make_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(ow, "SAMPLES", {"one": dict(seconds=0.5), "two": dict(seconds=0.5, seed=1)})
    ow.make_samples(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.json", "one.mp4", "two.json", "two.mp4"]


@pytest.mark.parametrize("name", ow.SAMPLES)
def test_shipped_clips(name):
    truth, settings = read_json(SHIPPED/f"{name}.json"), ow.SAMPLES[name]
    n = settings["seconds"]*30
    with av.open(str(SHIPPED/f"{name}.mp4")) as c:
        stream = c.streams.video[0]
        assert (stream.frames, [stream.height, stream.width]) == (n, truth["video"])
    assert all(len(truth[key]) == n for key in LISTS) and truth["seed"] == settings["seed"]
    assert {"fps", "native", "video", "map"} <= truth.keys() and truth["native"] == [160, 240]
    if "events" not in name:
        share = {m: truth["motion"].count(m)/n for m in (*ow.STEPS, "teleport")}
        assert share["teleport"] == 0 and min(share[d] for d in ow.STEPS) > 0.1


def test_shipped_clips_are_small():
    assert sum(p.stat().st_size for p in SHIPPED.iterdir()) < 11e6
    assert 330 <= sum(s["seconds"] for n, s in ow.SAMPLES.items() if "train" in n) <= 360


def test_training_clips_are_balanced():
    motion = sum((read_json(SHIPPED/f"{name}.json")["motion"] for name in ow.SAMPLES if "train" in name), [])
    share = {d: motion.count(d)/len(motion) for d in ow.STEPS}
    assert max(share.values()) < 1.3*min(share.values())
