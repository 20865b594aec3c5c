"""Labelled files: every format says the same, and what is wrong is said with its place."""

import csv
import datetime as dt
import decimal
import doctest
import gzip
import json
import sys

import pytest

from stream_al.whatif import reading, summary
from stream_al.whatif.reading import ColumnError, Data, DataError, read

ROWS = [
    {
        "amount": i / 4,
        "big": i % 3 == 0,
        "country": ["FR", "DE", None][i % 3],
        "kind": ["fraud", "ok"][i % 7 > 4],
    }
    for i in range(120)
]
EXPECTED = [({k: v for k, v in row.items() if k != "kind"}, row["kind"]) for row in ROWS]


def as_csv(path, rows=ROWS, delimiter=","):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(rows[0])
        writer.writerows(["" if v is None else str(v) for v in row.values()] for row in rows)
    return path


def as_json(path, rows=ROWS):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def text(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.ndjson"])
def test_every_format_holds_the_same_samples(tmp_path, name):
    path = tmp_path / name
    if "json" in name:
        as_json(path)
    else:
        as_csv(path, delimiter="\t" if ".tsv" in name else ";")
    data = read(path, "kind")
    assert data.rows == EXPECTED
    assert data.classes == ("fraud", "ok")
    assert data.digest() == Data("other name", EXPECTED).digest()
    assert [type(v) for v in data.rows[1][0].values()] == [float, bool, str]


def test_parquet_holds_the_same_samples_and_dates_are_texts(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.Table.from_pylist(ROWS), path)
    assert read(path, "kind").rows == EXPECTED
    more = [
        row | {"day": dt.date(2026, 1, 2), "price": decimal.Decimal("1.5"), "v": [1.0, 2.0]} for row in ROWS
    ]
    parquet.write_table(arrow.Table.from_pylist(more), path)
    assert (
        read(path, "kind").rows[0][0].items() >= {"day": "2026-01-02", "price": 1.5, "v": [1.0, 2.0]}.items()
    )
    with pytest.raises(DataError, match="this is no Parquet"):
        read(text(tmp_path / "b.parquet", "no"), "kind")


def test_without_pyarrow_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"a\.parquet: .* pip install 'stream-al\[parquet\]'"):
        read(text(tmp_path / "a.parquet", "PAR1"), "kind")


def test_json_may_hold_samples_as_the_service_reads_them(tmp_path):
    rows = [{"id": f"s-{i}", "features": f, "split": "x", "kind": y} for i, (f, y) in enumerate(EXPECTED)]
    assert read(as_json(tmp_path / "a.jsonl", rows), "kind").rows == EXPECTED


def test_labels_keep_their_type_and_whole_fractions_are_whole(tmp_path):
    rows = [{"x": i, "y": [1, 2.0, True, "1"][i % 4]} for i in range(120)]
    assert read(as_json(tmp_path / "a.jsonl", rows), "y").classes == (1, 2, True, "1")
    assert read(as_csv(tmp_path / "a.csv", rows), "y").classes == ("1", "2.0", "True")


def test_columns_can_be_left_out_and_rows_without_a_label_are_counted(tmp_path):
    rows = [row | {"kind": None if i < 5 else row["kind"]} for i, row in enumerate(ROWS)]
    data = read(as_csv(tmp_path / "a.csv", rows), "kind", ignore={"big", "country"})
    assert data.unlabelled == 5
    assert data.rows == [({"amount": f["amount"]}, y) for f, y in EXPECTED[5:]]


def test_samples_that_are_sorted_by_their_label_are_noticed():
    mixed = Data("mixed", EXPECTED)
    assert not mixed.sorted
    assert Data("sorted", sorted(EXPECTED, key=lambda row: row[1])).sorted


HEAD = "x,y\n"
GOOD = "".join(f"{i},{'ab'[i % 2]}\n" for i in range(120))
JSON = "".join(f'{{"x": {i}, "y": "{"ab"[i % 2]}"}}\n' for i in range(120))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", HEAD + "1,a\n2\n" + GOOD, r"a\.csv:3: 1 fields where the first line has 2"),
        ("a.csv", HEAD + GOOD + '3,"a\n', r"a\.csv:122: unexpected end of data"),
        ("a.csv", HEAD.encode() + b"1,\xff\n", r"a\.csv:2: this is not UTF-8 text"),
        ("a.csv", "x,x,y\n1,2,a\n", "the column x is there twice"),
        ("a.csv", "", "there are no rows"),
        ("a.csv", HEAD, "there are no rows"),
        ("a.csv", HEAD + "1,\n2,NA\n", "the column y has no values"),
        ("a.csv", HEAD + GOOD[:40], "at least 100 are needed"),
        ("a.csv", HEAD + "1,a\n" * 120, "all labels are 'a'"),
        ("a.csv", HEAD + "".join(f"1,{i}\n" for i in range(900)), "900 different labels in 900 samples"),
        ("a.csv", "y\n" + "a\nb\n" * 60, "no column but the label"),
        ("a.csv.gz", gzip.compress((HEAD + GOOD).encode())[:-20], "cannot be unpacked"),
        ("a.csv.gz", HEAD + GOOD, "cannot be unpacked"),
        ("a.jsonl", JSON + "{\n", r"a\.jsonl:121: this is no JSON"),
        ("a.jsonl", "[" * 200_000, r"a\.jsonl:1: this is no JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: each line should be one object"),
        ("a.jsonl", JSON + '{"x": {"z": 1}, "y": "a"}\n', r"a\.jsonl:121: x is an object"),
        ("a.jsonl", '{"x": ["a"], "y": "a"}\n', "a list with other things than numbers"),
        ("a.jsonl", '{"x": 1, "y": 1.5}\n', r"a\.jsonl:1: the label 1\.5 \(y\) is a number with a fraction"),
        ("a.jsonl", '{"x": [true], "y": "a"}\n', "a list with other things than numbers"),
        ("a.jsonl", '{"x": 1e301, "y": "a"}\n', r"a\.jsonl:1: x is too large a number"),
        ("a.jsonl", f'{{"x": 1, "y": {2**53}}}\n', r"the number is too large to be a class \(y\)"),
        ("a.jsonl", f'{{"x": 1, "y": "{1_001 * "a"}"}}\n', r"a class name of 1001 characters"),
        ("a.jsonl", '{"x": 1, "y": [1]}\n', r"the label '\[1\]' \(y\) is no text"),
        ("a.xlsx", "", "what kind of file is this"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, name, content, said):
    with pytest.raises(DataError, match=said):
        read(text(tmp_path / name, content), "y")


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (None, "which column holds the label.*one of amount, big, country, kind"),
        ("kynd", "no column kynd; did you mean kind?"),
        ("KIND", "did you mean kind?"),
        ("xxxx", "no column xxxx; there are amount, big, country, kind"),
    ],
)
def test_the_column_of_the_label_is_asked_for_by_name(tmp_path, label, said):
    with pytest.raises(ColumnError, match=said):
        read(as_csv(tmp_path / "a.csv"), label)


@pytest.mark.parametrize("module", [reading, summary])
def test_examples(module):
    assert doctest.testmod(module).failed == 0
