"""How is the service put together?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from semsearch import __version__
from semsearch.additions import Additions
from semsearch.encoders import Encoder, LazyEncoder, ModelFolder, find_model, load_encoder
from semsearch.generation import IndexFolder
from semsearch.service.admin import Admin
from semsearch.service.changes import changes
from semsearch.service.connections import Crowd
from semsearch.service.gate import Gate
from semsearch.service.hosts import Hosts
from semsearch.service.limits import Limits
from semsearch.service.live import LiveSearcher
from semsearch.service.metrics import Metrics, Readers
from semsearch.service.metrics import page as metrics_page
from semsearch.service.models import FindModel, LoadEncoder, Models
from semsearch.service.page import page
from semsearch.service.refusals import add_refusals
from semsearch.service.routes import api
from semsearch.service.scrub import ROUND_SECONDS
from semsearch.service.workers import Workers

_STOP_SECONDS = 0.5  # all who wait for it have had their answers when the service ends


def create_app(
    index: Path,
    *,
    device: str | None = None,
    find_model: FindModel = find_model,
    load_encoder: LoadEncoder = load_encoder,
    poll_seconds: float = 0.5,
    scrub_seconds: float = ROUND_SECONDS,
    limits: Limits | None = None,
    hosts: Hosts | None = None,
    metrics_for: Readers = "local",
    log_private: bool = False,
    admin: Admin | None = None,
    workers: Workers | None = None,
) -> FastAPI:
    """Return the service over the index folder at `index`; it opens the index when it starts, in the background.

    :param scrub_seconds: after which a file of what is served is read again, if there is time for it.
    :param hosts: the names by which it may be addressed; by default those that lead from this machine to itself.
    :param metrics_for: who may read /metrics.
    :param log_private: whether the log may hold what is asked, and from where.
    :param admin: who may add and delete papers; by default nobody.
    :param workers: the processes that search; by default this one does.
    """
    folder = IndexFolder(index)
    load = _later(load_encoder) if workers and not admin else load_encoder
    models = Models(folder, device, find_model, load)
    live = LiveSearcher(folder, models, poll_seconds=poll_seconds, followers=workers, scrub_seconds=scrub_seconds)
    additions = Additions(folder.library, live.encoder, live.changed)

    limits = limits or Limits()
    crowd = Crowd(limits)
    metrics = Metrics(live, crowd, workers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if workers:
            await workers.start(live, metrics.observe, limits.answer_seconds)
        live.start()
        if admin:
            additions.start()
        try:
            yield
        finally:
            if admin:
                additions.stop(_STOP_SECONDS)
            if workers:
                await workers.stop()
            live.stop()

    app = FastAPI(
        title="semsearch",
        summary="Semantic search over the titles and abstracts of papers",
        version=__version__,
        openapi_url=None,  # served by a route of ours, as strict as the others
        docs_url=None,  # would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.live, app.state.additions, app.state.workers = live, additions, workers
    app.state.crowd, app.state.metrics, app.state.metrics_for = crowd, metrics, metrics_for
    app.router.routes += [*api.routes, *(changes.routes if admin else ()), *page.routes, *metrics_page.routes]
    add_refusals(app)
    app.add_middleware(
        Gate, limits=limits, hosts=hosts or Hosts(), admin=admin, metrics=metrics, log_private=log_private
    )
    return app


def _later(load: LoadEncoder) -> LoadEncoder:
    """Return what loads an encoder when it is first used: where others search, there may be nothing to encode here."""

    def later(model: ModelFolder, device: str | None) -> Encoder:
        return LazyEncoder(model, device, load)

    return later
