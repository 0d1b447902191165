"""Hessians: closed form for a softmax head, dense by automatic differentiation for the rest."""
