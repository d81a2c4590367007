"""Small trainings, among them some that are interrupted or killed."""
