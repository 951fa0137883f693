"""Groups never cross a cut, splits never share a video, batches are a function of the step."""
import json
import numpy as np, pytest
from hypothesis import given, strategies as st
from pokeidm.core import PokeidmError, write_json
from pokeidm.groups import Batches, Groups, _draw, group_starts, shuffled, split_in_time, split_videos, write_groups

segments = st.lists(st.integers(1, 12), min_size=1, max_size=6).map(lambda lengths: [[sum(lengths[:i]), sum(lengths[:i+1])] for i in range(len(lengths))])

@given(segments, st.integers(2, 5), st.integers(1, 3))
def test_groups_are_all_those_inside_a_segment(segs, n, stride):
    owner = {row: i for i, (a, b) in enumerate(segs) for row in range(a, b)}
    inside = [r for r in owner if len({owner.get(r + k*stride) for k in range(n)}) == 1 and len({owner.get(r + k) for k in range((n-1)*stride + 1)}) == 1]
    assert group_starts(segs, n, stride).tolist() == sorted(inside)

@given(st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=30), st.floats(0.05, 0.95), st.integers(0, 9))
def test_split_shares_no_video_and_leaves_none_empty(ids, split, seed):
    train, val = split_videos(ids, split, seed)
    assert train and val and not train & val and train | val == ids and (train, val) == split_videos(sorted(ids), split, seed)

