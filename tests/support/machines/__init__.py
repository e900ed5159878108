"""What tests start beside themselves: commands (``processes``, each Python of which begins with ``startup``),
the nodes of clusters (``nodes``, by ``light_ray``), ``hosts`` with networks of their own, a PostgreSQL
server, a browser (``chromium``), and whether ``bubblewrap`` builds walls."""
