"""What a user may write with the names of `pokeidm`, and the types that come of it. Nobody runs this; mypy reads it (tests/test_api.py)."""
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type
import numpy as np
import torch
import pokeidm
from pokeidm import (FSQ, LAM, NSVQ, Batches, DiT, DiTConfig, FrameStore, Game, Groups, LAMConfig, PokeidmError, Spans, TimelineLabeler, Tokenizer, TokenizerConfig,
                     TrainConfig, VideoIndex, World, WorldPlayer, action_scores, changed_psnr, extract, fit, index_video, label_video, load_groups, load_labels, load_lam,
                     load_model, load_world, make_quantizer, open_frames, psnr, read_frames, recipe, record, score_file, simulate, train_lam, train_tokenizer, train_world)

assert_type(pokeidm.__version__, str)

def videos(path: Path) -> None:
    index = index_video(str(path))
    assert_type(index, VideoIndex)
    assert_type((index.n, index.fps, index.times, index.at(1.5)), tuple[int, float, np.ndarray, np.ndarray])
    assert_type(read_frames(path, index, [0, 5]), Iterator[tuple[int, Any]])
    assert_type(simulate(10, seed=1, talk=1.5), tuple[np.ndarray, dict])

def spans(folder: Path, video: Path) -> None:
    valid = load_labels(folder, video)
    assert_type(valid, Spans | None)
    if valid: assert_type((valid.union([(3, 9)]), valid.frames(), 5 in valid, len(valid), list(valid)), tuple[Spans, list[int], bool, int, list[tuple[int, int]]])
    TimelineLabeler(video, suggestions=None).spans

def frames(video: Path) -> None:
    store = open_frames(extract(video, "frames", target_fps=7.5, drop=("cut",)))
    assert_type((store, store.rows(0, 5), store[0]), tuple[FrameStore, np.ndarray, np.ndarray])
    train, held_out = load_groups("frames", 5)
    assert_type((train, held_out), tuple[Groups, Groups | None])
    batches = Batches(Groups(Path("a.json"), drop=["menu"]), 32, still_share=0.25)
    assert_type((batches.indices(3), train.change(), len(train)), tuple[np.ndarray, np.ndarray, int])

def models(z: torch.Tensor, x: torch.Tensor) -> None:
    for quantizer in (FSQ((8, 8, 6, 5)), NSVQ(8, 16, every=25)): assert_type(quantizer(z), Any)
    assert_type((FSQ().codes(z), NSVQ().forward(z, 0.5), FSQ().dim), tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]], int])
    make_quantizer("nsvq", vocab=8, dim=4).vocab
    tokenizer, dit = Tokenizer(TokenizerConfig(quant="fsq")), DiT(DiTConfig(grid=(20, 30)))
    assert_type((tokenizer.encode(x), tokenizer.decode(z)), tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor])
    assert_type(dit.forward(z, z, z, z), torch.Tensor)
    assert_type(LAM(LAMConfig(codes=4)).pair_codes(x, x), tuple[np.ndarray, np.ndarray])

def training(groups: Groups) -> None:
    loop, batch_size, length = recipe("tokenizer", minutes=3.0)
    assert_type((loop, batch_size, length), tuple[TrainConfig, int, int])
    tokenizer, history = train_tokenizer(groups, loop, batch_size, {"save_dir": "runs"}, size="S")
    lam, _ = train_lam(groups, loop, batch_size, {})
    dit, _ = train_world(groups, tokenizer, lam, loop, batch_size, {})
    assert_type((tokenizer, history, lam, dit), tuple[Tokenizer, list[dict], LAM, DiT])
    assert_type(fit(dit, groups, loop, 4), tuple[DiT, list[dict]])
    assert_type((load_model(Tokenizer, "runs"), load_lam(Path("runs"), "cpu")), tuple[Tokenizer, LAM])

def playing(frame: np.ndarray) -> None:
    world = load_world("world", torch.device("cpu"))
    assert_type((world, world.start(frame), world.step(2, steps=2, guidance=1.5)), tuple[World, Game, np.ndarray])
    assert_type((world.actions, world.rollout(frame, frame), world.save("there")), tuple[int, np.ndarray, Path])
    assert_type(record(world, frame, [1, 1, 2], "walk.mp4"), Path)
    WorldPlayer(world, frame, codes=load_lam("lam"))

def scores(frame: np.ndarray) -> None:
    try: assert_type(label_video("video.mp4", load_lam("lam"), fps=7.5), Path)
    except PokeidmError as e: print(e)
    assert_type((psnr(frame, frame), changed_psnr(frame, frame, frame)), tuple[float, float])
    assert_type((score_file("a.csv", "a.json"), action_scores(["up"], [1], K=8)), tuple[dict, dict])
