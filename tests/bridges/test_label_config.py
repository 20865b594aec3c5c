"""The labelling configuration: made from what is known, and added to."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_al.bridges.label_config import NoControl, new_config, widened
from stream_al.core.labels import label_key


def offered(config):
    return [choice.get("value") for choice in ET.fromstring(config).iter("Choice")]


def made(keys, *, task="classification", fixed=True, text=None, image=None):
    return new_config(task, keys, fixed=fixed, text=text, image=image)


def test_fixed_classes_are_all_there_are():
    config = made(["fraud", "ok"])
    assert offered(config) == ["fraud", "ok"]
    assert "new_class" not in config


def test_others_can_be_named_where_more_may_come():
    config = made([], fixed=False)
    assert offered(config) == []
    wider, new = widened(config, ["fraud"], "classification")
    assert new == ("fraud",)
    assert [e.tag for e in ET.fromstring(wider)] == ["Table", "Choices", "Header", "TextArea"]
    assert widened(wider, ["fraud"], "classification") == (wider, ())


@pytest.mark.parametrize(
    ("text", "image", "to"),
    [("a", None, "text"), (None, "b", "image"), ("a", "b", "text"), (None, None, "features")],
)
def test_the_answer_belongs_to_what_the_guess_belongs_to(text, image, to):
    view = ET.fromstring(made(["x"], text=text, image=image))
    assert view.find("Choices").get("toName") == to
    assert {e.get("name") for e in view if e.get("value", "").startswith("$")} == {
        "features", *(["text"] if text else []), *(["image"] if image else [])
    }  # fmt: skip


def test_a_number_is_asked_for_in_regression():
    config = made([], task="regression")
    assert ET.fromstring(config).find("Number").get("name") == "label"
    assert widened(config, ["1"], "regression") == (config, ())


@settings(max_examples=50)
@given(st.lists(st.one_of(st.text(min_size=1), st.integers(), st.booleans()), min_size=1, max_size=6))
def test_any_class_can_be_chosen_that_xml_can_hold(labels):
    keys = list(dict.fromkeys(map(label_key, labels)))
    config, _ = widened(made(["first"], fixed=False), keys, "classification")
    usable = [
        k
        for k in keys
        if all(c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" for c in k)
    ]
    assert offered(config) == list(dict.fromkeys(["first", *usable]))


def test_fixed_classes_that_nobody_could_choose_are_refused():
    with pytest.raises(NoControl):
        made(["\0"])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("<View", "not XML"),
        ("<View/>", "no <Choices"),
        ('<View><Number name="label"/></View>', "must be <Choices>"),
        ('<View><Choices name="other"><Choice value="a"/></Choices></View>', "no <Choices"),
    ],
)
def test_a_page_where_nobody_could_answer_is_refused(config, why):
    with pytest.raises(NoControl, match=why):
        widened(config, ["a"], "classification")
