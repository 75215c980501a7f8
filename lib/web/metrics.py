"""`/metrics`: figures of the server for Prometheus. No label holds the name of a patient, an image or a person."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lib.store.figures import Figures
from lib.store.scores import Counts

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True)
class State:
    """How the server stands when it is asked.

    Args:
        ready: it takes requests.
        model: the version in force; None: there is none.
        inference: see `lib.inference.shared.SharedSegmenter.info`.
        requests: how many are being answered.
        jobs: how many wait or run, by kind.
        ledger: what it holds; None: there is none, or it can't be read.
        scored: by which model the images to be labelled were scored; None: as `ledger`.
    """

    ready: bool
    model: str | None
    inference: Mapping[str, Any] = field(default_factory=dict)
    requests: int = 0
    jobs: Mapping[str, int] = field(default_factory=dict)
    ledger: Figures | None = None
    scored: Counts | None = None


class Metrics:
    """What happened since the server began, and how it stands."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "liverloop_requests", "Requests answered", ("method", "route", "status"), registry=self._registry
        )
        self._request_seconds = Histogram(
            "liverloop_request_seconds", "From a request to the end of its answer", ("method", "route"),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._inference_seconds = Histogram(
            "liverloop_inference_seconds", "Segmentations by stage", ("stage",),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip

    def request_done(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is its template."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def inference_done(self, latencies: Mapping[str, Any]) -> None:
        """Count a segmentation by what MONAI Label and we tell of its stages."""
        stages = {**latencies.get("steps", {}), "total": latencies.get("total")}
        for stage, seconds in stages.items():
            if isinstance(seconds, int | float):
                self._inference_seconds.labels(stage).observe(seconds)

    def watch(self, state: Callable[[], State]) -> None:
        """Ask for the server's state each time that somebody asks for the figures."""
        self._registry.register(_StateCollector(state))

    def as_text(self) -> bytes:
        """All figures in Prometheus' format."""
        return generate_latest(self._registry)


def install_metrics(app: FastAPI, metrics: Metrics) -> None:
    """Add the endpoint."""

    @app.get("/metrics", tags=["Health"])
    def figures() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.as_text(), media_type=CONTENT_TYPE_LATEST)


class _StateCollector(Collector):
    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state

    def describe(self) -> Iterator[Metric]:
        """Nothing: otherwise the registry would ask for the state while the server is being built."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        yield _gauge("ready", "Whether the server takes requests", int(state.ready))
        yield _gauges("model_info", "The model version in force", "version", {state.model: 1} if state.model else {})
        yield _gauge("requests_running", "Requests being answered", state.requests)
        queue = state.inference
        yield _gauge("inference_waiting", "Segmentations that wait for the network", queue.get("waiting", 0))
        yield _gauge("results_kept", "Segmentations kept in memory", queue.get("kept_results", 0))
        yield _gauge("results_kept_bytes", "Memory that those take", int(queue.get("kept_mb", 0) * 1e6))
        yield _gauges("jobs", "Trainings, scorings and batches that wait or run", "kind", state.jobs)
        yield _gauge("ledger_up", "Whether the ledger can be read", int(state.ledger is not None))
        if state.ledger is not None:
            yield from _of_ledger(state.ledger)
        if state.scored is not None:
            by_model = {"current": state.scored.current, "earlier": state.scored.earlier, "none": state.scored.none}
            yield _gauges("images_scored", "Images to be labelled, by the model that scored them last", "by", by_model)


def _of_ledger(figures: Figures) -> Iterator[Metric]:
    states = {"labelled" if name == "completed" else name: count for name, count in figures.images.items()}
    yield _gauges("images", "Images by state; total counts all that are offered", "state", states)
    yield _gauge("leases", "Images in somebody's hands", figures.leases)
    labels = CounterMetricFamily("liverloop_label_versions", "Label versions by source", labels=("source",))
    for source, count in figures.labels.items():
        labels.add_metric((source,), count)
    yield labels
    yield _gauges("trainings", "Trainings by outcome", "outcome", figures.trainings)
    if figures.segs:
        yield _gauges("segs", "DICOM SEGs exchanged with the PACS; waiting: to be sent", "state", figures.segs)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"liverloop_{name}", text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"liverloop_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
