"""The numbers that everything else is judged by."""
import json
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from pokeidm.core import PokeidmError
from pokeidm.metrics import DIRECTIONS, action_scores, agreement, best_shift, changed_psnr, contingency, pair_truth, psnr, read_actions, score_file, usage

codes = st.lists(st.integers(0, 7), min_size=5, max_size=60)

@given(codes, st.permutations(range(8)))
def test_renaming_codes_changes_nothing(k, names):
    true = [DIRECTIONS[x % 5] for x in k[::-1]]
    a, b = (agreement(contingency(true, c, K=8)) for c in (k, [names[x] for x in k]))
    assert all(abs(a[m] - b[m]) < 1e-9 for m in ("nmi", "v_measure", "purity", "accuracy"))

@given(codes)
def test_accuracy_is_at_most_purity_and_right_codes_score_one(k):
    true = [DIRECTIONS[x % 5] for x in k]
    s = agreement(contingency(true, k, K=8)); assert s["accuracy"] <= s["purity"] + 1e-9
    assert agreement(contingency(true, [x % 5 for x in k], K=8))["accuracy"] == 1

@given(codes)
def test_usage(k):
    u = usage(k, 8)
    assert 1 <= u["perplexity"] + 1e-9 and u["perplexity"] <= len(set(k)) + 1e-9 and u["dead_codes"] == 8 - len(set(k))

def test_one_code_for_everything_scores_nothing():
    s = action_scores(np.array(list(DIRECTIONS)*20), np.zeros(100, int))
    assert s["nmi"] == 0 and s["accuracy"] == 0.25 and s["noop_recall"] == 1 and s["noop_precision"] == 0.2

@settings(max_examples=25, deadline=None)
@given(st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 99))
def test_best_shift_finds_the_shift(dy, dx, seed):
    scene = np.random.default_rng(seed).random((1, 24, 32, 3)).astype(np.float32)
    assert best_shift(scene, np.roll(scene, (dy, dx), (1, 2))).tolist() == [[dy, dx]]

def test_psnr_reads_uint8_without_wrapping():
    a, b = np.full((1, 4, 4, 3), 1, np.uint8), np.zeros((1, 4, 4, 3), np.uint8)
    assert abs(psnr(a, b) - psnr(b, a)) < 1e-6 and abs(psnr(a, b) - 48.13) < 0.01 and np.isnan(changed_psnr(a, b, b))

def test_pairs_cover_the_entries_after_the_first_frame():
    truth = {"motion": ["left", "none", "none", "right"], "state": ["overworld"]*4}
    assert [pair_truth(truth, i, i + 1) for i in range(3)] == ["none", "none", "right"]

@pytest.mark.parametrize("text", ["", "frame,code\nx,1\n", "a,b\n1,2\n", "\x00\x01"])
def test_a_file_that_is_no_actions_file(tmp_path, text):
    (tmp_path/"a.csv").write_text(text)
    with pytest.raises(PokeidmError, match="not an actions file"): read_actions(tmp_path/"a.csv")

@pytest.mark.parametrize("rows, truth, says", [("0,0.0,-1,1.0,\n3,0.1,0,1.0,\n", {"motion": ["none"]*9, "actions": ["noop"]*9}, "not an actions file"),
                                              ("0,0.0,1,1.0,\n3,0.1,0,1.0,\n", {"motion": ["none"]*9}, "'motion' and 'actions'")])
def test_files_that_cannot_be_scored_are_one_line(tmp_path, rows, truth, says):
    (tmp_path/"a.csv").write_text("frame,time,code,confidence,button\n" + rows); (tmp_path/"t.json").write_text(json.dumps(truth))
    with pytest.raises(PokeidmError, match=says): score_file(tmp_path/"a.csv", tmp_path/"t.json")
