"""What al_ray costs and carries, measured beside its peers where there are any; ``README.md`` lists them."""
