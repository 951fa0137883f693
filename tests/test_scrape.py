"yt-dlp itself against a server on this machine: files, feeds, pages, streams, and a server that is slow, busy, broken or gone."
import datetime, json, math, re, signal, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from pokeidm.core import PokeidmError
from pokeidm.scrape import (UNWANTED, _name, _seconds, _sidecar, bad_spans, choose_format, load_games, scrape, unwanted_length, unwanted_title,
                            video_info, ytdlp_options)
from pokeidm.video import barcode, write_clip

module, GAMES = sys.modules["pokeidm.scrape"], load_games()


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    write_clip(path, (barcode(i, 96, 144) for i in range(60)), np.arange(60) / 30, crf=5)
    return path.read_bytes()


class Handler(BaseHTTPRequestHandler):
    "Serves `pages[path]` and every .mp4 (with ranges). `moods[path]`: what the next requests get; `always[path]`: what each gets."
    def log_message(self, *args): pass
    def do_GET(self):
        s, path = self.server, self.path
        s.log.append(f"{path} {self.headers.get('Range', '')}"); s.times.append(time.monotonic())
        mood = s.moods[path].pop(0) if s.moods.get(path) else s.always.get(path) or s.always.get("*")
        if isinstance(mood, tuple): return self.refuse(*mood)
        kind = {"html": "text/html", "m3u8": "application/vnd.apple.mpegurl"}.get(path.split(".")[-1], "application/rss+xml")
        if path in s.pages: return self.answer(s.pages[path], kind)
        if path.endswith(".mp4") and "gone" not in path: return self.answer(s.mp4, "video/mp4", mood)
        self.refuse(404)
    do_HEAD = do_GET
    def refuse(self, status, after=None):
        self.send_response(status); self.send_header("Content-Length", "0")
        if after: self.send_header("Retry-After", after)
        self.end_headers()
    def answer(self, data, kind, mood=None):
        start = int(re.sub(r"\D", "", self.headers.get("Range", "bytes=0-").split("-")[0]))
        if start and start >= len(data): return self.refuse(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind); self.send_header("Accept-Ranges", "bytes"); self.send_header("Content-Length", str(len(data) - start))
        if start: self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        try: self.send(data[start:], mood)
        except OSError: pass
    def send(self, data, mood):
        if mood in ("cut", "stall"): self.wfile.write(data[:len(data) // 2]); time.sleep(1.5 * (mood == "stall"))
        elif mood in ("slow", "crawl"):
            for i in range(0, len(data), len(data) // 20 + 1): self.wfile.write(data[i:i + len(data) // 20 + 1]); time.sleep(.02 if mood == "slow" else .15)
        else: self.wfile.write(data)


@pytest.fixture
def site(mp4, monkeypatch):
    here = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.daemon_threads, here.mp4, here.log, here.times, here.pages, here.moods, here.always = True, mp4, [], [], {}, {}, {}
    here.url = f"http://127.0.0.1:{here.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    threading.Thread(target=here.serve_forever, kwargs={"poll_interval": .02}, daemon=True).start()
    yield here
    here.shutdown(); here.server_close()


def feed(site, *titles, name="feed", ext="mp4"):
    items = "".join(f"<item><title>{t}</title><enclosure url='{site.url}/{re.sub(chr(92) + 'W', '-', t)}.{ext}'/></item>" for t in titles)
    site.pages[f"/{name}.xml"] = f"<?xml version='1.0'?><rss version='2.0'><channel><title>{name}</title>{items}</channel></rss>".encode()
    return f"{site.url}/{name}.xml"


def get(tmp_path, *args, pause=0, **more):
    more.setdefault("retry_sleep_functions", {})
    return scrape(tmp_path, *args, pause=pause, **more)

def videos(root): return sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*") if p.suffix not in (".txt", ".json"))
def count(report): return tuple(len(report[k]) for k in ("downloaded", "skipped", "filtered", "failed"))
def asked(site, path): return [l for l in site.log if l.split()[0] == path]


# ---- links and lists

def test_a_link_is_downloaded_once(site, mp4, tmp_path):
    url = site.url + "/My%20%C3%A9tude:%20part%201.mp4"
    [name] = get(tmp_path, url, "pokemon_ruby")["downloaded"]
    assert re.fullmatch(r"pokemon_ruby/[A-Za-z0-9._-]+\.[A-Za-z0-9._-]+-[0-9a-f]{8}\.mp4", name) and (tmp_path / name).read_bytes() == mp4
    (tmp_path / name).unlink()                                                  # "clean" may delete it: still not fetched again
    again = get(tmp_path, url, "pokemon_ruby")
    assert again["downloaded"] == [] and again["skipped"][0]["reason"] == "downloaded before" and videos(tmp_path) == []


def test_links_of_one_name_are_two_videos(site, tmp_path):
    for folder in "ab": assert len(get(tmp_path, f"{site.url}/{folder}/video.mp4")["downloaded"]) == 1
    assert len(videos(tmp_path)) == 2 and {f.split("/")[0] for f in videos(tmp_path)} == {"other"}


def test_failures_are_listed_and_the_rest_is_done(site, tmp_path):
    report = get(tmp_path, feed(site, "one", "gone", "two"), "pokemon_ruby")
    assert count(report) == (2, 0, 0, 1) and len(videos(tmp_path)) == 2 and len(asked(site, "/gone.mp4")) == 1       # 404 is final
    [failed] = report["failed"]
    assert failed["video"] == "gone" and failed["reason"].endswith("HTTP Error 404: Not Found") and not failed["reason"].startswith("ERROR")
    for url in (site.url + "/gone.mp4", "not a link", "http://127.0.0.1:9/x.mp4", "file:///etc/passwd"):
        assert [f["video"] for f in get(tmp_path, url)["failed"]] == [url]
    assert len(videos(tmp_path)) == 2


def test_an_empty_list_is_no_failure(site, tmp_path): assert not any(get(tmp_path, feed(site)).values())


def test_a_page_with_players_and_a_feed_and_a_link_name_the_same_videos(site, mp4, tmp_path):
    site.pages["/page.html"] = b"<html><head><title>Two</title></head><body><video src='/a.mp4'></video><video><source src='/b.mp4' type='video/mp4'></video></body></html>"
    site.pages["/one.html"] = b"<html><head><title>Another page</title></head><body><video src='/a.mp4'></video></body></html>"
    (tmp_path / "archive.txt").write_text("generic page-1\n")                    # another site's page of that name
    report = get(tmp_path, site.url + "/page.html", "g")
    assert {video_info(tmp_path / f)["url"] for f in videos(tmp_path)} == {site.url + "/page.html"}
    assert count(report) == (2, 0, 0, 0) and all((tmp_path / f).read_bytes() == mp4 and video_info(tmp_path / f)["title"].startswith("Two") for f in videos(tmp_path))
    for again in (site.url + "/page.html", site.url + "/one.html", feed(site, "a", "b"), site.url + "/a.mp4"): assert get(tmp_path, again, "g")["downloaded"] == []
    assert count(get(tmp_path, site.url + "/page.html", "g")) == (0, 2, 0, 0) and len(videos(tmp_path)) == 2


def test_lists_in_lists(site, tmp_path):
    top = feed(site, "inner1", "inner2", "top", name="top", ext="xml")           # holds itself
    for i in (1, 2): feed(site, f"a{i}", f"b{i}", name=f"inner{i}")
    assert count(get(tmp_path / "all", top, "g")) == (4, 0, 0, 0)
    capped = get(tmp_path / "three", top, "g", 3)                                # over all of it
    assert count(capped) == (3, 0, 0, 0) and [n.split(".")[0] for n in capped["downloaded"]] == ["g/a1", "g/b1", "g/a2"]


def test_lists_too_deep_are_listed(site, tmp_path):
    for i in range(4): feed(site, f"f{i + 1}", name=f"f{i}", ext="xml")
    feed(site, "a", name="f4")
    assert count(get(tmp_path, site.url + "/f2.xml")) == (1, 0, 0, 0)
    [failed] = get(tmp_path, site.url + "/f0.xml")["failed"]
    assert failed["video"] == "f3" and "deep" in failed["reason"]


def test_the_cap_counts_what_is_there(site, tmp_path):
    url = feed(site, "one", "two", "three", "four")
    assert count(get(tmp_path, url, "g", 2)) == (2, 0, 0, 0) and count(get(tmp_path, url, "g", 3)) == (1, 2, 0, 0) and len(videos(tmp_path)) == 3


# ---- searches, by a table whose searches are lists

@pytest.fixture
def table(site, tmp_path):
    row = lambda name, *lists: {"title": name, "console": "GBA", "search": list(lists), "names": [name]}
    first = feed(site, "Pokemon Ruby longplay", "Pokemon Ruby OST", "Pokemon Emerald longplay", "Pokemon Ruby two", name="first")
    second = feed(site, "Pokemon Ruby two", "Pokemon Ruby three", name="second")
    path = tmp_path / "games.json"
    path.write_text(json.dumps({"ruby": row("ruby", first, second), "emerald": row("emerald", first)}))
    return path


def test_a_search_filters_titles_and_keeps_to_its_game(site, table, tmp_path):
    raw = tmp_path / "raw"
    report = get(raw, None, "ruby", games_file=table)
    assert [f["reason"] for f in report["filtered"]] == ["title has 'ost'", "title does not name ruby"] and len(report["downloaded"]) == 3
    assert [n.split(".")[0] for n in get(raw, None, "emerald", games_file=table)["downloaded"]] == ["emerald/Pokemon_Emerald_longplay"]


def test_a_cap_is_for_all_searches_of_a_game_and_counts_a_video_once(site, table, tmp_path):
    report = get(tmp_path / "raw", None, "ruby", 3, games_file=table)
    assert [n.split(".")[0][5:] for n in report["downloaded"]] == ["Pokemon_Ruby_longplay", "Pokemon_Ruby_two", "Pokemon_Ruby_three"]
    assert get(tmp_path / "two", None, "ruby", 2, games_file=table)["downloaded"] and not asked(site, "/second.xml")[1:]     # enough: the second search is not made


def test_streams_that_run_are_refused(site, tmp_path):
    site.pages["/live.m3u8"] = b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nseg.ts\n"
    [refused] = get(tmp_path, site.url + "/live.m3u8")["filtered"]
    assert refused["reason"] == "a live stream" and not videos(tmp_path)


# ---- trouble

def test_a_broken_connection_is_resumed(site, mp4, tmp_path):
    site.moods["/long.mp4"] = [None, "cut"]
    [name] = get(tmp_path, site.url + "/long.mp4")["downloaded"]
    assert (tmp_path / name).read_bytes() == mp4 and re.fullmatch(r"/long.mp4 bytes=[1-9]\d*-", site.log[-1])         # went on where it broke off


def test_a_server_that_falls_silent_is_asked_again(site, mp4, tmp_path):
    site.moods["/long.mp4"] = [None, "stall"]
    [name] = get(tmp_path, site.url + "/long.mp4", socket_timeout=.3)["downloaded"]
    assert (tmp_path / name).read_bytes() == mp4 and re.fullmatch(r"/long.mp4 bytes=[1-9]\d*-", site.log[-1])


def test_a_slow_server_is_borne(site, mp4, tmp_path):
    site.moods["/long.mp4"] = [None, "slow"]
    [name] = get(tmp_path, site.url + "/long.mp4")["downloaded"]
    assert (tmp_path / name).read_bytes() == mp4 and len(site.log) == 2


def test_a_server_that_crawls_is_put_off(site, mp4, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SLOWEST", (10_000_000, .2))
    site.moods["/crawl.mp4"] = [None, "crawl"]
    report = get(tmp_path, feed(site, "crawl", "other"))
    assert [n.split(".")[0] for n in report["downloaded"]] == ["other/other", "other/crawl"]                          # the other one first
    assert all((tmp_path / n).read_bytes() == mp4 for n in report["downloaded"]) and re.fullmatch(r"/crawl.mp4 bytes=[1-9]\d*-", site.log[-1])


def test_trouble_that_passes(site, tmp_path):
    site.moods["/once.mp4"] = [(503,)]; site.moods["/data.mp4"] = [None, (403,)]      # a page that fails; a link to data that has expired
    site.moods["/retried.mp4"] = [None, (500,), (502,)]                               # yt-dlp asks again at once
    waits = []
    report = scrape(tmp_path, feed(site, "once", "data", "retried"), pause=1, sleep=waits.append, sleep_interval=0, max_sleep_interval=0,
                    sleep_interval_requests=0, retry_sleep_functions={})
    assert count(report) == (3, 0, 0, 0) and waits == [10] and len(asked(site, "/retried.mp4")) == 4


def test_trouble_that_stays_is_listed_after_three_passes(site, tmp_path):
    site.always["/bad.mp4"] = (503,); site.always["/busy.mp4"] = (429,)
    waits, url = [], feed(site, "bad", "busy", "fine")
    more = dict(pause=2, sleep=waits.append, sleep_interval=0, max_sleep_interval=0, sleep_interval_requests=0)
    report = get(tmp_path, url, "g", **more)
    assert count(report) == (1, 0, 0, 2) and waits == [40, 20, 60]
    assert "503" in report["failed"][0]["reason"] and "429" in report["failed"][1]["reason"]
    assert len(asked(site, "/bad.mp4")) == len(asked(site, "/busy.mp4")) == 3
    kept = json.loads((tmp_path / "failed.json").read_text())["failed"]
    assert {f["video"]: f["game"] for f in kept.values()} == {"bad": "g", "busy": "g"} and all("HTTP Error" in f["reason"] for f in kept.values())
    del site.always["/bad.mp4"]
    get(tmp_path, url, "g")
    assert [f["video"] for f in json.loads((tmp_path / "failed.json").read_text())["failed"].values()] == ["busy"]
    site.always.clear()
    get(tmp_path, url, "g")
    assert not (tmp_path / "failed.json").exists()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(site, tmp_path, status):
    site.moods["/busy.mp4"] = [(status, "1")]
    report = get(tmp_path, feed(site, "busy", "other"))
    at = next(i for i, l in enumerate(site.log) if "busy" in l)
    assert count(report) == (2, 0, 0, 0) and site.times[at + 1] - site.times[at] >= 1                                 # the other one waits as well


def test_a_server_that_is_always_busy_is_not_hammered(site, tmp_path):
    url, waits = feed(site, *(f"v{i}" for i in range(20))), []
    for i in range(20): site.always[f"/v{i}.mp4"] = (429, "86400")
    report = get(tmp_path, url, "g", sleep=waits.append)
    assert len(site.log) < 16 and set(waits) == {module.LONGEST_WAIT} and not report["downloaded"] and report["failed"]
    assert any("429" in f["reason"] for f in report["failed"]) and any("fewer requests" in f["reason"] for f in report["failed"])
    site.always.clear()
    assert count(get(tmp_path, url, "g")) == (20, 0, 0, 0)


def test_a_busy_server_ends_the_searches_too(site, tmp_path):
    lists = [f"{site.url}/list{i}.xml" for i in range(20)]
    site.always["*"] = (429,)
    table = {"g": {"title": "G", "console": "GBA", "search": lists, "names": ["g"], "bad": []}}
    assert count(get(tmp_path, games_file=table)) == (0, 0, 0, 20) and len(site.log) == module.BUSY * module.PASSES


def test_a_list_that_is_busy_half_way_goes_on(site, tmp_path):
    for i in (2, 3, 4): site.moods[f"/v{i}.mp4"] = [(429,)]
    report = get(tmp_path, feed(site, *(f"v{i}" for i in range(8))), "g")
    assert count(report) == (8, 0, 0, 0) and sorted(n.split(".")[0] for n in report["downloaded"]) == [f"g/v{i}" for i in range(8)]


@pytest.mark.parametrize("text,low,high", [("7", 7, 7), (" 120 ", 120, 120), ("soon", None, None), ("", None, None), (None, None, None), ("-5", None, None), ("a date", 400, 500)])
def test_retry_after(text, low, high):
    if text == "a date": text = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=500)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert _seconds(text) is None if low is None else low <= _seconds(text) <= high


# ---- interruption

RUN = """
import sys, resource, signal
from pokeidm.scrape import scrape
if sys.argv[3:]: signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
scrape(sys.argv[1], sys.argv[2], "g", pause=0)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on(site, mp4, tmp_path, how):
    url = feed(site, "one", "two", "three")
    site.moods["/two.mp4"] = [None, "crawl"]
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), url], stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))                          # a background shell ignores it
    end = time.monotonic() + 20
    while time.monotonic() < end and not any(p.stat().st_size > len(mp4) // 5 for p in tmp_path.rglob("two*.part")): time.sleep(.02)
    process.send_signal(how); process.wait(10)
    [part] = tmp_path.rglob("*.part")
    assert 0 < part.stat().st_size < len(mp4) and len(videos(tmp_path)) == 2 and len((tmp_path / "archive.txt").read_text().split("\n")) == 2
    assert not [p for p in tmp_path.rglob("*two*") if p.suffix in (".mp4", ".json")]                                  # nothing half that looks whole
    report = get(tmp_path, url, "g")
    assert count(report) == (2, 1, 0, 0) and len(videos(tmp_path)) == 3 and all((tmp_path / f).read_bytes() == mp4 for f in videos(tmp_path))
    assert any(re.fullmatch(r"/two.mp4 bytes=[1-9]\d*-", l) for l in site.log) and all(video_info(tmp_path / f)["game"] == "g" for f in videos(tmp_path))


def test_killed_between_the_file_and_the_archive(site, mp4, tmp_path, monkeypatch):
    def killed(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt): m.setattr(module, "write_json", killed); get(tmp_path, site.url + "/a.mp4")
    assert len(videos(tmp_path)) == 1 and not (tmp_path / "archive.txt").exists()
    [name] = get(tmp_path, site.url + "/a.mp4")["downloaded"]
    assert video_info(tmp_path / name) and "generic a-" in (tmp_path / "archive.txt").read_text() and len(site.log) == 3     # looked at twice, fetched once


def test_a_line_of_the_archive_cut_short_spoils_no_other(site, tmp_path):
    (tmp_path / "archive.txt").write_text("generic hal")
    get(tmp_path, site.url + "/a.mp4")
    assert re.fullmatch(r"generic hal\ngeneric a-[0-9a-f]{8}\n", (tmp_path / "archive.txt").read_text())


def test_a_full_disk_is_one_clear_line_and_resumable(site, mp4, tmp_path):
    done = subprocess.run([sys.executable, "-c", RUN, str(tmp_path), feed(site, "one", "two"), str(len(mp4) // 2)], capture_output=True, text=True)
    assert "PokeidmError: cannot write the videos" in done.stderr.strip().split("\n")[-1] and not asked(site, "/two.mp4")   # stops there
    assert all((tmp_path / n).read_bytes() == mp4 for n in get(tmp_path, feed(site, "one", "two"), "g")["downloaded"]) and len(videos(tmp_path)) == 2


# ---- what is known about a video

def test_the_sidecar(site, tmp_path):
    [name] = get(tmp_path, feed(site, "../Ruby: part 1"), "pokemon_ruby")["downloaded"]
    info = video_info(tmp_path / name)
    assert set(info) == {"version", "id", "url", "title", "uploader", "uploaded", "license", "seconds", "fetched", "game", "chapters"}
    assert info["title"] == "../Ruby: part 1" and info["game"] == "pokemon_ruby" and info["url"].startswith(site.url) and "smuggle" not in info["url"]
    assert name.endswith(f".{info['id']}.mp4") and datetime.date.fromisoformat(info["fetched"]) and info["chapters"] == []


def test_a_missing_sidecar_comes_with_the_next_run(site, tmp_path):
    url = feed(site, "one", "two")
    names = get(tmp_path, url, "g")["downloaded"]
    for n in names: _sidecar(tmp_path / n).unlink()
    (tmp_path / names[1]).unlink()
    assert count(get(tmp_path, url, "g")) == (0, 2, 0, 0) and video_info(tmp_path / names[0])["title"] == "one" and video_info(tmp_path / names[1]) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"version": 2}', '{"version": 1, "chapters": 7}', "\x00",
    '{"version": 1, "chapters": [3, {}, {"start": "a", "title": "koga"}, {"start": NaN, "title": "koga"}, {"start": 5, "end": 2, "title": "koga"}, {"start": -1, "title": "koga"}]}'])
def test_sidecars_that_cannot_be_used(tmp_path, text):
    (tmp_path / "a.info.json").write_text(text)
    assert bad_spans(tmp_path / "a.mp4", "pokemon_firered") == [] and not video_info(tmp_path / "a.mp4").get("chapters")


def test_bad_spans_go_by_words(tmp_path):
    chapters = [(100, 200, "Gym 5: KOGA's gym"), (0, 100, "Kogarashi"), (200, None, "Saffron City Gym!"), (300, 400, "silph_co. 3F")]
    info = {"version": 1, "seconds": 999, "chapters": [{"start": a, "end": b, "title": t} for a, b, t in chapters]}
    (tmp_path / "a.info.json").write_text(json.dumps(info))
    spans = bad_spans(tmp_path / "a.mp4", "pokemon_firered")
    assert [s[:2] for s in spans] == [(100, 200), (200, 999), (300, 400)] and "walls" in spans[0][2] and "warp" in spans[1][2]
    assert bad_spans(tmp_path / "a.mp4", "pokemon_emerald") == bad_spans(tmp_path / "a.mp4", "no such game") == []
    (tmp_path / "a.info.json").write_text(json.dumps({**info, "seconds": None}))
    own = {"g": {"bad": [{"words": ["gym"], "why": "x"}]}}
    assert bad_spans(tmp_path / "a.mp4", "g", own) == [(100, 200, "x"), (200, math.inf, "x")]


# ---- the table

@pytest.mark.parametrize("change,words", [({"console": "GBC"}, "console"), ({"search": []}, "search"), ({"search": "x"}, "search"), ({"names": [3]}, "names"),
    ({"title": None}, "title"), ({"serach": ["x"]}, "serach"), ({"bad": [{"words": "x", "why": "y"}]}, "bad"), ({"min_height": "360"}, "min_height"), ({"console": []}, "console")])
def test_a_table_with_a_mistake_says_which(tmp_path, change, words):
    row = {"title": "T", "console": "GB", "search": ["q"], "names": ["n"]}
    path = tmp_path / "games.json"
    path.write_text(json.dumps({"mine": row}))
    assert load_games(path)["mine"] == {**row, "bad": []} and len(load_games(path)) == len(GAMES) + 1
    path.write_text(json.dumps({"mine": {**row, **change}}))
    with pytest.raises(PokeidmError, match=f"'mine'.*{words}") as e: load_games(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"../x": {}}', '{"x": []}'])
def test_a_table_that_is_none(tmp_path, text):
    (tmp_path / "games.json").write_text(text)
    with pytest.raises(PokeidmError, match="games.json"): load_games(tmp_path / "games.json")


# ---- formats

def offer(*rows): return [{"format_id": str(i), "url": f"http://127.0.0.1/{i}", "ext": "mp4", "vcodec": "avc1", "acodec": "none", **row} for i, row in enumerate(rows)]

@pytest.mark.parametrize("rows,chosen", [
    ([dict(height=144), dict(height=240), dict(height=360), dict(height=720)], 360),
    ([dict(height=720), dict(height=360, acodec="mp4a")], 360),                       # sound weighs less than twice the lines
    ([dict(height=360, acodec="none"), dict(height=360, acodec="mp4a", tbr=900)], {"acodec": "none"}),
    ([dict(height=360, vcodec="av01.0"), dict(height=360, vcodec="avc1.4d"), dict(height=360, vcodec="vp9", ext="webm")], {"vcodec": "avc1.4d"}),
    ([dict(height=1080), dict(height=480, vcodec="vp9", ext="webm", fps=60)], 480),
    ([dict(height=None, vcodec=None, acodec=None)], None), ([dict(height=240), dict(vcodec=None, acodec=None)], None),
    ([dict(height=160), dict(height=240)], 240), ([dict(height=360, quality=-5), dict(height=1080, quality=-9)], 360),
    ([dict(height=360, preference=-10), dict(height=480)], 480), ([dict(height=360, has_drm=True), dict(height=720)], 720),
    ([dict(height=1080, vcodec="none"), dict(height=360, vcodec="none", acodec="mp4a"), dict(height=720)], 720),      # storyboard, sound alone
    ([dict(height=360, fps=60), dict(height=360, fps=30), dict(height=360, fps=15)], {"fps": 30})])
def test_ytdlp_takes_the_lowest_format_that_keeps_the_grid(tmp_path, rows, chosen):
    import yt_dlp
    with yt_dlp.YoutubeDL(ytdlp_options(tmp_path, pause=0)) as ydl:
        info = ydl.process_ie_result({"id": "x", "title": "x", "extractor": "x", "extractor_key": "X", "formats": offer(*rows)}, download=False)
    assert all(info.get(k) == v for k, v in (chosen if isinstance(chosen, dict) else {"height": chosen}).items())


@given(st.lists(st.one_of(st.none(), st.integers(100, 2200)), max_size=8), st.sampled_from([(360, 144), (360, 160), (720, 384)]))
def test_a_choice_never_loses_the_grid_while_another_keeps_it(heights, bounds):
    lines, least = bounds
    chosen, known = choose_format(offer(*(dict(height=h) for h in heights)), lines, least), [h for h in heights if h]
    enough = [h for h in known if h >= lines]
    if enough: assert chosen["height"] == min(enough)
    elif None in heights: assert chosen["height"] is None
    elif max(known, default=0) >= least: assert chosen["height"] == max(known)
    else: assert chosen is None


def test_the_console_decides(site, tmp_path):
    def master(name, *heights):
        variants = "".join(f"#EXT-X-STREAM-INF:BANDWIDTH={h}000,RESOLUTION={h * 16 // 9}x{h},CODECS=\"avc1.42c00d\"\n/{h}.m3u8\n" for h in heights)
        site.pages[f"/{name}.m3u8"] = ("#EXTM3U\n" + variants).encode()
        for h in heights:
            site.pages[f"/{h}.m3u8"] = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n/{h}-0.ts\n#EXTINF:4,\n/{h}-1.ts\n#EXT-X-ENDLIST\n".encode()
            for i in (0, 1): site.pages[f"/{h}-{i}.ts"] = f"{h} part {i};".encode() * 50
        return f"{site.url}/{name}.m3u8"
    url = master("film", 144, 240, 360, 720, 1080)
    for game, height in (("pokemon_ruby", 360), ("pokemon_heartgold", 720), ("other", 360)):
        [name] = get(tmp_path / game, url, game)["downloaded"]
        assert (tmp_path / game / name).read_bytes() == b"".join(site.pages[f"/{height}-{i}.ts"] for i in (0, 1))
    [refused] = get(tmp_path, master("small", 144, 240, 360), "pokemon_heartgold")["filtered"]
    assert "384 lines" in refused["reason"]
    del site.pages["/720-1.ts"]                                                  # a film with a hole is no film
    assert count(get(tmp_path / "hole", url, "pokemon_soulsilver")) == (0, 0, 0, 1) and not [p for p in videos(tmp_path / "hole") if p.endswith(".mp4")]


# ---- titles and names

@given(st.sampled_from(UNWANTED), st.sampled_from(["{} Pokemon Ruby", "Pokemon Ruby: {}!", "Pokemon Ruby [{}] 1", "pokemon_ruby_{}"]), st.sampled_from([str.upper, str.title, str]))
def test_unwanted_words_count_as_words_only(word, title, case):
    assert unwanted_title(title.format(case(word)), ["ruby"]) == f"title has '{next(w for w in UNWANTED if f' {w} ' in f' {word} ')}'"
    assert unwanted_title(title.format(case("x" + word.replace(" ", "x") + "x")), ["ruby"]) is None


@pytest.mark.parametrize("game", GAMES)
def test_every_game_finds_its_own_titles_and_no_other(game):
    for name in GAMES[game]["names"]:
        assert unwanted_title(f"Pokémon {name.title()} - part 1", GAMES[game]["names"]) is None
        assert all(unwanted_title(f"Pokemon {name} part 1", GAMES[g]["names"]) for g in GAMES if g != game)
    for query in GAMES[game]["search"]: assert unwanted_title(query, GAMES[game]["names"]) is None


@settings(deadline=None)
@given(st.text(max_size=200), st.text(min_size=1, max_size=100), st.text(max_size=50), st.sampled_from(["Youtube", "Generic"]), st.text(max_size=60))
def test_names_are_safe(title, id, game, extractor, link):
    info = _name({"title": title, "id": id, "extractor_key": extractor, "url": "http://a.org/" + link}, game)
    for part in (info["pokeidm_game"], info["pokeidm_name"] + ".mp4"): assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,170}", part)


def test_bad_arguments(tmp_path):
    for bad, words in [(dict(game_name="pokemon_beige"), "unknown game"), (dict(cookies_file=tmp_path / "none"), "cookies file"), (dict(games_file=tmp_path / "none"), "does not exist")]:
        with pytest.raises(PokeidmError, match=words): scrape(tmp_path / "raw", **bad)
    (tmp_path / "file").touch()
    with pytest.raises(PokeidmError, match="cannot write"): scrape(tmp_path / "file" / "raw", "http://127.0.0.1:9/x.mp4")
    assert not (tmp_path / "raw").exists() and unwanted_length(299) and not unwanted_length(300)


def test_import_is_light():
    code = "import sys, pokeidm.scrape; sys.exit(bool({'torch', 'yt_dlp', 'matplotlib', 'av'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
