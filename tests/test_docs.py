"""What is written is true: commands parse, links lead somewhere, nothing that is loaded can run code, and the pages can be built."""
import ast, json, re, shlex
from pathlib import Path
import pokeidm, pytest
from pokeidm.cli import COMMANDS, _underscores, make_parser
from pokeidm.core import PokeidmError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
PAGES = [ROOT/"README.md", ROOT/"CONTRIBUTING.md", ROOT/"CHANGELOG.md", ROOT/"data_samples/README.md", *NOTEBOOKS]

def prose(path):
    "The Markdown of a page, whether it is a file or the cells of a notebook."
    text = path.read_text(encoding="utf-8")
    return text if path.suffix == ".md" else "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")

def commands(text):
    "The lines that call pokeidm, in blocks and between backticks; what is left open (<model>, …) is no command."
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    found = [part for block in blocks for line in block.splitlines() for part in re.split(r"&&|\|", line.partition(" #")[0])]
    found += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    calls = (re.fullmatch(r"\s*(?:source <\()?(?:\.venv/bin/|python -m )?pokeidm((?: [^)]*)?)\)?\s*", f) for f in found)
    return [c[1].strip() for c in calls if c and not re.search(r"[<>…{}]|\.\.\.", c[1])]

def parse(line):
    argv = shlex.split(line)
    try: make_parser().parse_args(_underscores(argv))
    except PokeidmError as e:
        if "are required" not in str(e) or any(a.startswith("-") for a in argv): raise       # `pokeidm sync` in a sentence names the command
    except SystemExit as e: assert not e.code

@pytest.mark.parametrize("path", [p for p in PAGES if commands(prose(p))], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_command_that_is_written_can_be_given(path, capsys):
    for line in commands(prose(path)):
        try: parse(line)
        except PokeidmError as e: pytest.fail(f"pokeidm {line}: {e}")

def test_the_readme_names_every_command():
    named = {line.split()[0] for line in commands(prose(ROOT/"README.md")) if line}
    assert named >= {name for (name,) in COMMANDS}, {name for (name,) in COMMANDS} - named

def test_the_map_leads_to_every_notebook():
    linked = set(re.findall(r"\]\((nbs/[^)#]+\.ipynb)", prose(ROOT/"README.md")))
    missing = {p.relative_to(ROOT).as_posix() for p in NOTEBOOKS if p.stem != "index"} - linked
    assert not missing, f"link them in nbs/index.ipynb: {sorted(missing)}"

@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", re.sub(r"`[^`]*`|\$[^$]*\$", "", prose(path))):
        assert re.match(r"\w+:", target) or (path.parent/target).exists(), target

def unsafe(call):
    "Why a call could run what it loads, if it could."
    name, options = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
    if name in ("eval", "exec", "compile", "__import__", "os.system", "yaml.load") or name.split(".")[0] in ("pickle", "joblib", "dill", "marshal", "shelve"): return name
    if name == "torch.load" and options.get("weights_only") != "True": return "torch.load without weights_only"
    if options.get("allow_pickle", "False") != "False" or options.get("shell", "False") != "False": return name

def test_nothing_that_is_loaded_can_run_code():
    for path in (ROOT/"pokeidm").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call): assert not unsafe(node), f"{path.name}:{node.lineno}: {unsafe(node)}"
            if isinstance(node, (ast.Import, ast.ImportFrom)): assert not {"pickle", "dill", "joblib", "marshal", "shelve"} & {a.name.split(".")[0] for a in node.names}, f"{path.name}:{node.lineno}"

@pytest.fixture(scope="module")
def docs():
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("docs", ROOT/".ci/docs.py"); module = module_from_spec(spec); spec.loader.exec_module(module)
    return module

def test_the_pages_can_be_built_and_their_links_are_whole(docs, tmp_path):
    before = {p: p.read_bytes() for p in NOTEBOOKS}
    assert docs.build(tmp_path) == []
    pages = {p.relative_to(tmp_path).as_posix(): p.read_text(encoding="utf-8") for p in tmp_path.rglob("*.html")}
    assert pages.keys() >= {p.relative_to(ROOT).with_suffix(".html").as_posix() for p in NOTEBOOKS} | {f"reference/{p.stem}.html" for p in (ROOT/"pokeidm").glob("[a-z]*.py")} | {"CONTRIBUTING.html", "search.html"}
    for name, text in pages.items():
        for target in re.findall(r'(?:href|src)="([^"#?]+)', text):
            assert re.match(r"\w+:|//|/", target) or ((tmp_path/name).parent/target).exists(), (name, target)
    assert "‖soft − hard‖" in pages["reference/quant.html"] and "<math" in pages["nbs/14_quant.html"] and "collapsed" in pages["nbs/14_quant.html"]      # a docstring, a formula, an output
    assert all(f'.{name}"><code>' in pages["reference/names.html"] for name in pokeidm.__all__)
    assert "make_quantizer" in (tmp_path/"search/search_index.json").read_text(encoding="utf-8")
    assert before == {p: p.read_bytes() for p in NOTEBOOKS}

def test_a_link_that_leads_nowhere_is_told(docs, tmp_path, monkeypatch):
    def one_page(folder): (folder/"index.md").write_text("# One\n[gone](gone.md) [here](#nowhere)\n"); return [{"One": "index.md"}]
    monkeypatch.setattr(docs, "write_sources", one_page)
    wrong = " ".join(docs.build(tmp_path))
    assert "gone.md" in wrong and "nowhere" in wrong
