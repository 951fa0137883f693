"A real S3 server (moto) in a process of its own, spoken to over HTTP; a proxy in front of it plays the bad network."
import gc, hashlib, http.client, io, json, os, pickle, random, subprocess, sys, threading, time, urllib.request, warnings
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from pokeidm import store as S
from pokeidm.core import PokeidmError
from pokeidm.store import LocalStore, check_key, open_store, sync


@pytest.fixture
def parts(monkeypatch):
    "The bytes of a file that is sent in three parts."
    monkeypatch.setattr(S, "PART", 5 * 2**20)
    return np.random.default_rng(1).bytes(11 * 2**20)


@pytest.fixture
def frames(tmp_path):
    root, rng = tmp_path / "pokemon_frames", np.random.default_rng(0)
    for game, video in [("emerald", "v1"), ("emerald", "v2"), ("emerald", "unused"), ("ruby", "v1")]:
        folder = root / game / video
        folder.mkdir(parents=True)
        for k in range(3): np.save(folder / f"frames-{k:05}.npy", rng.integers(0, 255, (4, 8, 12, 3), dtype=np.uint8))
        (folder / "meta.json").write_text(json.dumps({"version": 1, "n": 12}))
    groups = [{"video_id": v, "shard": 0, "start": 0} for v in ("v2", "v1", "v2")]
    (root / "emerald_train_0_9_5_frames.json").write_text(json.dumps({"version": 1, "groups": groups}))
    return root


