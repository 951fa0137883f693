"""No secret in a log: what the environment, an address or a cookie file knows is neither printed nor written, whatever fails."""
import os, subprocess, sys
from pathlib import Path
import pytest, test_scrape

mp4, site = test_scrape.mp4, test_scrape.site       # its server
ROOT = Path(__file__).resolve().parent.parent
COOKIES = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t4000000000\tsession\tSEKRET-cookie\n"
ENVIRONMENT = {name: f"SEKRET-{name}" for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY", "HF_TOKEN")}

def told(line, folder, **environment):
    "Where a secret comes out when `pokeidm line` runs in `folder`: in what it prints, or in a file that it writes. And whether it did well."
    before = set(folder.rglob("*"))
    done = subprocess.run([sys.executable, "-m", "pokeidm", *line.split()], cwd=folder, capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **ENVIRONMENT, **environment})
    said = {"output": done.stdout + done.stderr, **{p.relative_to(folder).as_posix(): p.read_bytes() for p in set(folder.rglob("*")) - before if p.is_file()}}
    assert said["output"] and b"Traceback" not in said["output"]
    return {name: data[max(0, data.find(b"SEKRET") - 80):][:160] for name, data in said.items() if b"SEKRET" in data}, done.returncode == 0

@pytest.mark.parametrize("page, well", [("a.mp4", True), ("gone.mp4", False), ("list.xml", True), ("none.xml", False)])
def test_scraping(tmp_path, site, page, well):
    (tmp_path/"cookies.txt").write_text(COOKIES)
    password = site.url.replace("//", "//someone:SEKRET-password@")
    for name in ("list", "none"):
        link = f"<item><title>one</title><link>{password}/{'a' if name == 'list' else 'gone'}.mp4</link></item>"
        site.pages[f"/{name}.xml"] = f'<rss version="2.0"><channel><title>x</title>{link}</channel></rss>'.encode()
    assert told(f"pipeline --scrape --video_url {password}/{page} --game_name toy --cookies_file cookies.txt --raw_videos_dir videos --logs_dir logs", tmp_path) == ({}, well)
    assert list((tmp_path/"videos").rglob("*.info.json" if well else "failed.json")) and site.log

@pytest.mark.parametrize("endpoint", ["http://someone:SEKRET-password@127.0.0.1:9", "someone:SEKRET-password@127.0.0.1:9", "{s3}"])
@pytest.mark.parametrize("line", ["sync --source many --bucket none-there", "doctor", "pipeline --summary --frames_dir s3://none-there/frames --logs_dir logs"])
def test_s3(tmp_path, s3, line, endpoint):
    (tmp_path/"many").mkdir(); (tmp_path/"many/a.bin").write_bytes(b"a")
    found, well = told(line, tmp_path, AWS_ENDPOINT_URL=endpoint.format(s3=os.environ["AWS_ENDPOINT_URL"]), AWS_MAX_ATTEMPTS="1")
    assert not found and (line == "doctor" or not well)
