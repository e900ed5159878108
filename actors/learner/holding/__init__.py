"""How a learner holds the weights that it trains.

``whole.Whole`` has all of them on every rank; ``adapter`` trains a few beside a model that stays as it is;
``kept`` is the reference, earlier values of what is trained, put in its place while they are asked."""
