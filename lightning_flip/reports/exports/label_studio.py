"""Suspects as tasks of Label Studio, each with the suggested class as a prediction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

import pyarrow as pa

from lightning_flip.reports.exports._samples import ExportError, is_url, sample_places, url_below
from lightning_flip.reports.text import quote

__all__ = ["label_studio_config", "label_studio_tasks"]

_KEPT = ("index", "sample_id", "given_label", "label_score", "is_label_issue")


def label_studio_tasks(
    rows: pa.Table,
    choices: Sequence[str],
    *,
    image_root: str | None = None,
    model_version: str = "lightning-flip",
) -> str:
    """The suspects as a file that Label Studio imports: "Basic Label Studio JSON", with predictions.

    Args:
        rows: what `History.suspects` gives, in the order of the tasks.
        choices: one text per class, see `class_choices`; those of `label_studio_config`.
        image_root: URL that the samples' paths (or ids) are below: `"https://..."`, a bucket such as `"s3://..."`, or
            `"/data/local-files/?d=folder"` for files that Label Studio serves itself. It may be left out if the paths
            are URLs.
        model_version: the name that the predictions get.

    Returns:
        JSON in ASCII. A task's data are `image`, `index`, `sample_id`, `given_label`, `given_name`, `label_score` and
        `is_label_issue`. The prediction's score is the mean probability of the suggested class; a sample without a
        suggestion has no prediction.

    Raises:
        ExportError: if a sample has neither path nor id, or its image has no URL.

    Example:
        >>> rows = pa.table({
        ...     "index": [7], "sample_id": ["cat/7.png"], "path": ["cat/7.png"], "given_label": [0],
        ...     "predicted_label": [1], "label_score": [0.1], "is_label_issue": [True], "mean_prob_predicted": [0.85]})
        >>> (task,) = json.loads(label_studio_tasks(rows, ["cat", "dog"], image_root="/data/local-files/?d=pets"))
        >>> task["data"]["image"], task["data"]["given_name"]
        ('/data/local-files/?d=pets/cat/7.png', 'cat')
        >>> task["predictions"][0]["result"][0]["value"], task["predictions"][0]["score"]
        ({'choices': ['dog']}, 0.85)
    """
    urls = [_url(place, image_root) for place in sample_places(rows)]
    tasks = []
    for row, url in zip(rows.to_pylist(), urls, strict=True):
        label, suggestion = row["given_label"], row["predicted_label"]
        given_name = None if label is None else choices[label]
        task: dict[str, object] = {
            "data": {"image": url, **{name: row[name] for name in _KEPT}, "given_name": given_name}
        }
        if suggestion is not None:
            result = {
                "from_name": "label",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": [choices[suggestion]]},
            }
            score = row["mean_prob_predicted"]
            task["predictions"] = [{"model_version": model_version, "score": score, "result": [result]}]
        tasks.append(task)
    return json.dumps(tasks, indent=1, allow_nan=False) + "\n"


def label_studio_config(choices: Sequence[str]) -> str:
    """The labeling configuration (XML) that fits `label_studio_tasks`: the image, its label, and one of the classes.

    Example:
        >>> print(label_studio_config(["cat", "<b>"]), end="")
        <View>
          <Image name="image" value="$image"/>
          <Header value="Label: $given_name"/>
          <Choices name="label" toName="image" choice="single" required="true">
            <Choice value="cat"/>
            <Choice value="&lt;b&gt;"/>
          </Choices>
        </View>
    """
    lines = [f"    <Choice value={quoteattr(choice)}/>" for choice in choices]
    return "\n".join(
        [
            "<View>",
            '  <Image name="image" value="$image"/>',
            '  <Header value="Label: $given_name"/>',
            '  <Choices name="label" toName="image" choice="single" required="true">',
            *lines,
            "  </Choices>",
            "</View>\n",
        ]
    )


def _url(place: str, root: str | None) -> str:
    if root is not None and not is_url(root):
        raise ExportError(
            f"Label Studio shows images by URL, and {quote(root)} is none. Give as image root https://..., a bucket"
            " such as s3://..., or /data/local-files/?d=FOLDER, FOLDER below the document root of its local files."
        )
    if root is None and "://" not in place:
        raise ExportError(
            f"Label Studio shows images by URL, and {quote(place)} is none. Give an image root: the URL that the files"
            " are below, or /data/local-files/?d=FOLDER for files that Label Studio serves itself, FOLDER below the"
            " document root of its local files."
        )
    return place if root is None else url_below(root, place)
