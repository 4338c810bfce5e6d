"""The tree holds every text once, and a slice of it needs only the path above its first node."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmprobe.extraction.tree import TokenTree, build_tree, common, shared_with_previous

TEXTS = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=9).map(tuple), min_size=1, max_size=40
).map(sorted)


def path_to(tree: TokenTree, node: int) -> list[int]:
    """The node and all above it, from the top down."""
    path = [node]
    while tree.parent[path[0]] >= 0:
        path.insert(0, int(tree.parent[path[0]]))
    return path


@given(TEXTS)
def test_the_tree_gives_back_its_texts(texts: list[tuple[int, ...]]) -> None:
    tree = build_tree(texts)
    assert [tuple(tree.token[path_to(tree, int(leaf))]) for leaf in tree.read] == texts


@given(TEXTS)
def test_the_nodes_are_the_distinct_prefixes(texts: list[tuple[int, ...]]) -> None:
    prefixes = {text[: i + 1] for text in texts for i in range(len(text))}
    assert len(build_tree(texts)) == len(prefixes)
    assert sum(map(len, texts)) - shared_with_previous(texts).sum() == len(prefixes)


@given(TEXTS)
def test_depth_is_the_position_in_the_text(texts: list[tuple[int, ...]]) -> None:
    tree = build_tree(texts)
    for leaf in tree.read:
        path = path_to(tree, int(leaf))
        assert tree.depth[path].tolist() == list(range(len(path)))


@given(TEXTS)
def test_a_subtree_is_a_range_of_nodes(texts: list[tuple[int, ...]]) -> None:
    tree = build_tree(texts)
    for node in range(len(tree)):
        below = [n for n in range(len(tree)) if node in path_to(tree, n)]
        assert below == list(range(node, tree.end[node]))
        children = [n for n in range(len(tree)) if tree.parent[n] == node]
        assert tree.last_child[node] == max(children, default=-1)


@given(TEXTS, st.integers(1, 12))
def test_a_slice_needs_only_the_path_that_the_slices_before_it_left(
    texts: list[tuple[int, ...]], size: int
) -> None:
    tree = build_tree(texts)
    kept: list[int] = []
    seen: list[int] = []
    for nodes in tree.slices(size):
        assert 0 < len(nodes) <= size
        tops = tree.tops(nodes)
        for node, top in zip(nodes, tops, strict=True):
            inside = [n for n in path_to(tree, node) if n in nodes]
            assert [*kept[:top], *inside] == path_to(tree, node)
        inside = tree.above(nodes.stop, nodes.start)
        above = int(tree.depth[inside[0] if inside else nodes.stop])
        kept = [*kept[:above], *inside]
        seen += nodes
    assert seen == list(range(len(tree)))
    assert kept == path_to(tree, len(tree) - 1)


@given(TEXTS, st.lists(st.integers(0, 3), max_size=5).map(tuple), st.data())
def test_what_all_texts_begin_with_can_be_left_out(
    texts: list[tuple[int, ...]], prefix: tuple[int, ...], data: st.DataObject
) -> None:
    longer = [(*prefix, *text) for text in texts]
    skip = data.draw(st.integers(0, len(prefix)))
    tree, whole = build_tree(longer, skip=skip), build_tree(longer)
    assert len(tree) == len(whole) - skip
    for text, leaf in zip(longer, tree.read, strict=True):
        assert tuple(tree.token[path_to(tree, int(leaf))]) == text[skip:]
    assert tree.depth.tolist() == whole.depth[skip:].tolist()


@given(TEXTS, st.integers(0, 2), st.data())
def test_a_row_is_read_at_the_node_of_its_position(
    texts: list[tuple[int, ...]], skip: int, data: st.DataObject
) -> None:
    longer = [(*(0,) * skip, *text) for text in texts]
    ends = [data.draw(st.lists(st.integers(0, len(text) - 1), max_size=4)) for text in longer]
    tree = build_tree(longer, ends, skip)
    nodes = iter(tree.read.tolist())
    for text, own in zip(longer, ends, strict=True):
        for end in own:
            path = path_to(tree, next(nodes))
            assert tuple(tree.token[path]) == text[skip : max(end, skip) + 1]


@given(st.lists(st.integers(0, 2)).map(tuple), st.lists(st.integers(0, 2)).map(tuple))
def test_what_two_texts_share_ends_where_they_differ(
    a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    n = common(a, b)
    assert a[:n] == b[:n]
    assert n in (len(a), len(b)) or a[n] != b[n]
