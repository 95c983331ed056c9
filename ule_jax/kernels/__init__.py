"""Compiler work: convolutions with fast derivatives, and second-order rematerialisation."""
