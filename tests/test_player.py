import os, subprocess, sys
import av, numpy as np, pytest, torch
from PIL import Image
from pokeidm import player as play
from pokeidm.core import PokeidmError
from pokeidm.dit import DiT, DiTConfig, connect
from pokeidm.metrics import psnr
from pokeidm.player import Film, Player, free_path, setting, start_clips
from pokeidm.tokenizer import Tokenizer, TokenizerConfig
from pokeidm.video import barcode, read_barcode, save_clip, write_clip
from pokeidm.world import Game, World


@pytest.fixture(scope="module")
def world():
    "Untrained, but with everything connected: what it shows depends on all that it is given."
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(height=16, width=64))
    return World(connect(tokenizer), connect(DiT(DiTConfig(grid=(4, 16), width=32, depth=1, heads=2)), std=.3)).eval()

@pytest.fixture(scope="module")
def clips(): return np.random.default_rng(0).integers(0, 256, (3, 6, 16, 64, 3), dtype=np.uint8)

@pytest.fixture(scope="module")
def codes(): return np.random.default_rng(1).integers(0, 8, (3, 6))

@pytest.fixture(scope="module")
def video(tmp_path_factory):
    "Nine seconds at 30 frames a second; every picture shows its number."
    path = tmp_path_factory.mktemp("video")/"numbers.mp4"
    write_clip(path, (barcode(k, 64, 256) for k in range(270)), np.arange(270)/30, preset="ultrafast", g=30)
    return path

