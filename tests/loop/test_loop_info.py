import pytest

from lib.settings import Settings
from tests.loop.running_server import MODEL, RunningServer, make_app, wait_until
from tests.loop.studies import write_studies

pytestmark = pytest.mark.server


# A server of their own: on the shared one other tests label images, and too few are left to ask for another.
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("info")


@pytest.fixture(scope="module")
def cases(folder):
    return write_studies(folder / "studies", range(20, 24))


@pytest.fixture(scope="module")
def server(warm, cases, folder):
    with RunningServer(warm, folder / "studies", folder / "run", app=make_app(folder / "app")) as running:
        yield running


@pytest.fixture
def client(server):
    return server.client()


def test_info_has_labels_as_a_list_and_each_models_as_a_dict_in_index_order(client):
    info = client.info()
    assert info["labels"] == ["liver", "tumor"]
    model, trainer = info["models"][MODEL], info["trainers"][MODEL]
    assert list(model["labels"].items()) == list(trainer["labels"].items()) == [("liver", 1), ("tumor", 2)]
    assert model["type"] == "segmentation"
    assert model["config"] | {"result_extension": ".nrrd", "result_dtype": "uint8"} == model["config"]
    assert model["config"]["result_compress"]
    assert "background" not in str(info)
    assert info["campaign"]["advice"] == "too early to say"
    assert list(info["campaign"]["classes"]) == info["labels"]


def test_info_offers_the_strategies_scoring_methods_and_devices(client, cases):
    info = client.info()
    assert list(info["strategies"]) == list(Settings().active_learning.strategies)
    assert list(info["scoring"]) == ["dice", "scores"]
    assert "cpu" in info["models"][MODEL]["config"]["device"]
    assert "cpu" in info["trainers"][MODEL]["config"]["device"]
    assert info["datastore"]["total"] >= len(cases)


@pytest.mark.parametrize("strategy", ["random", "first", "hybrid"])
def test_each_strategy_names_an_image_of_the_pool_and_why(client, server, cases, strategy):
    sample = client.next_sample(strategy, {"skip": "to ask for another"})
    assert sample["id"] in cases
    assert sample["path"] == str(server.studies / f"{sample['id']}.nii.gz")
    assert sample["reason"]
    assert sample["campaign"]["planned"] == 100


def test_a_server_with_nothing_to_do_scores_its_pool(client, server):
    def told():
        return client.info()["scores"]

    wait_until(lambda: told()["waiting"] == 0, "the scores of the pool")
    wait_until(lambda: told()["state"] == "every image that is at hand is scored", "the end of it")
    assert told()["current"] > 0
    sample = client.next_sample("entropy", {})
    assert sample["score"] > 0
    assert sample["slices"]
    assert "uncertain on slices" in sample["reason"]
    assert server.ask("DELETE", f"/ledger/leases/{sample['id']}").status == 200
    assert f'liverloop_images_scored{{by="current"}} {told()["current"]:.1f}' in server.ask("GET", "/metrics").reason


def test_who_asks_again_gets_the_same_image_and_who_skips_it_another(client, server):
    sample = client.next_sample("first", {"skip": "not liver"})
    assert client.next_sample("first", {})["id"] == sample["id"]
    leases = {lease["image_id"]: lease["client_id"] for lease in server.ask("GET", "/ledger/leases").reason}
    assert leases[sample["id"]] == "annotator"
    assert client.next_sample("first", {"skip": "moved"})["id"] != sample["id"]


def test_each_annotator_gets_an_image_of_their_own_and_is_told_when_none_is_left(cases, server):
    for lease in server.ask("GET", "/ledger/leases").reason:
        assert server.ask("DELETE", f"/ledger/leases/{lease['image_id']}").status == 200
    served = [server.client(f"annotator {number}").next_sample("random", {})["id"] for number in range(len(cases))]
    assert sorted(served) == sorted(cases)
    answer = server.ask("POST", "/activelearning/random", json={"client_id": "one more"})
    assert answer.status == 409
    assert "annotator 0" in answer.reason
    for image_id in served:
        assert server.ask("DELETE", f"/ledger/leases/{image_id}").status == 200


def test_asking_for_a_sample_starts_no_work(client, server):
    client.next_sample("random", {})
    assert server.children() == []


def test_the_log_of_a_plain_server_is_read_over_http(server):
    log = server.ask("GET", "/logs/?lines=100&text=true")
    assert log.status == 200
    assert "model in force" in server.log()
    assert "model in force" in server.ask("GET", "/logs/?lines=10000&text=true").reason
    assert "<html" in server.ask("GET", "/logs/?lines=20").reason
