"""What `pokeidm` promises from Python: these names and no others, light to import, documented, and with types that hold."""
import ast, inspect, re, subprocess, sys
from pathlib import Path
import pytest
import pokeidm

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT/"README.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"^## Python\n\n```python\n(.*?)^```", README, re.M | re.S)[1]

def python(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout

def test_the_list_is_small_and_shown_in_the_readme():
    table = README.partition("## Python\n")[2].partition("| for | names |")[2].partition("\n\n")[0]
    assert re.findall(r"`(\w+)`", table) == pokeidm.__all__ and len(set(pokeidm.__all__)) == len(pokeidm.__all__) <= 45

def test_nothing_else_is_promised():
    assert set(dir(pokeidm)) == {"__version__", *pokeidm.__all__}
    with pytest.raises(AttributeError, match="no attribute 'Tokeniser'"): pokeidm.Tokeniser
    with pytest.raises(ImportError): exec("from pokeidm import Tokeniser")

def test_names_resolve_to_one_documented_thing_whatever_was_imported_before():
    python("import pokeidm, pkgutil, importlib\n"
           "first = {n: getattr(pokeidm, n) for n in pokeidm.__all__}\n"
           "for m in pkgutil.iter_modules(pokeidm.__path__):\n    if m.name != '__main__': importlib.import_module('pokeidm.' + m.name)\n"      # a module of that name would stand in its place
           "for n, x in first.items(): assert getattr(pokeidm, n) is x and x.__name__ == n and len(x.__doc__) > 20 and 'auto-generated' not in x.__doc__, n")

def test_the_package_is_light_until_a_name_is_used():
    python("import sys, pokeidm; assert not {'torch', 'numpy', 'av', 'matplotlib'} & sys.modules.keys(); pokeidm.PokeidmError; assert 'torch' not in sys.modules")

def test_the_readmes_example_runs(): assert python(EXAMPLE).count("left") >= 7

def _functions(name):
    "The function `name`, or the public methods of the class and of what it is made of."
    thing = getattr(pokeidm, name)
    if not inspect.isclass(thing): return {name: thing}
    of = [(k, v.fget if isinstance(v, property) else getattr(v, "__func__", v)) for c in thing.__mro__ if c.__module__.startswith("pokeidm") for k, v in vars(c).items()]
    special = ("__init__", "__call__", "__getitem__", "__len__", "__iter__", "__contains__")
    return {f"{name}.{k}": v for k, v in of if inspect.isfunction(v) and inspect.unwrap(v).__module__.startswith("pokeidm") and (k[0] != "_" or k in special)}

@pytest.mark.parametrize("name", pokeidm.__all__)
def test_every_argument_and_every_result_has_a_type(name):
    for where, f in _functions(name).items():
        f = inspect.unwrap(f)
        if f.__code__.co_filename == "<string>": continue                                                # what dataclass wrote: its fields have types
        s = inspect.signature(f)
        bare = [p.name for p in s.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")]
        assert not bare and (s.return_annotation is not s.empty or f.__name__ == "__init__"), (where, bare)

def check(*files, cache):
    "What mypy says of `files`, in short."
    args = ["--config-file", ROOT/".ci/mypy.ini", "--python-executable", sys.executable, "--cache-dir", cache]
    done = subprocess.run([sys.executable, "-m", "mypy", *map(str, args), *map(str, files)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode < 2 and not done.stderr, done.stdout + done.stderr
    return re.sub(r"^Success.*\n", "", done.stdout)

def test_types_hold(tmp_path):
    pytest.importorskip("mypy")
    usage, readme, wrong, cache = ROOT/"tests/typed_usage.py", tmp_path/"readme.py", tmp_path/"wrong.py", tmp_path/"cache"
    used = {n.id for n in ast.walk(ast.parse(usage.read_text(encoding="utf-8"))) if isinstance(n, ast.Name)}
    assert used >= set(pokeidm.__all__), set(pokeidm.__all__) - used
    readme.write_text(EXAMPLE)
    assert check(ROOT/"pokeidm", usage, readme, cache=cache) == ""
    wrong.write_text("from pokeidm import Tokeniser, index_video, psnr\nindex_video(3)\nx: int = psnr\n")    # types that say yes to anything are none
    found = check(wrong, cache=cache)
    assert all(f"wrong.py:{line}: error" in found for line in (1, 2, 3)) and "Found 3 errors" in found, found
