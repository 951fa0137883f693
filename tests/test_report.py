"""The action report: its yardsticks are always there and see what they should, nothing from outside reaches the page unescaped, files that do not belong together are refused."""
import base64, csv, re
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from pokeidm.checkpoint import save_model
from pokeidm.cli import main
from pokeidm.core import PokeidmError, read_json
from pokeidm.lam import LAM, LAMConfig
from pokeidm.metrics import DIRECTIONS
from pokeidm.overworld import render_clip
from pokeidm.report import Pairs, action_report, code_report, labelled_pairs, phase_direction, probe, score_report, sections, transfer, true_pairs, untrained, write_report_html

FREE = {"the same, shuffled", "global shift", "phase correlation", "matched motion", "untrained encoder"}
GROUND = np.random.default_rng(0).integers(0, 255, (140, 180, 3), dtype=np.uint8)

def look(y, x, h=80, w=120): return GROUND[30 + y:30 + y + h, 30 + x:30 + x + w]

def scrolling(steps=60, h=48, w=64, seed=0):
    "A camera over noise that goes 2 pixels a frame, and where it went."
    rng, at, frames, went = np.random.default_rng(seed), np.array([20, 30]), [], []
    for _ in range(steps):
        frames.append(look(*at - 30, h, w)); k = rng.integers(5)
        new = at + 2*np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])[k]
        k = k if (new >= 0).all() and (new < (80, 100)).all() else 0
        at = new if k else at; went.append(DIRECTIONS[k])
    return np.stack(frames), {"motion": ["none", *went[:-1]], "actions": ["noop", *went[:-1]]}

@pytest.fixture(scope="module", autouse=True)
def stranger():
    "Getting to know the hero of a clip is tested elsewhere, and takes seconds."
    with pytest.MonkeyPatch.context() as patch: patch.setattr("pokeidm.label.meet_hero", lambda *_: 1.); yield

@pytest.fixture(scope="module")
def lam():
    "No training: k-means finds the directions of a camera over noise. Its decoder copies."
    frames, _ = scrolling()
    return untrained(LAM(LAMConfig(height=48, width=64)), frames[:-1], frames[1:], seed=3)

@pytest.fixture(scope="module")
def full(lam): frames, truth = scrolling(70, seed=1); return action_report(lam, frames, truth)

@pytest.fixture(scope="module")
def labelled(lam, tmp_path_factory):
    "A clip, its truth, a model and its labels, by the command line."
    folder = tmp_path_factory.mktemp("labelled")
    render_clip(folder/"walk.mp4", 5, 5)
    save_model(lam, folder/"lam", names=lam.names)
    assert main(["label", str(folder/"walk.mp4"), "--lam", str(folder/"lam"), "--out", str(folder)]) == 0
    return folder

def score(folder, *more, csv="walk.actions.csv"): return main(["score", "--pred", str(folder/csv), "--truth", str(folder/"walk.json"), *map(str, more)])

@settings(max_examples=25)
@given(st.integers(-20, 20), st.integers(-20, 20))
def test_phase_direction_finds_shifts_far_beyond_the_search_of_global_shift(dy, dx):
    found = DIRECTIONS[phase_direction(look(0, 0)[None], look(dy, dx)[None])[0]]
    assert found == (("up" if dy < 0 else "down") if abs(dy) > abs(dx) else "left" if dx < 0 else "right" if dx > 0 else "none")

def test_phase_direction_of_noise_on_a_still_picture_is_nothing():
    noise = np.random.default_rng(1).integers(-4, 5, look(0, 0).shape)
    assert phase_direction(look(0, 0)[None], (look(0, 0) + noise).clip(0, 255).astype(np.uint8)[None])[0] == 0

def test_yardsticks_are_always_there(full, lam):
    assert FREE < set(full["scores"]) and all(full["scores"][k]["nmi"] > .8 for k in FREE - {"the same, shuffled", "untrained encoder"})
    assert full["scores"]["the same, shuffled"]["nmi"] < .5 < full["scores"]["untrained encoder"]["nmi"]
    alone = action_report(lam, scrolling(20, seed=2)[0])
    assert FREE < set(alone["scores"]) and alone["probe"] is None and "nmi" not in alone["scores"]["these codes"]
    titles = [title for title, *_ in sections(alone)]
    assert "Codes and what happened" not in titles and "Leak tests" in titles

