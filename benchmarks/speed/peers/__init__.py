"""The same training steps in other frameworks, run alternately with ours."""
