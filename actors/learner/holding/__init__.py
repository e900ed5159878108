"""How a learner holds the weights that it trains.

``held.Held`` is what is asked of them: ``whole`` has all on every rank, ``sharded`` a part. ``adapter`` has a
few trained beside a model that stays as it is. ``kept`` is the reference, earlier values of what is trained,
put in its place while they are asked."""
