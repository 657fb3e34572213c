"""How is the service put together?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from semsearch import __version__
from semsearch.encoders import find_model, load_encoder
from semsearch.generation import IndexFolder
from semsearch.service.gate import Gate, Limits
from semsearch.service.live import FindModel, LiveSearcher, LoadEncoder
from semsearch.service.page import page
from semsearch.service.refusals import add_refusals
from semsearch.service.routes import api


def create_app(
    index: Path,
    *,
    device: str | None = None,
    find_model: FindModel = find_model,
    load_encoder: LoadEncoder = load_encoder,
    poll_seconds: float = 0.5,
    limits: Limits | None = None,
) -> FastAPI:
    """Return the service over the index folder at `index`; it opens the index when it starts, in the background."""
    live = LiveSearcher(
        IndexFolder(index),
        device=device,
        find_model=find_model,
        load_encoder=load_encoder,
        poll_seconds=poll_seconds,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        live.start()
        try:
            yield
        finally:
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
    app.state.live = live
    app.router.routes += [*api.routes, *page.routes]
    add_refusals(app)
    app.add_middleware(Gate, limits=limits or Limits())
    return app
