"""``al-ray view``: a run as a web page, read from its own files, which may be growing.

``server`` answers HTTP, ``site`` makes the pages of ``pages/``; ``runs`` finds runs in a folder and keeps
what was read of them, ``index`` all rollouts of a run in brief. A page is made by ``overview`` (a run),
``told`` (a rollout) and ``beside`` (several), with ``charts``, ``tokens``, ``lanes``, ``worth`` and ``since``
for their parts. Nothing here changes a run, or needs one that is under way. Others use ``server.serve``.
"""
