"""The chain of equations in a solution: what is left of it when the words are taken away."""

import re

_EQUATION = re.compile(r"([0-9][0-9.,+\-*/x×÷() $%]{0,80})=\s{0,4}\$?\s{0,4}(-?[0-9][0-9.,]{0,20})")
_NOISE = re.compile(r"[\s,$%]")
_OPERATOR = re.compile(r"[+\-*/x×÷(]")


def chain(solution: str) -> str:
    """The equations of a solution in order, spaces, commas and signs of currency removed.

    Two solutions with one chain compute the same numbers in the same order, in other words:
    "Ann has 3 * 4 = 12 pens.\\n#### 12" → "3*4=12". A solution without equations is its own chain. So is one in which a
    unit hides an operation ("9 boxes * 4 = 36" has the equation "4=36"): different work may look like it.
    """
    equations = _EQUATION.findall(solution)
    if not equations or not all(_OPERATOR.search(left) for left, _ in equations):
        return solution.strip()
    chain = ";".join(f"{left}={right.rstrip('.')}" for left, right in equations)
    return _NOISE.sub("", chain).replace("x", "*").replace("×", "*").replace("÷", "/")
