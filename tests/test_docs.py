"""What is written is true: commands parse, links lead somewhere, nothing that is loaded can run code, and the pages can be built."""
import ast, json, re, shlex, subprocess, sys
from pathlib import Path
import pytest
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
