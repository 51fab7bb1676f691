r"""Reading the final answer of a solution, and comparing answers as numbers.

A *marked* answer follows `####`, `A:` at the start of a line, `\boxed{`, or "the answer is" (also "answer:"). Where
several are marked the last one that holds a number counts: 7 of `#### 3 + 4 = 7` and of `#### 7. Check: 7 - 4 = 3`.
Nothing after the closing brace of a box is read, and a heading (`#### Step 3: …`) marks nothing. The strict reading
wants a marked answer. The flexible one falls back to the last number of the text, which a model can game, and which is
why both verdicts stand in a scored record.

Numbers may carry a sign, thousands separators, a currency sign, decimals, an exponent, a fraction (`3/4`, `1 1/2`,
`\frac{3}{4}`, `1\frac12`), units and a percent sign. Units and percent signs are dropped, not converted: 50% is 50.
One spelling stands for each rational, so answers are equal when they are spelled alike:
0.5 = 1/2 = .50, and 0.33 is not 1/3.
"""

import re
from fractions import Fraction
from functools import lru_cache

_DIGITS = r"(?:[0-9]{1,3}(?:(?:,|\{,\}|,?\\[,!])[0-9]{3})+(?![0-9])|[0-9]+)"  # also LaTeX's 1{,}234 and 1\,234
_PART = rf"[ ]?[-−–]?{_DIGITS}[ ]?"  # of a \frac
_WHOLE = (
    r"(?<![0-9])(?<![0-9],)(?<![0-9][eE])(?<![0-9][eE][-+])"  # no part of what is longer: 1,2345 and 1e100 are none
)
_NUMBER = (
    r"(?P<sign>(?<![0-9)\w])[-−–+])?[$€£¥]?(?P<inner>(?<![0-9)\w])[-−–])?"
    r"(?:(?:(?P<units>[0-9]+)[ ]?)?\\[dt]?frac"
    rf"(?:\{{(?P<top>{_PART})\}}\{{(?P<bottom>{_PART})\}}|(?P<t>[0-9])(?P<b>[0-9]))"
    r"|(?P<whole>[0-9]+)[ ]+(?P<over>[0-9]+)/(?P<under>[0-9]+)"
    rf"|{_WHOLE}(?P<plain>(?>(?:{_DIGITS}(?:\.[0-9]+)?|(?<![A-Za-z])\.[0-9]+)(?:[eE][-+]?[0-9]{{1,2}}(?![0-9]))?))"
    r"(?!,[0-9]|[eE][-+]?[0-9])"
    r"(?:[ ]?/[ ]?(?P<divisor>[0-9]+(?:\.[0-9]+)?))?)"
)
# A minus sign apart from its number: `- 5`, `-\$5`, `-$ 5`. Only where an answer begins: in `9 - 5` it is no sign.
_APART = r"[ :*$(]{0,8}(?P<apart>[-−–])[ ]?(?:\\?[$€£¥][ ]?)?(?=[0-9.\\])"
_MARK = re.compile(r"####|^A:|\\boxed\{|(?i:\banswer(?:\s+is|\s*:))", re.MULTILINE)
_HEADING = re.compile(
    r"#{0,2}[ ]{0,3}\*{0,2}(?:[A-Za-z]{1,20}[ ]{1,3}[0-9]{1,3}\*{0,2}:(?![0-9])|(?i:step)[ ]{1,3}[0-9])"
)
_AFTER_MARK = re.compile(rf"(?:[^\n]{{0,200}}=)?(?:{_APART}|[^0-9\n]{{0,40}}?){_NUMBER}")
# A number that is the answer although an equation follows: `18. Check: …`, `18 (20 - 18 = 2 left)`, `18 = 9 * 2`.
_ALONE = re.compile(
    rf"(?:{_APART}|[^\w\n=]{{0,20}}?){_NUMBER}\\?%?[*$)]{{0,3}}"
    r"(?:[.,][ ]|[ ]\([^()\n]{0,200}=|[ ]?=[^=\n]{0,100}[0-9][ ]?[-+*x×][ ]?[$(]?[0-9])"
)
_PLAIN_LAST_LINE = re.compile(r"(?:####|A:) ?(0|[1-9][0-9]{0,17})")
_ANY = re.compile(_NUMBER)
_BARE = re.compile(_APART + _NUMBER)
_MORE_THAN_A_NUMBER = re.compile(r"[0-9^]|\\(?!text|math|mbox|boxed|d?frac)[A-Za-z]")
_BRACE = re.compile(r"[{}]")
_SEPARATOR = re.compile(r"[,{}\\! ]")
_MINUS = ("-", "−", "–")

