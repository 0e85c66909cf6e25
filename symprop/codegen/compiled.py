"""Specs to the text of a module whose functions are kernels in C."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from symprop.codegen import special_c
from symprop.codegen.kernel import block_function, table_function, table_name
from symprop.codegen.lowering import LOOPS
from symprop.codegen.spec import FunctionSpec
from symprop.codegen.template_compiled import BLOCK, COMPILED, DRIVER, PRELUDE
from symprop.codegen.templates import template
from symprop.core.errors import RefusedError
from symprop.functions.table_sum import table_rows


def compiled_module(
    specs: Sequence[FunctionSpec], module_doc: str, describe: Callable[[FunctionSpec, str], dict[str, Any]], sibling: str
) -> str:
    """The text of the module; a function that has no kernel is that of the numpy module, if there is one beside it.

    ``describe`` gives the parts of a function that all backends share. Raises ``RefusedError`` for a formula that cannot be
    compiled where there is no ``sibling``.
    """
    kernels: list[tuple[FunctionSpec, str]] = []
    plain: list[str] = []
    texts: dict[str, str] = {}
    for spec in specs:
        try:
            text = "\n".join(block_function(spec))
            texts |= _sums(text)
        except RefusedError:
            if not sibling:
                raise
            plain.append(spec.name)
        else:
            kernels.append((spec, f"enum {{ INPUTS = {len(spec.parameters)}, OUTPUTS = {len(spec.outputs)} }};\n{text}"))
    known = special_c.functions() | texts
    helpers = {spec.name: special_c.needed(text, known) for spec, text in kernels}
    wanted = set().union(*helpers.values(), set())
    # Ranges and defaults are checked in numpy.
    functions = [describe(spec, "compiled") for spec, _ in kernels]
    names = {name for item in functions for name in (item["name"], item["result"]) if name}
    return template(COMPILED).render(
        module_doc=module_doc, names=repr(sorted({*names, *plain})), functions=functions, plain=sorted(plain),
        classes=[item for item in functions if item["result"]],
        kernels=[{"name": spec.name, "helpers": tuple(helpers[spec.name]), "text": text} for spec, text in kernels],
        c_functions=[(name, text) for name, text in known.items() if name in wanted],
        block=BLOCK, prelude=PRELUDE, driver=DRIVER,
        sibling=f"try:\n    from . import {sibling} as _numpy\nexcept ImportError:\n    import {sibling} as _numpy"
        if sibling else "",
    )


def _sums(text: str) -> dict[str, str]:
    """The tables, and the functions that sum them, that a text calls, by name."""
    names = [name for name in sorted(LOOPS) if re.search(rf"\beach{name}\(", text)]
    tables = {table_name(LOOPS[name]): LOOPS[name].table for name in names}
    return {
        **{key: special_c.constant_table(key, table_rows(table)) for key, table in sorted(tables.items())},
        **{f"each{name}": table_function(name) for name in names},
    }
