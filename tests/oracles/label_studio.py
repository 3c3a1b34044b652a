"""Label Studio's task format, read as its documentation describes it."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree


def read_label_studio(tasks: str, config: str) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Data and first prediction of each task, by the "basic JSON format" and the tags of the configuration."""
    view = ElementTree.fromstring(config)
    assert view.tag == "View"
    objects = {tag.get("name"): tag for tag in view if tag.tag == "Image"}
    controls = {tag.get("name"): tag for tag in view if tag.tag == "Choices"}
    found = []
    for task in json.loads(tasks):
        assert set(task) <= {"data", "predictions"}
        for tag in [*objects.values(), *view.iter("Header")]:  # a value is a variable, or text with variables
            for variable in re.findall(r"\$(\w+)", str(tag.get("value"))):
                assert variable in task["data"]
        for prediction in task.get("predictions", []):
            assert isinstance(prediction["model_version"], str)
            assert 0 <= prediction["score"] <= 1
            for result in prediction["result"]:
                control = controls[result["from_name"]]
                assert result["to_name"] == control.get("toName")
                assert result["to_name"] in objects
                assert result["type"] == control.tag.lower()
                allowed = {choice.get("value") for choice in control.iter("Choice")}
                assert set(result["value"]["choices"]) <= allowed
                assert len(result["value"]["choices"]) == 1 or control.get("choice") == "multiple"
        found.append((task["data"], task.get("predictions", [None])[0]))
    return found
