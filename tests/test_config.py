"""The configuration: what wins, what is refused, and what people are told."""

import json
from pathlib import Path

import pytest

from stream_al import config_doc
from stream_al.config import (
    DEFAULT_SPEC,
    REGRESSION_SPEC,
    STRATEGIES,
    ConfigError,
    Settings,
    load,
    schema,
    show,
)
from stream_al.core.strategies import CLASSIFICATION

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    """Variables of whoever runs the tests are not part of them."""
    monkeypatch.setattr("os.environ", {})


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a config.yaml in the current directory and return its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> Path:
        Path("config.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return Path("config.yaml")

    return write


def problems(path: Path | None, *overrides: str, environ=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides, environ=environ or {})
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


# What wins


def test_without_any_source_the_defaults_hold():
    settings = load(None)
    assert settings == Settings()
    assert settings.written == frozenset()
    assert settings.broker.url == "embedded://.stream-al/log.db"
    assert settings.budget.fraction == 0.05
    assert settings.where("budget.fraction") == "defaults"


def test_set_wins_over_the_environment_wins_over_the_file(written, monkeypatch):
    path = written("budget:\n  per_hour: 1\n  per_day: 1\n  max_outstanding: 1\n")
    environ = {"STREAM_AL_BUDGET__PER_DAY": "2", "STREAM_AL_BUDGET__MAX_OUTSTANDING": "2"}
    monkeypatch.setattr("os.environ", environ)
    settings = load(path, ["budget.max_outstanding=3"])
    budget = settings.budget
    assert (budget.per_hour, budget.per_day, budget.max_outstanding) == (1, 2, 3)
    assert budget.fraction == 0.05
    assert settings.where("budget.per_hour") == "config.yaml:2"
    assert settings.where("budget.per_day") == "environment STREAM_AL_BUDGET__PER_DAY"
    assert settings.where("budget.max_outstanding") == "--set"


def test_the_last_set_wins():
    assert load(None, ["seed=2", "seed=3"]).seed == 3


def test_a_variable_may_hold_a_whole_section_and_another_one_key_of_it():
    environ = {"STREAM_AL_BUDGET__PER_DAY": "30", "STREAM_AL_BUDGET": "{per_hour: 3, per_day: 4}"}
    settings = load(None, environ=environ)
    assert (settings.budget.per_hour, settings.budget.per_day) == (3, 30)


def test_client_settings_are_merged_and_lists_are_replaced(written):
    path = written("broker: {client: {ssl_cafile: a, ssl_keyfile: b}}\naccuracy: {windows: [1, 2, 3]}\n")
    settings = load(path, ["broker.client.ssl_cafile=c", "accuracy.windows=[5]"])
    assert settings.broker.client == {"ssl_cafile": "c", "ssl_keyfile": "b"}
    assert settings.accuracy.windows == (5,)


def test_only_written_keys_count_as_written_also_with_the_default_as_value(written):
    path = written("strategy: margin\nbudget: {fraction: 0.05}\nlabels:\n")
    settings = load(path, ["broker.client.ssl_cafile=x"], environ={"STREAM_AL_SEED": "1"})
    assert settings.written == {"strategy", "budget.fraction", "seed", "broker.client"}
    assert settings.model_copy().written == settings.written


def test_regression_has_defaults_of_its_own_that_nobody_wrote(written):
    settings = load(written("model: {task: regression}"), environ={})
    assert (settings.model.spec, settings.strategy) == (REGRESSION_SPEC, "random")
    assert settings.written == {"model.task"}
    chosen = load(written("model: {task: regression, spec: [a.b]}\nstrategy: stratified"), environ={})
    assert (chosen.model.spec, chosen.strategy) == (["a.b"], "stratified")
    assert load(None, environ={}).model.spec == DEFAULT_SPEC


def test_where_something_was_written_does_not_matter_for_equality(written):
    assert load(written("seed: 7\n")) == load(None, ["seed=7"]) != Settings()


def test_an_empty_file_and_an_empty_section_are_defaults(written):
    assert load(written("")) == Settings()
    assert load(written("# nothing\nbudget:\n  # fraction: 0.1\nbroker: {client: }\n")) == Settings()


def test_variables_of_a_platform_are_not_ours():
    environ = {"STREAM_AL_SERVICE_HOST": "10.0.0.1", "STREAM_AL_PORT": "tcp://10.0.0.1:80", "PATH": "/bin"}
    assert load(None, environ=environ).written == frozenset()


def test_defaults_are_not_shared():
    Settings().model.spec.clear()
    Settings().broker.client["x"] = 1
    assert Settings().model.spec
    assert Settings().broker.client == {}


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Settings().budget.fraction = 0.1


# What people are told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("budget:\n  per_hour: ten", "config.yaml:2 budget.per_hour: 'ten' is not a whole number; write for example 10"),
        ("budget: {fracton: 0.1}", "config.yaml:1 budget.fracton: unknown key; did you mean fraction?"),
        ("\nbudgte: {fraction: 0.1}", "config.yaml:2 budgte: unknown key; did you mean budget?"),
        ("Per-Hour: 3", "config.yaml:1 Per-Hour: unknown key; did you mean budget.per_hour?"),
        ("ledger: {zzz: 1}", "config.yaml:1 ledger.zzz: unknown key; known here: bucket_s"),
        ("1: 2", "config.yaml:1 1: not a name; write a name"),
        ("strategy: margn", "config.yaml:1 strategy: 'margn' is not one of " + ", ".join(CLASSIFICATION) + "; did you mean margin?"),
        ("log: {level: INFO}", "config.yaml:1 log.level: 'INFO' is not one of debug, info, warning, error; did you mean info?"),
        ("samples: {start: x}", "config.yaml:1 samples.start: 'x' is not one of latest, earliest; write for example latest"),
        ("seed: '1'", "config.yaml:1 seed: '1' is not a whole number; write for example 1"),
        ("seed: 1.0", "config.yaml:1 seed: 1.0 is not a whole number; write for example 1"),
        ("seed: true", "config.yaml:1 seed: true is not a whole number; write for example 1"),
        ("seed:", "config.yaml:1 seed: null is not a whole number; write for example 1"),
        ("name: 5", 'config.yaml:1 name: 5 is not text; write it in quotes: "5"'),
        ("name: ''", "config.yaml:1 name: '' is empty; write for example default"),
        ("budget: {fraction: 0}", "config.yaml:1 budget.fraction: 0 is not above 0; write for example 0.05"),
        ("budget: {fraction: 1.5}", "config.yaml:1 budget.fraction: 1.5 is above 1; write for example 0.05"),
        ("budget: {per_day: 0}", "config.yaml:1 budget.per_day: 0 is below 1; write for example 100"),
        ("labels: {ttl_s: .inf}", "config.yaml:1 labels.ttl_s: inf is not a finite number; write for example 604800"),
        ("scorer: {predictions: yes}", "config.yaml:1 scorer.predictions: 'yes' is neither true nor false; write for example false"),
        ("http: 9108", "config.yaml:1 http: 9108 is not a mapping; write its keys indented below http:"),
        ("accuracy: {windows: 5}", "config.yaml:1 accuracy.windows: 5 is not a list; write for example [1000, 5000]"),
        ("accuracy:\n  windows:\n  - 5\n  - x", "config.yaml:4 accuracy.windows[1]: 'x' is not a whole number; write for example 1000"),
        ("model: {spec: []}", "config.yaml:1 model.spec: [] has too few entries; write for example [river.naive_bayes.GaussianNB]"),
        ("model: {classes: [a, 1.5]}", "config.yaml:1 model.classes[1]: 1.5 is not a class; write text, a whole number, true or false"),
        ("model: {classes: [a]}", "config.yaml:1 model.classes: [a] leaves no choice; write for example [fraud, ok]"),
        ("accuracy: {windows: []}", "config.yaml:1 accuracy.windows: [] has no window; write for example [1000, 5000]"),
        ("accuracy: {windows: [5, 5]}", "config.yaml:1 accuracy.windows: [5, 5] names a window twice; write each length once"),
        ("accuracy: {windows: [x]}", "config.yaml:1 accuracy.windows[0]: 'x' is not a whole number; write for example 1000"),
        ("broker: {replication_factor: 0}", "config.yaml:1 broker.replication_factor: 0 copies hold nothing; write -1 for the broker's default, or for example 3"),
        ("model: {classes: [a, a]}", "config.yaml:1 model.classes: 'a' is named twice; write each class once"),
        ("model: {task: ranking}", "config.yaml:1 model.task: 'ranking' is not one of classification, regression; write for example classification"),
        ("model: {task: regression, classes: [a, b]}", "config.yaml:1 model.classes: there are no classes in regression; leave it out, or write model.task: classification"),
        ("model: {task: regression, cooperative: true}", "config.yaml:1 model.cooperative: a number is never sure; in regression leave it out, or write model.task: classification"),
        ("model: {task: regression}\nstrategy: margin", "config.yaml:2 strategy: 'margin' cannot be used in regression; write one of random, stratified: model.task, model.spec (a regressor, or leave it out) and strategy change together"),
        ("model: {task: regression}\nstrategy: stratifed", "config.yaml:2 strategy: 'stratifed' is not one of random, stratified; did you mean stratified?"),
        ("strategy: stratified", "config.yaml:1 strategy: 'stratified' cannot be used in classification; write one of " + ", ".join(CLASSIFICATION)),
        ("topics: {labels: a b}", "config.yaml:1 topics.labels: 'a b' is not a topic name; use letters, digits, '.', '_' and '-', at most 249"),
        ("topics: {labels: ledger}", "config.yaml:1 topics: ledger is used for more than one topic; write different names"),
        ("broker:\n  transaction_timeout_ms: 10001", "config.yaml:2 broker.transaction_timeout_ms: 10001 is above 10000; write for example 10000"),
        ("broker:\n  client:\n    group_id: x", "config.yaml:3 broker.client.group_id: cannot be set here; write group"),
        ("broker: {client: {1: 2}}", "config.yaml:1 broker.client.1: not a name; write a name"),
        ("samples: {id: a..b}", "config.yaml:1 samples.id: 'a..b' is not a path; write for example payload.id"),
        ("state_dir: ''", "config.yaml:1 state_dir: '' is not a directory; write for example .stream-al/state, or null for none"),
        ("budget: {fraction: null}", "config.yaml:1 budget: no limit at all; write one of fraction, per_hour, per_day, for example fraction: 0.05"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_line_key_and_remedy(written, text, told):
    assert problems(written(text)) == [told]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "a:\n\tb: 1",
            "config.yaml:2: not YAML: found character '\\t' that cannot start any token; indent with spaces, not tabs",
        ),
        ("seed: 1\nseed: 1", "config.yaml:2 seed: written twice, first at config.yaml:1; keep one of them"),
        (
            "log:\n  level: info\n  level: info",
            "config.yaml:3 log.level: written twice, first at config.yaml:2; keep one of them",
        ),
        ("- 1", "config.yaml:1: not a mapping; write lines such as `strategy: margin`"),
        ("\na: *b", "config.yaml:2: not YAML: found undefined alias 'b'; put the value in quotes"),
        ("a: &b [*b]", "config.yaml:1: an alias that contains itself"),
        ("\na: \x07", "config.yaml:2: a character that YAML does not allow"),
        (b"a: b\nc: \xff", "config.yaml:2: not UTF-8; save the file as UTF-8"),
        ("a: !!binary x", "config.yaml:1 a: the tag tag:yaml.org,2002:binary is not known; leave it out"),
        ("? [1]\n: 2", "config.yaml:1 ?: a list or mapping cannot be a key; write a name"),
        ("seed: " + "9" * 5000, "config.yaml:1 seed: not a readable int; put it in quotes"),
        ("[" * 3000, "config.yaml: nested too deeply"),
    ],
)
def test_what_is_not_yaml_is_told_with_its_line(written, text, told):
    assert problems(written(text)) == [told]


