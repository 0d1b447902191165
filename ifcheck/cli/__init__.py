"""The command line: parse, one stage call, render; the only place that imports typer or rich."""