@pytest.fixture
def player(world, clips, codes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Player(world, clips, {1: "up"}, codes)

def say(player, do, **more):
    "(what the kernel says, the pictures that come with it)"
    content, buffers = player.handle({"do": do, **more})[-1]
    return content, [np.frombuffer(b, np.uint8).reshape(16, 64, 3) for b in buffers]

def numbers(clips): return [[read_barcode(f) for f in clip] for clip in clips]

def test_the_player_answers_messages(world, clips):
    player = Player(world, clips[:2, 0], names={1: "up"})
    (about, _), (first, picture) = player.handle({"do": "open"})
    assert about["starts"] == 2 and about["keys"][1] == {"code": 1, "name": "up"} and not about["replays"] and bytes(picture[0]) == clips[0, 0].tobytes()
    (frame, picture), = player.handle({"do": "step", "code": 1, "steps": 2, "guidance": 1.5})
    assert frame["count"] == 1 and len(picture[0]) == 16*64*3 and bytes(picture[0]) != clips[0, 0].tobytes()
    assert player.handle({"do": "reset", "start": 1})[0][1][0] == clips[1, 0].tobytes() and player.walk.game.count == 0

def test_second_bests_of_a_name_come_last(world, clips, monkeypatch):
    monkeypatch.setattr(world.dit.config, "scrolls", ((0, 0), (0, 0), (3, 0), *[(0, 0)]*5))
    keys = Player(world, clips[:2, 0], names={1: "up", 2: "up"}).handle({"do": "open"})[0][0]["keys"]
    assert [k["code"] for k in keys] == [0, 2, 3, 4, 5, 6, 7, 1]

@pytest.mark.parametrize("bad", [{}, None, [], {"do": "step"}, {"do": "step", "code": 99}, {"do": "step", "code": -1}, {"do": "step", "code": "x"}, {"do": "step", "code": 1, "steps": "many"},
    {"do": "step", "code": 1, "guidance": None}, {"do": "reset", "start": 3}, {"do": "reset", "start": -1}, {"do": "reset", "start": None}, {"do": "__init__"}, {"do": "save"}, {"do": "dance\n" * 99}])
def test_a_bad_message_is_one_line_and_changes_nothing(player, clips, bad):
    say(player, "step", code=1)
    before = player.walk.game.frame
    (content, buffers), = player.handle(bad)
    assert content["is"] == "error" and content["text"] and "\n" not in content["text"] and len(content["text"]) < 200 and not buffers
    assert player.walk.game.count == 1 and player.walk.game.frame is before and not os.listdir()

def test_whatever_breaks_the_page_gets_an_answer(player, monkeypatch):
    monkeypatch.setattr(Game, "step", lambda *a, **k: 1/0)
    assert say(player, "step", code=1)[0] == {"is": "error", "text": "ZeroDivisionError: division by zero"}

@pytest.mark.parametrize("name, given, got", [("steps", 0, 1), ("steps", 2.7, 2), ("steps", 1e9, 64), ("guidance", -3, 0), ("guidance", 77, 5), ("guidance", float("nan"), 0), ("temperature", -1, 0),
    ("temperature", 3, 2), ("temperature", float("inf"), 2), ("rate", -1, 0), ("rate", 61, 60), ("rate", .5, .5)])
def test_numbers_are_brought_into_their_bounds(name, given, got): assert setting({name: given}, name) == got and type(setting({name: given}, name)) is type(setting({}, name))

def test_the_settings_reach_the_game(world, clips, monkeypatch):
    seen = []
    monkeypatch.setattr(Game, "step", lambda self, *a, **k: seen.append((*a, *k.items())))
    player = Player(world, clips[0, 0])
    say(player, "step", code=2, steps=99, guidance=2.5, temperature=.5); say(player, "step", code=3)
    assert seen == [(2, ("steps", 64), ("guidance", 2.5), ("temperature", .5)), (3, ("steps", 4), ("guidance", 1), ("temperature", 1))]

def test_temperature_is_the_size_of_the_noise(world, clips):
    go = lambda seed, t: Game(world, clips[0, 0], seed).step(1, temperature=t)
    assert np.array_equal(go(0, 0), go(1, 0)) and not np.array_equal(go(0, 1), go(1, 1)) and not np.array_equal(go(0, .5), go(0, 1))

def test_replay_shows_the_frame_that_was_filmed_then_and_plays_its_code(player, world, clips, codes):
    content, (picture, real) = say(player, "reset", start=1)
    assert content["left"] == 5 and content["psnr"] is None and np.array_equal(real, clips[1, 0])
    game = Game(world, clips[1, 0])
    for k in range(1, 6):
        content, (picture, real) = say(player, "replay")
        assert np.array_equal(picture, game.step(codes[1, k])) and np.array_equal(real, clips[1, k]), "each code leads into its frame"
        assert content["psnr"] == round(psnr(picture, clips[1, k]), 1) and content["left"] == 5 - k and content["count"] == k
    assert "over" in say(player, "replay")[0]["text"] and player.walk.game.count == 5
    assert len(say(player, "step", code=0)[1]) == 1, "after its end the game is on its own"

def test_a_step_of_ones_own_leaves_the_recording(player, codes):
    say(player, "replay")
    content, pictures = say(player, "step", code=int(codes[0, 2]))
    assert len(pictures) == 1 and content["left"] == 0 and content["psnr"] is None and say(player, "replay")[0]["is"] == "error"
    assert len(say(player, "reset")[1]) == 2

def test_the_codes_may_come_from_a_model(world, clips):
    class LAM:
        def pair_codes(self, before, after, merged): return (before.mean((1, 2, 3)) > after.mean((1, 2, 3))).astype(int), None
    means = clips.mean((2, 3, 4))
    assert np.array_equal(Player(world, clips, codes=LAM()).codes[:, 1:], means[:, :-1] > means[:, 1:])

@pytest.mark.parametrize("make", [lambda w, c: Player(w, c, codes=np.zeros((3, 5))), lambda w, c: Player(w, c[:, 0], codes=np.zeros((3, 6))), lambda w, c: Player(w, c[:0]), lambda w, c: Player(w, c[0, 0, 0]),
    lambda w, c: Player(w, c[:, :, :8]), lambda w, c: Player(w, c.astype(float)), lambda w, c: Player(w, "nowhere.mp4"), lambda w, c: Player(w, __file__), lambda w, c: Player(w, "")])
def test_what_is_no_start_is_said_in_one_line(world, clips, make):
    with pytest.raises(PokeidmError) as e: make(world, clips)
    assert "\n" not in str(e.value)

def test_a_video_is_a_start(world, video):
    assert numbers(start_clips(video, world, n=3)) == [[0], [132], [267]] and start_clips(video, world).shape == (8, 1, 16, 64, 3)
    assert numbers(start_clips(video, world, at=[5, 1.02, 100], length=3)) == [[150, 153, 156], [30, 33, 36]], "in the order asked for; what is not there is left out"
    assert numbers(start_clips(video, world, at=2, length=2, fps=15)) == [[60, 62]] and start_clips(video, world, length=10**6).shape[:2] == (1, 90)
    assert Player(world, str(video)).clips.shape[:2] == (8, 1)
    with pytest.raises(PokeidmError, match="lasts 9 s"): start_clips(video, world, at=30)

def test_a_video_with_codes_is_cut_into_clips(world, video):
    class LAM:
        def pair_codes(self, before, after, merged): return np.ones(len(before), int), None
    player = Player(world, video, codes=LAM())
    assert player.clips.shape[:2] == player.codes.shape == (8, 61) and all(np.diff(clip).tolist() == [3]*60 for clip in numbers(player.clips))

def test_a_clip_with_a_gap_is_left_out(world, tmp_path):
    times = np.r_[np.arange(100)/10, 20 + np.arange(100)/10]
    write_clip(tmp_path/"gap.mp4", (barcode(k, 64, 256) for k in range(200)), times, preset="ultrafast", g=10)
    assert numbers(start_clips(tmp_path/"gap.mp4", world, at=[2, 9.8, 20], length=4)) == [[20, 21, 22, 23], [100, 101, 102, 103]]

@pytest.mark.parametrize("name", ["../play.gif", "a/b.gif", "/tmp/play.gif", "..\\play.gif", "C:play.gif", ".gif", "..gif", ".play.gif", "play", "play.avi", "play.GIF", "play.gif.exe", "play .gif", "", None, 7,
                                  "a\nb.gif", "con.gif", "é.gif", "x"*80 + ".gif", "~.gif/", "play.gif\0"])
def test_only_a_plain_name_is_a_file(player, name):
    say(player, "record", on=True)
    content, _ = say(player, "save", name=name)
    assert content["is"] == "error" and "plain name" in content["text"] and "\n" not in content["text"] and not os.listdir()

def test_nothing_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"play.gif").write_text("precious"); (tmp_path/"play-2.gif").symlink_to(tmp_path/"nowhere")
    assert [free_path(n).name for n in ("play.gif", "play.mp4")] == ["play-3.gif", "play.mp4"]