def test_the_untrained_control_is_another_model_and_leaves_the_rest_alone(lam):
    frames, _ = scrolling(40, seed=4)
    before, state = {k: v.clone() for k, v in lam.state_dict().items()}, torch.get_rng_state()
    a, b, c = (untrained(lam, frames[:-1], frames[1:], seed) for seed in (0, 0, 1))
    codes = [m.pair_codes(frames[:-1], frames[1:], merged=False)[0] for m in (a, b, c, lam)]
    assert torch.equal(state, torch.get_rng_state()) and all(torch.equal(v, before[k]) for k, v in lam.state_dict().items())
    assert (codes[0] == codes[1]).all() and (codes[0] != codes[2]).any() and (codes[0] != codes[3]).any()

def test_the_one_frame_control_sees_what_the_scene_gives_away(lam):
    "Nothing moves, but a bright scene is called up and a dark one down: the vectors know nothing, one frame knows all."
    bright = np.random.default_rng(0).random(80) < .5
    frames = np.where(bright, 200, 40).astype(np.uint8)[:, None, None, None].repeat(48, 1).repeat(64, 2).repeat(3, 3)
    pairs = Pairs(frames, frames, np.zeros((80, 2), int), np.arange(80.), 80)
    found = probe(lam, pairs, {"motion": np.where(bright, "up", "down")})
    assert found["one_frame"] == 1 and found["vectors"] == found["chance"] == .5

@pytest.mark.parametrize("listens", [True, False])
def test_transfer_tells_a_decoder_that_shifts_as_told_from_one_that_copies(lam, monkeypatch, listens):
    frames, truth = scrolling(60, seed=5)
    went = {k: {"up": (1, 0), "down": (-1, 0), "left": (0, 1), "right": (0, -1)}.get(name, (0, 0)) for k, name in lam.names.items()}
    def told(x, codes): return torch.stack([p.roll(went[int(k)] if listens else (0, 0), (1, 2)) for p, k in zip(lam.canvas(lam.tensor(x)), codes)])
    monkeypatch.setattr(lam, "decode", told, raising=False)
    moved = np.isin(truth["motion"][1:], DIRECTIONS[1:])
    found = transfer(lam, frames[:-1][moved], frames[1:][moved])
    assert found["pairs"] > 30 and (found["same_way"] > .9 > .5 > found["chance"] if listens else found["same_way"] == found["chance"] == 0)

def test_nothing_from_outside_is_markup(full, tmp_path):
    evil = '<script>alert("$x^$")</script>'
    report = {**full, "names": {k: evil for k in range(8)}, "causes": {"rows": [evil, "walk"], "counts": np.ones((2, full["codes"]), int).tolist()}, "scores": {**full["scores"], evil: full["scores"]["these codes"]}}
    write_report_html(tmp_path/"r.html", report, evil)
    page = (tmp_path/"r.html").read_text(encoding="utf-8")
    assert "<script" not in page and page.count("&lt;script&gt;") == 3 and not re.search(r'(src|href)="(?!data:)', page)

def test_the_page_is_small_even_of_noise(full, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (9, 2, 2, 160, 240, 3), dtype=np.uint8)
    write_report_html(tmp_path/"r.html", {**full, "examples": dict(enumerate(noise))})
    assert (tmp_path/"r.html").stat().st_size < 2e6

def test_a_page_that_cannot_be_drawn_leaves_nothing(full, tmp_path):
    with pytest.raises(Exception): write_report_html(tmp_path/"r.html", {**full, "leaks": {"pairs": 3}})
    assert not list(tmp_path.iterdir())

