"""How is the service put together?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from semsearch import __version__
from semsearch.additions import Additions
from semsearch.encoders import find_model, load_encoder
from semsearch.generation import IndexFolder
from semsearch.service.admin import Admin
from semsearch.service.changes import changes
from semsearch.service.gate import Gate, Limits
from semsearch.service.live import FindModel, LiveSearcher, LoadEncoder
from semsearch.service.page import page
from semsearch.service.refusals import add_refusals
from semsearch.service.routes import api

_STOP_SECONDS = 5.0


def create_app(
    index: Path,
    *,
    device: str | None = None,
    find_model: FindModel = find_model,
    load_encoder: LoadEncoder = load_encoder,
    poll_seconds: float = 0.5,
    limits: Limits | None = None,
    admin: Admin | None = None,
) -> FastAPI:
    """Return the service over the index folder at `index`; it opens the index when it starts, in the background.

    :param admin: who may add and delete papers; by default nobody.
    """
    folder = IndexFolder(index)
    live = LiveSearcher(
        folder,
        device=device,
        find_model=find_model,
        load_encoder=load_encoder,
        poll_seconds=poll_seconds,
    )

    additions = Additions(folder.library, live.encoder, live.changed)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        live.start()
        if admin:
            additions.start()
        try:
            yield
        finally:
            if admin:
                additions.stop(_STOP_SECONDS)
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
    app.state.live, app.state.additions = live, additions
    app.router.routes += [*api.routes, *(changes.routes if admin else ()), *page.routes]
    add_refusals(app)
    app.add_middleware(Gate, limits=limits or Limits(), admin=admin)
    return app
