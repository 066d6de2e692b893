"""report.md and report.html: facts read from the run folder, plots, templates. Says only what was measured."""