@pytest.mark.parametrize(
    "text", ["broker:\n  url: embedded://:memory:", "a: [1", "a: 1\n---\nb: 2", "a: 1\n b: 2"]
)
def test_the_parser_s_other_complaints_have_a_line_and_a_hint(written, text):
    (told,) = problems(written(text))
    assert told.startswith("config.yaml:")
    assert ": not YAML: " in told
    assert "; " in told


def test_all_problems_are_told_at_once_in_the_order_of_the_file(written):
    path = written("zzz: 1\nlog: {level: x}\nseed: x\nbudget: {per_hour: x}\n")
    assert [line.split()[0] for line in problems(path)] == [f"config.yaml:{line}" for line in (1, 2, 3, 4)]


def test_all_duplicate_keys_are_told_at_once(written):
    assert len(problems(written("a: 1\na: 2\nb: 1\nb: {c: 1, c: 2}"))) == 3


def test_problems_outside_the_file_name_their_place():
    assert problems(None, "budget.per_hour=ten") == [
        "--set budget.per_hour: 'ten' is not a whole number; write for example 10"
    ]
    assert problems(None, environ={"STREAM_AL_BROKR__URL": "x"}) == [
        "environment STREAM_AL_BROKR__URL brokr: unknown key; did you mean broker?"
    ]
    assert problems(None, environ={"STREAM_AL_STRATEGGY": "random"}) == [
        "environment STREAM_AL_STRATEGGY strateggy: unknown key; did you mean strategy?"
    ]