def shots(path):
    with av.open(path) as video: return [f.to_ndarray(format="rgb24").astype(int) for f in video.decode(video=0)]

@pytest.mark.parametrize("name", ["play.gif", "play.mp4"])
def test_what_is_seen_between_record_and_stop_is_saved(player, clips, name):
    say(player, "step", code=1)
    assert say(player, "record", on=True)[0]["recorded"] == 1
    for code in (1, 2): say(player, "step", code=code)
    say(player, "reset", start=2)
    assert say(player, "record", on=False)[0] | {"recording": False, "recorded": 4} == say(player, "open")[0]
    say(player, "step", code=3); say(player, "open")
    assert say(player, "save", name=name, rate=20)[0]["said"] == f"saved 4 frames as {name}" and os.listdir() == [name]
    got = shots(name)
    assert len(got) == 4 and got[0].shape == (32, 128, 3) and np.abs(got[3][::2, ::2].mean((0, 1)) - clips[2, 0].mean((0, 1))).max() < 12, "the last is the start of clip 2"
    if name.endswith("gif"): assert Image.open(name).info["duration"] == 50

def test_a_replay_is_saved_side_by_side_and_grey_where_it_was_left(player, clips):
    say(player, "record", on=True)
    for do in ("replay", "replay", "step"): say(player, do, code=1)
    assert "saved 4" in say(player, "save", name="both.gif")[0]["said"]
    got = shots("both.gif")
    assert [g.shape for g in got] == [(32, 256, 3)]*4 and np.abs(got[3][:, 128:] - 128).max() < 8
    for k in range(3): assert np.abs(got[k][::2, 128::2] - clips[0, k]).mean() < 40 < np.abs(got[k][::2, 128::2] - clips[0, k + 1]).mean()

def test_a_recording_has_an_end_and_says_so(player):
    player.film.most = 3
    say(player, "record", on=True)
    said = [say(player, "step", code=1)[0] for _ in range(4)]
    assert [c["recorded"] for c in said] == [2, 3, 3, 3] and [c["recording"] for c in said] == [True, False, False, False] and [bool(c["said"]) for c in said] == [False, True, False, False]
    assert "saved 3" in say(player, "save", name="play.gif")[0]["said"]
    assert say(player, "record", on=True)[0]["recorded"] == 1, "a new one begins"
    assert Film().most == 3000

def test_saving_nothing_and_saving_nowhere_are_one_line(player, tmp_path, monkeypatch):
    assert "nothing is recorded" in say(player, "save", name="play.gif")[0]["text"]
    say(player, "record", on=True)
    def full(*a, **k): raise OSError(28, "No space left on device")
    monkeypatch.setattr(play, "save_clip", full)
    assert "No space left" in say(player, "save", name="play.gif")[0]["text"] and not os.listdir()

@pytest.mark.parametrize("frames, name", [([], "a.gif"), ([np.zeros((8, 8, 3), np.uint8)], "a.avi")])
def test_a_clip_that_cannot_be_written_is_one_line(frames, name, tmp_path):
    with pytest.raises(PokeidmError, match="cannot write"): save_clip(frames, tmp_path/name)
    assert not os.listdir(tmp_path)

def test_odd_sizes_and_slow_clips_are_written(tmp_path):
    for fps in (.5, 60):
        path = save_clip([np.full((9, 15, 3), 60*k, np.uint8) for k in range(4)], tmp_path/f"{fps}.mp4", fps)
        with av.open(str(path)) as video:
            frames = list(video.decode(video=0))
            assert video.duration/1e6 == pytest.approx(4/fps, abs=1e-3)                        # the last frame is shown as long as the others
            assert (frames[0].height, frames[0].width) == (18, 30) and [f.time for f in frames] == pytest.approx([k/fps for k in range(4)], abs=1e-3)

def test_the_widget_is_optional():
    "Without anywidget the module works, and asking for the widget is one clear line."
    code = ("import sys; sys.modules['anywidget'] = None\nfrom pokeidm.player import WorldPlayer\n"
            "try: WorldPlayer(None, [])\nexcept Exception as e: print(type(e).__name__, e)")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("PokeidmError") and "pip install" in out and out.count("\n") == 1
