"""Properties of names, atomic writes and hashes."""
import errno, os, subprocess, sys, time, signal
import pytest
from hypothesis import given, strategies as st
from pokeidm.core import PokeidmError, atomic_path, choose_device, config_hash, read_json, safe_name, write_json

@given(st.text(max_size=300))
def test_safe_names_are_one_harmless_component(text):
    name = safe_name(text)
    assert 0 < len(name) <= 81 and not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not name.startswith((".", "-")) and ".." != name and safe_name(name) == name

@given(st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False) | st.text(max_size=5), max_size=5))
def test_hash_ignores_order(d): assert config_hash(d) == config_hash(dict(reversed(d.items())))

def test_full_disk_is_one_line_and_keeps_what_was_there(tmp_path):
    write_json(tmp_path/"x.json", [1])
    with pytest.raises(PokeidmError, match="cannot write .*free some space"):
        with atomic_path(tmp_path/"x.json") as tmp: tmp.write_text("half"); raise OSError(errno.ENOSPC, "No space left on device")
    assert read_json(tmp_path/"x.json") == [1] and [p.name for p in tmp_path.iterdir()] == ["x.json"]

def test_folder_is_replaced_as_a_whole(tmp_path):
    for n in (1, 2):
        with atomic_path(tmp_path/"d") as tmp: tmp.mkdir(); (tmp/f"{n}").write_text("")
    assert [p.name for p in (tmp_path/"d").iterdir()] == ["2"] and len(list(tmp_path.iterdir())) == 1

def test_killed_writer_leaves_the_old_file(tmp_path):
    write_json(tmp_path/"x.json", "old")
    code = f"from pokeidm.core import atomic_path; import time\nwith atomic_path({str(tmp_path/'x.json')!r}) as t: t.write_text('new'); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline(); child.send_signal(signal.SIGKILL); child.wait()
    assert read_json(tmp_path/"x.json") == "old"

def test_unknown_device(): 
    with pytest.raises(PokeidmError, match="abacus"): choose_device("abacus")

def test_what_a_killed_writer_left_is_cleared_away_and_an_old_folder_comes_back(tmp_path):
    code = """import os, sys; from pathlib import Path; from pokeidm import core
path, rename = Path(sys.argv[1]), os.rename
def rename_and_die(a, b): rename(a, b); os.kill(os.getpid(), 9)
if sys.argv[2] == "old": os.rename = rename_and_die
with core.atomic_path(path) as tmp:
    tmp.mkdir(); (tmp/"new").touch()
    if sys.argv[2] == "tmp": os.kill(os.getpid(), 9)"""
    for kind in ("tmp", "old"):
        (tmp_path/"d").mkdir(exist_ok=True); (tmp_path/"d"/"kept").touch()
        subprocess.run([sys.executable, "-c", code, tmp_path/"d", kind])
        assert len(list(tmp_path.glob(".d.*"))) == (1 if kind == "tmp" else 2)
        with pytest.raises(ZeroDivisionError):
            with atomic_path(tmp_path/"d"): 1/0
        assert [p.name for p in tmp_path.iterdir()] == ["d"] and (tmp_path/"d"/"kept").exists()
    (tmp_path/".d.elsewhere-1.tmp").mkdir()                   # of another machine: not ours to judge
    with atomic_path(tmp_path/"d") as tmp: tmp.mkdir()
    assert len(list(tmp_path.iterdir())) == 2

@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_a_process_that_ended_but_was_not_waited_for_is_gone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "from pokeidm import core; from pathlib import Path; import sys; core._beside(Path(sys.argv[1]), 'tmp').mkdir()", tmp_path/"d"])
    while not list(tmp_path.iterdir()) or open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()[0] != "Z": time.sleep(0.01)
    with atomic_path(tmp_path/"d") as tmp: tmp.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["d"]; process.wait()

def test_each_of_several_processes_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "999")
    with pytest.raises(PokeidmError, match="cuda:999"): choose_device("cuda")
    assert choose_device("cpu").type == "cpu"