def test_a_wrong_value_that_something_else_overrides_is_not_a_problem(written):
    assert load(written("seed: x"), ["seed=3"]).seed == 3


@pytest.mark.parametrize("text", ["seed", "=3", ".a=3", "a.=3"])
def test_a_set_without_key_or_value_is_told_how_to_write_one(text):
    (told,) = problems(None, text)
    assert "write for example --set budget.fraction=0.1" in told


def test_a_set_whose_value_is_not_yaml_is_told_so():
    (told,) = problems(None, "name=@x")
    assert told.startswith("--set name: not YAML: ")


def test_a_missing_or_unreadable_file_is_told_by_name(tmp_path):
    assert problems(tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml: no such file; check the name"]
    assert problems(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_a_byte_order_mark_does_not_matter(written):
    assert load(written("\ufeffseed: 3")).seed == 3


# Types


def test_classes_keep_their_type(written):
    classes = load(written("model: {classes: [true, 1, '1', yes, no, 1_000, fraud]}")).model.classes
    assert [(type(label), label) for label in classes or ()] == [
        (bool, True),
        (int, 1),
        (str, "1"),
        (str, "yes"),
        (str, "no"),
        (str, "1_000"),
        (str, "fraud"),
    ]


def test_numbers_follow_yaml_1_2(written):
    settings = load(
        written("budget: {fraction: 1e-3}\nseed: 0x10\nsamples: {max_bytes: 0o17}\nlabels: {ttl_s: 5}")
    )
    assert (settings.budget.fraction, settings.seed, settings.samples.max_bytes, settings.labels.ttl_s) == (
        0.001,
        16,
        15,
        5,
    )


def test_a_model_spec_is_passed_on_as_it_is_written(written):
    path = written(
        "model:\n  spec:\n  - river.forest.ARFClassifier: {n_models: 3, seed: null, metric: 1:30}\n"
    )
    assert load(path).model.spec == [
        {"river.forest.ARFClassifier": {"n_models": 3, "seed": None, "metric": "1:30"}}
    ]


@pytest.mark.parametrize(
    "url",
    [
        "embedded://.stream-al/log.db",
        "embedded:///var/lib/log.db",
        "embedded://:memory:",
        "kafka://localhost",
        "kafka://one:9092,two.example.org:9093,[::1]:9092",
    ],
)
def test_brokers_of_both_kinds_are_accepted(url):
    assert load(None, [f"broker.url={url}"]).broker.url == url


@pytest.mark.parametrize(
    "url",
    ["localhost:9092", "http://x", "kafka://", "kafka://a:b", "kafka://a,,b", "embedded://", "embedded://x/"],
)
def test_other_addresses_are_refused(url):
    (told,) = problems(None, f"broker.url={url}")
    assert told.startswith("--set broker.url: ")
    assert "write for example" in told


def test_state_and_port_can_be_switched_off():
    settings = load(None, ["state_dir=null", "http.port=null", "budget.fraction=null", "budget.per_day=5"])
    assert settings.state_dir is settings.http.port is settings.budget.fraction is None


# Secrets


def test_secrets_are_not_shown():
    secrets = ["sasl_plain_password", "ssl_password", "sasl_oauth_token", "client_secret"]
    settings = load(
        None,
        [f"broker.client.{key}=hunter2" for key in secrets]
        + ["broker.client.proxy=http://ann:hunter2@proxy:80", "broker.client.nested={password: hunter2}"],
    )
    shown = show(settings)
    assert "hunter2" not in json.dumps(shown)
    assert shown["broker"]["client"]["sasl_plain_password"] == "***"
    assert shown["broker"]["client"]["proxy"] == "http://***@proxy:80"
    assert shown["budget"]["fraction"] == 0.05
    assert shown["state_dir"] == ".stream-al/state"
    assert settings.broker.client["sasl_plain_password"] == "hunter2"


def test_the_token_of_label_studio_is_secret_and_the_file_it_stands_in_is_not():
    settings = load(None, environ={"STREAM_AL_LABEL_STUDIO__TOKEN": "0123"})
    assert settings.label_studio.token == "0123"
    assert show(settings)["label_studio"]["token"] == "***"
    settings = load(None, ["label_studio.token_file=/run/secrets/token"])
    assert show(settings)["label_studio"]["token_file"] == "/run/secrets/token"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("url=studio:8080", "label_studio.url: 'studio:8080' is not an address"),
        ("url=http://", "is not an address; write for example http://127.0.0.1:8080"),
        ("url=http://ann:hunter2@studio", "credentials do not belong in the address"),
        ("url='http://studio/?next=1'", "is more than an address"),
        ("url='http://stu dio'", "is more than an address"),
        ("project=ab", "label_studio.project: 'ab' is no title; Label Studio allows 3 to 50 characters"),
        ("project=0", "label_studio.project: 0 is not the number of a project"),
        ("project=true", "label_studio.project: true is no project; write its title, or its number"),
        ("{token: hunter2, token_file: x}", "token and token_file are both written"),
    ],
)
def test_wrong_settings_of_the_bridge_are_named(written, says):
    where = "label_studio=" if written.startswith("{") else "label_studio."
    with pytest.raises(ConfigError) as raised:
        load(None, [where + written], environ={})
    assert says in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_the_address_of_label_studio_may_have_a_path():
    assert (
        load(None, ["label_studio.url=https://tools/ls/"], environ={}).label_studio.url == "https://tools/ls"
    )


