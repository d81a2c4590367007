"""Teachers: trained models that run in each step, and outputs that were stored before."""
