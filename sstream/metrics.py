"""The counters of an application as Prometheus reads them; wants ``sstream[metrics]``.

Labels are few and of our own making: methods that do not exist, and codes that somebody made up, are one value each.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as PrometheusCollector
from tornado.web import HTTPError, RequestHandler

from sstream.counters import BOUNDS, OTHER, Histogram, MethodCounts, OperationCounts
from sstream.version import __version__
from sstream.watch import Watch, access_of, has_token

if TYPE_CHECKING:
    from sstream.application import Application

__all__ = ["Collector", "MetricsPage"]

_log = logging.getLogger("sstream.metrics")

_UNKNOWN: Final = "(unknown)"  # no method can be called so
_SLOW_CONSUMER: Final = 4408

Labels = TypeVar("Labels", bound=tuple[str, ...])


class Collector(PrometheusCollector):
    """Gives what an application has counted, each time it is asked; ``REGISTRY.register(Collector(app))`` works too."""

    def __init__(self, application: "Application") -> None:
        self._application = application

    def describe(self) -> list[Metric]:
        # Not asked before it is registered: two applications of one process do not know of each other.
        return []

    def collect(self) -> Iterator[Metric]:
        application = self._application
        counters = application.counters
        yield _labelled("sstream_build", "Version of sstream.", GaugeMetricFamily, ["version"], {(__version__,): 1})

        sockets = list(application.sockets.values())
        yield GaugeMetricFamily("sstream_sockets", "Open websockets.", len(sockets))
        yield CounterMetricFamily("sstream_sockets_opened", "Websockets opened.", counters.sockets.opened)
        closed = {(_code(code),): count for code, count in list(counters.sockets.closed.items())}
        yield _labelled("sstream_sockets_closed", "Websockets gone, by code.", CounterMetricFamily, ["code"], closed)
        yield CounterMetricFamily(
            "sstream_slow_consumers",
            "Websockets closed because they did not read what was sent.",
            counters.sockets.closed.get(_SLOW_CONSUMER, 0),
        )
        queued = [size for socket in sockets if (size := socket.queued)]
        yield GaugeMetricFamily("sstream_send_queue_bytes", "Bytes that wait for slow readers.", sum(queued))
        yield GaugeMetricFamily("sstream_send_queue_sockets", "Websockets that do not read fast enough.", len(queued))

        yield from self._calls([*counters.calls.methods, counters.calls.unknown])
        in_flight = sum(socket.calls_in_flight for socket in sockets)
        yield GaugeMetricFamily("sstream_calls_in_flight", "Calls that wait for something.", in_flight)

        sessions = counters.sessions
        for name, text in (
            ("loads", "Sessions read from the store."),
            ("saves", "Changes of sessions stored."),
            ("conflicts", "Changes that found another writer's when they were to be stored."),
            ("retries", "Changes made again on top of another writer's."),
            ("ended", "Sessions ended by this process."),
        ):
            yield CounterMetricFamily(f"sstream_session_{name}", text, getattr(sessions, name))
        yield from _operations("store", counters.store)
        yield from _operations("broker", counters.broker)
        connected = bool(getattr(application.broker, "connected", True))
        yield GaugeMetricFamily("sstream_broker_connected", "1 while events of others come in.", int(connected))
        yield GaugeMetricFamily("sstream_topics", "Topics that websockets listen to.", len(application.hub.topics))
        yield GaugeMetricFamily("sstream_events_waiting", "Events not yet handed out.", application.hub.waiting)

        pages = {(str(status),): count for status, count in list(counters.pages.items())}
        yield _labelled("sstream_pages", "Replies over HTTP, by status.", CounterMetricFamily, ["status"], pages)
        yield _histogram("sstream_page_seconds", "How long replies took.", [], {(): [counters.page_times]})
        yield _histogram("sstream_event_loop_lag_seconds", "How late the loop was.", [], {(): [counters.lag]})

    def _calls(self, methods: list[MethodCounts]) -> Iterator[Metric]:
        counts: dict[tuple[str, ...], int] = {}
        times: dict[tuple[str, ...], list[Histogram]] = {}
        for method in methods:
            name = method.name or _UNKNOWN
            outcomes = [("ok", method.answered)] if method.name else []
            outcomes += [(_code(code), count) for code, count in list(method.errors.items())]
            for code, count in outcomes:
                # A method that nobody calls has no line; several codecs are one.
                if count:
                    counts[name, code] = counts.get((name, code), 0) + count
            if method.times.count:
                times.setdefault((name,), []).append(method.times)
        yield _labelled(
            "sstream_calls", "Calls answered, by method and code.", CounterMetricFamily, ["method", "code"], counts
        )
        yield _histogram("sstream_call_seconds", "How long calls took.", ["method"], times)


def _code(code: int) -> str:
    return "other" if code == OTHER else str(code)


def _labelled(
    name: str, text: str, family: Callable[..., Any], labels: list[str], values: Mapping[Labels, int]
) -> Metric:
    metric: Metric = family(name, text, labels=labels)
    for label_values, value in values.items():
        metric.add_metric(label_values, value)  # type: ignore[attr-defined]  # each family has it, their base has not
    return metric


def _histogram(name: str, text: str, labels: list[str], values: Mapping[Labels, list[Histogram]]) -> Metric:
    metric = HistogramMetricFamily(name, text, labels=labels)
    for label_values, histograms in values.items():
        total, buckets = 0, []
        bounds = [*map(str, BOUNDS), "+Inf"]
        for bound, counts in zip(
            bounds, zip(*(histogram.counts for histogram in histograms), strict=True), strict=True
        ):
            total += sum(counts)
            buckets.append((bound, total))
        metric.add_metric(label_values, buckets, sum(histogram.seconds for histogram in histograms))
    return metric


def _operations(where: str, counts: OperationCounts) -> Iterator[Metric]:
    times = {(name,): [histogram] for name, histogram in counts.times.items()}
    yield _histogram(f"sstream_{where}_seconds", f"How long the {where} took.", ["operation"], times)
    errors = {(name,): count for name, count in counts.errors.items()}
    text = f"Operations of the {where} that failed."
    yield _labelled(f"sstream_{where}_errors", text, CounterMetricFamily, ["operation"], errors)


class _Joined:
    """What this application counts, and what the process and the user's own code count besides."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        own = list(self._collector.collect())
        names = {metric.name for metric in own}
        yield from own
        # Whoever has registered a collector of ours there as well gets each metric once.
        yield from (metric for metric in REGISTRY.collect() if metric.name not in names)


class MetricsPage(RequestHandler):
    """``/_sstream/metrics``; without a `Watch` it is for everybody who can reach it, on a port of its own."""

    def initialize(self, collector: Collector, watch: Watch | None = None) -> None:
        self._metrics = _Joined(collector)
        self._watch = watch

    async def get(self) -> None:
        if self._watch is not None and not await self._is_allowed(self._watch):
            raise HTTPError(404)
        try:
            encode, kind = choose_encoder(self.request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # of a version that is none; prometheus_client 0.2x compares it with numbers
            encode, kind = choose_encoder("")
        self.set_header("Content-Type", kind)
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(encode(self._metrics))

    async def _is_allowed(self, watch: Watch) -> bool:
        if has_token(self.request.headers.get("Authorization", ""), watch.metrics_token):
            return True
        return watch.metrics is not None and await access_of(watch.metrics, self) is not None
