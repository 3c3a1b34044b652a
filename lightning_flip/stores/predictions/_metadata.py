"""What a file of predictions says about the model: kept in the Parquet footer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from lightning_flip.stores.errors import PredictionError

__all__ = ["PredictionMetadata"]

_MARK = (b"lightning_flip", b"predictions")
_DETAILS = b"lightning_flip_predictions"
_SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class PredictionMetadata:
    """What `write_predictions` keeps besides the rows.

    Attributes:
        classes: the label of each of the model's outputs; None where nobody said.
        model_parameters: the model's number of parameters.
        num_samples: number of samples in the dataset that was predicted, also those not in the file.
        data: the fingerprint of that dataset; `data["ids_are"]` says what `sample_id` is: "positions" are not lasting
            ids.
        stage: "validate", "test" or "predict", which wrote the file; None where nobody said.

    Example:
        >>> written = PredictionMetadata(classes=("cat", "dog"), model_parameters=12)
        >>> PredictionMetadata.from_footer(written.to_footer(), "a.parquet") == written
        True
    """

    classes: tuple[int | str, ...] | None = None
    model_parameters: int | None = None
    num_samples: int | None = None
    data: Mapping[str, Any] | None = None
    stage: str | None = None

    def to_footer(self) -> dict[bytes, bytes]:
        """Write it as key-value metadata, with the mark of our files and the schema's version."""
        details = {"schema": _SCHEMA} | dataclasses.asdict(self)
        return dict([_MARK, (_DETAILS, json.dumps(details).encode())])

    @classmethod
    def from_footer(cls, footer: Mapping[bytes, bytes] | None, name: str) -> PredictionMetadata | None:
        """Read it. Returns the metadata; None where the file is not one of ours."""
        if footer is None or footer.get(_MARK[0]) != _MARK[1]:
            return None
        try:
            details: dict[str, Any] = json.loads(footer[_DETAILS])
            schema = int(details["schema"])
            classes = details.get("classes")
            found = cls(
                None if classes is None else tuple(classes),
                details.get("model_parameters"),
                details.get("num_samples"),
                details.get("data"),
                details.get("stage"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PredictionError(f"{name} has damaged metadata ({error!r}). Write the file again.") from error
        if schema > _SCHEMA:
            raise PredictionError(
                f"{name} was written by a newer lightning-flip (schema {schema}, known: {_SCHEMA}). Update yours."
            )
        return found