MAX_MARKS = 16  # looked at from the end; together with the bounds in the patterns, no text can hang the reader
MAX_DIGITS = 60  # a longer "number" is noise, and exact arithmetic on it would not be bounded


def extract(text: str, flexible: bool = False) -> str | None:
    """The final answer in canonical form ("18", "-0.5", "1/3"), or None if there is none to read."""
    plain = _PLAIN_LAST_LINE.fullmatch(text, text.rfind("\n") + 1)
    if plain:  # how most solutions end, read the quick way
        return plain[1]
    for mark in list(_MARK.finditer(text))[: -MAX_MARKS - 1 : -1]:
        place, end = mark.end(), len(text)
        if mark[0] == "####" and _HEADING.match(text, place):
            continue
        if mark[0] == "\\boxed{":
            end = _end_of_box(text, place)
        number = _ALONE.match(text, place, end) or _AFTER_MARK.match(text, place, end)
        if number and (answer := _read(number)) is not None:
            return answer
    if flexible:
        for number in reversed(list(_ANY.finditer(text))):
            if (answer := _read(number)) is not None:
                return answer
    return None


@lru_cache(maxsize=1 << 16)
def canonical(answer: str) -> str | None:
    """A bare answer, such as a problem's `answer` field, in canonical form; None if it is not one number and words.

    `2\\sqrt{3}`, `(2, 7)` and `x^2 + 5` begin with a number and are none: taking it for the answer would grade
    wrong solutions as right.
    """
    number = _BARE.match(answer) or _ANY.search(answer)
    if not number or _MORE_THAN_A_NUMBER.search(answer[: number.start()] + " " + answer[number.end() :]):
        return None
    return _read(number)


def spelled(answer: str) -> str:
    """An answer that need not be a number: one that is a number and nothing else in canonical form, others stripped."""
    answer = answer.strip()
    number = _ANY.fullmatch(answer)
    return (_read(number) if number else None) or answer


def _end_of_box(text: str, start: int) -> int:
    """Where the brace closes that opened before `start`; the end of the text if that is out of sight."""
    depth = 1
    for brace in _BRACE.finditer(text, start, start + 400):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    return len(text)


def _read(number: re.Match) -> str | None:
    """The canonical spelling of a number that `_NUMBER` found; None if it divides by zero or is absurdly long."""
    part = number.groupdict()
    if len(number[0]) > MAX_DIGITS + 40:
        return None
    top, bottom = part["top"] or part["t"], part["bottom"] or part["b"]
    try:
        if top:
            value: Fraction | int = int(part["units"] or 0) + Fraction(_whole(top), _whole(bottom))
        elif part["whole"]:
            value = int(part["whole"]) + Fraction(int(part["over"]), int(part["under"]))
        else:
            plain = _SEPARATOR.sub("", part["plain"])
            value = int(plain) if plain.isdigit() else Fraction(plain)
            if part["divisor"]:
                value /= Fraction(part["divisor"])
    except ZeroDivisionError:
        return None
    negative = (part["sign"] in _MINUS) ^ (part["inner"] is not None) ^ (part.get("apart") is not None)
    answer = _spell(-value if negative else value)
    return answer if len(answer) <= MAX_DIGITS else None


def _whole(part: str) -> int:
    """A part of a fraction: digits with separators, and perhaps a sign."""
    part = _SEPARATOR.sub("", part)
    return -int(part[1:]) if part[0] in _MINUS else int(part)


def _spell(value: Fraction | int) -> str:
    """One spelling for each rational: a decimal where one exists, else p/q in lowest terms."""
    if value.denominator == 1:
        return str(value.numerator)
    twos, fives, rest = 0, 0, value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
