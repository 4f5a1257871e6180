"""The model card of the face pack, written anew from the figures of its parts."""

from __future__ import annotations

from typing import Any

HEAD = """---
license: apache-2.0
trained_on: drawn people
---
"""

PACK_INTRODUCTION = f"""{HEAD}# Tiny face pack

Finds, aligns, recognises and parses the faces of the drawn people of `likeness.world`, in the formats of the real
libraries: `scrfd.onnx` (SCRFD with keypoints) and `arcface.onnx` (ArcFace) load in InsightFace, `parser/` is a
`SegformerForSemanticSegmentation` with the labels of jonathandinu/face-parsing. `pack.json` names the size and the
threshold that the detector is meant to run with.

**It has never seen a real face.** Trained from scratch on drawn people alone (numbers 0 to 799,999); the figures are of
validation people (800,000 to 899,999) that no part was trained on. Do not use it on photographs of real people: there,
use a pack of InsightFace. Intervals are 95 % bootstraps over people.
"""
_PARTS = {
    "recogniser": "Recogniser (`arcface.onnx`)",
    "detector": "Detector (`scrfd.onnx`)",
    "parser": "Parser (`parser/`)",
    "probe": "Training and figures",
}


def card(introduction: str, training: dict[str, Any]) -> str:
    """The text of a card: the introduction, then recipe and figures of each part."""
    sections = [introduction]
    for part in (name for name in _PARTS if name in training):
        record = training[part]
        command = f"python -m {record['recipe']} --output DIR --cache DIR --minutes {record['minutes']:g} --seed {record['seed']}"
        rows = "\n".join(f"| {name} | {value} |" for name, value in record["figures"].items())
        sections.append(
            f"## {_PARTS[part]}\n\n{record['parameters']:,} parameters, trained for {record['minutes']:g} minutes of computing with "
            f"{record['threads']} threads of {record['machine']}:\n\n    {command}\n\n| on validation people | |\n|---|---|\n{rows}\n"
        )
    return "\n".join(sections)
