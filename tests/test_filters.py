from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semsearch.filters import (
    EVERY_PAPER,
    FILTER_NAMES,
    AllOf,
    AnyOf,
    Author,
    Filter,
    HasDoi,
    Ids,
    Labelled,
    Not,
    Published,
    days_of,
    escape_label,
    fold_label,
    fold_name,
    parse_filter,
)


def parsed(*words: str) -> Filter:
    """Return the one condition that "name=value" asks for, or the conjunction of several."""
    whole = parse_filter(tuple(word.split("=", 1)) for word in words)  # type: ignore[misc]
    assert isinstance(whole, AllOf)
    assert len(whole.parts) == len(words)
    return whole.parts[0] if len(words) == 1 else whole


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("year=2020", Published(date(2020, 1, 1), date(2020, 12, 31))),
        ("year=2020-2023", Published(date(2020, 1, 1), date(2023, 12, 31))),
        ("year=2020-", Published(date(2020, 1, 1), None)),
        ("year=-2019", Published(None, date(2019, 12, 31))),
        ("year= 2020 ", Published(date(2020, 1, 1), date(2020, 12, 31))),
        (
            "year=2017|2020-",
            AnyOf((Published(date(2017, 1, 1), date(2017, 12, 31)), Published(date(2020, 1, 1)))),
        ),
        ("year=!2020", Not(Published(date(2020, 1, 1), date(2020, 12, 31)))),
        ("date_from=2021", Published(date(2021, 1, 1))),
        ("date_from=2021-03", Published(date(2021, 3, 1))),
        ("date_from=2021-3-5", Published(date(2021, 3, 5))),
        ("date_to=2021", Published(None, date(2021, 12, 31))),
        ("date_to=2020-02", Published(None, date(2020, 2, 29))),
        ("date_to=2021-03-15", Published(None, date(2021, 3, 15))),
        ("category=cs.CL", Labelled("category", ("cs.cl",))),
        ("category=cs.CL | stat.* ", Labelled("category", ("cs.cl",), ("stat.",))),
        ("category=stat.* | cs.CL", Labelled("category", ("cs.cl",), ("stat.",))),
        ("category=!cs.CV", Not(Labelled("category", ("cs.cv",)))),
        ("category=! cs.CV|cs.LG", Not(Labelled("category", ("cs.cv", "cs.lg")))),
        ("venue=ACL|EMNLP", Labelled("venue", ("acl", "emnlp"))),
        ("venue=Findings  of*", Labelled("venue", (), ("findings of",))),
        ("venue=*", Labelled("venue", (), ("",))),
        ("venue=*SEM 2021", Labelled("venue", ("*sem 2021",))),
        ("source=arXiv", Labelled("source", ("arxiv",))),
        ("author=Ada Lovelace", Author(("ada lovelace",))),
        ("author=A. Lovelace|Babbage", Author(("a lovelace", "babbage"))),
        ("has_doi=true", HasDoi()),
        ("has_doi=False", Not(HasDoi())),
        ("ids=1706.03762v5|DOI:10.1000/XYZ|arXiv:1706.03762", Ids(("arxiv:1706.03762", "doi:10.1000/xyz"))),
        ("ids=!P18-1001", Not(Ids(("acl:P18-1001",)))),
    ],
)
def test_what_is_typed_is_what_is_meant(typed: str, meant: Filter) -> None:
    assert parsed(typed) == meant


def test_every_name_has_an_example_above_and_several_conditions_must_all_hold() -> None:
    assert set(FILTER_NAMES) == {
        "year", "date_from", "date_to", "category", "venue", "source", "author", "has_doi", "ids",
    }  # fmt: skip
    both = parsed("category=cs.CL", "category=cs.LG", "year=2020")
    assert both == AllOf((parsed("category=cs.CL"), parsed("category=cs.LG"), parsed("year=2020")))
    assert parse_filter([]) == EVERY_PAPER


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("year=20x0", r"year='20x0': '20x0' is neither a year nor a range of years\. Write for example year=2020"),
        ("year=", "year='': an alternative is empty"),
        ("year=-", "neither a year nor"),
        ("year=2020-21", "neither a year nor"),
        ("year=0999", "neither a year nor"),
        ("year=٢٠٢٠", "neither a year nor"),
        ("year=2020-2019", "2019-12-31 is before 2020-01-01"),
        ("year=202*", r"a \* stands for the rest of a category, venue or source only"),
        ("year=2020|", "an alternative is empty"),
        ("year=!", "an alternative is empty"),
        ("date_from=2021-13", "'2021-13' names no real day"),
        ("date_from=2021-02-29", r"names no real day\. Write for example date_from=2021"),
        ("date_from=2021-03-15 noon", "neither a year, nor a month, nor a day"),
        ("date_from=yesterday", "neither a year, nor a month, nor a day"),
        ("date_to=2020|2021", "it takes one value"),
        ("category=", "the alternative '' holds nothing to compare"),
        ("category=cs.CL||cs.LG", "holds nothing to compare"),
        ("category=!", "holds nothing to compare"),
        ("venue=a\x00b", "NUL"),
        ("venue=a\ud800b", "lone surrogate"),
        ("venue=\u200b", "holds nothing to compare"),
        ("source=" + "x" * 2001, "an alternative has 2,001 characters; at most 2,000"),
        ("author=...", "holds nothing to compare"),
        ("author=Hint*", r"a \* stands for"),
        ("has_doi=yes", r"neither true nor false\. Write for example has_doi=true"),
        ("has_doi=true|false", "it takes one value"),
        ("ids=a b", "the id may hold printable ASCII characters only"),
        ("ids=a|", "an alternative is empty"),
        ("ids=" + "|".join(f"x{n}" for n in range(1001)), "it names 1,001 alternatives; name 1 to 1,000"),
        ("category=" + "|".join(f"x{n}" for n in range(101)), "it names 101 alternatives; name 1 to 100"),
        ("year=" + "|".join(["2020"] * 101), "it names 101 alternatives; name 1 to 100"),
        ("author=" + "|".join(["Wu"] * 101), "it names 101 alternatives; name 1 to 100"),
        ("venue=" + "a" * 200_001, "it has 200,001 characters; at most 200,000"),
        ("colour=red", "there is no filter 'colour'; there are year, date_from"),
    ],
)
def test_what_cannot_be_meant_is_refused(typed: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        parsed(typed)
    assert len(str(error.value)) < 400, "a long value is not repeated in full"


def test_a_last_day_before_the_first_is_refused_and_a_contradiction_of_years_is_not() -> None:
    with pytest.raises(ValueError, match="date_to=2020-12-31 is before date_from=2021-03-01; swap the two"):
        parsed("date_from=2021-03", "date_to=2020")
    parsed("date_from=2021-03", "date_to=2021-03")
    parsed("year=2020-", "year=-2019")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [("ids", "|".join(f"p{n}" for n in range(start, start + 600))) for start in (0, 600)],
            "names 1,200 ids in all",
        ),
        ([("ids", "!" + "|".join(f"p{n}" for n in range(501))), ("ids", "p1|p2")] * 2, "names 1,006 ids in all"),
        ([("author", "|".join(f"writer{n}" for n in range(99)))] * 11, "names 1,089 alternatives in all"),
        ([("year", "|".join(["2020"] * 60)), ("venue", "|".join(["a*"] * 60))] * 9, "names 1,080 alternatives in all"),
    ],
)
def test_too_many_alternatives_in_all_are_refused(values: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}; at most 1,000"):
        parse_filter(values)
    parse_filter(values[:-2] or values[:1])


