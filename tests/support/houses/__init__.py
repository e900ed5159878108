"""A few real actors together: a store with a ``runner``, or with a ``gateway``; what others read and write in
the store's database beside it (``beside_the_store``); and ``stores``, whose processes tests share."""
