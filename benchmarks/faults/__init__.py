"""What is lost while processes are killed and stopped: of calls and rollouts alone (``soak``), of a whole
run at random (``chaos``) and at each of its moments (``moments``)."""
