"""Safe arithmetic: the text is parsed and never executed, and every step is bounded."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

MAX_CHARACTERS = 200
MAX_BITS = 4096
"""Limit on the length of integers; without it an expression such as 9**9**9 would never finish."""

_BINARY: dict[type[ast.operator], Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def _round(number: float, digits: int | None = None) -> int | float:
    """`round`, but digits are bounded too: to round to -10**9 digits, Python computes 10**10**9."""
    if isinstance(digits, int) and abs(digits) > MAX_BITS:
        raise ValueError("it can't be computed: too many digits to round to")
    return round(number, digits)


_FUNCTIONS: dict[str, Callable] = {"abs": abs, "round": _round, "min": min, "max": max, "sqrt": math.sqrt}


def evaluate(expression: str) -> int | float:
    """Evaluates numbers, `+ - * / // % **`, brackets, and `abs round min max sqrt`.

    Raises:
        ValueError: the text holds anything else, divides by zero, or a number grows too large. The message is
            for the policy.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ValueError(f"an expression may have {MAX_CHARACTERS} characters")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError("this is not an arithmetic expression") from error
    except (ZeroDivisionError, OverflowError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"it can't be computed: {error}") from error
    # An integer is finite, and `isfinite` fails on those that no float can hold.
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("it can't be computed: the result is not a real number")
    return value


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(type(op), _value(left), _value(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*map(_value, arguments))
    raise ValueError("only numbers, + - * / // % **, brackets, abs, round, min, max and sqrt are known")


def _bounded(op: type[ast.operator], left: int | float, right: int | float) -> int | float:
    if op is ast.Pow and isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
        bits = left.bit_length() * abs(right)
    else:
        bits = sum(number.bit_length() for number in (left, right) if isinstance(number, int))
    if bits > MAX_BITS:
        raise ValueError("it can't be computed: the number grows too large")
    return _BINARY[op](left, right)
