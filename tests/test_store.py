"A real S3 server (moto) in a process of its own, spoken to over HTTP; a proxy in front of it plays the bad network."
import hashlib, http.client, json, os, pickle, socket, subprocess, sys, threading, time, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import boto3, numpy as np, pytest
from hypothesis import given, settings, strategies as st
from pokeidm import store as S
from pokeidm.core import PokeidmError
from pokeidm.store import LocalStore, check_key, open_store, sync


@pytest.fixture(scope="module")
def address():
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try: socket.create_connection(("127.0.0.1", port), 1).close(); break
            except OSError: time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally: server.terminate(); server.wait()


@pytest.fixture
def s3(address, monkeypatch):
    for name in [n for n in os.environ if n.startswith("AWS_")]: monkeypatch.delenv(name)
    for name, value in dict(AWS_ENDPOINT_URL=address, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true",
                            AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull, NO_PROXY="127.0.0.1").items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(address + "/moto-api/reset", method="POST")).read()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    return client


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


@pytest.fixture
def proxy(address, monkeypatch):
    "Forwards to the server, except where `proxy.fault(n, method, path)` of the n-th request says '503', 'cut' or 'flip'."
    host = address.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def log_message(self, *args): pass
        def serve(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock: here.count += 1; fault = here.fault(here.count, self.command, self.path)
            if fault == "503": self.send_response(503); self.send_header("Content-Length", "0"); self.end_headers(); return
            if fault == "flip" and body: body = body[:-1] + bytes([body[-1] ^ 1])
            upstream = http.client.HTTPConnection(host)
            upstream.request(self.command, self.path, body, {k: v for k, v in self.headers.items() if k.lower() != "expect"})
            answer = upstream.getresponse(); data = answer.read()
            self.send_response(answer.status)
            for k, v in answer.getheaders():
                if k.lower() not in ("connection", "transfer-encoding", "server", "date"): self.send_header(k, v)
            self.end_headers()
            if self.command != "HEAD": self.wfile.write(data[:len(data) // 2] if fault == "cut" else data)
            if fault == "cut": self.close_connection = True
        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve

    here, lock = ThreadingHTTPServer(("127.0.0.1", 0), Handler), threading.Lock()
    here.count, here.fault = 0, lambda n, method, path: None
    here.daemon_threads = True
    threading.Thread(target=here.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")          # ours are the tries under test, without their pauses
    monkeypatch.setattr(S, "_retry", lambda call, tries=5, pause=0.01, retry=S._retry: retry(call, tries, pause))
    here.url = f"http://127.0.0.1:{here.server_address[1]}"
    yield here
    here.shutdown(); here.server_close()


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


def test_parts(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(S, "PART", 5 * 2**20)
    folder = tmp_path / "big"; folder.mkdir()
    data = np.random.default_rng(1).bytes(11 * 2**20)
    (folder / "shard.npy").write_bytes(data)
    monkeypatch.setattr(S, "_digests", lambda source, part=None, digests=S._digests: digests(source, part or S.PART))
    assert sync(folder, "bucket")["uploaded"] == 1
    assert s3.head_object(Bucket="bucket", Key="shard.npy")["ETag"].endswith('-3"')
    assert sync(folder, "bucket")["skipped"] == 1
    assert open_store("s3://bucket").read("shard.npy") == data
    monkeypatch.setattr(S, "PART", 6 * 2**20)                        # another part size: the ETag differs, the sha256 does not
    assert sync(folder, "bucket")["skipped"] == 1


def test_bad_servers_end_with_every_object_right(s3, frames, proxy, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
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


def test_what_cannot_be_sent_is_listed_and_the_manifest_waits(s3, frames, proxy, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.fault = lambda n, method, path: "503" if method == "PUT" and "v2/meta" in path else None
    summary = sync(frames / "emerald_train_0_9_5_frames.json", "bucket")
    assert [f["key"] for f in summary["failed"]] == ["emerald/v2/meta.json", "emerald_train_0_9_5_frames.json"]
    assert summary["uploaded"] == 7 and "try again" in summary["failed"][0]["reason"]
    assert len(remote_bytes(s3)) == 7


def test_damage_is_never_returned(s3, proxy, monkeypatch):
    s3.put_object(Bucket="bucket", Key="x", Body=b"wrong", Metadata={"sha256": hashlib.sha256(b"right").hexdigest()})
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    store = open_store("s3://bucket")
    with pytest.raises(PokeidmError): store.read("x")
    with pytest.raises(PokeidmError): store.fetch("x")
    assert [p for p in store.cache.rglob("*")] == []


def test_cache_notices_changes_and_stays_bounded(s3, tmp_path):
    store = open_store("s3://bucket", tmp_path / "cache", max_cache_bytes=250)
    for key in "abc": store.write(key, key.encode() * 100)
    for key in "aba": store.fetch(key); time.sleep(0.01)
    store.fetch("c")
    assert list(LocalStore(store.cache).keys()) == ["a", "c"]           # b was used least recently
    store.write("a", b"other")
    assert store.fetch("a").read_bytes() == b"other"
    before = store.fetch("a").stat().st_ino
    assert store.fetch("a").stat().st_ino == before                     # not downloaded again
    store.limit = 1
    assert store.fetch("c").is_file()                                   # what was asked for stays, however small the cache
    s3.put_object(Bucket="bucket", Key="../evil", Body=b"x")
    with pytest.raises(PokeidmError, match="not a safe path"): store.fetch("../evil")


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
