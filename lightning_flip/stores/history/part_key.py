"""Which part of a run's history a file holds, as its name says it."""

from __future__ import annotations

import dataclasses
import re

__all__ = ["PartKey"]

_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_NAME = re.compile(
    rf"(?P<split>{_SPLIT.pattern})/epoch-(?P<epoch>\d{{4,}})-pass-(?P<pass_>\d+)-rank-(?P<rank>\d{{5,}})\.parquet",
    re.ASCII,
)


@dataclasses.dataclass(frozen=True, order=True)
class PartKey:
    """One split, epoch, pass and rank: what one Parquet file of the history holds.

    Keys sort by split, then in the order of time, then by rank.

    Attributes:
        split: `"train"`, `"val"`, ...: letters, digits, `_`, `-` and `.`, not starting with `-` or `.` (it names a
            folder).
        epoch: counted from 0.
        pass_: which pass over the split within the epoch, from 0; `val_check_interval` gives several.
        rank: global rank of the process that wrote it.

    Raises:
        ValueError: when `split` cannot name a folder, or a number is negative.

    Example:
        >>> key = PartKey("train", epoch=3, pass_=0, rank=0)
        >>> key.filename
        'train/epoch-0003-pass-0-rank-00000.parquet'
        >>> PartKey.parse(key.filename) == key
        True
    """

    split: str
    epoch: int
    pass_: int
    rank: int

    def __post_init__(self) -> None:
        if not _SPLIT.fullmatch(self.split):
            raise ValueError(
                f"split must be made of letters, digits, '_', '-' and '.', and begin with a letter, digit or '_',"
                f" since it names a folder; got {self.split!r}."
            )
        for name in ("epoch", "pass_", "rank"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")

    @property
    def filename(self) -> str:
        """Path of the part's file inside the folder `history`, with `/`."""
        return f"{self.split}/epoch-{self.epoch:04d}-pass-{self.pass_}-rank-{self.rank:05d}.parquet"

    @classmethod
    def parse(cls, filename: str) -> PartKey:
        """Read a key back from its file name.

        Args:
            filename: what `PartKey.filename` gave.

        Returns:
            The key.

        Raises:
            ValueError: when no key has this file name.

        Example:
            >>> PartKey.parse("val/epoch-0012-pass-1-rank-00003.parquet")
            PartKey(split='val', epoch=12, pass_=1, rank=3)
        """
        match = _NAME.fullmatch(filename)
        if match:
            key = cls(match["split"], int(match["epoch"]), int(match["pass_"]), int(match["rank"]))
            if key.filename == filename:  # 'epoch-00003' is nobody's name: it would be a second file for one key
                return key
        raise ValueError(f"filename must look like 'train/epoch-0003-pass-0-rank-00000.parquet', got {filename!r}.")
