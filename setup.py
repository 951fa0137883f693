"""Package metadata, all of it read from settings.ini."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in ("notebooks", "cluster", "wandb", "dev")}
extras["dev"] += extras["notebooks"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="MIT",
    keywords=cfg["keywords"],
    classifiers=[f"Programming Language :: Python :: {v}" for v in cfg["pythons"].split()] + ["Intended Audience :: Science/Research"],
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=["pokeidm*"]),
    package_data={"pokeidm": ["static/*", "py.typed", "*.pyi"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": [cfg["console_scripts"]]},
)
