"""From formulas to standalone numpy and torch functions: a spec, one lowering, a printer table and a template each."""
