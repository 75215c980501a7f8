import pytest

from tests.loop.running_server import MODEL

pytestmark = pytest.mark.server


def test_info_has_labels_as_a_list_and_each_models_as_a_dict_in_index_order(client):
    info = client.info()
    assert info["labels"] == ["liver", "tumor"]
    model, trainer = info["models"][MODEL], info["trainers"][MODEL]
    assert list(model["labels"].items()) == list(trainer["labels"].items()) == [("liver", 1), ("tumor", 2)]
    assert model["type"] == "segmentation"
    assert model["config"] | {"result_extension": ".nrrd", "result_dtype": "uint8"} == model["config"]
    assert not model["config"]["result_compress"]
    assert "background" not in str(info)


def test_info_offers_the_strategies_scoring_methods_and_devices(client, cases):
    info = client.info()
    assert list(info["strategies"]) == ["random", "first", "uncertainty"]
    assert list(info["scoring"]) == ["dice", "uncertainty"]
    assert "cpu" in info["models"][MODEL]["config"]["device"]
    assert "cpu" in info["trainers"][MODEL]["config"]["device"]
    assert info["datastore"]["total"] >= len(cases)


@pytest.mark.parametrize("strategy", ["random", "first", "uncertainty"])
def test_each_strategy_names_an_image_of_the_pool_and_why(client, server, cases, strategy):
    sample = client.next_sample(strategy, {})
    assert sample["id"] in cases
    assert sample["path"] == str(server.studies / f"{sample['id']}.nii.gz")
    assert sample["reason"]
    assert sample["score"] is None  # none is scored yet


def test_first_is_the_first_by_name(client):
    assert [client.next_sample("first", {})["id"] for _ in range(2)] == ["case_20", "case_20"]


def test_random_hands_out_each_image_before_any_comes_back(client, cases, server):
    for name in cases:
        assert server.ask("PUT", f"/datastore/image/info?image={name}", data={"info": '{"strategy": {}}'}).status == 200
    served = [client.next_sample("random", {})["id"] for _ in cases]
    assert sorted(served) == sorted(cases)


def test_asking_for_a_sample_starts_no_work(client, server):
    client.next_sample("random", {})
    assert server.children() == []


def test_the_log_tells_what_was_asked(client, server):
    client.next_sample("first", {})
    log = server.ask("GET", "/logs/?lines=100&text=true")
    assert log.status == 200
    assert "model in force" in server.log()
    assert "Active Learning Request" in log.reason
    assert "<html" in server.ask("GET", "/logs/?lines=20").reason
