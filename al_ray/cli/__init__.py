"""The command line, ``al-ray VERB``. ``app`` reads arguments and knows nothing else; what a verb does stands
in a module beside it: ``preparing``, ``training``, ``evaluating``, ``rollouts``, ``data``.

Nothing may import this room. A module imports Ray, torch and vLLM only within the function that runs them."""
