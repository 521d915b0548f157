"""What only a notebook needs: exercises' checks, plots, widgets."""
