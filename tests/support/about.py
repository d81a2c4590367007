"""What rows of benchmarks say about their run, made up."""

ABOUT = {
    "device": "2 x CPU",
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "python": "3.11.7",
    "modreduce_keras": "0.1.0",
    "commit": "abc",
    "date": "2030-01-02T03:04:05+00:00",
}
RUN = {
    "batch": 64,
    "rounds": 15,
    "steps": 2,
    "command": "python -m benchmarks.speed.step_overhead",
    **ABOUT,
}
