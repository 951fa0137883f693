"The whole way of the data, by the command line, over HTTP: a feed on a web server, frames on S3, training elsewhere."
import functools, http.server, json, threading
from pathlib import Path
import pytest
from clips import clip, game
from pokeidm.cli import main
from pokeidm.scrape import scrape

@pytest.fixture
def feed(tmp_path, monkeypatch):
    "A web server with two videos, a feed of them and of one that is gone."
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for k in (1, 2): clip(tmp_path/"web"/f"v{k}.mp4", game(180, k))
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path/"web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    link = f"http://127.0.0.1:{server.server_port}"
    items = "".join(f"<item><title>Part {k}</title><enclosure url='{link}/v{k}.mp4' type='video/mp4'/></item>" for k in (1, 2, 3))
    (tmp_path/"web"/"feed.xml").write_text(f"<?xml version='1.0'?><rss version='2.0'><channel><title>feed</title>{items}</channel></rss>")
    yield link + "/feed.xml"
    server.shutdown(); server.server_close()

def test_from_a_link_to_training_on_another_machine(feed, s3, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pokeidm.scrape.scrape", functools.partial(scrape, pause=0))          # no manners needed towards ourselves
    (tmp_path/"here").mkdir(); (tmp_path/"there").mkdir()
    monkeypatch.chdir(tmp_path/"here"); monkeypatch.setenv("POKEIDM_S3_BUCKET", "bucket")
    argv = f"pipeline --scrape --clean --extract --summary --video_url {feed} --game_name toy --target_height 40 --num_video_workers 1 --use_s3"
    assert main(argv.split()) == 1 and "404" in capsys.readouterr().err                      # one video is gone: listed, the rest done
    logs = {stage: json.loads(Path(f"logs/{stage}.json").read_text()) for stage in ("scrape", "clean", "extract")}
    assert len(logs["scrape"]["downloaded"]) == 2 and len(logs["scrape"]["failed"]) == 1 and len(logs["extract"]["done"]) == 2
    assert "Part 1" in Path("pokemon_frames/dataset_card.md").read_text() and feed.rsplit("/", 1)[0] in Path("pokemon_frames/dataset_card.md").read_text()
    assert main("groups --split 0.5 --num_images_in_video 3".split()) == 0
    manifest, = Path("pokemon_frames").glob("toy_train_*_3_frames.json")
    capsys.readouterr()
    assert main(["sync", "--source", str(manifest), "--bucket", "bucket"]) == 0
    assert "1 uploaded" in capsys.readouterr().out                                           # the frames were sent while they were extracted
    keys = {o["Key"] for o in s3.list_objects_v2(Bucket="bucket")["Contents"]}
    assert {f"toy/{p.parent.name}/{p.name}" for p in Path("pokemon_frames/toy").glob("*/*")} | {manifest.name} == keys
    monkeypatch.chdir(tmp_path/"there")
    argv = "train tokenizer --frames_dir pokemon_frames/toy --num_images_in_video 3 --batch_size 2 --save_dir out --use_s3 --steps 2 --device cpu --local_cache_dir cache"
    assert main(argv.split()) == 0 and (tmp_path/"there/out/model/model.safetensors").exists()