def test_too_many_conditions_are_refused() -> None:
    parse_filter([("year", "2020")] * 100)
    with pytest.raises(ValueError, match="101 conditions; at most 100"):
        parse_filter([("year", "2020")] * 101)


def test_a_condition_made_by_hand_is_checked_too() -> None:
    with pytest.raises(ValueError, match="'colour' is no field with labels; there are category, venue, source"):
        Labelled("colour", ("red",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="it names 0 alternatives"):
        Labelled("venue")
    with pytest.raises(ValueError, match="it names 0 alternatives"):
        Ids(())
    with pytest.raises(ValueError, match=r"2020-01-01 is before 2020-01-02"):
        Published(date(2020, 1, 2), date(2020, 1, 1))


def test_the_algebra() -> None:
    one, two, three = HasDoi(), Author(("Wu",)), Labelled("venue", ("ACL",))
    assert one & two & three == AllOf((one, two, three))
    assert one | two | three == AnyOf((one, two, three))
    assert ~(one | two) & three == AllOf((Not(AnyOf((one, two))), three))
    assert EVERY_PAPER & one == AllOf((one,))


def test_filters_that_mean_the_same_labels_are_equal_and_hash_alike() -> None:
    assert Labelled("category", (" CS.cl",)) == Labelled("category", ("cs.CL",))
    assert hash(Author(("G. E. Hinton",))) == hash(Author(("g e  hinton",)))


@given(st.text(st.sampled_from("ab|\\!* é."), min_size=1, max_size=8).map(str.strip).filter(bool))
def test_any_label_can_be_typed_by_escaping_it(label: str) -> None:
    assert parsed(f"venue={escape_label(label)}") == Labelled("venue", (label,))


@given(st.sampled_from([*FILTER_NAMES, "other"]), st.text(max_size=20) | st.from_regex(r"[!|*\\0-9a-z-]{0,12}"))
def test_whatever_is_typed_gives_a_filter_or_a_valueerror(name: str, value: str) -> None:
    try:
        hash(parse_filter([(name, value)]))
    except ValueError as error:
        assert str(error).startswith((f"{name}=", "there is no filter"))


@pytest.mark.parametrize(
    ("published", "first", "last"),
    [
        ("2017", date(2017, 1, 1), date(2017, 12, 31)),
        ("2016-02", date(2016, 2, 1), date(2016, 2, 29)),
        ("1900-02", date(1900, 2, 1), date(1900, 2, 28)),
        ("2017-06-12", date(2017, 6, 12), date(2017, 6, 12)),
        ("9999", date(9999, 1, 1), date(9999, 12, 31)),
    ],
)
def test_the_days_that_a_date_may_mean(published: str, first: date, last: date) -> None:
    assert days_of(published) == (first, last)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Søren K. Nørgård-Müller", "soren k norgard muller"),
        ("Łukasz Kaiser", "lukasz kaiser"),
        ("Moreno D’Incà", "moreno d inca"),
        ("WEIß, Anna", "weiss anna"),
        ("İpek IŞIK", "ipek isik"),
        ("Th\u0301e\u0301o", "theo"),
        ("Ｗｅｉ＜Ｗａｎｇ＞", "wei wang"),
        ("王伟", "王伟"),
        ("...", ""),
    ],
)
def test_the_words_of_a_name(name: str, words: str) -> None:
    assert fold_name(name) == words


def test_what_of_a_label_is_compared() -> None:
    assert fold_label(" Neural  Computation ") == "neural computation"
    assert fold_label("STRASSE") == fold_label("straße")
    assert fold_label("Cafe\u0301") == fold_label("CAFÉ")
