"""The labelling configuration of a Label Studio project: what is shown, and how to answer.

It is made once, from the classes and features that are known; afterwards it belongs to whoever runs the project, and
classes that come later are added to what stands there.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable

from stream_al.codec import CONTROL, NEW_CLASS_CONTROL, shown_as
from stream_al.core.messages import Task

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBER, _OTHER = "Which number is it?", "Another class, if none fits:"


class NoControl(ValueError):  # noqa: N818  the name of the fact
    """The configuration of the project has nothing by which our question can be answered."""


def new_config(task: Task, keys: Iterable[str], *, fixed: bool, text: str | None, image: str | None) -> str:
    """Return a configuration in XML.

    Parameters
    ----------
    task
        Regression asks for a number.
    keys
        The known classes, as ``label_key`` writes them; those that XML cannot hold are left out.
    fixed
        Whether there are no others; else people can name one.
    text, image
        Features shown as such, above the table of all.

    Raises
    ------
    NoControl
        There would be no answer to choose.
    """
    view = ET.Element("View")
    for name, tag, feature in (("text", "Text", text), ("image", "Image", image)):
        if feature is not None:
            ET.SubElement(view, tag, name=name, value=f"${name}")
    ET.SubElement(view, "Table", name="features", value="$features")
    to = shown_as(text, image)
    if task == "regression":
        ET.SubElement(view, "Header", value=_NUMBER)
        ET.SubElement(view, "Number", name=CONTROL, toName=to, required="true")
        return _text(view)
    usable = [key for key in keys if _fits(key)]
    if usable:
        view.append(_choices(usable, to, required=fixed))
    elif fixed:
        raise NoControl("none of the classes can be written in XML")
    if not fixed:
        ET.SubElement(view, "Header", value=_OTHER, size="5")
        ET.SubElement(view, "TextArea", name=NEW_CLASS_CONTROL, toName=to, maxSubmissions="1", rows="1")
    return _text(view)


def widened(config: str, keys: Iterable[str], task: Task) -> tuple[str, tuple[str, ...]]:
    """Return a configuration that also offers these classes, and which of them are new in it.

    Raises
    ------
    NoControl
        There is no place for an answer.
    """
    try:
        view = ET.fromstring(config)  # noqa: S314  Label Studio has read it before us; expat bounds its entities
    except ET.ParseError as error:
        raise NoControl(f"it is not XML: {error}") from None
    controls = {element.get("name"): element for element in view.iter()}
    wanted = "Number" if task == "regression" else "Choices"
    control, typed = controls.get(CONTROL), controls.get(NEW_CLASS_CONTROL)
    if control is None and (typed is None or task == "regression"):
        raise NoControl(f'it has no <{wanted} name="{CONTROL}" ...>')
    if control is not None and control.tag != wanted:
        raise NoControl(f'its "{CONTROL}" is <{control.tag}>, and must be <{wanted}>')
    if task == "regression":
        return config, ()
    offered = {choice.get("value") for choice in control.iter("Choice")} if control is not None else set()
    new = tuple(key for key in dict.fromkeys(keys) if key not in offered and _fits(key))
    if not new:
        return config, ()
    if control is not None:
        control.extend(ET.Element("Choice", value=key) for key in new)
    elif typed is not None:
        _put_before(view, typed, _choices(new, typed.get("toName", "features"), required=False))
    return _text(view), new


def _choices(keys: Iterable[str], to: str, *, required: bool) -> ET.Element:
    must = {"required": "true"} if required else {}
    choices = ET.Element("Choices", {"name": CONTROL, "toName": to, "choice": "single", **must})
    choices.extend(ET.Element("Choice", value=key) for key in keys)
    return choices


def _put_before(view: ET.Element, sibling: ET.Element, new: ET.Element) -> None:
    """Insert an element before another and its header."""
    parent = next(element for element in view.iter() if sibling in element)
    at = list(parent).index(sibling)
    parent.insert(at - 1 if at and parent[at - 1].tag == "Header" else at, new)


def _text(view: ET.Element) -> str:
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


def _fits(key: str) -> bool:
    return bool(key) and _NO_XML.search(key) is None