class Proxy:
    """Forwards to the server, except where `fault(n, method, path)` of the n-th request says 'NNN' (a status), 'hang', 'cut' or 'flip'.

    `arrived`: (method, path) of what reached the server whole; `ranges`: (path, range asked for, bytes let through); `busy`: most
    requests for one path at a time. `down()` and `up()`: nobody listens, and all connections break.
    """
    def __init__(self, host):
        self.host, self.count, self.arrived, self.ranges, self.lock = host, 0, [], [], threading.Lock()
        self.fault, self.delay, self.hang, self.now, self.busy, self.port = (lambda n, method, path: None), 0, 1, Counter(), Counter(), 0
        self.up()
        self.url = f"http://127.0.0.1:{self.port}"

    def up(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), type("H", (Handler,), {"proxy": self}))
        self.server.daemon_threads, self.port, self.alive = True, self.server.server_address[1], True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self): self.alive = False; self.server.shutdown(); self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def serve(self):
        me = self.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not me.alive: self.close_connection = True; return
        with me.lock:
            me.count += 1; fault = me.fault(me.count, self.command, self.path)
            me.now[self.path] += 1; me.busy[self.path] = max(me.busy[self.path], me.now[self.path])
        try: self.answer(fault, body)
        finally:
            with me.lock: me.now[self.path] -= 1

    def answer(self, fault, body):
        if fault == "hang": time.sleep(self.proxy.hang); self.close_connection = True; return
        if fault and fault.isdigit(): self.send_response(int(fault)); self.send_header("Content-Length", "0"); self.end_headers(); return
        if fault == "flip" and body: body = body[:-1] + bytes([body[-1] ^ 1])
        time.sleep(self.proxy.delay)
        upstream = http.client.HTTPConnection(self.proxy.host)
        upstream.request(self.command, self.path, body, {k: v for k, v in self.headers.items() if k.lower() != "expect"})
        answer = upstream.getresponse(); data = answer.read()
        if answer.status < 300:
            with self.proxy.lock: self.proxy.arrived.append((self.command, self.path))
        if fault == "flip" and self.command == "GET" and data and "list-type" not in self.path: data = data[:-1] + bytes([data[-1] ^ 1])
        self.send_response(answer.status)
        for k, v in answer.getheaders():
            if k.lower() not in ("connection", "transfer-encoding", "server", "date"): self.send_header(k, v)
        self.end_headers()
        if fault == "cut": data = data[:len(data) // 2]; self.close_connection = True
        if self.command == "GET": self.proxy.ranges.append((self.path, self.headers.get("Range"), len(data)))
        if self.command != "HEAD": self.wfile.write(data)
    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve


@pytest.fixture
def proxy(address, s3, monkeypatch):
    here = Proxy(address.removeprefix("http://"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")          # ours are the tries under test, without their pauses
    monkeypatch.setattr(S, "_retry", lambda call, patient=True, retry=S._retry: retry(call, patient, pause=0.01))
    monkeypatch.setattr(S, "_TIMEOUTS", {"connect_timeout": 1, "read_timeout": 1})
    monkeypatch.setenv("AWS_ENDPOINT_URL", here.url)
    yield here
    here.down()


REAL_RETRY = S._retry

def remote_bytes(client, prefix=""):
    keys = [o["Key"] for o in client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])]
    return {k: client.get_object(Bucket="bucket", Key=k)["Body"].read() for k in keys}


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b\\c", "x:", "C:", "\0", "é", "~"]), min_size=1, max_size=4).map("/".join))
def test_a_checked_key_stays_in_its_folder(key):
    root = os.path.abspath("root")
    try: check_key(key)
    except PokeidmError: return
    assert os.path.abspath(os.path.join(root, key)).startswith(root + os.sep) and "\\" not in key and "\0" not in key


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "a-", "a.b", "a0", "b", "é", "Z"]), min_size=1, max_size=3).map(tuple), min_size=1, max_size=8))
def test_walk_lists_in_the_order_of_s3(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("walk")
    for parts in names:
        try: path = root.joinpath(*parts); path.parent.mkdir(parents=True, exist_ok=True); path.touch()
        except (FileExistsError, NotADirectoryError): pass
    keys = list(S._walk(root))
    assert keys == sorted(keys, key=str.encode) and set(keys) == {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def test_a_manifest_sends_what_it_names_under_the_keys_training_asks_for(s3, frames):
    summary = sync(frames / "emerald_train_0_9_5_frames.json", "bucket", "deep/er")
    store = open_store("s3://bucket/deep/er")
    expected = [k for k in LocalStore(frames).keys() if k.startswith(("emerald/v", "emerald_train"))]
    assert summary["uploaded"] == 9 and summary["failed"] == [] and list(store.keys()) == expected
    local = LocalStore(frames)
    for key in expected:
        assert store.read(key) == local.read(key) == store.fetch(key).read_bytes() and store.size(key) == local.size(key)
    again = sync(frames / "emerald_train_0_9_5_frames.json", "bucket", "deep/er")
    assert (again["uploaded"], again["skipped"], again["bytes"]) == (0, 9, 0)


def test_sync_writes_the_keys_that_training_reads(s3, frames, monkeypatch):
    local = LocalStore(frames)
    monkeypatch.chdir(frames.parent)
    for source, prefix in [("pokemon_frames/emerald_train_0_9_5_frames.json", "m"), ("pokemon_frames/emerald", "g"), ("pokemon_frames", "all")]:
        assert sync(source, "bucket", prefix)["failed"] == []
    keys = {p: set(open_store(f"s3://bucket/{p}").keys()) for p in ("m", "g", "all")}
    assert keys["m"] < keys["all"] == set(local.keys()) and keys["g"] == set(local.keys("emerald/"))
    for video in ("v1", "v2"):                                          # as the manifest names them
        for p in keys: assert f"emerald/{video}/frames-00000.npy" in keys[p]
        for store in (local, open_store("s3://bucket/all")):
            assert list(store.keys(f"emerald/{video}/")) == [f"emerald/{video}/{n}" for n in ("frames-00000.npy", "frames-00001.npy", "frames-00002.npy", "meta.json")]
            assert list(store.keys(f"emerald/{video[0]}")) == list(store.keys("emerald/v")) and list(store.keys("nothing/here")) == []
            rows = store.load(f"emerald/{video}/frames-00002.npy")
            assert isinstance(rows, np.memmap) and np.array_equal(rows, np.load(frames / f"emerald/{video}/frames-00002.npy"))


@pytest.mark.parametrize("source", [".", "emerald", "emerald/v1"])
def test_folder_keys_are_relative_to_the_frames_dir(s3, frames, source):
    sync(frames / source, "bucket", "p")
    keys = set(open_store("s3://bucket/p").keys())
    local = set(LocalStore(frames).keys())
    assert keys == {".": local, "emerald": {k for k in local if k.startswith("emerald/")},
                    "emerald/v1": {"meta.json", *(f"frames-{k:05}.npy" for k in range(3))}}[source]


def test_only_what_differs_is_sent(s3, frames):
    sync(frames / "ruby", "bucket")
    shard = frames / "ruby/v1/frames-00001.npy"
    data = bytearray(shard.read_bytes()); data[-1] ^= 1; shard.write_bytes(data)        # same size, other bytes
    s3.put_object(Bucket="bucket", Key="ruby/v1/meta.json", Body=b"short")              # somebody overwrote this one
    other = frames / "ruby/v1/frames-00002.npy"                                         # damaged there, though its note says otherwise
    s3.put_object(Bucket="bucket", Key="ruby/v1/frames-00002.npy", Body=b"\0" * other.stat().st_size,
                  Metadata={"sha256": hashlib.sha256(other.read_bytes()).hexdigest()})
    assert sync(frames / "ruby", "bucket")["uploaded"] == 3
    assert remote_bytes(s3, "ruby/") == {k: (frames / k).read_bytes() for k in LocalStore(frames).keys("ruby/")}


def test_parts(s3, tmp_path, parts):
    folder = tmp_path / "big"; folder.mkdir()
    data = parts
    (folder / "shard.npy").write_bytes(data)
    assert sync(folder, "bucket")["uploaded"] == 1
    assert s3.head_object(Bucket="bucket", Key="shard.npy")["ETag"].endswith('-3"')
    assert sync(folder, "bucket")["skipped"] == 1
    store = open_store("s3://bucket", tmp_path / "cache")
    assert store.read("shard.npy") == store.fetch("shard.npy").read_bytes() == data
    S.PART = 6 * 2**20                                               # another part size: the ETag differs, the sha256 does not
    assert sync(folder, "bucket")["skipped"] == 1
    for size in (0, S.PART - 1, S.PART, S.PART + 1):
        (folder / "edge").write_bytes(data[:size])
        assert sync(folder, "bucket")["failed"] == []
        assert open_store("s3://bucket").read("edge") == open_store("s3://bucket").fetch("edge").read_bytes() == data[:size]


def test_a_broken_upload_goes_on_with_the_parts_that_are_missing(s3, proxy, tmp_path, parts):
    path = tmp_path / "big" / "shard.npy"; path.parent.mkdir(); path.write_bytes(parts)
    proxy.fault = lambda n, method, path: "400" if "partNumber=2" in path else None
    assert [f["key"] for f in sync(path.parent, "bucket")["failed"]] == ["shard.npy"]
    proxy.fault, proxy.arrived[:] = (lambda *a: None), []
    assert sync(path.parent, "bucket")["uploaded"] == 1
    assert ["partNumber=2" in p for m, p in proxy.arrived if "partNumber" in p] == [True]
    assert remote_bytes(s3) == {"shard.npy": parts}
    proxy.fault = lambda n, method, path: "400" if "partNumber=2" in path else None
    path.write_bytes(b"new " + parts); sync(path.parent, "bucket")          # broken off again, and then the file changes once more
    changed = b"new " + parts[:-1] + bytes([parts[-1] ^ 1]); path.write_bytes(changed)
    proxy.fault = lambda *a: None
    before = [u["UploadId"] for u in s3.list_multipart_uploads(Bucket="bucket")["Uploads"]]
    assert sync(path.parent, "bucket")["failed"] == [] and len(before) == 1 and "Uploads" not in s3.list_multipart_uploads(Bucket="bucket")
    assert open_store("s3://bucket").read("shard.npy") == changed           # the sha256 of the first try would have refused it


def test_a_broken_download_goes_on_where_it_broke(s3, proxy, tmp_path, parts):
    open_store("s3://bucket").write("shard.npy", parts)
    proxy.fault = lambda n, method, path: "cut" if method == "GET" and "shard" in path and n % 2 else None
    store = open_store("s3://bucket", tmp_path / "cache")
    assert store.fetch("shard.npy").read_bytes() == parts == store.read("shard.npy")
    got = [(int(r.removeprefix("bytes=").split("-")[0]), n) for p, r, n in proxy.ranges if "shard" in p]
    assert any(start % S.PART for start, _ in got)                          # cut ones went on in the middle of a part
    assert sum(n for _, n in got) < 2.1 * len(parts)                        # twice the object, and next to nothing more


def test_bad_servers_end_with_every_object_right(s3, frames, proxy):
    def fault(n, method, path):
        if n % 5 == 0: return "503"
        if method == "PUT" and n % 6 == 0: return "flip"
        if method == "GET" and n % 7 == 0: return "cut"
    proxy.fault = fault
    summary = sync(frames, "bucket", num_threads=3)
    assert summary["failed"] == [] and proxy.count > 22
    assert remote_bytes(s3) == {k: (frames / k).read_bytes() for k in LocalStore(frames).keys()}
    store = open_store("s3://bucket")
    for key in LocalStore(frames).keys(): assert store.fetch(key).read_bytes() == store.read(key) == (frames / key).read_bytes()


@pytest.fixture
def many(tmp_path):
    folder, rng = tmp_path / "pokemon_frames", np.random.default_rng(2)
    for k in range(200):
        p = folder / f"game{k % 3}/video{k % 7}/frames-{k:05}.npy"; p.parent.mkdir(parents=True, exist_ok=True); p.write_bytes(rng.bytes(300 + k))
    return folder


def test_a_storm_ends_with_every_object_right_or_named(s3, proxy, many, parts, tmp_path):
    (many / "game0/video0/big.npy").write_bytes(parts)
    rng, proxy.hang = random.Random(0), 1.3
    proxy.fault = lambda n, method, path: rng.choice(["500", "503", "cut", "flip"] * 2 + ["hang"]) if rng.random() < 0.2 else None
    summary = sync(many, "bucket", num_threads=16)
    right = {k: (many / k).read_bytes() for k in set(LocalStore(many).keys()) - {f["key"] for f in summary["failed"]}}
    assert len(right) > 198 and remote_bytes(s3) == right
    store, named = open_store("s3://bucket", tmp_path / "cache", 2**20), []
    def read(key):
        try: assert store.fetch(key).read_bytes() == right[key]
        except PokeidmError as e: named.append(str(e))
    for _ in S._on_threads(read, [(k,) for k in right], 16): pass
    assert len(named) < 3 and all("try again" in line for line in named)


def test_a_server_that_comes_back(s3, proxy, many, monkeypatch):
    monkeypatch.setattr(S, "_retry", lambda call, patient=True, retry=REAL_RETRY: retry(call, patient, pause=0.1))
    proxy.fault = lambda n, *a: threading.Thread(target=away).start() if n == 100 else None
    def away(): proxy.down(); time.sleep(0.8); proxy.up()
    assert sync(many, "bucket")["failed"] == [] and remote_bytes(s3) == {k: (many / k).read_bytes() for k in LocalStore(many).keys()}


def test_a_server_that_stays_away_is_not_asked_for_every_file(s3, proxy, many):
    proxy.fault = lambda n, *a: threading.Thread(target=proxy.down).start() if n == 50 else None
    try:
        summary = sync(many, "bucket", num_threads=2)
        reasons = Counter(f["reason"].split(":")[0] for f in summary["failed"])
        assert summary["uploaded"] + len(summary["failed"]) == 200 and any("not tried" in r for r in reasons) and "cannot reach S3 at http" in reasons
        assert reasons["not tried, because S3 could not be reached any more"] > 100
    finally: proxy.up()
    assert sync(many, "bucket")["failed"] == []


def test_kill_9_in_the_middle_of_a_sync(s3, proxy, many, parts):
    (many / "game1/video1/big.npy").write_bytes(parts)
    code = "import sys; from pokeidm import store as S; S.PART = 5 * 2**20; print(S.sync(sys.argv[1], 'bucket', num_threads=4))"
    whole, proxy.delay, moments = {k: (many / k).read_bytes() for k in LocalStore(many).keys()}, 0.003, iter([40, 90, 110])
    for moment in moments:
        here, seen = set(proxy.arrived), len(proxy.arrived)
        p = subprocess.Popen([sys.executable, "-c", code, many], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while p.poll() is None and len(proxy.arrived) < seen + moment: time.sleep(0.002)
        p.kill(); p.communicate()
        while any(proxy.now.values()): time.sleep(0.01)              # what was on its way arrives
        sent = [a for a in proxy.arrived[seen:] if a[0] == "PUT"]
        assert len(sent) > 10 and not here & set(sent) and len(sent) == len(set(sent))
    here, seen = set(proxy.arrived), len(proxy.arrived)
    assert sync(many, "bucket")["failed"] == []
    assert not here & {a for a in proxy.arrived[seen:] if a[0] == "PUT"} and remote_bytes(s3) == whole
    assert len([a for a in proxy.arrived if a[0] == "PUT" and "partNumber" in a[1]]) == 3


def test_a_full_disk_while_caching(s3, tmp_path, parts):
    resource = pytest.importorskip("resource")
    open_store("s3://bucket").write("v/big.npy", parts); open_store("s3://bucket").write("v/small.npy", b"x" * 1000)
    code = """
import resource, sys; from pathlib import Path; from pokeidm import store as S; from pokeidm.core import PokeidmError
resource.setrlimit(resource.RLIMIT_FSIZE, (7 * 2**20, 7 * 2**20)); S.PART = 5 * 2**20; store = S.open_store("s3://bucket", sys.argv[1])
for f in (lambda: store.fetch("v/big.npy"), lambda: S.LocalStore(sys.argv[1] + "/local").write("k", b"x" * 8 * 2**20)):
    try: f()
    except PokeidmError as e: print(e)
print(store.fetch("v/small.npy").stat().st_size)"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "cache"], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all(l.startswith("cannot write") and "free some space" in l for l in lines[:2]) and lines[2] == "1000", done
    files = [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.parent.name != ".locks"]
    assert files == ["small.npy"]
    assert open_store("s3://bucket", tmp_path / "cache").fetch("v/big.npy").read_bytes() == parts


@pytest.mark.parametrize("threads", [1, 8])
def test_the_queue_does_not_grow_with_the_folder(s3, tmp_path, monkeypatch, threads):
    given, done, peak = 0, 0, 0
    def walk(folder, parent=""):
        nonlocal given, peak
        for k in range(100_000 // threads):
            given += 1; peak = max(peak, given - done)
            yield f"{k:07}"
    def send(store, root, key, there):
        nonlocal done
        with lock: done += 1
        return key, 1, None
    lock = threading.Lock()
    monkeypatch.setattr(S, "_walk", walk); monkeypatch.setattr(S, "_send", send)
    assert sync(tmp_path, "bucket", num_threads=threads)["uploaded"] == 100_000 // threads
    assert peak <= 16 * threads + 2


def test_what_cannot_be_sent_is_listed_and_the_manifest_waits(s3, frames, proxy, monkeypatch):
    proxy.fault = lambda n, method, path: "503" if method == "PUT" and "v2/meta" in path else None
    summary = sync(frames / "emerald_train_0_9_5_frames.json", "bucket")
    assert [f["key"] for f in summary["failed"]] == ["emerald/v2/meta.json", "emerald_train_0_9_5_frames.json"]
    assert summary["uploaded"] == 7 and "try again" in summary["failed"][0]["reason"]
    assert len(remote_bytes(s3)) == 7


def test_damage_is_never_returned(s3, proxy):
    s3.put_object(Bucket="bucket", Key="x", Body=b"wrong", Metadata={"sha256": hashlib.sha256(b"right").hexdigest()})
    store = open_store("s3://bucket")
    with pytest.raises(PokeidmError, match="Damaged"): store.read("x")
    with pytest.raises(PokeidmError, match="Damaged"): store.fetch("x")
    assert cached(store) == [] and not any(p.name.endswith(".tmp") for p in store.folder.rglob("*"))


def cached(store): return list(LocalStore(store.cache).keys())


def test_a_full_cache_drops_what_was_used_least_recently(s3, tmp_path, monkeypatch):
    store = open_store("s3://bucket", tmp_path / "cache", max_cache_bytes=250)
    for key in "abc": store.write(key, key.encode() * 100)
    for key in "abca": store.fetch(key); time.sleep(0.01)
    assert cached(store) == ["a", "b", "c"]                             # handed out a moment ago: their users may not have them open yet
    monkeypatch.setattr(S, "GRACE", 0)
    store.write("d", b"d"); store.fetch("d")
    assert cached(store) == ["a", "c", "d"]                             # b was used least recently
    store.limit = 1
    monkeypatch.setattr(S, "GRACE", 5)
    store.write("c", b"c" * 100)
    assert store.fetch("c").is_file()                                   # what was asked for stays, however small the cache
    with pytest.raises(PokeidmError, match="not a safe path"): s3.put_object(Bucket="bucket", Key="../evil", Body=b"x"); store.fetch("../evil")


def test_a_copy_is_compared_once_and_then_trusted(s3, proxy, tmp_path):
    first = open_store("s3://bucket", tmp_path / "cache")
    first.write("a", b"one"); first.fetch("a")
    before = first.fetch("a").stat().st_ino
    second = open_store("s3://bucket", tmp_path / "cache")
    proxy.arrived[:] = []
    for _ in range(5): assert second.fetch("a").stat().st_ino == before          # not downloaded again
    assert [m for m, p in proxy.arrived] == ["HEAD"]
    s3.put_object(Bucket="bucket", Key="a", Body=b"two")                # as long, and most likely in the same second
    assert second.fetch("a").read_bytes() == b"one"                     # as the docstring says
    assert open_store("s3://bucket", tmp_path / "cache").fetch("a").read_bytes() == b"two"
    second.write("a", b"own"); assert second.fetch("a").read_bytes() == b"own"


def test_two_buckets_share_a_cache(s3, tmp_path):
    one, two = open_store("s3://bucket", tmp_path / "cache"), open_store("s3://bucket/deeper", tmp_path / "cache")
    one.write("k", b"1"); two.write("k", b"2")
    a, b = one.fetch("k"), two.fetch("k")
    assert (a.read_bytes(), b.read_bytes()) == (b"1", b"2")


def test_leftovers_of_killed_processes_go(s3, tmp_path):
    store = open_store("s3://bucket", tmp_path / "cache", max_cache_bytes=10**6)
    store.write("v/k", b"1"); store.write("v/l", b"2"); store.fetch("v/k")
    old, new = store.cache / "v/.x.npy.123.tmp", store.cache / "v/.y.npy.124.tmp"
    for p in (old, new): p.write_bytes(b"x" * 1000)
    os.utime(old, (time.time(), time.time() - S.STALE - 1))
    store.fetch("v/l")
    assert not old.exists() and new.exists()


CROWD = """
import hashlib, sys, random, time, numpy as np
from pokeidm import store as S
seed, folder, seconds, S.GRACE = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), 0.02
store, rng, end, n = S.open_store("s3://bucket/c", folder, 450_000), random.Random(seed), time.time() + seconds, 0
while time.time() < end:
    k = rng.randrange(10)
    assert (store.load(f"v/{k}.npy") == k).all(), f"torn {k}"
    n += 1
print(n)
"""

def test_a_crowd_of_processes_shares_a_small_cache(s3, proxy, tmp_path):
    store = open_store("s3://bucket/c", tmp_path / "cache", 450_000)     # four of the ten
    for k in range(10):
        buffer = io.BytesIO(); np.save(buffer, np.full(100_000, k, np.uint8)); store.write(f"v/{k}.npy", buffer.getvalue())
    proxy.busy.clear()
    crowd = [subprocess.Popen([sys.executable, "-c", CROWD, str(i), store.folder, "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(4)]
    while not (store.folder / ".locks").is_dir(): time.sleep(0.05)
    time.sleep(0.7); crowd[0].kill()                                       # somewhere in the middle; it may hold a lock
    done = [p.communicate(timeout=60) for p in crowd]
    assert all(p.returncode == 0 for p in crowd[1:]), done
    assert sum(int(out) for out, _ in done[1:]) > 20
    per_key = {p: n for p, n in proxy.busy.items() if p.endswith(".npy")}
    *others, most = sorted(per_key.values())                             # neither HEAD nor GET of one key twice at a time, save the
    assert set(others) == {1} and len(others) == 9 and most <= 2, per_key  # one that the killed process may have left on its way
    time.sleep(0.1); S_grace, S.GRACE = S.GRACE, 0
    try: S._evict(store.folder, store.limit)
    finally: S.GRACE = S_grace
    assert 0 < sum(p.stat().st_size for p in store.folder.rglob("*.npy")) <= store.limit


def test_what_was_fetched_can_be_opened(s3, tmp_path):
    "Between `fetch` and `open` of one thread, others do all they can to fill the cache."
    store = open_store("s3://bucket", tmp_path / "cache", max_cache_bytes=1)
    for k in range(8): store.write(f"{k}", b"%d" % k)
    wrong = []
    def go(k):
        for n in range(12):
            path = store.fetch(f"{(k + n) % 8}"); time.sleep(0.01)
            try:
                if path.read_bytes() != b"%d" % ((k + n) % 8): wrong.append("torn")
            except FileNotFoundError: wrong.append("gone")
    threads = [threading.Thread(target=go, args=(k,)) for k in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert wrong == []


def test_load_fetches_again_what_was_dropped_in_between(s3, tmp_path, monkeypatch):
    store, fetched = open_store("s3://bucket", tmp_path / "cache"), []
    buffer = io.BytesIO(); np.save(buffer, np.arange(5)); store.write("v/k.npy", buffer.getvalue())
    def fetch(store, key, real=S._fetch):
        path = real(store, key); fetched.append(path)
        if len(fetched) == 1: path.unlink()
        return path
    monkeypatch.setattr(S, "_fetch", fetch)
    rows = store.load("v/k.npy")
    fetched[-1].unlink()                                                 # once it is mapped, nobody can take it away
    assert len(fetched) == 2 and rows.tolist() == list(range(5))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_worker_has_connections_of_its_own_and_leaves_the_cache(s3):
    store = open_store("s3://bucket")
    store.write("k", b"x"); path, mine = store.fetch("k"), store.client
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if not pid:
        good = store.client is not mine and store.read("k") == b"x"
        store.__class__ = type("Gone", (), {}); S._forget(store.folder, os.getppid())
        os._exit(0 if good and path.exists() else 1)
    assert os.waitpid(pid, 0)[1] == 0 and path.exists()
    del store
    gc.collect()
    assert not path.exists()


def test_one_download_for_many_threads(s3, tmp_path, monkeypatch):
    store, calls = open_store("s3://bucket", tmp_path / "cache"), []
    store.write("k", b"1" * 10**6)
    monkeypatch.setattr(S, "_get", lambda *a, get=S._get: (calls.append(1), get(*a))[1])
    threads = [threading.Thread(target=store.fetch, args=("k",)) for _ in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(calls) == 1 and store.fetch("k").stat().st_size == 10**6
    assert pickle.loads(pickle.dumps(store)).read("k") == b"1" * 10**6


def test_clear_lines_instead_of_tracebacks(s3, address, frames, monkeypatch, tmp_path):
    for bucket, words in [("missing", "does not exist"), ("No Bucket", "not the name")]:
        with pytest.raises(PokeidmError, match=words): sync(frames, bucket)
    (tmp_path / "notes.txt").touch()
    for source, words in [("no_train_0_9_5_frames.json", "does not exist"), ("notes.txt", "neither a folder")]:
        with pytest.raises(PokeidmError, match=words): sync(tmp_path / source, "bucket")
    for text, words in [("{}", "no groups"), ('{"groups": [{"video_id": "gone"}]}', "not there"), ('{"groups": [{"video_id": "../.."}]}', "not a safe path")]:
        (frames / "ruby_val_0_1_5_frames.json").write_text(text)
        with pytest.raises(PokeidmError, match=words): sync(frames / "ruby_val_0_1_5_frames.json", "bucket")
    with pytest.raises(PokeidmError, match="not a safe path"): open_store("s3://bucket/../other")
    with pytest.raises(PokeidmError, match="is a file"): open_store(tmp_path / "notes.txt")
    with pytest.raises(PokeidmError, match="no 'x'"): LocalStore(tmp_path).read("x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with monkeypatch.context() as m:
        m.delenv("AWS_ACCESS_KEY_ID"); m.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(PokeidmError, match="no S3 credentials"): open_store("s3://bucket")
    with monkeypatch.context() as m:
        m.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(PokeidmError, match="cannot reach S3 at http://127.0.0.1:9"): open_store("s3://bucket")
    def auth(n): urllib.request.urlopen(urllib.request.Request(address + "/moto-api/reset-auth", n, {"Content-Type": "text/plain"})).read()
    auth(b"0")                                                          # from now on the server checks who asks
    try:
        with pytest.raises(PokeidmError, match="refused the credentials"): open_store("s3://bucket")
    finally: auth(b"inf")


def test_import_is_light():
    code = "import sys, pokeidm.store; sys.exit(bool({'torch', 'boto3', 'matplotlib'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
