"""What must not leave with a report: secrets in configurations, names of home folders and, on request, sample ids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

__all__ = ["HIDDEN", "hide_home", "hide_ids", "hide_secrets", "is_secret_name"]

HIDDEN = "[hidden]"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# Of a name's words, in lower case with spaces between.
_SECRET = re.compile(
    r"\b(?:apikey|auth|authkey|authorization|bearer|cookies?|credentials?|creds|dsn|pass(?:code|phrase|wd|words?)|pat|pin|pwd"
    r"|sas|secrets?|signature|(?:account|access|api|app|auth|client|deploy|encryption|license|master|private|secret|shared"
    r"|signing|ssh|storage|wandb) keys?)\b"
)
_TOKEN = re.compile(r"\b(?:auth)?tokens?\b")
# A token of a text, not of a service: pad_token, max_tokens, token_type.
_OF_TEXT = re.compile(
    r"\b(?:additional|begin|bos|cls|end|eos|extra|ids?|image|lengths?|mask|max|min|n|new|num|number|of|output|pad|per|sep|size"
    r"|special|start|stop|types?|unk|visual|vocab)\b"
)
_PREFIXED = (
    r"gh[opusr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|npm_[A-Za-z0-9]{16,}|pypi-[\w-]{16,}"
    r"|[srp]k[-_](?:live|test|proj|ant)?[\w-]{16,}|(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}|AIza[\w-]{30,}"
    r"|xox[a-z]-[\w-]{10,}|ya29\.[\w-]{16,}|eyJ[\w-]{8,500}\.[\w-]{8,2000}\.[\w-]*|SG\.[\w-]{16,80}\.[\w-]{16,}"
)
_KNOWN = re.compile(rf"(?<![A-Za-z0-9])(?:{_PREFIXED})")
_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_IN_URL = re.compile(r"(?<=://)[^\s/?#]*@")
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/._~=-]{8,}")
_ASSIGNED = re.compile(
    r"""(?<![\w.-])(?P<name>[\w.-]+)(?P<sign>["']?\s*[=:]\s*)(?P<value>"[^"]*"|'[^']*'|[^\s&;,"'{}]+)"""
)
_HOMES = re.compile(
    r"(?i)(?:/home/|/users/|(?<![\w/\\])[a-z]:[\\/]users[\\/])[^/\\\s:\"'<>|;,]+|(?<![\w.~-])/root(?![\w.-])"
)


def is_secret_name(name: str) -> bool:
    """Whether what a name stands for should not be shown: passwords, tokens and keys of services.

    Example:
        >>> [is_secret_name(name) for name in ("WANDB_API_KEY", "dbPassword", "hf_token", "optimizer.lr")]
        [True, True, True, False]
        >>> [is_secret_name(name) for name in ("pad_token", "max_tokens", "tokenizer", "num_keys")]
        [False, False, False, False]
    """
    words = " ".join(_WORD.findall(name)).lower()
    return bool(_SECRET.search(words) or (_TOKEN.search(words) and not _OF_TEXT.search(words)))


def hide_secrets(value: object, home: str | None = None, *, depth: int = 50) -> object:
    """The value, of mappings, lists and scalars, without its secrets and home folders.

    Hidden are the values of secret names (in mappings, in text as `name=value`, in lists as `--name value`, in pairs of
    `name` and `value`), tokens of a known form, private keys, and user and password of a URL. It errs on the side of
    hiding, and cannot know every secret: a password under a name of its own stays.

    Args:
        value: what JSON or YAML holds; anything else is shown as its text.
        home: the home folder; None: that of this user.
        depth: what is nested deeper becomes "...".

    Example:
        >>> hide_secrets({"api_key": "4f", "url": "https://ann:pw@host/x", "lr": 0.1, "args": ["--token", "4f"]})
        {'api_key': '[hidden]', 'url': 'https://[hidden]@host/x', 'lr': 0.1, 'args': ['--token', '[hidden]']}
    """
    if depth < 0:
        return "..."
    if isinstance(value, Mapping):
        named = value.get("name", value.get("key"))
        of_secret = isinstance(named, str) and is_secret_name(named)
        return {
            hide_secrets(name, home, depth=0) if isinstance(name, str) else name: HIDDEN
            if one not in (None, "") and (is_secret_name(str(name)) or (of_secret and name == "value"))
            else hide_secrets(one, home, depth=depth - 1)
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        pairs = zip([None, *value], value, strict=False)  # each element with the one before it
        return [
            HIDDEN if _is_argument_of_secret(before, one) else hide_secrets(one, home, depth=depth - 1)
            for before, one in pairs
        ]
    if value is None or isinstance(value, bool | int | float):
        return value
    return hide_home(_hide_in_text(str(value)), home)


def _is_argument_of_secret(option: object, value: object) -> bool:
    """Whether a list holds a secret option and, next to it, its value."""
    if not isinstance(option, str) or not option.startswith("-") or "=" in option or not is_secret_name(option):
        return False
    return not str(value).startswith("--")


def _hide_in_text(text: str) -> str:
    text = _BLOCK.sub(HIDDEN, text)
    text = _IN_URL.sub(f"{HIDDEN}@", text)
    text = _SCHEME.sub(lambda found: f"{found[1]} {HIDDEN}", text)
    text = _KNOWN.sub(HIDDEN, text)

    def assigned(found: re.Match[str]) -> str:
        return f"{found['name']}{found['sign']}{HIDDEN}" if is_secret_name(found["name"]) else found[0]

    return _ASSIGNED.sub(assigned, text)


def hide_home(text: str, home: str | None = None) -> str:
    r"""The text with `~` for home folders, this user's and those at the usual places, whose names are people's.

    Example:
        >>> hide_home("/home/ann/data and C:\\Users\\ann\\data"), hide_home("/data/me/x", home="/data/me")
        ('~/data and ~\\data', '~/x')
    """
    own = str(Path.home()) if home is None else home
    if len(own) > 1:
        text = re.sub(rf"(?<![\w.~-]){re.escape(own.rstrip('/'))}(?![\w.-])", "~", text)
    return _HOMES.sub("~", text)


def hide_ids(table: pa.Table) -> pa.Table:
    """The table without values in the columns `sample_id` and `path`, if it has them; samples keep their index.

    Example:
        >>> hide_ids(pa.table({"index": [3], "sample_id": ["ann.png"]})).to_pylist()
        [{'index': 3, 'sample_id': None}]
    """
    for name in ("sample_id", "path"):
        if name in table.column_names:
            nothing = pa.nulls(table.num_rows, table.schema.field(name).type)
            table = table.set_column(table.column_names.index(name), pa.field(name, nothing.type), nothing)
    return table
