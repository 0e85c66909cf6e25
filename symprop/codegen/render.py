"""Specs to the text of a standalone module, and a spec to a function."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from hashlib import sha256
from types import ModuleType
from typing import Any

import sympy as sp

from symprop.codegen import cells, special, special_means, special_softmax
from symprop.codegen.compiled import compiled_module
from symprop.codegen.in_place import layer_in_place
from symprop.codegen.loops import formula_text, loop_texts
from symprop.codegen.loops import helpers as loop_helpers
from symprop.codegen.lowering import Assignment, LoopProgram, in_groups, loop_program, lower, program
from symprop.codegen.printers import Code
from symprop.codegen.recursion import Recursion
from symprop.codegen.spec import FunctionSpec, Parameter
from symprop.codegen.special_layer import layer_texts
from symprop.codegen.special_means import means_texts
from symprop.codegen.templates import HELPERS, TEMPLATES, template
from symprop.core.errors import RefusedError, UnknownNameError
from symprop.core.symbols import layer
from symprop.functions.arc_cosine import AbsoluteGap, ArcCosine
from symprop.functions.piece_rule import PIECE_FUNCTIONS

BACKENDS = ("numpy", "torch", "compiled")
BLOCKED_OPERATIONS = 9
"""Formulas with fewer operations and no angle are bound by memory: their blocks are so large that going from one to the next
costs nothing beside it."""
_SHAPES = {
    "numpy": (
        "Every argument is a number or an array; they broadcast against each other as in numpy and the result has the "
        "broadcast shape and dtype float64 (a numpy float64 for numbers). A value outside its range raises "
        "ValueError where ranges are checked: always with ``check=True``, never with ``check=False``, up to 100000 "
        "points by default. Unchecked, the result there is meaningless."
    ),
    "compiled": (
        "Every argument is a number or an array; they broadcast against each other as in numpy and the result has the "
        "broadcast shape and dtype float64 (a numpy float64 for numbers). Ranges are checked as in the numpy module. "
        "``workers`` threads share the points, with the same result."
    ),
    "torch": (
        "Every argument is a number or a tensor; they broadcast against each other and the result has the broadcast "
        "shape and the dtype of the floating tensors given, float64 where there is none. It is differentiable in "
        "every real argument. Ranges are not checked; outside them the result is meaningless or nan."
    ),
}


def render(specs: Sequence[FunctionSpec], backend: str, module_doc: str, sibling: str = "") -> str:
    """The text of a module with one function per spec, in the order given; the same bytes in every run.

    ``backend`` is ``numpy``, ``torch`` or ``compiled``; the module imports numpy or torch, for several outputs ``typing``, and,
    where it is compiled, what runs a compiler, and ``sibling``, the name of the numpy module of the same specs. Raises
    ``UnknownNameError`` for another backend and ``RefusedError`` for a formula that the backend has no text for.

    >>> from symprop.codegen.spec import parameters
    >>> from symprop.core.symbols import L, alpha_1
    >>> spec = FunctionSpec("growth", parameters(alpha_1, L), (("C", (1 + alpha_1**2)**L),), "Growth of C.")
    >>> print(render([spec], "torch", "Growth.").splitlines()[-3].strip())
    x1 = torch.exp(L*x0)
    """
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    if len({spec.name for spec in specs}) < len(specs) or _unsafe(module_doc):
        raise RefusedError("render", "two functions of one name, or a docstring that would end early",
                           "rename one of them and keep quotes and final backslashes out of the docstring")
    if backend == "compiled":
        return _tidy(compiled_module(specs, module_doc, _interface, sibling))
    functions = [_function(spec, backend) for spec in specs]
    used = "\n".join(line for item in functions for line in _lines(item))
    loops = [*loop_texts(used, backend), *layer_texts(used, backend), *means_texts(used, backend)]
    used = "\n".join((used, *loops))
    text = template(TEMPLATES[backend]).render(
        module_doc=module_doc,
        names=repr(sorted(name for item in functions for name in (item["name"], item["result"]) if name)),
        helpers=[helper for name, helper in _helpers(backend).items() if re.search(rf"(?<![.\w]){name}\(", used)] + loops,
        classes=[item for item in functions if item["result"]],
        functions=functions,
        loops=any(item["loop"] for item in functions),
        settles=any(item["settles"] for item in functions),
    )
    return _tidy(text)


def _tidy(text: str) -> str:
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip() + "\n"
    return re.sub(r"\n+(?=(?:def|class) )", "\n\n\n", text)


@cache
def _helpers(backend: str) -> dict[str, str]:
    rule = {
        name: formula_text(name, (kind.__doc__ or "").splitlines()[0], kind.formula(), backend)
        for kind, name in PIECE_FUNCTIONS.items()
    }
    found = (HELPERS[backend], special.helpers(backend), cells.helpers(backend), special_softmax.helpers(backend),
             special_means.helpers(backend), loop_helpers(backend), rule)
    return {name: text for texts in found for name, text in texts.items()}


def load(spec: FunctionSpec, backend: str = "numpy") -> Callable[..., Any]:
    """The generated function itself, made by running the rendered text.

    >>> from symprop.codegen.spec import parameters
    >>> from symprop.core.symbols import L, alpha_1
    >>> spec = FunctionSpec("growth", parameters(alpha_1, L), (("C", (1 + alpha_1**2)**L),), "Growth of C.")
    >>> load(spec)(alpha_1=1.0, L=[1, 2, 10]).round(9).tolist()
    [2.0, 4.0, 1024.0]
    """
    beside = {"_numpy": _module(spec, "numpy")} if backend == "compiled" else {}
    function: Callable[..., Any] = getattr(_module(spec, backend, **beside), spec.name)
    return function


def _module(spec: FunctionSpec, backend: str, **beside: ModuleType) -> ModuleType:
    """A module of the spec, under a name of its own: torch.compile looks the module of a function up."""
    text = render([spec], backend, spec.summary)
    module = ModuleType(f"symprop_{spec.name}_{backend}_{sha256(text.encode()).hexdigest()[:12]}")
    vars(module).update(beside)
    exec(compile(text, f"<symprop {spec.name} {backend}>", "exec", dont_inherit=True), vars(module))
    sys.modules[module.__name__] = module
    return module


def _lines(item: dict[str, Any]) -> Iterable[str]:
    """The assignments of a function."""
    for group in item["groups"]:
        yield from group["lines"]
    if item["loop"]:
        yield from (*item["loop"]["body"], *item["loop"]["after"])


def _assignments(items: Iterable[Assignment], code: Code) -> list[str]:
    return [f"{item.name} = {code.text(item.expression)}" for item in items]


def _loop(spec: FunctionSpec, recursion: Recursion, lowered: LoopProgram, code: Code) -> dict[str, Any]:
    """The parts of a loop as text: calls into arrays in numpy, expressions in torch, where a constant state is not yet one."""
    if code.backend == "numpy":
        in_place = layer_in_place(spec, recursion, lowered)
        layers: dict[str, Any] = {"in_place": in_place, "body": in_place.lines}
    else:
        updates = [{"text": code.text(item), "constant": not item.free_symbols} for item in lowered.updates]
        layers = {"body": _assignments(lowered.body, code), "updates": updates}
    settled = None if recursion.settled is None else code.text(lower(recursion.settled))
    return {
        "count": str(recursion.count),
        "state": [str(symbol) for symbol in recursion.state],
        "starts": [{"text": code.text(item), "constant": not item.free_symbols} for item in lowered.starts],
        "index": str(layer) if recursion.varies else "",
        **layers,
        "settled": settled,
        "operations": lowered.operations,
        "after": _assignments(lowered.after.assignments, code),
    }


def _function(spec: FunctionSpec, backend: str) -> dict[str, Any]:
    code, recursion = Code(backend), spec.recursion
    if recursion is None:
        lowered = program(spec)
        once, results, operations, loop = lowered.assignments, lowered.results, lowered.operations, None
    else:
        whole = loop_program(spec, recursion)
        once, results, operations = whole.before, whole.after.results, whole.other_operations
        loop = _loop(spec, recursion, whole, code)
    everything = (1 << len(spec.signature)) - 1
    groups = [
        {"mask": bin(mask), "always": mask == everything,
         "lines": _assignments(group, code)}
        for mask, group in in_groups(once)
    ]
    outputs = [
        {"name": name, "text": code.text(result), "constant": not result.free_symbols}
        for (name, _), result in zip(spec.outputs, results, strict=True)
    ]
    angles = any(expression.has(ArcCosine, AbsoluteGap) for expression in _formulas(spec))
    return _interface(spec, backend) | {
        "branches": any(expression.has(sp.Piecewise) for expression in _formulas(spec)),
        "groups": groups,
        "outputs": outputs,
        "operations": operations,
        "loop": loop,
        "block": "_LOOP_BLOCK" if loop else "_BLOCK" if operations >= BLOCKED_OPERATIONS or angles else "1 << 17",
    }


def _interface(spec: FunctionSpec, backend: str) -> dict[str, Any]:
    """What a function takes and returns; a compiled one checks its arguments in numpy."""
    code = Code("numpy" if backend == "compiled" else backend)
    signature = spec.signature
    names = [parameter.name for parameter in signature]
    inputs = {symbol for default in spec.defaults.values() for symbol in default.free_symbols} - set(spec.defaults)
    return {
        "name": spec.name,
        "result": "".join(part.title() for part in spec.name.split("_")) + "Result" if len(spec.outputs) > 1 else "",
        "signature": _wrapped((p.name + ("=None" if p.symbol in spec.defaults else "") for p in signature), 4),
        "names": names,
        "arguments": _wrapped(names, 8),
        "arguments_inner": _wrapped(names, 12),
        "default_inputs": sorted(str(symbol) for symbol in inputs),
        "defaults": [{"name": str(s), "text": _plain(value, code, names[0])} for s, value in spec.defaults.items()],
        "domains": [_domain(parameter) for parameter in signature],
        "bounds": list(_bounds(signature, code)),
        "outputs": [{"name": name} for name, _ in spec.outputs],
        "settles": spec.recursion is not None and spec.recursion.settled is not None,
        "doc": _docstring(spec, backend),
    }


def _formulas(spec: FunctionSpec) -> Iterable[sp.Expr]:
    yield from (expression for _, expression in spec.outputs)
    if spec.recursion is not None:
        yield from (*spec.recursion.start.values(), *spec.recursion.updates.values())


def _wrapped(items: Iterable[str], indent: int) -> str:
    """A comma-separated list over as many lines as it needs, the first without its indent."""
    margin = " " * indent
    return textwrap.fill(", ".join(items), 100, initial_indent=margin, subsequent_indent=margin).lstrip()


def _plain(expression: sp.Expr, code: Code, like: str) -> str:
    """A default as code; it is small and evaluated once, so it is not shared with the formulas."""
    text = code.text(lower(expression))
    return f"{like}.new_full((), {text})" if code.backend == "torch" and not expression.free_symbols else text


def _domain(parameter: Parameter) -> str:
    """The constant part of a range as the arguments of the generated check, or None where there is nothing to check."""
    domain = parameter.domain
    lower, upper = domain.bounds()
    if lower is None and upper is None and not domain.integer:
        return "None"
    return repr((parameter.name, lower, upper, domain.integer, domain.open_lower, str(domain)))


def _bounds(signature: Sequence[Parameter], code: Code) -> Iterable[dict[str, Any]]:
    """The bounds that depend on other parameters of the function, as conditions.

    Where a lower bound is known not to be positive, a comparison with zero comes first: it is cheaper.
    """
    bits = {parameter.symbol: 1 << k for k, parameter in enumerate(signature)}
    for parameter in signature:
        domain = parameter.domain
        for bound, relation in ((domain.lower, ">" if domain.open_lower else ">="), (domain.upper, "<=")):
            if bound is not None and bound.free_symbols and bound.free_symbols <= set(bits):
                below = bound is domain.lower
                negative = below and (bound.is_nonpositive or (1 / bound).is_nonpositive)
                yield {
                    "unless": f" and not np.minimum.reduce({parameter.name}, axis=None) > 0" if negative else "",
                    "name": parameter.name, "allowed": str(domain),
                    "text": f"{parameter.name} {relation} {code.text(lower(bound))}",
                    "mask": bin(sum(bits[symbol] for symbol in bound.free_symbols | {parameter.symbol})),
                }


def _docstring(spec: FunctionSpec, backend: str) -> str:
    def paragraph(text: str, indent: str = "    ", more: str = "") -> str:
        return textwrap.fill(text, 116, initial_indent=indent, subsequent_indent=indent + more,
                             break_long_words=False, break_on_hyphens=False)

    lines = [spec.summary, "", "    .. math::", "", f"        {spec.formula_latex}", "", "    Args:"]
    for parameter in spec.signature:
        default = spec.defaults.get(parameter.symbol)
        ending = "" if default is None else f"; default {default}"
        lines.append(paragraph(f"{parameter.name}: {parameter.meaning}, {parameter.domain}{ending}.", " " * 8, "    "))
    if len(spec.outputs) > 1:
        lines += ["", paragraph(f"Returns the fields {', '.join(name for name, _ in spec.outputs)}.")]
    lines += ["", paragraph(_SHAPES[backend])]
    if spec.recursion is not None:
        lines += ["", paragraph(_loop_note(spec.recursion, backend))]
    if spec.assumptions:
        lines += ["", "    Assumes:"]
        lines += [paragraph(f"{item}", " " * 8, "    ") for item in spec.assumptions]
    lines += ["", paragraph(f"Neglected: {'nothing (exact)' if spec.neglected == 'exact' else spec.neglected}.")]
    if spec.rounded_as_one:
        lines.append(paragraph(f"Rounding: of {', '.join(spec.rounded_as_one)} as of 1, absolute where they are small."))
    if spec.sources:
        lines.append(paragraph(f"Source: {'; '.join(str(source) for source in spec.sources)}."))
    text = "\n".join(lines)
    if _unsafe(text):
        raise RefusedError(f"FunctionSpec({spec.name!r})", "its docstring would end early",
                           "keep triple quotes and final backslashes out of its texts")
    return text


def _loop_note(loop: Recursion, backend: str) -> str:
    """How the loop runs and when it ends."""
    note = f"The layers are a loop; an array of several depths {loop.count} costs one loop to the deepest."
    torch = backend == "torch"
    note += " Derivatives go through all layers." if torch else ""
    ends = [] if torch or loop.varies else ["where the states repeat those of eight layers ago"]
    if loop.settled is not None:
        ends.append(f"where {loop.settled} is at most ``settle`` everywhere, which is off at the default 0: the result is then "
                    f"that of the depth reached{', and it cannot be mapped by torch.func.vmap' if torch else ''}")
    if ends:
        note += f" {'The loop' if torch else 'A block of points'} ends early {', or '.join(ends)}."
    return note


def _unsafe(text: str) -> bool:
    return '"""' in text or text.endswith(("\\", '"'))
