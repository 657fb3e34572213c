"""The papers that ship with semsearch are what the README says of them."""

from conftest import SAMPLES

from semsearch.papers import Paper
from semsearch.readers import Found, read


def sample_papers() -> list[Paper]:
    entries = list(read(SAMPLES))
    assert all(isinstance(entry, Found) for entry in entries)
    return [entry.paper for entry in entries if isinstance(entry, Found)]


def test_at_least_eighty_papers_of_several_fields() -> None:
    papers = sample_papers()
    assert len(papers) >= 80
    assert len({paper.paper_id for paper in papers}) == len(papers)
    assert len({paper.title for paper in papers}) == len(papers)
    fields = {category.split(".")[0] for paper in papers for category in paper.categories}
    assert {"cs", "q-bio", "econ", "med", "stat", "quant-ph"} <= fields


def test_every_one_is_complete() -> None:
    for paper in sample_papers():
        assert 80 <= len(paper.abstract.split()) <= 200, paper.paper_id
        assert paper.authors, paper.paper_id
        assert paper.year is not None, paper.paper_id
        assert paper.venue, paper.paper_id
        assert paper.url, paper.paper_id
        assert paper.extra == {}, paper.paper_id
