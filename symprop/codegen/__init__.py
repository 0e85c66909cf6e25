"""From formulas to standalone numpy and torch functions: a spec, one lowering, a printer table and a template each.

Declaring specs is here; ``symprop.codegen.render`` turns them into text, ``symprop.codegen.files`` writes it.
"""

from symprop.codegen.spec import FunctionSpec, Parameter, evaluate, neglected_by_evaluate, parameters

__all__ = ["FunctionSpec", "Parameter", "evaluate", "neglected_by_evaluate", "parameters"]
