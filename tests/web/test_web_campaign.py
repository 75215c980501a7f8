import json
import logging
from types import SimpleNamespace

import pytest

from lib.errors import StorageError
from lib.web.campaign import CampaignStats


@pytest.fixture
def registry():
    """As much of a registry as is asked: one without versions, which counts how often it is asked."""
    found = SimpleNamespace(asked=0)

    def versions():
        found.asked += 1
        return []

    found.list = versions
    return found


def test_what_clients_are_told(store, registry, label_file):
    stats = CampaignStats(store, lambda: registry)
    told = stats.told()["campaign"]
    json.dumps(told, allow_nan=False)
    assert told["images"] == {"labelled": 0, "left": 3, "excluded": 0, "scored": 0}
    assert told["verdict"][0] == "too early to say whether more labels are worth it"
    assert list(told["classes"]) == ["liver", "tumor"]
    store.labels.keep_presegmentation("a", "ann", "v1", label_file(8))
    store.save("a", label_file(12), "final", author="ann")
    assert stats.told()["campaign"] == told  # for half a minute
    assert registry.asked == 1
    fresh = CampaignStats(store, lambda: registry, kept_s=0.0)
    assert fresh.told()["campaign"]["images"]["labelled"] == 1
    assert fresh.told()["campaign"]["classes"]["liver"]["corrections"]["dice"] == pytest.approx(0.8)


def test_a_ledger_that_does_not_answer_is_left_out(store, registry, caplog, monkeypatch):
    stats = CampaignStats(store, lambda: registry)

    def broken():
        msg = "the disk is gone"
        raise StorageError(msg)

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(store.ledger, "reading", broken)
        assert stats.told() == {}
    assert "how the campaign stands is not known: the disk is gone" in caplog.text
    assert "campaign" in stats.told()
