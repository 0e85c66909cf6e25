"""Specs to the text of a module whose functions are kernels in C."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from symprop.codegen import special_c
from symprop.codegen.kernel import block_function, table_function
from symprop.codegen.lowering import LOOPS
from symprop.codegen.spec import FunctionSpec
from symprop.codegen.template_compiled import COMPILED, DRIVER, PRELUDE
from symprop.codegen.templates import template
from symprop.core.errors import RefusedError


def compiled_module(
    specs: Sequence[FunctionSpec], module_doc: str, describe: Callable[[FunctionSpec, str], dict[str, Any]], sibling: str
) -> str:
    """The text of the module; a function that has no kernel is that of the numpy module, if there is one beside it.

    ``describe`` gives the parts of a function that all backends share. Raises ``RefusedError`` for a formula that cannot be
    compiled where there is no ``sibling``.
    """
    kernels, plain = [], []
    for spec in specs:
        try:
            kernels.append((spec, _kernel(spec)))
        except RefusedError:
            if not sibling:
                raise
            plain.append(spec.name)
    # Ranges and defaults are checked in numpy.
    functions = [describe(spec, "compiled") for spec, _ in kernels]
    wanted = {helper for _, kernel in kernels for helper in kernel["helpers"]}
    names = {name for item in functions for name in (item["name"], item["result"]) if name}
    return template(COMPILED).render(
        module_doc=module_doc, names=repr(sorted({*names, *plain})), functions=functions, plain=sorted(plain),
        classes=[item for item in functions if item["result"]], kernels=[kernel for _, kernel in kernels],
        c_functions=[(name, text) for name, text in special_c.functions().items() if name in wanted],
        prelude=PRELUDE, driver=DRIVER,
        sibling=f"try:\n    from . import {sibling} as _numpy\nexcept ImportError:\n    import {sibling} as _numpy"
        if sibling else "",
    )


def _kernel(spec: FunctionSpec) -> dict[str, Any]:
    text = "\n".join(block_function(spec))
    # A table that a text calls comes before it; none calls another.
    called = [name for name in sorted(LOOPS) if re.search(rf"\beach{name}\(", text)]
    text = "\n".join((
        f"enum {{ INPUTS = {len(spec.parameters)}, OUTPUTS = {len(spec.outputs)} }};",
        *(table_function(name) for name in called), text,
    ))
    return {"name": spec.name, "helpers": tuple(special_c.needed(text)), "text": text}