@given(st.integers(120, 400), st.floats(0.2, 0.9))
def test_split_in_time_keeps_its_distance(n, split):
    times = np.arange(n)/10
    before, after = split_in_time([[0, n//3], [n//3, n]], times, split)
    if before and after: assert times[after[0][0]] - times[before[-1][1] - 1] >= 4.9

@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 3))
def test_draws_see_everything_once_an_epoch(n, batch, seed):
    drawn = np.concatenate([_draw(np.arange(n), s*batch, batch, (seed,)) for s in range(2*n)])
    for e in range(len(drawn)//n): assert sorted(drawn[e*n:(e+1)*n]) == list(range(n))

def _frames(folder, n, change, shards=(None,)):
    folder.mkdir(parents=True)
    frames = np.arange(n, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 8, 8, 3), np.uint8)
    bounds = [0, *(s for s in shards if s), n]
    for i, (a, b) in enumerate(zip(bounds, bounds[1:])): np.save(folder/f"frames-{i:05d}.npy", frames[a:b])
    write_json(folder/"meta.json", {"version": 1, "source": folder.name, "width": 8, "height": 8, "target_fps": 10.0, "n": n, "shards": [b - a for a, b in zip(bounds, bounds[1:])],
        "frames": {"index": list(range(n)), "time": [i/10 for i in range(n)], "tick": list(range(n)), "change": change}, "segments": [[0, n//2], [n//2, n]], "cuts": []})

def test_groups_across_shards_and_balance(tmp_path):
    for v in "ab": _frames(tmp_path/"game"/v, 40, [0.5 if i % 2 else 0.0 for i in range(40)], shards=(7,))
    train, val = map(Groups, write_groups(tmp_path, split=0.5, num_images_in_video=2)["game"])
    assert not set(train.ids) & set(val.ids) and len(train) == 38
    seen = train.batch(range(len(train)))[:, :, 0, 0, 0]
    assert (np.diff(seen, axis=1) == 1).all() and 6 in seen[:, 0] and 19 not in seen[:, 0]     # across the shards, not across the cut
    batches = Batches(train, 8, seed=3, still_share=0.25)
    assert all((train.change()[batches.indices(s)] < 0.15).sum() == 2 for s in range(9))
    assert np.array_equal(batches(5), Batches(train, 8, seed=3, still_share=0.25)(5))

def test_sizes_that_do_not_match_and_manifests_that_are_none(tmp_path):
    _frames(tmp_path/"game"/"a", 40, [0.5]*40)
    paths = write_groups(tmp_path, num_images_in_video=3)["game"]
    spec = json.loads(paths[0].read_text()); assert spec["version"] == 1 and set(spec["groups"][0]) == {"video_id", "shard", "start"}
    (tmp_path/"x_train_0_9_3_frames.json").write_text("[]")
    with pytest.raises(PokeidmError, match="no group manifest"): Groups(tmp_path/"x_train_0_9_3_frames.json")
    with pytest.raises(PokeidmError, match="no 99 frames in a row"): write_groups(tmp_path, num_images_in_video=99)

@given(st.integers(1, 3000), st.integers(0, 9), st.integers(0, 9))
def test_a_shuffle_is_a_permutation_that_can_be_asked_for_any_entry(n, seed, epoch):
    order = shuffled(np.arange(n), n, (seed, epoch))
    assert sorted(order) == list(range(n)) and shuffled(np.array([n//2]), n, (seed, epoch)) == order[n//2]

def test_shuffles_look_random():
    "Mean displacement and first entry over 400 seeds of a permutation of 100: as of fair ones, within 4 standard errors."
    orders = np.stack([shuffled(np.arange(100), 100, (s,)) for s in range(400)])
    assert abs(np.abs(orders - np.arange(100)).mean() - 33.33) < 4*2.4/20 and abs(orders[:, 0].mean() - 49.5) < 4*28.9/20
    assert np.bincount(orders[:, 7], minlength=100).max() < 20 and abs(np.corrcoef(orders[:, 0], orders[:, 1])[0, 1]) < 0.2

@pytest.mark.parametrize("indent", [None, 1])
def test_a_manifest_of_another_program_gives_the_same_groups(tmp_path, indent):
    for v in "ab": _frames(tmp_path/"game"/v, 40, [0.5]*40, shards=(7,))
    train, _ = write_groups(tmp_path, split=1, num_images_in_video=3)["game"]
    groups, spec = Groups(train), json.loads(train.read_text())
    assert len(spec["groups"]) == len(groups) == 2*36 and spec["num_images_in_video"] == 3
    spec["groups"].reverse(); train.write_text(json.dumps(spec, indent=indent))
    other = Groups(train)
    assert np.array_equal(other.row[::-1], groups.row) and np.array_equal(other.video[::-1], groups.video)
    spec["groups"][3]["start"] = 4000; train.write_text(json.dumps(spec))
    with pytest.raises(PokeidmError, match="not there"): Groups(train)

@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("video", ["../../x", "/etc", "..", "a/../b", "", ".", "C:x"])
def test_a_manifest_names_nothing_outside_its_game(tmp_path, video, indent):
    _frames(tmp_path/"game"/"a", 40, [0.5]*40)
    path = write_groups(tmp_path, split=1, num_images_in_video=3)["game"][0]
    text = path.read_text() if indent is None else json.dumps(json.loads(path.read_text()), indent=indent)          # as we write it, and as others do
    path.write_text(text.replace('"video_id":"a"', '"video_id":' + json.dumps(video)).replace('"video_id": "a"', '"video_id": ' + json.dumps(video)))
    with pytest.raises(PokeidmError, match="not a safe path"): Groups(path)

@pytest.mark.parametrize("group, says", [({"video_id": 5}, "missing|no frames|not"), ({"shard": "x"}, "no group manifest"), ({"shard": -1}, "not there"), ({"start": -1}, "not there"),
                                         ({"start": 38}, "not there"), ({"start": 2**40}, "no group manifest"), ({"start": None}, "no group manifest"), ({"start": []}, "no group manifest")])
def test_groups_that_cannot_be(tmp_path, group, says):
    _frames(tmp_path/"game"/"a", 40, [0.5]*40)
    path = write_groups(tmp_path, split=1, num_images_in_video=3)["game"][0]
    spec = json.loads(path.read_text()); spec["groups"][3] |= group; path.write_text(json.dumps(spec))
    with pytest.raises(PokeidmError, match=says): Groups(path)
    spec["groups"].pop(3); spec["stride"] = "1"; path.write_text(json.dumps(spec))
    with pytest.raises(PokeidmError, match="no group manifest"): Groups(path)

def test_change_is_the_largest_inside_a_group_and_flagged_groups_can_be_left_out(tmp_path):
    change = np.random.default_rng(0).random(40).round(3)
    for v in "ab": _frames(tmp_path/"game"/v, 40, change.tolist())
    meta = json.loads((tmp_path/"game"/"b"/"meta.json").read_text()); meta["flags"] = {"battle": [[10, 12]], "menu": [[30, 30]]}
    write_json(tmp_path/"game"/"b"/"meta.json", meta)
    train = write_groups(tmp_path, split=1, num_images_in_video=3, stride=2)["game"][0]
    groups = Groups(train)
    assert np.allclose(groups.change(), [change[r+1:r+5].max() for r in groups.row])
    clean = Groups(train, drop=("battle", "menu"))
    bad = {(1, r) for r in groups.row for f in (10, 11, 12, 30) if r <= f <= r + 4}
    assert set(zip(groups.video, groups.row)) - set(zip(clean.video, clean.row)) == bad and len(clean) == len(groups) - len(bad)

def test_manifests_are_written_from_metas_alone_and_read_through_fetch(tmp_path):
    for v in "abc": _frames(tmp_path/"here"/"game"/v, 40, [0.5]*40, shards=(7,))
    write_groups(tmp_path/"here", split=0.7, num_images_in_video=2)
    for v in "abc":
        (tmp_path/"there"/"game"/v).mkdir(parents=True); (tmp_path/"there"/"game"/v/"meta.json").write_bytes((tmp_path/"here"/"game"/v/"meta.json").read_bytes())
    paths = write_groups(tmp_path/"there", split=0.7, num_images_in_video=2)["game"]
    assert [p.read_bytes() for p in paths] == [(tmp_path/"here"/p.name).read_bytes() for p in paths]
    asked = []
    def fetch(key): asked.append(key); return tmp_path/"here"/key
    groups = Groups(paths[0], fetch=fetch)
    assert not [k for k in asked if k.endswith(".npy")] and groups[0][:, 0, 0, 0].tolist() == [0, 1]
    assert [k for k in asked if k.endswith(".npy")] == [f"{groups.ids[0]}/frames-00000.npy"]
    with pytest.raises(PokeidmError, match="missing"): Groups(paths[0])

def test_copies_of_a_video_are_one_video(tmp_path):
    for v in "abcd":
        _frames(tmp_path/"game"/v, 40, [0.5]*40)
        meta = json.loads((tmp_path/"game"/v/"meta.json").read_text()); meta["sha256"] = "same" if v in "bd" else v
        write_json(tmp_path/"game"/v/"meta.json", meta)
    for seed in range(6):
        train, val = map(Groups, write_groups(tmp_path, split=0.5, num_images_in_video=2, seed=seed)["game"])
        assert {i[-1] for i in train.ids + val.ids} == set("abc") and not set(train.ids) & set(val.ids)
    train, val = map(Groups, write_groups(tmp_path, num_images_in_video=2, val_videos=["d"])["game"])
    assert val.ids == ["game/b"] and len(train.ids) == 2

@pytest.mark.parametrize("game", ["x_train_y", "a_val_0_9", "train", "with space", "_val_"])
def test_games_may_be_called_anything(tmp_path, game):
    _frames(tmp_path/game/"a", 40, [0.5]*40)
    assert len(Groups(write_groups(tmp_path, split=1, num_images_in_video=3)[game][0])) == 36
