"""Learn the buttons of a game from its video alone, then play the video.

`__init__.pyi` beside this file lists the names that a user may rely on. Type checkers read it, the README shows it, and here it says which
module a name comes from: that one is imported when the name is first used, so that `import pokeidm` costs nothing.
"""
__version__ = "0.1.0"

import importlib, pkgutil, re

_STUB = (pkgutil.get_data(__name__, "__init__.pyi") or b"").decode()
_WHERE = {name: module for module, names in re.findall(r"^from \.(\w+) import (.+)$", _STUB, re.M) for name in re.findall(r"as (\w+)", names)}
__all__ = [*_WHERE]

def __getattr__(name):
    if name not in _WHERE: raise AttributeError(f"module 'pokeidm' has no attribute '{name}'")
    return getattr(importlib.import_module(f"pokeidm.{_WHERE[name]}"), name)

def __dir__(): return ["__version__", *__all__]
