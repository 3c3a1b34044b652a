"""Lists of samples that must not flip."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_flip.stores.errors import PredictionError

__all__ = ["read_golden_ids"]


def read_golden_ids(path: str) -> list[str]:
    r"""Read ids from a text file, one a line, or from a JSON file that holds one list.

    A line is an id as it stands, blanks included; empty lines are left out. An id with a line break has its place in
    JSON only.

    Returns the ids, each once, in the file's order.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lines, listed = Path(folder, "golden.txt"), Path(folder, "golden.json")
        ...     _ = lines.write_text("a/1.png\n\nb 2.png\n"), listed.write_text('["two\\nlines", 7]')
        ...     read_golden_ids(str(lines)), read_golden_ids(str(listed))
        (['a/1.png', 'b 2.png'], ['two\nlines', '7'])
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PredictionError(f"{path} must be text in UTF-8, got {error.reason} at byte {error.start}.") from error
    if Path(path).suffix.lower() == ".json":
        ids = _parse_list(text, path)
    else:
        # Not splitlines, which would also break an id at a form feed or a Unicode separator.
        ids = [line.removesuffix("\r") for line in text.split("\n")]
    unique = list(dict.fromkeys(name for name in ids if name))
    if not unique:
        raise PredictionError(
            f"{path} must name at least one sample, got none. Leave the option away if none is special."
        )
    return unique


def _parse_list(text: str, path: str) -> list[str]:
    expected = f"{path} must hold one JSON list of ids (text or whole numbers)"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PredictionError(f"{expected}, got no JSON: {error}.") from error
    if not isinstance(values, list):
        raise PredictionError(f"{expected}, got {type(values).__name__}.")
    for value in values:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise PredictionError(f"{expected}, got {value!r:.80} in it.")
    return [str(value) for value in values]
