"""A whole index: built, found again, searched; and refused where it is not what was asked for."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.errors import DataError
from al_ray.retrieval import manifest, passages
from al_ray.retrieval.build import build
from al_ray.retrieval.index import Index
from al_ray.retrieval.manifest import Settings, Source, require_fresh
from al_ray.retrieval.passages import Passage
from al_ray.retrieval.ranking import Ranking, fused, merged
from al_ray.retrieval.vocabulary import SavedVocabulary, Vocabulary, words
from tests.retrieval.conftest import write_corpus

SETTINGS = Settings(bm25=True, encoder=None, shard_passages=50)
Built = Callable[..., Path]


def silent(what: str, done: int, total: int) -> None: ...


def test_every_passage_is_found_by_its_own_word_with_its_text(built: Built, corpus: Path) -> None:
    """Across three shards, the last of them not full."""
    index = Index(built(50))
    found = index.search([f"own{n}" for n in range(120)], 3)
    assert [[p.id for p in of_query] for of_query in found] == [[f"p{n}"] for n in range(120)]
    row = json.loads(corpus.read_text().splitlines()[77])
    assert found[77] == [Passage(row["pid"], row["title"], row["text"])]


def test_shards_find_what_one_shard_finds(built: Built) -> None:
    """In the same order but for near ties: scores differ by the shards' own mean lengths alone."""
    queries = ["bada kofe luti", "mivu", "rago own5 neda"]
    one, several = Index(built(1000)).rank(queries, 10), Index(built(31)).rank(queries, 10)
    for alone, apart in zip(one, several, strict=True):
        assert len({n for n, _ in alone} & {n for n, _ in apart}) >= 8
        assert [s for _, s in alone] == pytest.approx([s for _, s in apart], rel=0.1)


def test_what_a_question_finds_does_not_depend_on_what_is_asked_beside_it(tmp_path: Path) -> None:
    """Not even among passages that are equally good, in shards of any size."""
    corpus, folder = tmp_path / "equal.jsonl", tmp_path / "index"
    rows = [{"pid": str(n), "title": "", "text": f"lake number n{n}"} for n in range(300)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    build(corpus, folder, Settings(bm25=True, encoder=None, shard_passages=200), silent)
    index = Index(folder)
    (deep,) = index.rank(["lake"], 100)
    for k in (1, 3, 10):
        assert index.rank(["lake"], k) == index.rank(["lake", "number n7"], k)[:1] == [deep[:k]]


def test_an_index_is_built_once(built: Built, corpus: Path) -> None:
    """And again when the corpus has changed, but not when it was only touched."""
    folder, told = built(50), []
    tell = lambda what, done, total: told.append(done)  # noqa: E731
    build(corpus, folder, SETTINGS, tell)
    os.utime(corpus)
    build(corpus, folder, SETTINGS, tell)
    assert not told
    write_corpus(corpus, 130)
    build(corpus, folder, SETTINGS, tell)
    assert told[-1] == 130 and manifest.read(folder).passages == 130


def test_rows_that_come_while_an_index_is_built_make_it_old(tmp_path: Path, corpus: Path) -> None:
    def add(what: str, done: int, total: int) -> None:
        if (what, done) == ("passages", 120):
            with corpus.open("a", encoding="utf-8") as file:
                file.write('{"pid": "p120", "title": "late", "text": "own120"}\n')

    build(corpus, tmp_path / "index", SETTINGS, add)
    with pytest.raises(DataError, match="the corpus is not the one"):
        require_fresh(tmp_path / "index", corpus, SETTINGS)


def test_vectors_are_those_of_the_encoder_as_it_was(tmp_path: Path, corpus: Path) -> None:
    """Trained further, it is another; elsewhere, or with other notes beside it, it is not."""
    folder, encoder = tmp_path / "index", tmp_path / "encoder"
    for name in ("modules.json", "1_Pooling/config.json", "model.safetensors", "README.md", ".cache/seen"):
        (encoder / name).parent.mkdir(parents=True, exist_ok=True)
        (encoder / name).write_text(name)
    settings = Settings(bm25=False, encoder=str(encoder), shard_passages=50)
    folder.mkdir()
    source = Source(manifest.stats([corpus]), passages.survey(corpus)[0])
    manifest.write(folder, source, manifest.encoder_of(settings), settings, passages=120, shards=3)
    for name in ("README.md", ".cache/seen"):
        (encoder / name).write_text("other")
    os.utime(encoder / "model.safetensors")
    assert require_fresh(folder, corpus, settings).passages == 120
    (encoder / "model.safetensors").write_text("trained further")
    with pytest.raises(DataError, match=r"encoder: .*it is not the one by which the vectors"):
        require_fresh(folder, corpus, settings)
    shutil.rmtree(encoder)
    with pytest.raises(DataError, match="no such folder"):
        require_fresh(folder, corpus, settings)


def test_an_index_of_another_layout_is_made_anew(built: Built, corpus: Path) -> None:
    folder = built(50)
    made = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(made | {"layout": made["layout"] - 1}))
    with pytest.raises(DataError, match="made by another version of al_ray"):
        require_fresh(folder, corpus, SETTINGS)
    build(corpus, folder, SETTINGS, silent)
    assert require_fresh(folder, corpus, SETTINGS).passages == 120


