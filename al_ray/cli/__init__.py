"""The command line, ``al-ray VERB``. ``app`` lists the verbs, ``arguments`` reads what each is given and
knows nothing else; what a verb does stands in a module beside them, kindred verbs in one: ``preparing`` has
those that come before a run, ``publishing`` those that hand its model on, say.

Nothing may import this room. A module imports Ray, torch and vLLM only within the function that runs them."""
