import pytest

from lib.store import campaign
from tests.store.campaign_site import run_campaign


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    server = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    url = server.new_database() if server else ""
    store = run_campaign(folder / "studies", folder, url)
    yield store
    store.close()
    if server:
        server.drop_database(url)


def test_progress(store):
    with store.ledger.reading() as connection:
        assert campaign.progress(connection) == campaign.Progress(labelled=3, left=2, excluded=1)


def test_what_people_saved(store):
    with store.ledger.reading() as connection:
        saved = campaign.saved_labels(connection)
    # Neither what the model made nor what only repeats an older version.
    assert [(one.image_id, one.number, one.author) for one in saved] == [
        ("a", 1, "ann"), ("b", 1, "ann"), ("b", 2, "ann"), ("a", 2, "bob"), ("c", 1, "bob"),
    ]  # fmt: skip
    assert [one.model_version for one in saved] == ["v1", "v2", "v2", None, None]
    assert saved[0].dice == {"liver": pytest.approx(2 / 3), "tumor": 0}
    assert saved[2].dice == {"liver": pytest.approx(0.8)}  # neither has a tumor
    assert saved[3].dice is None
    assert saved[0].seconds is not None
    assert 0 <= saved[0].seconds < 60
    assert saved[4].seconds is None
    assert [one.saved_at for one in saved] == sorted(one.saved_at for one in saved)


def test_corrections_only(store):
    with store.ledger.reading() as connection:
        saved = campaign.saved_labels(connection, corrections_only=True)
    assert [(one.image_id, one.number) for one in saved] == [("a", 1), ("b", 1), ("b", 2)]