def test_pairs_do_not_cross_cuts(lam, labelled):
    rows = list(csv.DictReader(open(labelled/"walk.actions.csv")))
    rows[10] |= {"code": "0", "confidence": "0.000"}                 # as `pokeidm label` writes before a cut
    with open(labelled/"cut.csv", "w", newline="") as f: out = csv.DictWriter(f, rows[0]); out.writeheader(); out.writerows(rows)
    pairs, codes = labelled_pairs(labelled/"cut.csv", labelled/"walk.mp4", 48)
    assert int(rows[10]["frame"]) not in pairs.span[:, 0] and len(codes) == len(pairs) == len(rows) - 2 - sum(r["confidence"] == "0.000" and r["code"] == "0" for r in rows[:-1] if r is not rows[10])
    assert len(labelled_pairs(labelled/"cut.csv", labelled/"walk.mp4", 48, most=7)[0]) == 7

def test_score_with_and_without_video(labelled, capsys):
    assert score(labelled, "--html", labelled/"a.html") == 0 and score(labelled, "--html", labelled/"b.html", "--json", labelled/"b.json", "--video", labelled/"walk.mp4", "--lam", labelled/"lam") == 0
    a, b, numbers = (labelled/"a.html").read_text(), (labelled/"b.html").read_text(), read_json(labelled/"b.json")
    assert "Use along the video" in a and "phase correlation" not in a and "give --video" in a and "shuffled" in a
    assert all(name in b for name in FREE) and "Leak tests" in b and b.count("data:image/png") == 5 and len(b) < 2e6
    assert FREE < set(numbers["report"]["scores"]) and abs(numbers["report"]["scores"]["these codes"]["accuracy"] - numbers["accuracy"]) < .05
    pixels = [base64.b64decode(x) for x in re.findall(r"base64,([^\"]+)", b)]
    assert all(p.startswith(b"\x89PNG") for p in pixels)

def changed(folder, name, change):
    "The labels with every row changed."
    rows = [change(r) for r in csv.DictReader(open(folder/"walk.actions.csv"))]
    with open(folder/name, "w", newline="") as f: out = csv.DictWriter(f, rows[0]); out.writeheader(); out.writerows(rows)
    return name

@pytest.mark.parametrize("change, says", [
    (lambda r: {**r, "frame": int(r["frame"]) + 500}, "has only"), (lambda r: {**r, "time": float(r["time"])*2 + 1}, "give the video it was made from"),
    (lambda r: {**r, "frame": 3}, "ascending"), (lambda r: {**r, "code": 0, "confidence": 0}, "says nothing"), (lambda r: {**r, "code": 1 + int(r["frame"])//3 % 7}, "name the model")])
def test_labels_of_another_video_or_model_are_refused(labelled, lam, change, says):
    with pytest.raises(PokeidmError, match=says): score_report(labelled/changed(labelled, "changed.csv", change), labelled/"walk.json", labelled/"walk.mp4", lam)

@pytest.mark.parametrize("more, says", [(["--lam", "x"], "--video"), (["--video", "walk.mp4"], "--html"), (["--html", "r.html", "--video", "none.mp4", "--lam", "lam"], "none.mp4"),
                                        (["--html", "r.html", "--video", "walk.mp4", "--lam", "nowhere"], "nowhere"), (["--htm", "r.html"], "--htm")])
def test_unusable_arguments_are_one_line(labelled, monkeypatch, capsys, more, says):
    monkeypatch.chdir(labelled)
    assert score(labelled, *more) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1 and says in err[0] and not (labelled/"r.html").exists()

def test_truth_without_keys_causes_or_moves():
    truth = {"motion": ["none"]*20}
    report = code_report(np.arange(10) % 3, 8, np.stack([np.arange(10), np.arange(1, 11)], 1), np.arange(10.), truth=truth)
    assert report["scores"]["these codes"]["nmi"] is None and report["scores"]["these codes"]["pressed"] is None and "causes" not in report
    assert sections(report) and list(true_pairs(truth, [(18, 19), (19, 20)])["motion"]) == ["none", "unknown"]
    with pytest.raises(PokeidmError, match="motion"): true_pairs([], [])
