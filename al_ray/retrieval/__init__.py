"""Retrieval: an index over passages, built once, memory-mapped, in shards; BM25, dense or both.

Nothing here knows Ray: ``actors.service.retrieval`` spreads the shards of an index over actors. It is in
this room, below environments and actors, because both search: an agent in the few paragraphs of its
task, the service in millions of passages.
"""
