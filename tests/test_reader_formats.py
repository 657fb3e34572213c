"""What reference managers, PubMed, arXiv, ACL, OpenAlex and others export becomes the same papers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from semsearch.errors import SourceError
from semsearch.papers import Paper, text_id
from semsearch.readers import Found, Rejected, latex, read, streams


def entries(path: Path, content: str | bytes) -> list[Found | Rejected]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read(path))


def papers(path: Path, content: str | bytes) -> list[Paper]:
    found = entries(path, content)
    assert [entry for entry in found if isinstance(entry, Rejected)] == []
    return [entry.paper for entry in found if isinstance(entry, Found)]


def outcome(found: list[Found | Rejected]) -> list[tuple[int, str]]:
    """Return each entry's line, and its title or the reason why it is no paper."""
    return [(each.place.line, each.paper.title if isinstance(each, Found) else each.reason) for each in found]


# --- BibTeX -------------------------------------------------------------------------------------------------------

BIBTEX = r"""
Written by hand, so far as this line goes.
@string{venue = "Proceedings of Things"}

@inproceedings{writer-2019-things,
    title = "{T}hings of {\"U}bergr{\"o}{\ss}e \& $O(n^2)$",
    author = "Writer, Ada  and
      van der Berg, Jan and {The Things, Inc.} and others",
    month = jun, year = 2019,
    booktitle = venue # {, part two},
    url = {https://aclanthology.org/N19-1423/},
    keywords = {things, what they are},
    abstract = "All 50\% of them {\em are}, and 50% are not, as \citet{other} says in \href{http://x.org}{a page}.
      A second line --- ``with quotes''.",
}
"""


def test_an_entry_of_bibtex(tmp_path: Path) -> None:
    (paper,) = papers(tmp_path / "a.bib", BIBTEX)
    assert paper == Paper.build(
        paper_id="acl:N19-1423",
        title="Things of Übergröße & $O(n^2)$",
        abstract="All 50% of them are, and 50% are not, as says in a page. A second line — “with quotes”.",
        authors=("Ada Writer", "Jan van der Berg", "The Things, Inc."),
        published="2019-06",
        categories=("things", "what they are"),
        venue="Proceedings of Things, part two",
        url="https://aclanthology.org/N19-1423/",
        extra={"citation_key": "writer-2019-things", "entry_type": "inproceedings", "month": "jun"},
    )


@pytest.mark.parametrize(
    ("fields", "paper_id"),
    [
        ("eprint = {2001.00001}, archivePrefix = {arXiv}", "arxiv:2001.00001"),
        ("eprint = {2001.00001}, eprinttype = {arxiv}", "arxiv:2001.00001"),
        (r"doi = {10.1000/a\_b}", "doi:10.1000/a_b"),
        ("eprint = {17}", text_id("T", "A.")),
    ],
)
def test_a_citation_key_is_no_id(tmp_path: Path, fields: str, paper_id: str) -> None:
    (paper,) = papers(tmp_path / "a.bib", f"@article{{smith2019, title = {{T}}, abstract = {{A.}}, {fields}}}")
    assert (paper.paper_id, paper.extra["citation_key"]) == (paper_id, "smith2019")


GOOD_ENTRY = "@misc{g, title = {Good}, abstract = {It is.}}\n"


