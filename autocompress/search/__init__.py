"""The search: ``autocompress.search(...)`` is a call, and this package is what stands behind it.

A function and a subpackage of one name would hide each other, whichever is imported later; so the module itself can be
called, and hands the call to `autocompress.search.session.search`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from autocompress.search.session import search

        return search(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
