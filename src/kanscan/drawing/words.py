"""Text from users' files on its way to people: harmless in a terminal, a page, Markdown and a spreadsheet."""

from __future__ import annotations

import re
import unicodedata

#: What a name may not do to a reader: control characters steer terminals, bidirectional ones reorder what is read, lone
#: surrogates (bytes of a file name that are no UTF-8) cannot be written.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])|^(?=[#+\-=])")


def visible(text: str) -> str:
    r"""Write characters that are not for the eye as escapes; line breaks and tabs stay.

    Example:
        >>> visible("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    # Python keeps a byte that is no UTF-8 as a surrogate from U+DC80 on.
    byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{byte:02x}" if byte < 256 else f"\\u{code:04x}"


def markdown_text(text: str) -> str:
    """Write plain text so that Markdown shows it as it is, on one line."""
    line = _MARKDOWN.sub(lambda found: "\\" + found[0], " ".join(visible(text).split()))
    # As entities: not every reader of Markdown knows a backslash before a bracket of a tag.
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def csv_text(text: str) -> str:
    """Write text so that a spreadsheet does not take it for a formula: with an apostrophe before it."""
    text = visible(text)
    return f"'{text}" if unicodedata.normalize("NFKC", text).lstrip()[:1] in ("=", "+", "-", "@") else text
