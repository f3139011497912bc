"""The device's one connection to the broker (`mqtt`) and what waits to be sent (`outbox`)."""

import importlib
import sys
from types import ModuleType
from typing import Any


class _LazyModule(ModuleType):
    """Stands for a module until one of its names is asked for."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def lazy_import(name: str) -> None:
    """Let `import name` cost nothing until it is used; nothing happens to what is imported already. name: `package.module`."""
    if name not in sys.modules:
        package, _, module = name.rpartition(".")
        stand_in = _LazyModule(name)
        setattr(importlib.import_module(package), module, stand_in)
        sys.modules[name] = stand_in


# paho asks it for a proxy where PySocks is installed; with it come HTTP and mail: a megabyte in a process that lives for years
lazy_import("urllib.request")
