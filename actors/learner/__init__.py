"""The learners: processes that hold the weights and move them together.

The driver holds ``group.LearnerGroup`` and describes it by ``spec.LearnerSpec``; nothing else is for
other rooms. ``actor`` is one of the processes, ``model`` what it computes with, ``computation`` whether
rows can be packed, ``tally`` what it reports, ``checkpoint`` what it saves."""
