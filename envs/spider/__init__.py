"""Spider: questions that an agent answers by a query on a database that it has not seen before."""
