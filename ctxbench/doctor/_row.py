"""What the doctor says of one part."""

from typing import Literal, TypedDict

State = Literal["ok", "missing", "wrong"]
# what importing or running a broken package raises: there is no end to it
BROKEN = (ImportError, OSError, RuntimeError, AttributeError, ValueError, TypeError, KeyError)


class Finding(TypedDict):
    """One line: a part, whether it is well, what was found, and what it is for or the way out.

    `missing` is what is optional and absent; `wrong` what keeps something from working.
    """

    state: State
    part: str
    found: str
    note: str


def finding(state: State, part: str, found: str, note: str = "") -> Finding:
    """Return a line of the report."""
    return {"state": state, "part": part, "found": found, "note": note}


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
