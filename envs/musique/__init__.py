"""MuSiQue: questions that take several searches, and an agent that thinks, searches and answers."""
