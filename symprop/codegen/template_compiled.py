"""The text around compiled kernels: how a module builds, keeps and runs them, and what it does without a compiler."""

from symprop.codegen.templates import FUNCTION_HEAD, MODULE_HEAD, classes

BLOCK = 136
"""Points at a time: what a layer reads of them fits the innermost cache, and an odd number of cache lines an array spreads
many arrays over all of it, where a power of two lets them evict one another."""

PRELUDE = f'''\
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
enum {{ BLOCK = {BLOCK}, SETTLE_EVERY = 8 }};'''

DRIVER = '''\
/* Points `start` to `stop` of a broadcast shape; strides are in numbers, zero along an axis of which an argument is free. */
void kernel(int64_t start, int64_t stop, int64_t axes, const int64_t *shape, const double *const *data,
            const int64_t *strides, double *const *to, double settle) {
    double in[INPUTS][BLOCK], out[OUTPUTS][BLOCK];
    for (int64_t at = start; at < stop; at += BLOCK) {
        const int64_t count = stop - at < BLOCK ? stop - at : BLOCK, last = axes - 1;
        for (int k = 0; k < INPUTS; k++) {
            const int64_t *stride = strides + k*axes;
            int64_t index[64], rest = at, from = 0;
            for (int64_t axis = last; axis >= 0; axis--) {
                index[axis] = rest % shape[axis];
                rest /= shape[axis];
                from += index[axis]*stride[axis];
            }
            for (int64_t i = 0; i < count;) {
                const int64_t left = shape[last] - index[last], run = left < count - i ? left : count - i;
                for (int64_t j = 0; j < run; j++) in[k][i + j] = data[k][from + j*stride[last]];
                i += run;
                index[last] += run;
                from += run*stride[last];
                for (int64_t axis = last; axis > 0 && index[axis] == shape[axis]; axis--) {
                    from += stride[axis - 1] - shape[axis]*stride[axis];
                    index[axis] = 0;
                    index[axis - 1]++;
                }
            }
        }
        block(count, in, out, settle);
        for (int k = 0; k < OUTPUTS; k++) memcpy(to[k] + at, out[k], count*sizeof(double));
    }
}'''

