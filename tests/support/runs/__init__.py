"""Runs that are small: the recipes ``toy`` and ``quiz``, ``without_vllm`` or with ``turnstiles`` at their
``moments``; and runs that only look as if they had been: ``recorded`` in a store, ``viewed`` with all that a
page shows. ``metric_keys`` tells what was logged and is in no table."""
