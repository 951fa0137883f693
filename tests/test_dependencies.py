"""What the package imports is declared, what is declared is imported and in the notes on licences, and nobody imports what is not used."""
import ast, json, re, sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT/"pokeidm").glob("*.py"))
PACKAGES = {"sklearn": "scikit-learn", "yt_dlp": "yt-dlp", "PIL": "pillow", "distributed": "dask"}      # where the module has another name
CARRIED = {"pillow": "matplotlib", "botocore": "boto3", "scipy": "scikit-learn", "nbformat": "jupyterlab", "shtab": None, **dict.fromkeys(("zarr", "webdataset", "cv2"))}   # required by one of ours; None: done without

PEERS = {"loss", "models", "utils", "dynamics_model", "latent_action_model", "video_tokenization"}         # of the clones that `bench --peer` is given

def declared(kind):
    cfg = ConfigParser(delimiters=["="]); cfg.read(ROOT/"settings.ini", encoding="utf-8")
    return {re.split(r"[\[><=!~]", r)[0].lower() for r in cfg["DEFAULT"][kind].split()}

def imports(path):
    "Top names of what a file imports, without its own and the standard library's, and the line of each."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        for top in {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) - {"pokeidm"} - PEERS: yield PACKAGES.get(top, top), node.lineno

USED = {package for path in MODULES for package, _ in imports(path)}
BY_NAME = {"tensorboard": "torch.utils.tensorboard", "jupyterlab": '"jupyterlab"'}     # loaded through another, or started

def test_what_is_imported_is_declared():
    known = set().union(*(declared(f"{k}requirements") for k in ("", "notebooks_", "cluster_", "wandb_")))
    missing = {f"{path.name}:{line} {p}" for path in MODULES for p, line in imports(path) if p not in known and p not in CARRIED}
    assert not missing
    for p, by in CARRIED.items():
        assert p in USED and (by is None or by in known), f"{p} is no longer carried by {by}"
        if by and by != "jupyterlab": assert any(re.match(rf"{p}\b", r) for r in metadata(by).get_all("Requires-Dist")), f"{by} no longer requires {p}"

def test_what_is_declared_is_imported():
    text = "".join(p.read_text(encoding="utf-8") for p in MODULES)
    for p in set().union(*(declared(f"{k}requirements") for k in ("", "notebooks_", "cluster_", "wandb_"))) - USED:
        assert p in BY_NAME and BY_NAME[p] in text, f"{p} is declared in settings.ini, and nothing imports it"

def notes():
    "{package: licence} of the table in CONTRIBUTING.md."
    rows = re.findall(r"^\| ([a-z][\w, -]*) \| (.+?) \|$", (ROOT/"CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    return {name.strip(): licence for names, licence in rows for name in names.split(",")}

def test_every_runtime_dependency_is_in_the_notes():
    assert not set().union(*(declared(f"{k}requirements") for k in ("", "notebooks_", "cluster_", "wandb_"))) - notes().keys()

@pytest.mark.parametrize("name", sorted(notes()))
def test_the_notes_agree_with_the_package(name):
    try: meta = metadata(name)
    except PackageNotFoundError: pytest.skip("not installed")
    said = " ".join([meta.get("License-Expression") or meta.get("License") or "", *(c for c in meta.get_all("Classifier", []) if c.startswith("License"))])
    words = {"BSD": "BSD", "Apache": "Apache", "MIT": "MIT", "MPL": "MPL|Mozilla", "Python": "Python|PSF", "Unlicense": "Unlicense|Public Domain"}
    noted = [w for k, w in words.items() if k in notes()[name].split(", with")[0]]
    assert noted and all(re.search(w, said) for w in noted), (notes()[name], said[:300])

def cells(path):
    "The code of the notebook that a module is exported from: its cells that stay there use the module's imports too."
    return [re.sub(r"^[%!].*$", "", "".join(c["source"]), flags=re.M) for nb in (ROOT/"nbs").glob(f"[0-9][0-9]_{path.stem}.ipynb") for c in json.loads(nb.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]

def unused(path):
    "Names that a file imports at any place and never says again."
    text = path.read_text(encoding="utf-8")
    given = {(a.asname or a.name).split(".")[0]: n.lineno for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    said = {n.id if isinstance(n, ast.Name) else n.arg for t in (text, *cells(path)) for n in ast.walk(ast.parse(t)) if isinstance(n, ast.Name | ast.arg)}
    return {f"{path.name}:{line} {name}" for name, line in given.items() if name not in said and name != "*"}

def test_nothing_is_imported_for_nothing():
    assert not set().union(*map(unused, [*MODULES, *sorted((ROOT/"tests").glob("*.py"))]))