def test_an_index_that_is_not_there_or_not_the_one_is_refused_with_the_cure(
    built: Built, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"there is no index; make it with `al-ray index RECIPE`"):
        require_fresh(tmp_path / "nowhere", corpus, SETTINGS)
    folder = built(50)
    assert require_fresh(folder, corpus, SETTINGS).passages == 120
    with pytest.raises(DataError, match=r"was made with .*shard_passages=50"):
        require_fresh(folder, corpus, Settings(bm25=True, encoder=None, shard_passages=60))
    write_corpus(corpus, 121)
    with pytest.raises(DataError, match="the corpus is not the one"):
        require_fresh(folder, corpus, SETTINGS)
    corpus.unlink()
    with pytest.raises(DataError, match="no such file"):
        require_fresh(folder, corpus, SETTINGS)


def test_a_build_that_fails_leaves_nothing_and_what_is_no_index_is_not_deleted(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"pid": "1", "title": "t", "text": "x"}\n{"pid": 2}\n')
    with pytest.raises(DataError, match=r"row 2, pid"):
        build(bad, tmp_path / "made" / "index", SETTINGS, silent)
    assert [file.name for file in (tmp_path / "made").iterdir()] in ([], [".index.lock"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(DataError, match="something else is there"):
        build(bad, tmp_path / "mine", SETTINGS, silent)
    bad.write_text("")
    with pytest.raises(DataError, match="it holds no passage"):
        build(bad, tmp_path / "none", SETTINGS, silent)


def test_dprs_wikipedia_is_read_as_it_is(tmp_path: Path) -> None:
    """Tabs, quotes doubled, and the title last."""
    file = tmp_path / "psgs.tsv"
    file.write_text('id\ttext\ttitle\n1\t"Aaron is a ""prophet""."\tAaron\n2\tx\ty\n')
    assert list(passages.read(file)) == [
        Passage("1", "Aaron", 'Aaron is a "prophet".'),
        Passage("2", "y", "x"),
    ]
    file.write_text("id\ttext\ttitle\n1\tonly two\n")
    with pytest.raises(DataError, match="line 2"):
        list(passages.read(file))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowels are marks
        ("می‌خواهم رفتن", ["می‌خواهم", "رفتن"]),  # a joiner within a word
        ("Cafe\u0301 MU\u0308LLER, \uff37\uff49\uff44\uff45 ﬁn", ["café", "müller", "wide", "fin"]),
        ("J\u030c", ["\u01f0"]),  # only the small letter has a form with its accent
        ("The Straße of 5 m², it's ❤\ufe0f", ["strasse", "5", "m2", "s"]),
    ],
)
def test_words_are_those_that_readers_of_the_language_see(text: str, wanted: list[str]) -> None:
    assert words(text) == wanted


@given(st.text(st.characters(categories=["L", "M", "N", "Zs", "P"]), max_size=20))
def test_words_do_not_depend_on_the_form_in_which_a_text_writes_its_letters(text: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert words(composed) == words(decomposed) == words(text)


@given(st.lists(st.text(max_size=20), max_size=8))
def test_a_saved_vocabulary_knows_the_same_words_by_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    vocabulary = Vocabulary()
    learnt = [vocabulary.learn(text) for text in texts]
    path = tmp_path_factory.mktemp("words") / "vocabulary.npy"
    vocabulary.save(path)
    saved = SavedVocabulary(path)
    assert [saved.look_up(text) for text in texts] == learnt == [vocabulary.look_up(text) for text in texts]
    assert saved.look_up("neverseen") == [] and len(vocabulary) == len({n for of in learnt for n in of})


RANKINGS = st.lists(
    st.dictionaries(st.integers(0, 30), st.floats(0, 9), max_size=10).map(
        lambda scores: sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))
    ),
    min_size=1,
    max_size=4,
)


@given(RANKINGS, st.integers(1, 5))
def test_fusion_depends_on_ranks_alone(rankings: list[Ranking], k: int) -> None:
    """A passage that is first everywhere stays first; scores of other sizes change nothing."""
    stretched = [[(n, s * 100 + 7) for n, s in ranking] for ranking in rankings]
    assert fused(rankings, k) == fused(stretched, k)
    firsts = {ranking[0][0] if ranking else None for ranking in rankings}
    if len(firsts) == 1 and None not in firsts:
        assert fused(rankings, k)[0][0] in firsts


@given(RANKINGS, st.integers(1, 40))
def test_merged_shards_are_the_best_of_all(rankings: list[Ranking], k: int) -> None:
    apart = [[(n * 4 + shard, s) for n, s in ranking] for shard, ranking in enumerate(rankings)]
    everything = sorted((hit for ranking in apart for hit in ranking), key=lambda hit: (-hit[1], hit[0]))
    assert merged(apart, k) == everything[:k]
