"""The command line, ``al-ray VERB``. ``app`` reads the arguments; each verb's doings are beside it."""