@pytest.mark.parametrize(
    ("entry", "outcomes"),
    [
        ("@article{b, title = {No end, abstract = {A.},\n", [(2, "the braces or quotes of the entry do not match")]),
        ("@article{b, title {No equals sign}}\n", [(2, "the braces or quotes of the entry do not match")]),
        ("@article{b, title = {T}}\n", [(2, "the record has no abstract")]),
        ("@article{b, title = {T}, abstract = {A}, note = {1}, note = {2}}\n", [(2, "T")]),
        ("@article(b, title = {T}, abstract = {A})\n", [(2, "T")]),
        ("@ARTICLE{b, TITLE = {T}, Abstract = {A}}\n", [(2, "T")]),
        ('@comment{jabref-meta: saved}\n@preamble{"\\newcommand"}\n@string{a = {b}}\n', []),
        ("mail a@b.org {or not}\n", []),
        (b"@article{b, title = {\xff}, abstract = {A}}\n", [(2, "the record is not valid UTF-8 in this line")]),
        ("@article{b, title = {a @misc{x} b}, abstract = {A}}\n", [(2, "a @miscx b")]),
    ],
)
def test_an_entry_costs_itself_only(tmp_path: Path, entry: str | bytes, outcomes: list[tuple[int, str]]) -> None:
    middle = entry.encode() if isinstance(entry, str) else entry
    found = outcome(entries(tmp_path / "a.bib", GOOD_ENTRY.encode() + middle + GOOD_ENTRY.encode()))
    last = 2 + middle.count(b"\n")
    expected = [(1, "Good"), *outcomes, (last, "Good")]
    assert [line for line, _ in found] == [line for line, _ in expected]
    assert all(text.startswith(start) for (_, text), (_, start) in zip(found, expected, strict=True))


@pytest.mark.parametrize("abstract", ["{" * 3_000 + "}" * 3_000, r"\frac{", r"\begin{itemize} \item a", "$", r"\verb"])
def test_what_is_no_latex_costs_no_entry(tmp_path: Path, abstract: str) -> None:
    balanced = abstract + "}" * (abstract.count("{") - abstract.count("}"))
    found = outcome(
        entries(tmp_path / "a.bib", f"@misc{{a, title = {{T}}, abstract = {{A {balanced}}}}}\n{GOOD_ENTRY}")
    )
    assert found == [(1, "T"), (2, "Good")]


def test_an_oversize_entry_is_rejected_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semsearch.readers.bibtex.MAX_RECORD_BYTES", 200)
    large = "@misc{a, title = {T},\n" + "abstract = {A},\n" * 20 + "}\n"
    found = outcome(entries(tmp_path / "a.bib", GOOD_ENTRY + large + GOOD_ENTRY))
    assert found == [(1, "Good"), (2, streams.MAX_RECORD_REASON), (24, "Good")]


# --- RIS and MEDLINE ----------------------------------------------------------------------------------------------

RIS = """Provider: somebody
TY  - JOUR
TI  - On things
AU  - Writer, Ada
AU  - Berg, Jan van der
PY  - 2017
DA  - 2017/06/12/
JO  - Journal of Things
AB  - They are.
DNA - it is what they are made of.
DO  - 10.1000/Things.1
UR  - https://example.org/things?id=1
KW  - things
KW  - what they are
ID  - 17
SP  - 5
ER  -\x20
"""


def test_a_record_of_ris(tmp_path: Path) -> None:
    (paper,) = papers(tmp_path / "a.ris", RIS.replace("\n", "\r\n"))
    assert paper == Paper.build(
        title="On things",
        abstract="They are. DNA - it is what they are made of.",
        authors=("Ada Writer", "Jan van der Berg"),
        published="2017-06-12",
        categories=("things", "what they are"),
        venue="Journal of Things",
        url="https://example.org/things?id=1",
        doi="10.1000/things.1",
        extra={"TY": "JOUR", "reference_id": "17", "SP": "5"},
    )


@pytest.mark.parametrize(
    ("content", "outcomes"),
    [
        ("TY  - JOUR\nT1  - A\nN2  - B.\nTY  - JOUR\nTI  - C\nAB  - D.\nER  - \n", [(1, "A"), (4, "C")]),
        ("TY  - JOUR\nTI  - A\nAB  - B.", [(1, "A")]),
        (
            "TY  - JOUR\nTI  - A\nER  - \nAB  - of nothing\n\nTY  - JOUR\nTI  - B\nAB  - C\nER  - \n",
            [(1, "the rec"), (6, "B")],
        ),
        (
            b"TY  - JOUR\nTI  - A\nAB  - \xff\nER  - \nTY  - JOUR\nTI  - B\nAB  - C\n",
            [(1, "the record is not"), (5, "B")],
        ),
        ("TY  - JOUR\nER  - \n", [(1, "the record has no abstract")]),
    ],
)
def test_a_record_of_ris_costs_itself_only(
    tmp_path: Path, content: str | bytes, outcomes: list[tuple[int, str]]
) -> None:
    found = outcome(entries(tmp_path / "a.ris", content))
    assert [line for line, _ in found] == [line for line, _ in outcomes]
    assert all(text.startswith(start) for (_, text), (_, start) in zip(found, outcomes, strict=True))


