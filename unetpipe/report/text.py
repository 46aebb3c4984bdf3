"""Numbers and facts as text for readers."""

from typing import Any

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decimal(value: float, digits: int) -> str:
    """With ``digits`` digits after the point."""
    return f"{value:.{digits}f}"


def count_of(value: int) -> str:
    """With commas between thousands."""
    return f"{value:,}"


def share(value: float, digits: int) -> str:
    """In per cent."""
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def short(value: float) -> str:
    """With two significant digits; very small and very large ones with a power of ten."""
    text = f"{value:.2g}"
    factor, _, power = text.partition("e")
    return f"{factor} × 10{str(int(power)).translate(_RAISED)}" if power else text


def abbreviated(name: str, most: int) -> str:
    """With at most ``most`` signs: of a longer name, what it begins and ends with."""
    begin = most // 2
    return name if len(name) <= most else f"{name[:begin]}…{name[begin + 1 - most :]}"


def listed(names: list[str]) -> str:
    """Names as in a sentence: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plain(fact: Any) -> str:
    """JSON data in a line: ``name: value; name: value``, and lists with commas."""
    if fact is None:
        return "–"
    if isinstance(fact, dict):
        return "; ".join(f"{name}: {plain(value)}" for name, value in fact.items())
    if isinstance(fact, list):
        return ", ".join(map(plain, fact))
    return str(fact)


def duration(seconds: float) -> str:
    """In the two largest units of which there is one; below a minute with a digit after the point."""
    if seconds < 59.95:
        return f"{seconds:.1f}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\N{NO-BREAK SPACE}min {rest}\N{NO-BREAK SPACE}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}\N{NO-BREAK SPACE}h {minutes}\N{NO-BREAK SPACE}min"
