"""Numbers in a tokenizer.json's text, such that the `tokenizers` library reads the very number.

It takes a number's digits for an integer, rounds that to 53 bits and divides by a power of ten: two
roundings where there should be one, so every fourth float32 comes out as its neighbour, and two
ways to cut a text that are equally likely no longer are. Other digits of the same number mend that,
for all but one in a thousand.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["decimal", "tokenizer_text"]

_LARGEST = 1 << 64


def decimal(number: float) -> str:
    """A number's text, which everyone reads as the same number, and the library too if possible."""
    plain = repr(number)
    whole, _, part = plain.lstrip("-").partition(".")
    if "e" in plain or _read(int(whole + part), len(part)) == abs(number):
        return plain
    above, below = abs(number).as_integer_ratio()
    for places in range(len(part), 19):
        middle = above * 10**places // below
        for digits in (middle + (i + 1 >> 1) * (-1) ** i for i in range(40)):
            if digits < _LARGEST and _read(digits, places) == abs(number):
                text = f"{digits:0{places + 1}d}"
                found = f"{'-' * (number < 0)}{text[:-places]}.{text[-places:]}"
                if float(found) == number:
                    return found
    return plain


def _read(digits: int, places: int) -> float:
    """What the library makes of them."""
    return float(float(digits) / 10.0**places)


def tokenizer_text(tokenizer: dict[str, Any]) -> str:
    """The text of a tokenizer.json."""
    model = tokenizer["model"]
    if model["type"] != "Unigram":
        return json.dumps(tokenizer, ensure_ascii=False) + "\n"
    pieces = ", ".join(
        f"[{json.dumps(text, ensure_ascii=False)}, {decimal(score)}]"
        for text, score in model["vocab"]
    )
    # Quotes within a text are escaped, so this stands where the key is and nowhere else.
    place = '"vocab": []'
    rest = json.dumps(tokenizer | {"model": model | {"vocab": []}}, ensure_ascii=False)
    return rest.replace(place, f'"vocab": [{pieces}]') + "\n"
