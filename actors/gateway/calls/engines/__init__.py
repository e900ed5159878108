"""Calls that our own engines answer: ``router`` sends each to one of many and sees to those that die over it;
``own`` is the only one, in this process."""
