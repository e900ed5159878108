"""The learners: processes that hold the weights and move them together.

The driver holds ``group.LearnerGroup`` and describes it by ``spec.LearnerSpec``; who computes what was
recorded once more takes ``actor``, ``model`` and ``computation``, without Ray. ``actor`` is one of the
processes and ``stage`` what it keeps for a stage. ``model`` is loaded, asked and read out; ``holding`` says
which part of it a process has. ``computation`` tries how rows can be packed, by ``attention`` and ``head``,
and ``recomputation`` what need not be kept. ``observing`` measures a batch before an update, ``tally`` is
what an update reports, ``checkpoint`` what is saved."""