@pytest.mark.parametrize("secret", ["0123", "#a", "a: b", "'", "null", " x", "[", "@", ""])
def test_a_secret_outside_the_file_is_taken_as_it_stands(secret):
    environ = {"STREAM_AL_BROKER__CLIENT__SASL_PLAIN_PASSWORD": secret}
    assert load(None, environ=environ).broker.client["sasl_plain_password"] == secret
    assert (
        load(None, [f"broker.client.sasl_plain_password={secret}"]).broker.client["sasl_plain_password"]
        == secret
    )


def test_problems_do_not_show_secrets(written):
    path = written(
        "broker: [{sasl_plain_password: hunter2}]\nlog: {password: hunter2}\nname: {token: hunter2}\n"
    )
    assert "hunter2" not in "\n".join(problems(path))
    told = problems(None, "broker.url=kafka://ann:hunter2@host:9092", "http.host={url: 'http://a:hunter2@b'}")
    assert "hunter2" not in "\n".join(told)
    assert any("broker.client" in line for line in told)


# Generated documents


def test_the_schema_is_a_json_schema_that_knows_every_key():
    document = schema()
    assert document["$schema"].endswith("2020-12/schema")
    assert document["additionalProperties"] is False
    assert document["properties"].keys() == Settings.model_fields.keys()
    assert document["properties"]["strategy"]["enum"] == list(STRATEGIES)
    json.dumps(document)


