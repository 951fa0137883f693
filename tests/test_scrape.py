"yt-dlp itself against a server on this machine: files, a feed, a missing file, a broken connection."
import re, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from pokeidm.core import PokeidmError
from pokeidm.scrape import GAMES, UNWANTED, _name, _source, scrape, unwanted_length, unwanted_title, ytdlp_options
from pokeidm.video import barcode, write_clip


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    write_clip(path, (barcode(i, 96, 144) for i in range(60)), np.arange(60) / 30, crf=5)
    return path.read_bytes()


@pytest.fixture
def site(mp4, monkeypatch):
    "Serves `pages[path]`, every .mp4 (with ranges), and what `cut` holds only half, once. `log` has the requests, `full` the whole files sent."
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args): pass
        def do_GET(self):
            here.log.append(f"{self.path} {self.headers.get('Range', '')}")
            if self.path in here.pages: return self.answer(here.pages[self.path].encode(), "application/rss+xml")
            if not self.path.endswith(".mp4") or "gone" in self.path: return self.send_error(404)
            start = int(re.sub(r"\D", "", self.headers.get("Range", "bytes=0-").split("-")[0]))
            self.answer(mp4, "video/mp4", start, cut=self.path in here.cut and len([l for l in here.log if l.startswith(self.path)]) == 2)
        do_HEAD = do_GET
        def answer(self, data, kind, start=0, cut=False):
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", kind); self.send_header("Accept-Ranges", "bytes"); self.send_header("Content-Length", str(len(data) - start))
            if start: self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            try: self.wfile.write(data[start:len(data) // 2] if cut else data[start:])
            except OSError: pass
    here = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.daemon_threads, here.log, here.pages, here.cut = True, [], {}, set()
    here.url = f"http://127.0.0.1:{here.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    threading.Thread(target=here.serve_forever, daemon=True).start()
    yield here
    here.shutdown(); here.server_close()


def feed(site, *titles):
    items = "".join(f"<item><title>{t}</title><enclosure url='{site.url}/{re.sub(chr(92) + 'W', '-', t)}.mp4' type='video/mp4'/></item>" for t in titles)
    site.pages["/feed.xml"] = f"<?xml version='1.0'?><rss version='2.0'><channel><title>feed</title>{items}</channel></rss>"
    return site.url + "/feed.xml"


def files(root): return sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*") if p.name != "archive.txt")


def test_a_link_is_downloaded_once(site, mp4, tmp_path):
    first = scrape(tmp_path, site.url + "/My%20%C3%A9tude:%20part%201.mp4", "pokemon_ruby", pause=0)
    [name] = first["downloaded"]
    assert re.fullmatch(r"pokemon_ruby/[A-Za-z0-9._-]+\.[A-Za-z0-9._-]+-[0-9a-f]{8}\.mp4", name) and (tmp_path / name).read_bytes() == mp4
    (tmp_path / name).unlink()                                                  # "clean" may delete it: still not fetched again
    again = scrape(tmp_path, site.url + "/My%20%C3%A9tude:%20part%201.mp4", "pokemon_ruby", pause=0)
    assert again["downloaded"] == [] and again["skipped"][0]["reason"] == "downloaded before" and files(tmp_path) == []


def test_links_of_one_name_are_two_videos(site, tmp_path):
    for folder in "ab": assert len(scrape(tmp_path, f"{site.url}/{folder}/video.mp4", pause=0)["downloaded"]) == 1
    assert len(files(tmp_path)) == 2 and {f.split("/")[0] for f in files(tmp_path)} == {"other"}


def test_failures_are_listed_and_the_rest_is_done(site, tmp_path):
    report = scrape(tmp_path, feed(site, "one", "gone", "two"), "pokemon_ruby", pause=0)
    assert len(report["downloaded"]) == 2 and len(files(tmp_path)) == 2
    [failed] = report["failed"]
    assert failed["video"] == "gone" and "404" in failed["reason"] and "\x1b" not in failed["reason"] and not failed["reason"].startswith("ERROR")
    for url in (site.url + "/gone.mp4", "not a link", "http://127.0.0.1:9/x.mp4", "file:///etc/passwd"):
        assert [f["video"] for f in scrape(tmp_path, url, pause=0)["failed"]] == [url]
    assert len(files(tmp_path)) == 2


def test_an_empty_list_is_no_failure(site, tmp_path):
    assert not any(scrape(tmp_path, feed(site), pause=0).values())


def test_the_cap_counts_what_is_there(site, tmp_path):
    url = feed(site, "one", "two", "three", "four")
    assert len(scrape(tmp_path, url, "g", max_videos_per_game=2, pause=0)["downloaded"]) == 2
    more = scrape(tmp_path, url, "g", max_videos_per_game=3, pause=0)
    assert (len(more["skipped"]), len(more["downloaded"]), len(files(tmp_path))) == (2, 1, 3)


def test_a_broken_connection_is_resumed(site, mp4, tmp_path):
    site.cut.add("/long.mp4")
    [name] = scrape(tmp_path, site.url + "/long.mp4", pause=0)["downloaded"]
    assert (tmp_path / name).read_bytes() == mp4
    assert re.fullmatch(r"/long.mp4 bytes=[1-9]\d*-", site.log[-1])               # went on where it broke off


def test_a_search_filters_titles(site, tmp_path):
    import yt_dlp
    url, done = feed(site, "Pokemon Ruby longplay", "Pokemon Ruby OST", "Pokemon Emerald longplay"), []
    options = ytdlp_options(tmp_path, pause=0, post_hooks=[lambda p: done.append(type(tmp_path)(p))])
    with yt_dlp.YoutubeDL(options) as ydl: results = list(_source(ydl, url, "pokemon_ruby", 9, True, done))
    assert [(what, reason) for what, _, reason in results] == [("downloaded", ""), ("filtered", "title has 'ost'"), ("filtered", "title does not name ruby")]


@given(st.sampled_from(UNWANTED), st.sampled_from(["{} Pokemon Ruby", "Pokemon Ruby: {}!", "Pokemon Ruby [{}] 1"]), st.sampled_from([str.upper, str.title, str]))
def test_unwanted_words_count_as_words_only(word, title, case):
    assert unwanted_title(title.format(case(word)), "pokemon_ruby") == f"title has '{next(w for w in UNWANTED if f' {w} ' in f' {word} ')}'"
    glued = "x" + word.replace(" ", "x") + "x"
    assert unwanted_title(title.format(case(glued)), "pokemon_ruby") is None


@pytest.mark.parametrize("game", GAMES)
def test_every_game_finds_its_own_titles_and_no_other(game):
    name = game.split("_")[1]
    assert unwanted_title(f"Pokémon {name.title()} - part 1", game) is None
    assert all(unwanted_title(f"Pokemon {name} part 1", other) for other in GAMES if other != game)


@settings(deadline=None)
@given(st.text(max_size=200), st.text(min_size=1, max_size=100), st.text(max_size=50), st.sampled_from(["Youtube", "Generic"]))
def test_names_are_safe(title, id, game, extractor):
    info = _name({"title": title, "id": id, "extractor_key": extractor, "url": "u"}, game)
    for part in (info["pokeidm_game"], info["pokeidm_name"] + ".mp4"): assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,170}", part)


def test_bad_arguments(tmp_path):
    for bad, words in [(dict(game_name="pokemon_beige"), "unknown game"), (dict(cookies_file=tmp_path / "none"), "cookies file")]:
        with pytest.raises(PokeidmError, match=words): scrape(tmp_path / "raw", **bad)
    (tmp_path / "file").touch()
    with pytest.raises(PokeidmError, match="cannot write"): scrape(tmp_path / "file" / "raw", "http://127.0.0.1:9/x.mp4")
    assert not (tmp_path / "raw").exists() and unwanted_length(299) and not unwanted_length(300)


def test_import_is_light():
    code = "import sys, pokeidm.scrape; sys.exit(bool({'torch', 'yt_dlp', 'matplotlib', 'av'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
