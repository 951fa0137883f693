"""Labelling: it goes on where it was killed, to the same bytes; what goes wrong is one line; a new hero is met."""
import signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from pokeidm import label
from pokeidm.cli import main
from pokeidm.core import PokeidmError, read_json
from pokeidm.frames import extract, open_frames
from pokeidm.label import Footage, example_pairs, introduced, label_piece, label_video, label_videos, name_by_examples, pieces, read_examples, some_pairs
from pokeidm.lam import LAM, LAMConfig, call_codes, knows_hero, label_frames
from pokeidm.metrics import read_actions, score_file
from pokeidm.recipes import load_lam, shipped_lam
from pokeidm.video import write_clip

CLIP = Path(__file__).parent.parent/"data_samples/overworld_heldout.mp4"

def columns(path): return {k: np.array([float(r[k]) for r in read_actions(path)]) for k in ("frame", "code", "confidence")}

@given(st.sets(st.integers(0, 40)), st.integers(1, 9))
def test_pieces_hold_every_row_once_with_its_neighbours(rows, size):
    rows, found = sorted(rows), []
    for before, now, after in pieces([(r, None) for r in rows], size):
        assert len({r//size for r, _ in now}) == 1 and [r for r, _ in before] == found[-1:]
        found += [r for r, _ in now]
        assert [r for r, _ in after] == rows[len(found):][:1]
    assert found == rows

@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    out = tmp_path_factory.mktemp("labels")
    return label_video(CLIP, load_lam(shipped_lam()), out)

def test_the_model_that_ships_labels_a_real_stretch(labelled, tmp_path):
    "The small model in data_samples knows the buttons of a map that it has never seen."
    lam = load_lam(shipped_lam())
    assert sum(p.stat().st_size for p in shipped_lam().iterdir()) < 2e6 and {"up", "down", "left", "right", "none"} <= set(lam.names.values())
    scores = score_file(labelled, CLIP.with_suffix(".json"))
    assert scores["accuracy"] > .95 and scores["nmi"] > .9 and scores["noop_recall"] > .9, scores

def test_labels_are_those_of_the_extracted_frames(labelled, tmp_path):
    store = open_frames(extract(CLIP, tmp_path, "g", target_height=80, jump_seconds=0, max_static_seconds=0, skip_intro=0, skip_outro=0, drop=(), games={}))
    lam = introduced(load_lam(shipped_lam()), *some_pairs(Footage(CLIP)))
    codes, confidence = label_frames(lam, store)
    made = columns(labelled)
    assert made["frame"].tolist() == list(store.meta["frames"]["index"]) and np.allclose(made["confidence"], confidence, atol=6e-4)
    assert (made["code"] == codes).mean() > .999         # other batches may tip a code that hangs in the balance

RUN = "import sys; from pokeidm.label import label_videos; from pokeidm.recipes import shipped_lam; label_videos([sys.argv[1]], shipped_lam(), sys.argv[2], device='cpu')"

def test_a_killed_run_goes_on_to_the_same_bytes(labelled, tmp_path, monkeypatch):
    run = subprocess.Popen([sys.executable, "-c", RUN, CLIP, tmp_path], stderr=subprocess.DEVNULL)
    journal, end = tmp_path/f".{CLIP.stem}.actions.journal", time.monotonic() + 120
    while not (journal/"000000.npy").exists() and run.poll() is None and time.monotonic() < end: time.sleep(.005)
    run.send_signal(signal.SIGKILL); run.wait()
    assert (journal/"000000.npy").exists() and not list(tmp_path.glob("*.csv"))
    worked = []
    monkeypatch.setattr(label, "label_piece", lambda *a: worked.append(len(a[3])) or label_piece(*a))
    monkeypatch.setattr(label, "introduced", None)                                # he was met before
    made = label_video(CLIP, load_lam(shipped_lam()), tmp_path)
    assert made.read_bytes() == labelled.read_bytes() and worked == [600 - 512] and not journal.exists()

def test_another_model_or_rate_starts_anew(labelled, tmp_path):
    lam = load_lam(shipped_lam()); made = tmp_path/labelled.name
    for p in (labelled, labelled.with_suffix(".json")): (tmp_path/p.name).write_bytes(p.read_bytes())
    stamp = made.stat().st_mtime_ns
    label_video(CLIP, lam, tmp_path); assert made.stat().st_mtime_ns == stamp, "nothing to do"
    call_codes(lam, {**lam.names, 1: "jump"})
    label_video(CLIP, lam, tmp_path); assert "jump" in made.read_text()
    assert len(read_actions(label_video(CLIP, lam, tmp_path, fps=5))) == 300

def test_two_videos_of_one_name_are_refused(labelled, tmp_path):
    other = tmp_path/"b"/CLIP.name; other.parent.mkdir(); other.write_bytes(CLIP.with_name("overworld_train_1.mp4").read_bytes())
    before = labelled.read_bytes()
    with pytest.raises(PokeidmError, match="another video of this name"): label_video(other, load_lam(shipped_lam()), labelled.parent)
    assert labelled.read_bytes() == before

def noise(n, seed=0): return [np.random.default_rng(seed + i).integers(0, 255, (80, 120, 3), dtype=np.uint8) for i in range(n)]

def test_short_slow_and_gappy_videos(tmp_path):
    lam = load_lam(shipped_lam())
    times = np.r_[np.arange(100), np.arange(140, 240)]/10                     # four seconds are missing
    write_clip(tmp_path/"one.mp4", noise(1), [0.]); write_clip(tmp_path/"two.mp4", noise(2), [0., .1]); write_clip(tmp_path/"gap.mp4", list(scene([230, 50, 50], n=200)), times)
    assert [len(read_actions(label_video(tmp_path/f"{n}.mp4", lam, tmp_path))) for n in ("one", "two", "gap")] == [1, 2, 200]
    gap, two = (columns(tmp_path/f"{n}.actions.csv") for n in ("gap", "two"))
    assert gap["code"][99] == gap["confidence"][99] == 0 < gap["confidence"][98] and two["confidence"][-1] == 0

@pytest.mark.parametrize("text, says", [(None, "cannot be read"), ("a,b\n1,2\n", "frame and button"), ("frame,button\n", "no examples"), ("frame,button\n1.5,up\n", "cannot be read"),
                                        ("frame,button\n99999,up\n-5,up\n", "another video"), ("frame,button\n1799,up\n", "another video")])
def test_examples_that_cannot_be_used_are_one_line(tmp_path, text, says, capsys):
    if text is not None: (tmp_path/"e.csv").write_text(text)
    assert main(["label", str(CLIP), "--examples", str(tmp_path/"e.csv"), "--out", str(tmp_path/"o"), "--device", "cpu"]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1 and says in err[0], err

def test_examples_name_the_codes_and_the_names_are_kept(tmp_path):
    footage, lam = Footage(CLIP), load_lam(shipped_lam())
    swapped = {"up": "zig", "down": "zag", "left": "left", "right": "right", "none": "none"}
    made, truth = tmp_path/"e.csv", read_json(CLIP.with_suffix(".json"))
    rows = [r for r in range(0, 599, 3) if truth["state"][footage.numbers[r + 1]] == "overworld" and truth["motion"][footage.numbers[r] + 2] in swapped]
    made.write_text("frame,button\n" + "".join(f"{footage.numbers[r]},{swapped[truth['motion'][footage.numbers[r] + 2]]}\n" for r in rows))
    label_videos([CLIP], shipped_lam(), tmp_path/"o", examples=made, keep=tmp_path/"kept", device="cpu")
    assert {"zig", "zag", "left", "right", "none"} <= set(load_lam(tmp_path/"kept").names.values()) and not {"up", "down"} & set(load_lam(tmp_path/"kept").names.values())
    frames, buttons = read_examples(made); before, after, kept = example_pairs(footage, frames)
    assert len(kept) == len(frames) and ",zig\n" in (tmp_path/"o"/"overworld_heldout.actions.csv").read_text()
    other = load_lam(shipped_lam()); name_by_examples(other, before[:5], after[:5], ["none"]*5)
    assert set(lam.pair_codes(before[:5], after[:5])[0].tolist()) == {0} or not set(other.pair_codes(before[:5], after[:5])[0].tolist()) - {0}

def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path/"file").write_text("")
    assert main(["label", str(CLIP), "--out", str(tmp_path/"file"/"o"), "--device", "cpu"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1

# ---- the hero of another video

def scene(colour, scrolls=True, n=40):
    "Frames in which a figure stays on the screen while noise scrolls, or nothing scrolls."
    world = np.random.default_rng(0).integers(0, 150, (80, 120 + 3*n, 3), dtype=np.uint8)
    frames = np.stack([world[:, 3*i*scrolls:][:, :120] for i in range(n)]).copy(); frames[:, 36:44, 56:64] = np.array(colour, np.uint8)
    return frames

def test_a_new_videos_hero_is_met_and_the_model_stays_what_it_was():
    torch.manual_seed(0); lam = LAM(LAMConfig()).eval()
    red, blue, calm = scene([230, 50, 50]), scene([20, 230, 230]), scene([20, 230, 230], scrolls=False)
    meet = lambda lam, v: introduced(lam, v[:-1], v[1:])
    knows = lambda lam, v: knows_hero(lam.encoder.hero, *(torch.from_numpy(v[k:][:39]).movedim(-1, 1)/255 for k in (0, 1)))
    first = meet(lam, red)
    assert abs(knows(lam, red)) < 1e-5 and knows(first, red) > .5 > knows(first, blue) and knows(meet(first, blue), blue) > .5
    assert torch.equal(meet(first, red).encoder.hero.net[1].weight, first.encoder.hero.net[1].weight)
    frames = torch.from_numpy(calm[:1]).movedim(-1, 1)/255
    assert (meet(first, calm).encoder.hero(frames) == 2).all(), "nothing scrolls and nobody is known: everybody counts"
    assert torch.equal(lam.encoder.words(), first.encoder.words())