COMPILED = MODULE_HEAD + '''

Every function is compiled by the C compiler of the machine when it is first called, and kept for later in the folder
that SYMPROP_CACHE names (or that of the user's caches). Without a compiler it is the function of the numpy module, which must
lie beside this one.
"""

import ctypes
import os
import threading
import warnings
{% if classes %}
from typing import NamedTuple
{% endif %}

import numpy as np

{{ sibling }}

__all__ = {{ names }}

_CHECKED_POINTS = 100_000
_BLOCK = {{ block }}
_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_LOADED = {}
_LOCK = threading.Lock()


def _processor():
    """What code made for this very processor depends on."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        import platform

        return f"{platform.machine()} {platform.processor()}"


def _folder():
    """Where compiled functions are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("SYMPROP_CACHE") or os.path.join(base, "symprop")


def _kernel(name):
    """The compiled function, or None where there is no compiler."""
    if name not in _LOADED:
        with _LOCK:
            if name not in _LOADED:
                _LOADED[name] = _load(name)
    return _LOADED[name]


def _load(name):
    import hashlib

    helpers, text = _KERNELS[name]
    source = "\\n".join((_PRELUDE, *(_FUNCTIONS[helper] for helper in helpers), text, _DRIVER, ""))
    key = hashlib.sha256("\\n".join((source, *_FLAGS, _processor())).encode()).hexdigest()[:24]
    path = os.path.join(_folder(), f"{name}-{key}.so")
    for attempt in range(2):
        try:
            if attempt or not os.path.exists(path):
                path = _build(source, path)
            function = ctypes.CDLL(path).kernel
        except OSError as error:
            problem = error
            continue
        whole, pointer = ctypes.c_int64, ctypes.c_void_p
        function.argtypes = [whole, whole, whole, pointer, pointer, pointer, pointer, ctypes.c_double]
        function.restype = None
        return function
    warnings.warn(f"{name} runs as numpy: {problem}", RuntimeWarning, stacklevel=5)
    return None


def _build(source, path):
    """Compile beside the place of the library and move it there; raise OSError with the reason where that fails."""
    import shlex
    import shutil
    import subprocess
    import tempfile

    given = os.environ.get("CC")
    compiler = shlex.split(given) if given else [next(filter(shutil.which, ("cc", "gcc", "clang")), "")]
    if not compiler or not shutil.which(compiler[0]):
        raise OSError(f"no C compiler {given}" if given else "no C compiler (cc, gcc or clang)")
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        staging = tempfile.mkdtemp(prefix=".building-", dir=os.path.dirname(path))
    except OSError:
        staging = tempfile.mkdtemp(prefix="symprop-")
        path = os.path.join(staging, os.path.basename(path))
        import atexit

        atexit.register(shutil.rmtree, staging, ignore_errors=True)
    text, library = os.path.join(staging, "kernel.c"), os.path.join(staging, "kernel.so")
    with open(text, "w", encoding="utf-8") as file:
        file.write(source)
    for native in (["-march=native", "-mprefer-vector-width=512"], ["-march=native"], ["-mcpu=native"], []):
        command = [*compiler, *_FLAGS, *native, "-o", library, text, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
    else:
        shutil.rmtree(staging, ignore_errors=True)
        raise OSError(f"the C compiler failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    os.replace(library, path)
    if os.path.dirname(path) != staging:
        shutil.rmtree(staging, ignore_errors=True)
    return path


def _checked(arguments, domains):
    """The arguments as arrays of doubles, once they are found to lie in their ranges."""
    values = []
    for value, domain in zip(map(np.asarray, arguments), domains):
        values.append(np.asarray(value, dtype=float))
        if domain is not None:
            _numpy._check(values[-1], value.dtype.kind in "biu", *domain)
    return values


def _run(kernel, arguments, outputs, workers, settle=0.0):
    """The outputs at all points of the broadcast shape, over blocks that threads share."""
    if workers < 1 or workers != int(workers):
        raise ValueError(f"workers = {workers} is not allowed: expected an integer >= 1")
    values = [np.asarray(value, dtype=float) for value in arguments]
    shape = np.broadcast_shapes(*(value.shape for value in values))
    axes = shape or (1,)
    views = [np.broadcast_to(value if all(step % 8 == 0 for step in value.strides) else value.copy(), axes)
             for value in values]
    results = [np.empty(shape) for _ in range(outputs)]
    size = results[0].size
    lengths = np.array(axes, dtype=np.int64)
    strides = np.array([view.strides for view in views], dtype=np.int64)//8
    data = np.array([view.__array_interface__["data"][0] for view in views], dtype=np.uintp)
    to = np.array([value.ctypes.data for value in results], dtype=np.uintp)
    tables = [table.ctypes.data for table in (lengths, data, strides, to)]
    # Several spans a thread: one whose core is busy takes fewer.
    share = -(-size//(8*int(workers))//_BLOCK)*_BLOCK if workers > 1 else size
    spans = [(start, min(start + share, size)) for start in range(0, size, share)] if size else []
    run = lambda span: kernel(*span, len(axes), *tables, settle)  # noqa: E731
    if len(spans) > 1:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(int(workers), len(spans))) as pool:
            list(pool.map(run, spans))
    else:
        for span in spans:
            run(span)
    return [value[()] for value in results]
''' + classes("np.ndarray") + FUNCTION_HEAD + '''    _compiled = _kernel("{{ item.name }}")
    if _compiled is None:
        return _numpy.{{ item.name }}(*_arguments, check=check, workers=workers{{ ", settle=settle" if item.settles }})
    _points = np.prod(np.broadcast_shapes(*map(np.shape, _arguments)))
    if _points and (check or check is None and _points <= _CHECKED_POINTS):
        _domains = (
{% for domain in item.domains %}
            {{ domain }},
{% endfor %}
        )
        (
            {{ item.arguments_inner }},
        ) = _checked(_arguments, _domains)
{% for bound in item.bounds %}
        with np.errstate(divide="ignore"):
            _numpy._require({{ bound.text }}, {{ bound.name }}, "{{ bound.name }}", "{{ bound.allowed }}")
{% endfor %}
    _results = _run(_compiled, _arguments, {{ item.outputs|length }}, workers{{ ", settle" if item.settles }})
    return {{ item.result + "(*_results)" if item.result else "_results[0]" }}
{%- endfor %}
{% for name in plain %}


{{ name }} = _numpy.{{ name }}
{%- endfor %}


_PRELUDE = r"""
{{ prelude }}
"""

_DRIVER = r"""
{{ driver }}
"""

_FUNCTIONS = {
{% for name, text in c_functions %}
    "{{ name }}": r"""
{{ text }}
""",
{% endfor %}
}

_KERNELS = {
{% for kernel in kernels %}
    "{{ kernel.name }}": (
        {{ kernel.helpers }},
        r"""
{{ kernel.text }}
""",
    ),
{% endfor %}
}
'''
