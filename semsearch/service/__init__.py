"""How is the search offered over HTTP, as JSON and as a page?

The only folder that imports fastapi. A request meets these files in this order: `gate.py` (what no request may do),
`strict.py` (what no query string and no body may hold), `questions.py` (what may be asked), `routes.py` or `page.py`
(one searcher, one answer). `live.py` keeps that searcher up with the index, `paging.py` gives the pages of one ranking
one searcher, `answers.py` describes what comes back, `refusals.py` how a request is turned down.
"""

from semsearch.service.admin import Admin
from semsearch.service.app import create_app
from semsearch.service.gate import Limits
from semsearch.service.server import make_server, run

__all__ = ["Admin", "Limits", "create_app", "make_server", "run"]
