"""Runs the notebooks and writes the README from one of them.

    python .ci/nb.py run nbs/20_lam.ipynb ...   execute and keep the outputs (flagged cells keep their stored ones)
    python .ci/nb.py run --slow nbs/...         execute the `slow` cells too (`--cuda` likewise)
    python .ci/nb.py readme                     render nbs/index.ipynb into README.md
"""
import os, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.environ.update(TQDM_DISABLE="1", IN_TEST="1", PYTHONWARNINGS="ignore")
sys.path.insert(0, str(ROOT))


def run(path, flags):
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell
    from nbdev.process import extract_directives
    nb, skipped = read_nb(path), {"slow", "cuda"} - flags

    def skip(cell):
        if cell.cell_type != "code": return True
        source = cell.source
        directives = extract_directives(cell, remove=False)
        cell.source = source
        return directives.get("eval:", [""])[0].lower() == "false" or bool(skipped & directives.keys())

    shell = CaptureShell(path, mpl_format="png")
    os.chdir(path.parent)
    try: shell.run_all(nb, exc_stop=True, preproc=skip)
    except BaseException:
        print(shell.prettytb(fname=path), file=sys.stderr)
        return False
    finally: os.chdir(ROOT)
    for cell in nb.cells:
        if cell.cell_type == "code": cell["execution_count"] = None
    write_nb(nb, path)
    return True


def readme():
    import re
    import nbformat
    from nbconvert.exporters import MarkdownExporter
    nb = nbformat.read(ROOT / "nbs/index.ipynb", as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code" and "#| echo: false" in cell.source: cell.source = ""
        for out in cell.get("outputs", []): out.get("data", {}).pop("text/plain", None)
    text, resources = MarkdownExporter().from_notebook_node(nb)
    for name, data in resources.get("outputs", {}).items():
        (ROOT / "public/readme").mkdir(parents=True, exist_ok=True)
        (ROOT / "public/readme" / name).write_bytes(data)
        text = text.replace(f"({name})", f"(public/readme/{name})")
    text = re.sub(r"\]\((?=(?:(?:studies|tutorials)/)?\w+\.ipynb)", "](nbs/", re.sub(r"\]\(\.\./", "](", text))
    text = re.sub(r"```(?:python)?\s*```", "", text)
    (ROOT / "README.md").write_text(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    args = sys.argv[1:]
    if args[:1] == ["readme"]: readme()
    elif args[:1] == ["run"]:
        flags = {a[2:] for a in args[1:] if a.startswith("--")}
        ok = [run(Path(a).resolve(), flags) for a in args[1:] if not a.startswith("--")]
        sys.exit(not all(ok))
    else: sys.exit(__doc__)