def test_every_key_is_described():
    for name, key in Settings.model_fields.items():
        section = key.annotation
        if hasattr(section, "model_fields"):
            assert section.__doc__
            assert all(inner.description for inner in section.model_fields.values()), name
        else:
            assert key.description, name


def test_the_annotated_default_is_committed_as_generated():
    assert (ROOT / "config.yaml").read_text(encoding="utf-8") == config_doc.annotated_default()


def test_the_reference_is_committed_as_generated():
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == config_doc.reference()


def test_the_annotated_default_is_the_default_with_every_key_written():
    settings = load(ROOT / "config.yaml")
    assert settings == Settings()
    leaves = {
        f"{name}.{inner}" if inner else name
        for name, key in Settings.model_fields.items()
        for inner in getattr(key.annotation, "model_fields", {"": None})
    }
    assert settings.written == leaves


def test_requests_that_a_kafka_client_may_not_send_are_refused():
    large = "samples.max_bytes=2000000"
    with pytest.raises(ConfigError, match=r"broker\.client\.max_request_size is 5242880"):
        load(None, ["broker.url=kafka://here:9092", large], environ={})
    load(None, ["broker.url=kafka://here:9092", large, "broker.client.max_request_size=9000000"], environ={})
    load(None, [large], environ={})


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("broker: {client: confluent}", {}, {"library": "confluent"}),
        ("broker: {client: {library: kafka-python}}", {}, {"library": "kafka-python"}),
        (
            "broker: {client: confluent}",
            {"STREAM_AL_BROKER__CLIENT__SASL_PLAIN_PASSWORD": "hunter2"},
            {"library": "confluent", "sasl_plain_password": "hunter2"},
        ),
        (
            "broker: {client: {security_protocol: SSL}}",
            {"STREAM_AL_BROKER__CLIENT": "confluent"},
            {"library": "confluent", "security_protocol": "SSL"},
        ),
    ],
)
def test_a_client_library_is_chosen_beside_settings_of_any_source(tmp_path, text, environ, expected):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert load(path, environ=environ).broker.client == expected


@pytest.mark.parametrize("written", ["broker.client=librdkafka", "broker.client={library: librdkafka}"])
def test_a_client_library_nobody_knows_is_refused(written):
    with pytest.raises(
        ConfigError, match="'librdkafka' is no client library; write kafka-python or confluent"
    ):
        load(None, [written], environ={})


def test_a_request_size_that_is_no_number_is_named():
    with pytest.raises(ConfigError, match=r"broker\.client\.max_request_size: '9 MB' is no whole number"):
        load(None, ["broker.url=kafka://here:9092", "broker.client.max_request_size=9 MB"], environ={})
