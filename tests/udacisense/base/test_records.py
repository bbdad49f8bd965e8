import json

import pytest

from udacisense.base.records import (
    ModelSpec,
    Outcome,
    Resize,
    Signature,
    from_json,
    read_json,
    record,
    to_json,
    write_record,
)
from udacisense.errors import InputError


@record
class Inner:
    value: float
    note: str | None


@record
class Outer:
    count: int
    outcome: Outcome
    inner: Inner
    sizes: tuple[int, ...]
    options: dict[str, int | float | bool | str | None]


OUTER = Outer(
    count=3,
    outcome=Outcome.SKIPPED,
    inner=Inner(value=0.1, note=None),
    sizes=(1, 2),
    options={"a": 1, "b": 1.5, "c": True, "d": "x", "e": None},
)


def changed(**changes):
    return json.dumps({**json.loads(to_json(OUTER)), **changes})


def test_a_record_survives_the_round_trip_with_its_types():
    again = from_json(Outer, to_json(OUTER), source="text")
    assert again == OUTER
    assert again.outcome is Outcome.SKIPPED
    assert [type(v) for v in again.options.values()] == [int, float, bool, str, type(None)]
    assert isinstance(again.sizes, tuple)


def test_absent_is_written_as_null():
    assert json.loads(to_json(OUTER))["inner"]["note"] is None


def test_records_are_frozen_slotted_and_keyword_only():
    with pytest.raises(AttributeError):
        OUTER.count = 4
    assert not hasattr(OUTER, "__dict__")
    with pytest.raises(TypeError):
        Inner(1.0, None)


def test_an_unknown_key_is_refused_by_name():
    with pytest.raises(InputError, match=r"the file of mine is not a valid Outer record: surprise: "):
        from_json(Outer, changed(surprise=1), source="the file of mine")


def test_an_unknown_key_inside_is_refused_with_its_path():
    with pytest.raises(InputError, match=r"inner\.extra"):
        from_json(Outer, changed(inner={"value": 1.0, "note": None, "extra": 0}), source="x")


def test_a_missing_key_is_refused_by_name():
    with pytest.raises(InputError, match=r"inner\.note: Field required"):
        from_json(Outer, changed(inner={"value": 1.0}), source="x")


@pytest.mark.parametrize(
    ("key", "value"),
    [("count", "3"), ("count", 3.5), ("outcome", "perhaps"), ("sizes", [1, "2"]), ("inner", None), ("options", [])],
)
def test_a_value_of_another_type_is_refused_by_name(key, value):
    with pytest.raises(InputError, match=rf"{key}"):
        from_json(Outer, changed(**{key: value}), source="x")


def test_many_problems_are_counted_and_three_are_named():
    with pytest.raises(InputError, match=r"\(and 2 more\)"):
        from_json(Outer, "{}", source="x")


def test_text_that_is_no_json_is_one_sentence():
    with pytest.raises(InputError, match=r"^x is not a valid Outer record: the file: Invalid JSON"):
        from_json(Outer, "not json", source="x")


def test_a_truncated_record_file_names_itself(tmp_path):
    path = tmp_path / "outer.json"
    path.write_text(to_json(OUTER)[:-20])
    with pytest.raises(InputError, match=r"outer\.json"):
        read_json(Outer, path)


def test_a_missing_record_file_names_itself(tmp_path):
    with pytest.raises(InputError, match=r"absent\.json cannot be read: No such file"):
        read_json(Outer, tmp_path / "absent.json")


def test_write_record_reads_back_and_ends_with_a_newline(tmp_path):
    path = tmp_path / "new" / "outer.json"
    write_record(path, OUTER)
    assert read_json(Outer, path) == OUTER
    assert path.read_bytes().endswith(b"}\n")


def test_the_contract_records_survive_the_round_trip():
    signature = Signature(
        input_name="input",
        output_name="logits",
        input_shape=(1, 3, 32, 32),
        output_shape=(1, 2),
        dtype="float32",
        layout="NCHW",
        resize=Resize(method="bilinear", antialias=True),
        size_px=32,
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 1.0, 1.0),
        labels=("a", "b"),
    )
    assert from_json(Signature, to_json(signature), source="x") == signature
    spec = ModelSpec(architecture="x", options={"width": 1.0, "n": 1})
    assert type(from_json(ModelSpec, to_json(spec), source="x").options["width"]) is float
    with pytest.raises(InputError, match="input_shape"):
        from_json(Signature, to_json(signature).replace("3,\n", "", 1), source="x")
