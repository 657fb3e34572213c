"""How does the service fare, in numbers that Prometheus reads?

Each app has a registry of its own. Labels are routes, statuses and stages, never anything a client wrote.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Gauge, Histogram, ProcessCollector
from prometheus_client import generate_latest as written
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semsearch.service.clients import is_loopback
from semsearch.service.connections import CUTS, Crowd
from semsearch.service.live import LiveSearcher
from semsearch.service.refusals import plain_refusal
from semsearch.service.scrub import Scrub
from semsearch.service.strict import StrictRoute, no_parameters
from semsearch.service.workers import Workers
from semsearch.stages import STAGES, Stage

Readers = Literal["local", "all", "none"]
"""Who may read the metrics: who asks from this machine and not through a proxy, everybody, or nobody."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_OF_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-real-ip")


class Metrics:
    """What is counted of one app."""

    def __init__(self, live: LiveSearcher, crowd: Crowd, workers: Workers | None) -> None:
        """Begin at nothing."""
        self._workers = workers
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "semsearch_request_seconds",
            "From the head of a request to the end of its answer; status 0: its client left.",
            ("route", "status"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.stages = Histogram(
            "semsearch_stage_seconds",
            "Each stage of the searches.",
            ("stage",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.at_stage = Gauge(
            "semsearch_stage_requests",
            "Requests at this stage now; at encode, those that wait for the encoder are among them.",
            ("stage",),
            registry=self.registry,
        )
        self.at_work = Gauge("semsearch_requests_at_work", "Requests whose answer is sought.", registry=self.registry)
        for stage in STAGES:
            self.stages.labels(stage)
            self.at_stage.labels(stage)
        self.registry.register(_Served(live))
        self.registry.register(_Connections(crowd))
        self.registry.register(_Processes(workers))
        ProcessCollector(registry=self.registry)

    def count(self, stage: Stage, change: int) -> None:
        """Count one more request at a stage, or one less."""
        self.at_stage.labels(stage).inc(change)

    def observe(self, stage: Stage, seconds: float) -> None:
        """Count a stage that is over."""
        self.stages.labels(stage).observe(seconds)

    async def written(self) -> bytes:
        """Return all that is counted, as text."""
        if self._workers:
            at_stages = await self._workers.at_stages()
            for stage in STAGES:
                self.at_stage.labels(stage).set(at_stages[stage])
        return written(self.registry)


class _Served(Collector):
    def __init__(self, live: LiveSearcher) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """Yield what is served; of the index nothing while there is none."""
        state, searcher = self._live.state, self._live.searcher
        yield GaugeMetricFamily("semsearch_ready", "1 while searches are answered.", int(searcher is not None))
        degraded = int(state.status == "degraded")
        yield GaugeMetricFamily("semsearch_degraded", "1 while that is not from what the index should be.", degraded)
        if searcher:
            manifest = searcher.generation.manifest
            yield GaugeMetricFamily("semsearch_generation", "The generation that is served.", manifest.generation)
            yield GaugeMetricFamily("semsearch_segments", "Its segments.", len(manifest.segments))
            yield GaugeMetricFamily("semsearch_papers", "Its papers.", manifest.papers)
            yield GaugeMetricFamily("semsearch_rows", "Its rows, those of dead papers included.", manifest.rows)
        yield from _scrubbed(self._live.scrub)


def _scrubbed(scrub: Scrub) -> Iterator[Metric]:
    """Yield how far the files of what is served have been read once more."""
    unread = "Bytes of what is served that were never read as a whole."
    yield GaugeMetricFamily("semsearch_unread_bytes", unread, scrub.unread_bytes)
    read = CounterMetricFamily(
        "semsearch_scrub_bytes", "Bytes read once more, to see whether they are what was written."
    )
    read.add_metric([], scrub.bytes_read)
    yield read
    damaged = CounterMetricFamily("semsearch_scrub_damaged_files", "Files that were not.")
    damaged.add_metric([], scrub.damaged)
    yield damaged


class _Connections(Collector):
    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd

    def collect(self) -> Iterator[Metric]:
        """Yield what the connections are about."""
        yield GaugeMetricFamily("semsearch_connections", "Open connections.", self._crowd.size)
        cuts = CounterMetricFamily(
            "semsearch_connections_cut",
            "Connections cut off: a late head, an answer not read, too many of them, no HTTP.",
            labels=["why"],
        )
        for why in CUTS:
            cuts.add_metric([why], self._crowd.cuts[why])
        yield cuts


class _Processes(Collector):
    def __init__(self, workers: Workers | None) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Yield how many processes answer, and of each worker what this process tells of itself."""
        workers = self._workers
        up = workers.count - workers.missing if workers else 1
        yield GaugeMetricFamily("semsearch_workers", "Processes that search.", up)
        restarts = CounterMetricFamily("semsearch_worker_restarts", "Workers that ended and were started again.")
        restarts.add_metric([], workers.restarts if workers else 0)
        yield restarts
        waiting = workers.waiting if workers else 0
        yield GaugeMetricFamily("semsearch_requests_waiting", "Requests that wait for a worker.", waiting)
        if workers:
            yield from _labelled(workers.pids)


def _labelled(pids: Mapping[int, int]) -> Iterator[Metric]:
    """Yield the metrics of these processes, by the number of each."""
    families: dict[str, Metric] = {}
    for place, pid in pids.items():
        for metric in ProcessCollector(pid=partial(int, pid), registry=CollectorRegistry()).collect():
            empty = Metric(f"semsearch_worker_{metric.name}", metric.documentation, metric.type)
            family = families.setdefault(metric.name, empty)
            for sample in metric.samples:
                family.add_sample(f"semsearch_worker_{sample.name}", {"worker": str(place)}, sample.value)
    yield from families.values()


async def check_reader(request: Request) -> None:
    """Do nothing for who may read the metrics.

    :raises Refusal: 404, as if there were nothing.
    """
    readers: Readers = request.app.state.metrics_for
    by_proxy = any(name in request.headers for name in _OF_PROXIES)
    is_local = request.client is not None and is_loopback(request.client.host) and not by_proxy
    if readers == "none" or (readers == "local" and not is_local):
        raise plain_refusal(404)


page = APIRouter(route_class=StrictRoute)


async def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


@page.get("/metrics", include_in_schema=False, dependencies=[Depends(no_parameters), Depends(check_reader)])
async def metrics(counted: Annotated[Metrics, Depends(_metrics)]) -> Response:
    """Return all metrics as text."""
    return Response(await counted.written(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
