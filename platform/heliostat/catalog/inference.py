"""What the texts of a delimited file's columns are: each gets the narrowest type that all of its
values have, and text stays as it was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from heliostat.catalog.arrays import text_array
from heliostat.catalog.columns import Doubt, Settings
from heliostat.spec.read import MISSING_WORDS, ReadSpec

NULL, TEXT = pa.null(), pa.string()
NUMBERS = (pa.int64(), pa.float64())
CHAINS = (
    (pa.bool_(),),
    NUMBERS,
    (pa.date32(), pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ns")),
    tuple(pa.timestamp(unit, "UTC") for unit in ("s", "us", "ns")),
)  # a type holds every value of those before it
TYPES = {str(type_): type_ for type_ in (NULL, TEXT, *(t for chain in CHAINS for t in chain))}
NO_TEXT, NO_TRUTH = pa.nulls(1, TEXT)[0], pa.nulls(1, pa.bool_())[0]  # `pa.scalar` loads pandas
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
HEAD_VALUES = 50
WORDS_AT_MOST, NUMBERS_AT_LEAST, VALUES_AT_LEAST = 3, 0.9, 20
PLACEHOLDERS = frozenset(
    {"?", "\\N", "(null)", "<NA>", "#VALUE!", "#REF!", "#DIV/0!", "-", "--", ".", "*", "n.a."}
)
NEVER_A_VALUE = PLACEHOLDERS - {"-", "--", ".", "*", "n.a."}
CODES = r"^0[0-9]+$|^[+-]?0[xX]"
LONG_DIGITS = 17
# A phone's number, or more digits than float64 keeps.
LONG = rf"^\+[0-9]{{6,}}$|^[+-]?[0-9]{{{LONG_DIGITS},}}$"


def common_type(types: Iterable[pa.DataType]) -> pa.DataType:
    """The narrowest type that holds the values of all `types`; text where they do not agree."""
    found = {type_ for type_ in types if type_ != NULL}
    if len(found) < 2:
        return next(iter(found), NULL)
    for chain in CHAINS:
        if found <= set(chain):
            return chain[max(chain.index(type_) for type_ in found)]
    return TEXT


def cleaned(raw: pa.Array, read: ReadSpec) -> pa.Array:
    """Texts without the spaces around them; null where they are empty or stand for no value."""
    text = pc.utf8_trim(raw, characters=" \t")
    is_missing = pc.is_in(text, value_set=text_array(["", *read.missing]))
    return pc.if_else(is_missing, NO_TEXT, text)


def typed(text: pa.Array, type_: pa.DataType, read: ReadSpec) -> pa.Array:
    """Cleaned texts as values of a type.

    Raises:
        pa.ArrowInvalid: a text is no such value.
    """
    if type_ == TEXT:
        return text
    if type_ == NULL and text.null_count == len(text):
        return pa.nulls(len(text))
    if type_ == pa.bool_():
        true, false = (pc.is_in(text, value_set=text_array(words)) for words in (TRUE, FALSE))
        if not pc.all(pc.or_(pc.or_(true, false), pc.is_null(text))).as_py():
            raise pa.ArrowInvalid("a text is neither true nor false")
        return pc.if_else(pc.is_null(text), NO_TRUTH, true)
    if type_ in NUMBERS:
        text = _plain(text, read)
    return pc.cast(text, type_)


class ColumnTypes:
    """The types of a file's columns, learned block by block."""

    def __init__(self, names: Iterable[str], read: ReadSpec) -> None:
        self.types: dict[str, pa.DataType] = dict.fromkeys(names, NULL)
        self._read = read
        self._doubts: dict[str, Doubt] = {}
        self._used: set[str] = set()  # words for no value that the file holds

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """What there is to doubt of columns of text, with the settings that would end it."""
        usual = self._read.missing == MISSING_WORDS
        kept = tuple(sorted(self._used)) if usual else self._read.missing
        return tuple(doubt.keeping(kept) for doubt in self._doubts.values())

    def learn(self, name: str, raw: pa.Array) -> None:
        """Widen the type of a column so that it holds these texts too."""
        was = self.types[name]
        if was == TEXT:
            return
        text = cleaned(raw, self._read)
        if text.null_count:
            trimmed = pc.utf8_trim(raw.filter(pc.is_null(text)), characters=" \t")
            self._used.update(set(trimmed.unique().to_pylist()) - {""})
        if text.null_count == len(text):
            return
        chains = CHAINS if was == NULL else tuple(chain for chain in CHAINS if was in chain)
        steps = (chain[chain.index(was) if was in chain else 0 :] for chain in chains)
        fitting = (type_ for chain in steps for type_ in chain if self._fits(text, type_))
        self.types[name] = next(fitting, TEXT)
        if self.types[name] == TEXT:
            doubt = doubt_of(name, text, self._read, was in NUMBERS)
            if doubt is not None:
                self._doubts[name] = doubt

    def _fits(self, text: pa.Array, type_: pa.DataType) -> bool:
        try:
            typed(text.slice(0, HEAD_VALUES), type_, self._read)  # a cast tries every value
            typed(text, type_, self._read)
        except pa.ArrowInvalid:
            return False
        if type_ not in NUMBERS:
            return True
        is_float = type_ == NUMBERS[-1]
        return not _any_code(text, "0", CODES) and not (is_float and _any_long(text))


