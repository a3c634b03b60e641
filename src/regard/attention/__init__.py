"""The operator: scores, normalisers, masks, and the ways of computing their composition."""
