"""Reports: proofs and derivations as terminal listings, tables, LaTeX appendices and figures."""
