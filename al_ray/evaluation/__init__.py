"""How good an agent is: rollouts of held-out tasks, their scores with intervals, the report.

``evaluate.evaluate`` runs one, for the driver and for ``al-ray eval`` alike, with whoever runs rollouts;
``subject`` says what is evaluated, ``report`` shows and writes what was found."""
