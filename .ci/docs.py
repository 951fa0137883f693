"""The pages of the project: every notebook with the outputs it has (nothing is run), the reference of every module from its docstrings, and a search.

    python .ci/docs.py [FOLDER]      writes them to FOLDER (default: _docs); fails if a link between them leads nowhere
"""
import json, logging, re, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {
    "site_name": "pokeidm", "theme": {"name": "readthedocs", "highlightjs": False, "navigation_depth": 2}, "use_directory_urls": False, "extra_css": ["style.css"],
    "markdown_extensions": ["tables", "md_in_html", "pymdownx.superfences", {"toc": {"permalink": True}}, {"pymdownx.highlight": {"noclasses": True, "pygments_style": "tango"}}],
    "validation": {"nav": {"omitted_files": "warn"}, "links": {"not_found": "warn", "anchors": "warn", "absolute_links": "ignore", "unrecognized_links": "warn"}},
    "plugins": ["search", {"mkdocstrings": {"handlers": {"python": {"paths": [str(ROOT)], "options": {
        "show_source": False, "show_root_heading": False, "show_root_toc_entry": False, "docstring_style": None, "members_order": "source", "heading_level": 2, "filters": ["!^_"], "separate_signature": True}}}}}],
}


def formulas(text):
    "Markdown with its LaTeX as MathML, which browsers draw by themselves; code is left alone."
    from latex2mathml.converter import convert
    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.S)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"\$\$(.+?)\$\$", lambda m: f"\n\n<div>{convert(m[1].strip(), display='block')}</div>\n\n", parts[i], flags=re.S)
        parts[i] = re.sub(r"(?<![\w$\\])\$(?=\S)([^$]+?)(?<=\S)\$(?!\w)", lambda m: f"<span>{convert(m[1])}</span>", parts[i])        # a line that begins with <math> would be a block
    return "".join(parts)


def page(path):
    "A notebook as Markdown: code that is not hidden, the outputs it has, links to pages in place of notebooks; and its pictures."
    import nbformat
    from nbconvert.exporters import MarkdownExporter
    nb = nbformat.read(path, as_version=4)
    nb.cells = [c for c in nb.cells if not re.search(r"^#\| *(hide|default_exp)\b", c.source, re.M)]
    for cell in nb.cells:
        if cell.cell_type != "code": cell.source = formulas(cell.source); continue
        cell.source = "" if "#| echo: false" in cell.source else re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
        for out in cell.outputs:
            data = out.get("data", {})
            if "application/vnd.jupyter.widget-view+json" in data: out.data = {"text/plain": "(a widget: open the notebook in JupyterLab to use it)"}
            if "text/html" in data: data["text/html"] = re.sub(r"\n\s*", "\n", data["text/html"]).strip()
    nb.metadata["language_info"] = {"name": "python"}
    text, resources = MarkdownExporter().from_notebook_node(nb)
    pictures = {f"{path.stem}_{name}": data for name, data in resources.get("outputs", {}).items()}
    for name in resources.get("outputs", {}): text = text.replace(f"({name})", f"({path.stem}_{name})")
    text = re.sub(r"^```python\s*\n```$", "", text, flags=re.M)
    return to_pages(text), pictures


def to_pages(text):
    "Markdown whose links to notebooks lead to their pages."
    return re.sub(r"\]\(([\w./]+)\.ipynb(#[\w-]+)?\)", r"](\1.md\2)", text)


def reference(module):
    "The page of one module: its docstring, and all that is public in it, with theirs."
    return f"# {module}\n\n::: pokeidm.{module}\n"


def names():
    "The page of the names that a user may rely on, each with where it is told."
    lines = ["# Names to rely on", "", "All else may change at any time."]
    for line in (ROOT/"pokeidm/__init__.pyi").read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith("# "): lines += ["", f"## {line[2:]}", ""]
        if found := re.match(r"from \.(\w+) import (.+)", line):
            lines += [f"- [`{name}`]({found[1]}.md#pokeidm.{found[1]}.{name})" for name in re.findall(r"as (\w+)", found[2])]
    return "\n".join(lines) + "\n"


def write_sources(folder):
    "Every page as Markdown in `folder`; returns the order in which they are shown."
    import shutil
    nav = {"Notebooks": [], "Studies": [], "Tutorials": [], "Reference": [], "Project": []}
    for path in sorted((ROOT/"nbs").rglob("*.ipynb")):
        name = path.relative_to(ROOT/"nbs").with_suffix(".md")
        target = folder/"nbs"/name
        target.parent.mkdir(parents=True, exist_ok=True)
        text, pictures = page(path)
        target.write_text(text, encoding="utf-8")
        for picture, data in pictures.items(): (target.parent/picture).write_bytes(data)
        if path.stem != "index": nav[name.parts[0].capitalize() if len(name.parts) > 1 else "Notebooks"].append({path.stem: f"nbs/{name.as_posix()}"})
    (folder/"reference").mkdir()
    (folder/"reference/names.md").write_text(names(), encoding="utf-8"); nav["Reference"].append({"names to rely on": "reference/names.md"})
    for path in sorted((ROOT/"pokeidm").glob("[a-z]*.py")):
        (folder/"reference"/f"{path.stem}.md").write_text(reference(path.stem), encoding="utf-8"); nav["Reference"].append({path.stem: f"reference/{path.stem}.md"})
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "data_samples/README.md"):
        text = to_pages((ROOT/name).read_text(encoding="utf-8"))
        (folder/name).parent.mkdir(exist_ok=True); (folder/name).write_text(text, encoding="utf-8"); nav["Project"].append({Path(name).stem.capitalize() if "/" not in name else "Samples and cards": name})
    (folder/"style.css").write_text(".wy-nav-content { max-width: 1200px } .rst-content .highlight pre code { border: 0; padding: 0 } .rst-content table td { white-space: normal !important }\n", encoding="utf-8")
    shutil.copytree(ROOT/"public", folder/"public", ignore=shutil.ignore_patterns("runs"))
    return [{"pokeidm": "nbs/index.md"}, *({title: pages} for title, pages in nav.items())]


def build(out):
    "Write the site to `out`; returns what was wrong."
    from mkdocs.commands.build import build as mkdocs
    from mkdocs.config import load_config
    wrong = []
    class Keep(logging.Handler):
        def emit(self, record): wrong.append(record.getMessage())
    logger = logging.getLogger("mkdocs"); logger.addHandler(keep := Keep(logging.WARNING))
    try:
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work)/"docs"; folder.mkdir()
            nav = write_sources(folder)
            config = Path(work)/"mkdocs.yml"; config.write_text(json.dumps(CONFIG | {"nav": nav}), encoding="utf-8")
            mkdocs(load_config(str(config), site_dir=str(Path(out).resolve()), strict=False))
        (Path(out)/"index.html").write_text('<meta http-equiv="refresh" content="0; url=nbs/index.html"><a href="nbs/index.html">pokeidm</a>\n', encoding="utf-8")
    finally: logger.removeHandler(keep)
    return wrong


if __name__ == "__main__":
    wrong = build(*sys.argv[1:] or [ROOT/"_docs"])
    for line in wrong: print(line, file=sys.stderr)
    sys.exit(bool(wrong))