@pytest.mark.parametrize(
    ("fields", "published"),
    [
        ("PY  - 2017///", "2017"),
        ("Y1  - 2017/6//", "2017-06"),
        ("PY  - 2017\nDA  - 2017/06/12/Spring", "2017-06-12"),
        ("PY  - 2017\nDA  - Spring", "2017"),
        ("DA  - 2017-06-12", "2017-06-12"),
    ],
)
def test_dates_of_ris(tmp_path: Path, fields: str, published: str) -> None:
    (paper,) = papers(tmp_path / "a.ris", f"TY  - JOUR\nTI  - A\nAB  - B.\n{fields}\nER  - \n")
    assert paper.published == published


MEDLINE = """
PMID- 31452104
OWN - NLM
DP  - 2019 Jun-Jul
TI  - On things that are
      and others that are not.
LID - S0000(19)00000-1 [pii]
LID - 10.1000/things.5 [doi]
AB  - WHAT: They are.
      DNA - it is what they are made of.
FAU - Writer, Ada
AU  - Writer A
CN  - The Group
JT  - Journal of things
MH  - Things/*metabolism
OT  - being

PMID- 31452105
TI  - Without an abstract
"""


def test_records_of_medline(tmp_path: Path) -> None:
    found = entries(tmp_path / "a.nbib", MEDLINE)
    assert [(each.place.line, isinstance(each, Found)) for each in found] == [(2, True), (18, False)]
    assert isinstance(found[0], Found) and found[0].paper == Paper.build(
        paper_id="pmid:31452104",
        title="On things that are and others that are not.",
        abstract="WHAT: They are. DNA - it is what they are made of.",
        authors=("Ada Writer", "The Group"),
        published="2019-06",
        categories=("being", "Things/*metabolism"),
        venue="Journal of things",
        doi="10.1000/things.5",
        extra={"OWN": "NLM", "LID": ["S0000(19)00000-1 [pii]", "10.1000/things.5 [doi]"]},
    )
    assert isinstance(found[1], Rejected) and found[1].paper_id == "pmid:31452105"


def test_an_oversize_record_is_rejected_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semsearch.readers.tagged.MAX_RECORD_BYTES", 1_000)
    good = "TY  - JOUR\nTI  - Good\nAB  - It is.\nER  - \n"
    found = outcome(
        entries(tmp_path / "a.ris", good + "TY  - JOUR\n" + "AB  - It is too long.\n" * 20 + "ER  - \n" + good)
    )
    assert found == [(1, "Good"), (5, streams.MAX_RECORD_REASON), (27, "Good")]


# --- XML ----------------------------------------------------------------------------------------------------------

PUBMED = """<?xml version="1.0" ?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle//EN" "https://dtd.nlm.nih.gov/out.dtd">
<PubmedArticleSet>
<PubmedArticle><MedlineCitation><PMID Version="1">123</PMID><Article>
  <Journal><JournalIssue><PubDate><Year>2019</Year><Month>Jun</Month></PubDate></JournalIssue>
    <Title>Journal of things</Title></Journal>
  <ArticleTitle>On <i>E. coli</i> &amp; H<sub>2</sub>O</ArticleTitle>
  <ELocationID EIdType="doi">10.1000/things.7</ELocationID>
  <Abstract><AbstractText Label="BACKGROUND">They are.</AbstractText>
    <AbstractText Label="UNLABELLED">So p &lt; 0.05.</AbstractText></Abstract>
  <AuthorList><Author><LastName>Writer</LastName><ForeName>Ada B</ForeName></Author>
    <Author><CollectiveName>The Group</CollectiveName></Author></AuthorList>
  </Article><MeshHeadingList><MeshHeading><DescriptorName>Things</DescriptorName></MeshHeading></MeshHeadingList>
  <KeywordList><Keyword>being</Keyword></KeywordList></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>124</PMID><Article><ArticleTitle>None</ArticleTitle></Article></MedlineCitation>
</PubmedArticle>
</PubmedArticleSet>
"""