def doubt_of(name: str, text: pa.Array, read: ReadSpec, were_numbers: bool) -> Doubt | None:
    """Why a column of texts may be meant as something else; `were_numbers` says that all values
    before these are numbers.
    """
    text = text.drop_null()
    plain = number_pattern(read)
    for settings, what in _marks(read):
        pattern = number_pattern(read.model_copy(update=dict(settings)))
        if _share(text, pattern) > _share(text, plain) and _are_numbers(
            text, pattern, were_numbers
        ):
            words = _words(text, pattern)
            other = pc.and_not(_matches(text, pattern), _matches(text, plain))
            example = text.filter(other)[0]
            settings = (*settings, *_missing(words))
            return Doubt(name, f"its values are numbers {what}, as in `{example}`", True, settings)
    words = _words(text, plain)
    if _are_numbers(text, plain, were_numbers):
        shown = ", ".join(f"`{word}`" for word in words[:WORDS_AT_MOST])
        what = f"its values are numbers, except for {shown}"
        return Doubt(name, what, True, _missing(words))
    return _doubtful_words(name, text, read)


def _are_numbers(text: pa.Array, pattern: str, were_numbers: bool) -> bool:
    """Whether texts that are not all numbers are meant as numbers."""
    share, words = _share(text, pattern), _words(text, pattern)
    if were_numbers or share == 1:
        return not _any_match(text, f"{CODES}|{LONG}")
    if len(words) > WORDS_AT_MOST or share == 0:
        return False
    many = pc.count_distinct(text).as_py() > VALUES_AT_LEAST and share >= NUMBERS_AT_LEAST
    return many or all(word in PLACEHOLDERS for word in words)


def _doubtful_words(name: str, text: pa.Array, read: ReadSpec) -> Doubt | None:
    codes = _matches(text, f"{CODES}|{LONG}")
    if pc.any(codes).as_py() and _share(text, f"{CODES}|{number_pattern(read)}") == 1:
        example = text.filter(codes)[0]
        return Doubt(name, f"a number would not keep values like `{example}` as they are", False)
    found = sorted(NEVER_A_VALUE & set(text.unique().to_pylist()))
    if found:
        what = f"it holds `{found[0]}`, which may stand for no value"
        return Doubt(name, what, False, _missing(found))
    return None


def _marks(read: ReadSpec) -> Iterable[tuple[Settings, str]]:
    """Other ways to write numbers, the likeliest first."""
    english, comma = (".", ","), (",", ".")
    first = (comma, english) if read.delimiter == ";" else (english, comma)
    marks = ("'", "\u2019", " ", "\u00a0", "\u202f", "_")
    for decimal, thousands in (*first, *((d, mark) for mark in marks for d in ".,")):
        settings = {"decimal": decimal, "thousands": thousands}
        what = "a decimal `,`" if decimal == "," else f"`{thousands}` between thousands"
        yield tuple((k, v) for k, v in settings.items() if v != getattr(read, k)), f"with {what}"


def number_pattern(read: ReadSpec) -> str:
    """What a number looks like under these settings, as a regular expression."""
    mark, point = read.thousands, f"[{read.decimal}]"
    grouped = rf"[1-9][0-9]{{0,2}}(?:[{mark}][0-9]{{3}})+|" if mark else ""
    digits = rf"(?:{grouped}[0-9]+)(?:{point}[0-9]*)?|{point}[0-9]+"
    return rf"^[+-]?(?:(?:{digits})(?:[eE][+-]?[0-9]+)?|(?i:nan|inf|infinity))$"


def _plain(text: pa.Array, read: ReadSpec) -> pa.Array:
    """Numbers as everybody writes them."""
    if read.decimal == "." and read.thousands is None:
        return text
    if _share(text.drop_null(), number_pattern(read)) < 1:
        raise pa.ArrowInvalid("a text is no number")
    if read.thousands is not None:
        text = pc.replace_substring(text, read.thousands, "")
    return pc.replace_substring(text, read.decimal, ".")


def _matches(text: pa.Array, pattern: str) -> pa.Array:
    return pc.match_substring_regex(text, pattern)


def _share(text: pa.Array, pattern: str) -> float:
    return float(pc.mean(_matches(text, pattern)).as_py()) if len(text) else 1.0


def _any_match(text: pa.Array, pattern: str) -> bool:
    return bool(pc.any(_matches(text, pattern)).as_py())


def _any_code(text: pa.Array, first: str, pattern: str) -> bool:
    """Whether a text matches, of those that begin so: most others are never looked at."""
    return _any_match(text.filter(pc.starts_with(text, first)), pattern)


def _any_long(text: pa.Array) -> bool:
    longest = pc.binary_length(text_array(["0" * LONG_DIGITS]))[0]
    whole = text.filter(pc.greater_equal(pc.binary_length(text), longest))
    whole = whole.filter(pc.invert(pc.match_substring(whole, ".")))
    return _any_code(text, "+", LONG) or _any_match(whole, LONG)


def _words(text: pa.Array, pattern: str) -> list[str]:
    """Distinct texts that do not match; one more than a few at most."""
    others = text.filter(pc.invert(_matches(text, pattern))).unique()
    words: list[str] = others.slice(0, WORDS_AT_MOST + 1).to_pylist()
    return words


def _missing(words: Sequence[str]) -> Settings:
    """The setting under which a few words stand for no value."""
    return (("missing", tuple(words)),) if 0 < len(words) <= WORDS_AT_MOST else ()
