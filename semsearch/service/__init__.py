"""How is the search offered over HTTP, as JSON and as a page?

The only folder that imports fastapi. A request meets these files in this order: `connections.py` (how long it may keep
us waiting), `gate.py` (what no request may do: `hosts.py` by name, `rate.py` by number), `strict.py` (what no query
string and no body may hold), `questions.py` (what may be asked), `routes.py` or `page.py` (one searcher, one answer).
Where several processes search, `strict.py` gives the request to `workers.py`, which hands it by way of `frames.py` to
`worker.py`, and the rest happens there.
Who may add and delete papers is for `admin.py`, how it is done for `changes.py`. `live.py` keeps the searcher up with
the index, `merges.py` keeps its segments few, `paging.py` gives the pages of one ranking one searcher, `answers.py`
describes what comes back and `html.py` makes pages of it, `refusals.py` says how a request is turned down, `limits.py`
how much is too much, `work.py` when its time is over. `clients.py` tells who asks, `scrub.py` reads files again while
they are served. `app.py` puts it all together, `server.py` runs and ends it; `models.py` finds the encoder,
`metrics.py` and `logs.py` tell whoever runs it, `systemd.py` the service manager.
"""

from semsearch.service.admin import Admin
from semsearch.service.app import create_app
from semsearch.service.hosts import Hosts
from semsearch.service.limits import Limits
from semsearch.service.logs import log_to_stderr
from semsearch.service.server import make_server, run
from semsearch.service.workers import Workers

__all__ = ["Admin", "Hosts", "Limits", "Workers", "create_app", "log_to_stderr", "make_server", "run"]