def test_articles_of_pubmed(tmp_path: Path) -> None:
    found = entries(tmp_path / "a.xml", PUBMED)
    assert [each.place.line for each in found] == [4, 15]
    assert isinstance(found[0], Found) and found[0].paper == Paper.build(
        paper_id="pmid:123",
        title="On E. coli & H2O",
        abstract="Background: They are. So p < 0.05.",
        authors=("Ada B Writer", "The Group"),
        published="2019-06",
        categories=("being", "Things"),
        venue="Journal of things",
        doi="10.1000/things.7",
    )
    assert isinstance(found[1], Rejected) and found[1].paper_id == "pmid:124"


ATOM = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:arxiv="http://arxiv.org/schemas/atom">
  <title>A query</title><id>http://arxiv.org/api/x</id>
  <entry>
    <id>http://arxiv.org/abs/2001.00001v5</id>
    <updated>2021-12-06T03:30:32Z</updated><published>2020-01-12T17:57:34Z</published>
    <title>On things
  that are</title>
    <summary>  They are.
    </summary>
    <author><name>Ada Writer</name></author><author><name>Jan van der Berg</name></author>
    <arxiv:comment>15 pages</arxiv:comment><arxiv:doi>10.1000/things.9</arxiv:doi>
    <link title="pdf" href="http://arxiv.org/pdf/2001.00001v5" rel="related" type="application/pdf"/>
    <link href="http://arxiv.org/abs/2001.00001v5" rel="alternate" type="text/html"/>
    <category term="cs.CL"/><category term="cs.LG"/>
  </entry>
