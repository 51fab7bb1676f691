"""The chain of equations in a solution: what is left of it when the words are taken away."""

import re

_EQUATION = re.compile(r"([0-9][0-9.,+\-*/x×÷() $%]{0,80})=\s{0,4}\$?\s{0,4}(-?[0-9][0-9.,]{0,20})")
_NOISE = re.compile(r"[\s,$%]")


def chain(solution: str) -> str:
    """The equations of a solution in order, spaces, commas and signs of currency removed.

    Two solutions with one chain compute the same numbers in the same order, in other words:
    "Ann has 3 * 4 = 12 pens.\\n#### 12" → "3*4=12". A solution without equations is its own chain.
    """
    found = [f"{left}={right.rstrip('.')}" for left, right in _EQUATION.findall(solution)]
    if not found:
        return solution.strip()
    return _NOISE.sub("", ";".join(found)).replace("x", "*").replace("×", "*").replace("÷", "/")
