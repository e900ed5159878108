"""A few real actors together: a store with a ``runner``, or with a ``gateway``; and what others read and
write in the store's database beside it (``beside_the_store``)."""
