"""Functions compiled by numba. The machine code is kept for the next process, where that is possible.

numba by itself raises an error where it cannot keep it (no folder that can be written to, a full disk), and at each use
of a kept file that is damaged.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
from numba.core.caching import FunctionCache

_NumbaCache: Any = FunctionCache  # without types


def compile_function(function: Callable[..., Any], signature: Any = None, **options: Any) -> Any:
    """Compile for ``signature`` now, or for any arguments at the first call with such (None).

    ``options`` are those of ``numba.njit``.
    """
    compiled = numba.njit(**options)(function)
    if compiled is function:  # NUMBA_DISABLE_JIT
        return function
    with suppress(RuntimeError):  # no folder that can be written to
        compiled._cache = _Cache(function)
    if signature is not None:
        compiled.compile(signature)
        compiled.disable_compile()
    return compiled


class _Cache(_NumbaCache):  # type: ignore[misc]
    """Files of numba. Those that cannot be used are replaced, and those that cannot be written are left out."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function; None if there is none to use."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged file may raise anything
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled function."""
        with suppress(OSError):
            super().save_overload(sig, data)