</feed>
"""


def test_entries_of_an_atom_feed(tmp_path: Path) -> None:
    (paper,) = papers(tmp_path / "a.xml", ATOM)
    assert paper == Paper.build(
        paper_id="arxiv:2001.00001",
        title="On things that are",
        abstract="They are.",
        authors=("Ada Writer", "Jan van der Berg"),
        published="2020-01-12",
        categories=("cs.CL", "cs.LG"),
        url="http://arxiv.org/abs/2001.00001v5",
        doi="10.1000/things.9",
        extra={"comment": "15 pages"},
    )
    (unnamed,) = papers(tmp_path / "a.xml", ATOM.replace("<id>http://arxiv.org/abs/2001.00001v5</id>", "<id>a b?</id>"))
    assert unnamed.paper_id == "doi:10.1000/things.9"


ACL = """<?xml version='1.0' encoding='UTF-8'?>
<collection id="2020.acl"><volume id="main">
<meta><booktitle>Proceedings of <fixed-case>T</fixed-case>hings</booktitle><month>July</month><year>2020</year></meta>
<frontmatter><url hash="0">2020.acl-main.0</url></frontmatter>
<paper id="1"><title>On <fixed-case>T</fixed-case>hings</title><author><first>Ada</first><last>Writer</last></author>
<abstract>They are.</abstract><url hash="2">2020.acl-main.1</url></paper></volume></collection>
"""


def test_papers_of_acl(tmp_path: Path) -> None:
    (paper,) = papers(tmp_path / "a.xml", ACL)
    assert paper == Paper.build(
        paper_id="acl:2020.acl-main.1",
        title="On Things",
        abstract="They are.",
        authors=("Ada Writer",),
        published="2020-07",
        venue="Proceedings of Things",
    )


@pytest.mark.parametrize(
    ("content", "message", "read_before"),
    [
        (PUBMED.replace("</PubmedArticleSet>", ""), r"cannot be read on as XML: no element found: line \d+", 2),
        (PUBMED.replace("PMID>124", "PMID>1&24", 1), r"not well-formed \(invalid token\): line 15", 1),
        ('<!DOCTYPE a [<!ENTITY b "bb">]>\n' + ACL.partition("\n")[2], "it declares the entity 'b'", 0),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><entry>&b;</entry>', "it declares the entity 'b'", 0),
        (ACL.replace("They are.", "&what;"), "undefined entity", 0),
    ],
)
def test_xml_that_cannot_be_read_on(tmp_path: Path, content: str, message: str, read_before: int) -> None:
    (tmp_path / "a.xml").write_text(content)
    found = []
    with pytest.raises(SourceError, match=message):
        for entry in read(tmp_path / "a.xml"):
            found.append(entry)
    assert len(found) == read_before


@pytest.mark.parametrize("mark", [b"<entry x='", b"<!-- ", b"<entry><![CDATA[" + b"]" * 5])
def test_a_mark_without_end_is_refused_before_it_is_held(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "a.xml").write_bytes(b"<feed>" + mark + b"y" * (12 * 1024 * 1024))
    with pytest.raises(SourceError, match=r"a tag or comment of more than 8 MiB|no element found|unclosed"):
        list(read(tmp_path / "a.xml"))


def test_an_oversize_element_is_rejected_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semsearch.readers.xml_document.MAX_RECORD_BYTES", 2_000)
    good = "<entry><title>Good</title><summary>It is.</summary></entry>\n"
    large = "<entry>" + "<a/>" * 100 + "</entry>\n"
    monkeypatch.setattr("semsearch.readers.streams._CHUNK_BYTES", 100)
    found = outcome(entries(tmp_path / "a.xml", f"<feed>\n{good}{large}{good}</feed>"))
    assert found == [(2, "Good"), (3, streams.MAX_RECORD_REASON), (4, "Good")]


def test_xml_without_papers_is_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<html><body>Nothing</body></html>")
    with pytest.raises(SourceError, match="none of the elements that are papers: PubmedArticle,"):
        list(read(tmp_path / "a.xml"))
    (tmp_path / "b.jsonl").write_text('{"title": "T", "abstract": "A"}')
    assert outcome(list(read(tmp_path)))[0][1].startswith("the file is of no known format")


# --- services -----------------------------------------------------------------------------------------------------


def of_json(path: Path, **fields: Any) -> Paper:
    (paper,) = papers(path / "a.jsonl", json.dumps(fields))
    return paper


def test_a_work_of_openalex(tmp_path: Path) -> None:
    paper = of_json(
        tmp_path,
        id="https://openalex.org/W123",
        doi="https://doi.org/10.1000/Open",
        display_name="On things",
        title="On things",
        publication_year=2020,
        publication_date="2020-05-01",
        authorships=[{"author": {"display_name": "Ada Writer"}, "institutions": []}],
        primary_location={"source": {"display_name": "Journal"}, "landing_page_url": "https://doi.org/10.1000/open"},
        abstract_inverted_index={"They": [0], "are": [1, 3], "and": [2], "not.": [4]},
        cited_by_count=5,
        topics=[{"display_name": "Being"}],
        referenced_works=["https://openalex.org/W1"],
    )
    assert paper == Paper.build(
        paper_id="openalex:W123",
        title="On things",
        abstract="They are and are not.",
        authors=("Ada Writer",),
        published="2020-05-01",
        categories=("Being",),
        venue="Journal",
        url="https://doi.org/10.1000/open",
        doi="10.1000/open",
        popularity=5.0,
    )


def test_an_item_of_crossref(tmp_path: Path) -> None:
    paper = of_json(
        tmp_path,
        DOI="10.1000/Cross",
        title=["On things"],
        **{"container-title": ["Journal"], "is-referenced-by-count": 7},
        issued={"date-parts": [[2020, 5]]},
        author=[{"given": "Ada", "family": "Writer"}],
        abstract="<jats:title>Abstract</jats:title><jats:p>They are, <jats:italic>p</jats:italic> &lt; 1.</jats:p>",
        reference=[{"key": "1"}],
    )
    assert paper == Paper.build(
        title="On things",
        abstract="They are, p < 1.",
        authors=("Ada Writer",),
        published="2020-05",
        venue="Journal",
        doi="10.1000/cross",
        popularity=7.0,
    )


def test_an_item_of_csl_json(tmp_path: Path) -> None:
    paper = of_json(
        tmp_path,
        id="http://zotero.org/users/1/items/ABC",
        title="On things",
        abstract="They are.",
        issued={"date-parts": [["2020", 5, 3]]},
        author=[{"family": "Writer", "given": "Ada"}],
        **{"container-title": "Journal"},
    )
    assert (paper.paper_id, paper.published, paper.venue) == (
        "http://zotero.org/users/1/items/ABC",
        "2020-05-03",
        "Journal",
    )


def test_a_submission_of_openreview(tmp_path: Path) -> None:
    content = {"title": {"value": "On things"}, "abstract": {"value": "They are."}, "authors": {"value": ["A W"]}}
    paper = of_json(tmp_path, id="xYz12", content=content | {"venue": {"value": "ICLR 2024"}, "pdf": "/pdf/x"})
    expected = ("xYz12", "On things", ("A W",), "ICLR 2024", {"pdf": "/pdf/x"})
    assert (paper.paper_id, paper.title, paper.authors, paper.venue, paper.extra) == expected
    assert of_json(tmp_path, id="x", content=content, pdate=1_500_000_000_000).published == "2017-07-14"


def test_a_paper_of_semantic_scholar(tmp_path: Path) -> None:
    ids = {"DOI": "10.1000/S2", "ArXiv": "2001.00001", "CorpusId": 5}
    paper = of_json(tmp_path, paperId="abc", title="T", abstract="A.", externalIds=ids, citationCount=3)
    assert (paper.paper_id, paper.doi, paper.popularity) == ("arxiv:2001.00001", "10.1000/s2", 3.0)
    assert paper.extra == {"paperId": "abc", "externalIds": ids}
    del ids["ArXiv"]
    assert of_json(tmp_path, paperId="abc", title="T", abstract="A.", externalIds=ids).paper_id == "abc"


def test_a_record_of_arxivs_snapshot(tmp_path: Path) -> None:
    versions = [{"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"}, {"version": "v2", "created": "later"}]
    record = {
        "id": "0704.0001",
        "title": "Erd\\H{o}s",
        "abstract": " A.\n",
        "versions": versions,
        "update_date": "2008-11-26",
    }
    people = [["Bal\\'azs", "C.", ""], ["King", "M.", "Jr", "An institute"]]
    paper = of_json(tmp_path, **record, authors="C. Bal\\'azs, M. King, Jr (An institute)", authors_parsed=people)
    assert (paper.paper_id, paper.title, paper.published) == ("arxiv:0704.0001", "Erdős", "2007-04-02")
    assert paper.authors == ("C. Balázs", "M. King Jr")
    assert of_json(tmp_path, **(record | {"versions": ["?"]})).published is None


@pytest.mark.parametrize(
    ("author", "name"),
    [
        ({"family": "Gogh", "given": "Vincent", "non-dropping-particle": "van"}, "Vincent van Gogh"),
        ({"literal": "The Team"}, "The Team"),
        ({"family": "King", "given": "Martin", "suffix": "Jr."}, "Martin King Jr."),
    ],
)
def test_names_of_csl_json(tmp_path: Path, author: dict[str, str], name: str) -> None:
    paper = of_json(tmp_path, id="key2019", title=[], abstract="A.", issued={"date-parts": [[None]]}, author=[author])
    assert (paper.authors, paper.title, paper.published, paper.extra["citation_key"]) == ((name,), "", None, "key2019")


def test_a_title_in_a_list_keeps_its_id(tmp_path: Path) -> None:
    paper = of_json(tmp_path, id="p1", title=["On things"], abstract="They are.")
    assert (paper.paper_id, paper.title, paper.extra) == ("p1", "On things", {})


ANSWERS = {
    "crossref": {"status": "ok", "message": {"total-results": 1, "items": [{"title": ["T"], "abstract": "A."}]}},
    "europe pmc": {"hitCount": 1, "resultList": {"result": [{"title": "T", "abstractText": "A.", "pubYear": "2019"}]}},
    "openreview": {"notes": [{"id": "x", "content": {"title": {"value": "T"}, "abstract": {"value": "A."}}}]},
    "openalex": {"meta": {"count": 1}, "results": [{"title": "T", "abstract_inverted_index": {"A.": [0]}}]},
}


@pytest.mark.parametrize("service", ANSWERS)
@pytest.mark.parametrize("indent", [None, 1])
def test_the_whole_answer_of_a_service(tmp_path: Path, service: str, indent: int | None) -> None:
    (paper,) = papers(tmp_path / "a.json", json.dumps(ANSWERS[service], indent=indent))
    assert (paper.title, paper.abstract) == ("T", "A.")


@pytest.mark.parametrize("field", ["data", "results", "items"])
@pytest.mark.parametrize("value", [[], ["one", "two"], [{"name": "a corpus"}], [1, {"a": 2}]])
def test_a_paper_with_a_list_of_such_a_name_is_a_paper(tmp_path: Path, field: str, value: list[Any]) -> None:
    (paper,) = papers(tmp_path / "a.json", json.dumps({"title": "T", "abstract": "A.", field: value}, indent=1))
    assert paper.title == "T"


def test_papers_deep_inside_are_pointed_at(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path / "a.json", json.dumps({"response": {"docs": [{"title": "T", "abstract": "A."}]}}))
    assert isinstance(entry, Rejected)
    assert entry.reason.endswith("take them out, for example with: jq -c '.response.docs[]'")


def test_a_table_of_zotero(tmp_path: Path) -> None:
    header = '"Key","Item Type","Publication Year","Author","Title","Publication Title","Abstract Note","Date"\n'
    (paper,) = papers(tmp_path / "a.csv", header + '"ABCD1234","article","2017","Writer, A","T","J","A.","2017-06"\n')
    assert (paper.paper_id, paper.venue, paper.published) == ("ABCD1234", "J", "2017-06")


@pytest.mark.parametrize(
    ("content", "format"), [(BIBTEX, "bibtex"), (RIS, "ris"), (MEDLINE, "medline"), (PUBMED, "xml"), (ATOM, "xml")]
)
def test_a_format_is_known_by_its_content(tmp_path: Path, content: str, format: str) -> None:
    (tmp_path / "unnamed").write_text(content)
    named = [entry for entry in read(tmp_path / "unnamed", format=format) if isinstance(entry, Found)]
    assert named and [entry for entry in read(tmp_path / "unnamed") if isinstance(entry, Found)] == named


def test_no_word_of_a_parser_reaches_the_user(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    entries(tmp_path / "a.bib", "@article{b, title = {No end\n" + GOOD_ENTRY)
    assert not re.search(r"\S", capfd.readouterr().err)


# --- what tries to take too much ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "created", ["Mon, 2 Apr 99999999999999 19:18:42 GMT", "Mon, 2 Apr 2007 19:18:42 +99999999999999999999", "later"]
)
def test_a_date_that_is_none_costs_no_record(tmp_path: Path, created: str) -> None:
    versions = [{"created": created}]
    assert of_json(tmp_path, title="T", abstract="A.", versions=versions, update_date="x").published is None


@pytest.mark.parametrize("encoding", ["foo", "shift_jis", "euc-jp"])
def test_an_encoding_that_cannot_be_read_is_an_error_of_the_source(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.xml").write_text(f'<?xml version="1.0" encoding="{encoding}"?><feed><entry/></feed>')
    with pytest.raises(SourceError, match="cannot be read on as XML"):
        list(read(tmp_path / "a.xml"))


def test_a_word_that_stands_everywhere_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    places = {"long" * 25_000: list(range(50_000))}
    (entry,) = entries(tmp_path / "a.jsonl", json.dumps({"title": "T", "abstract_inverted_index": places}))
    assert isinstance(entry, Rejected) and "characters; at most 100,000" in entry.reason
    assert of_json(tmp_path, title="T", abstract=None, abstract_inverted_index={"A.": [0]}).abstract == "A."


def test_macros_that_multiply_are_bounded(tmp_path: Path) -> None:
    macro = "@string{a = {" + "x" * 10_000 + "}}\n@string{b = a # { and} }\n"
    entry = "@misc{k, title = {T}, abstract = " + " # ".join("a" for _ in range(10_000)) + "}\n"
    found = entries(tmp_path / "a.bib", macro + entry + "@misc{l, title = b, abstract = {A.}}\n")
    assert [text.partition(" has ")[0] for _, text in outcome(found)] == ["the abstract", "the title"]


def test_many_small_macros_take_no_longer_than_they_are_long(tmp_path: Path) -> None:
    macros = "".join(f"@string{{m{number} = {{}}}}\n" for number in range(20_000))
    entry = "@misc{k, title = m1 # {T}, abstract = {A.}}\n"
    (paper,) = papers(tmp_path / "a.bib", macros + entry)
    assert paper.title == "T"


@pytest.mark.parametrize("text", ["$" + "{" * 50_000 + " $", "$a " * 30_000, "$x" * 40_000, "\\$" * 40_000])
def test_latex_takes_no_longer_than_it_is_long(text: str) -> None:
    assert len(latex.plain(text)) <= len(text)


@pytest.mark.parametrize(
    ("date", "published"),
    [("2019 06 12", "2019-06-12"), ("2019 6", "2019-06"), ("2019 13", None), ("2019 6 1 2", "2019")],
)
def test_dates_in_figures_with_blanks(tmp_path: Path, date: str, published: str | None) -> None:
    assert of_json(tmp_path, title="T", abstract="A.", date=date).published == published


def test_what_ris_repeats_is_kept(tmp_path: Path) -> None:
    lines = [
        "TY  - JOUR",
        "TI  - T",
        "AB  - ",
        "AB  - One.",
        "ER - positive",
        "AB  - Two.",
        "DO  - 10.1/x",
        "DO  - 10.1000/x",
    ]
    (paper,) = papers(tmp_path / "a.ris", "\n".join(lines) + "\nER  - \n")
    assert paper.abstract == "One. ER - positive Two."
    assert paper.extra["more_doi"] == ["10.1000/x"]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (r"{\"O}zg{\"u}r, Arzucan", "Arzucan Özgür"),
        ("{van der Berg}, Jan", "Jan van der Berg"),
        ("{The {T}hings, Inc.}", "The Things, Inc."),
        (r"Bal{\'a}zs, Cs.", "Cs. Balázs"),
    ],
)
def test_names_of_bibtex(tmp_path: Path, typed: str, name: str) -> None:
    (paper,) = papers(tmp_path / "a.bib", f"@misc{{k, title = {{T}}, abstract = {{A.}}, author = {{{typed}}}}}")
    assert paper.authors == (name,)


@pytest.mark.parametrize(
    "record",
    [
        {"title": "T", "summary": "An abstract.", "notes": [{"by": "me"}]},
        {"title": "T", "items": [{"a": 1}], "abstract": "An abstract."},
        {"name": "T", "summary": "An abstract.", "papers": [{"a": 1}]},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_paper_with_a_list_of_objects_is_a_paper(tmp_path: Path, record: dict[str, Any], indent: int | None) -> None:
    (paper,) = papers(tmp_path / "a.json", json.dumps(record, indent=indent))
    assert paper.abstract == "An abstract."


@pytest.mark.parametrize("head", [{"type": "abstract"}, {"title": "Papers of a year", "kind": "title"}])
def test_a_list_of_papers_with_a_title_of_its_own_is_a_list(tmp_path: Path, head: dict[str, str]) -> None:
    listed = head | {"papers": [{"title": "T", "abstract": "A."}]}
    (paper,) = papers(tmp_path / "a.json", json.dumps(listed, indent=1))
    assert paper.title == "T"
