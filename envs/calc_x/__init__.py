"""Calc-X: word problems that an agent answers with the help of a calculator."""
